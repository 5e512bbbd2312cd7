//! `/v1/sessions/{id}/terminal`: a shell at a terminal, by WebSocket.
//!
//! Binary messages are bytes, both ways: keys, and what the terminal shows. A text message says how large the window is:
//! `{"resize":[rows,cols]}`. The connection is an execution; with it everything ends that was started in the terminal.

use super::body::Query;
use super::error::{Code, Problem};
use super::wire::{self, Over, Speech, close};
use super::{Caller, Door, SessionAt};
use crate::service::Conversation;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::response::Response;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

/// The longest message of keys: a text that is pasted.
const KEYS_BYTES_MAX: usize = 64 << 10;
/// Rows and columns, where nothing is said.
const WINDOW: (u16, u16) = (24, 80);
/// The kinds of what a cell is told of its terminal.
const KEYS: u8 = 0;
const SIZE: u8 = 1;

/// Lets somebody sit down.
pub(super) async fn terminal(State(door): State<Door>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    door.names.check(&parts.headers, &parts.uri)?;
    let SessionAt(session) = SessionAt::from_request_parts(&mut parts, &door).await?;
    let caller = Caller::from_request_parts(&mut parts, &door).await?;
    let mut query = Query::of(&parts.uri)?;
    let rows = query.parsed("rows", "a number of lines").unwrap_or(WINDOW.0);
    let columns = query.parsed("cols", "a number of characters").unwrap_or(WINDOW.1);
    query.finish()?;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &door)
        .await
        .map_err(|why| Problem::new(Code::Malformed, format!("this takes WebSocket (HTTP/1.1): {why}")))?;
    let conversation = door.service.terminal(&caller.0, session).await?;
    let upgrade = upgrade.max_message_size(KEYS_BYTES_MAX).max_frame_size(KEYS_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| relay(socket, conversation, (rows, columns))))
}

async fn relay(socket: WebSocket, mut conversation: Conversation, window: (u16, u16)) {
    let size = sized(window);
    let length = u32::try_from(size.len()).unwrap_or_default();
    let to = &mut conversation.line.to;
    // The pipe is empty: there is room. A cell that is gone already is noticed below.
    let _told = to.write_all(&[&length.to_le_bytes()[..], &size].concat()).await;
    let (_nothing, news) = mpsc::channel(1);
    let (sink, over) = wire::carry(socket, &mut conversation.line, Keys, news).await;
    let ending = conversation.end().await;
    match over {
        Over::Refused(code, why) => wire::goodbye(sink, code, why).await,
        Over::Left | Over::Ended => wire::goodbye(sink, close::NORMAL, &ending.why).await,
    }
}

fn sized((rows, columns): (u16, u16)) -> Bytes {
    let mut told = vec![SIZE];
    told.extend(rows.to_le_bytes());
    told.extend(columns.to_le_bytes());
    told.into()
}

struct Keys;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    resize: (u16, u16),
}

impl Speech for Keys {
    fn up(&mut self, message: Message) -> Result<Option<Bytes>, (u16, &'static str)> {
        match message {
            Message::Binary(keys) => Ok(Some([&[KEYS], &keys[..]].concat().into())),
            Message::Text(text) => match serde_json::from_str::<Resize>(&text) {
                Ok(Resize { resize }) => Ok(Some(sized(resize))),
                Err(_) => Err((close::UNSUPPORTED, "a text is {\"resize\":[rows,cols]}; keys are binary")),
            },
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(None),
        }
    }

    fn down(message: Vec<u8>) -> Option<Message> {
        Some(Message::Binary(message.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_sizes_are_told_apart() {
        let up = |message| Keys.up(message);
        assert_eq!(up(Message::Binary("ls".into())), Ok(Some("\0ls".into())));
        assert_eq!(up(Message::Text(r#"{"resize":[24,80]}"#.into())), Ok(Some("\x01\x18\0\x50\0".into())));
        for wrong in [
            "ls",
            r#"{"resize":[1]}"#,
            r#"{"resize":[-1,2]}"#,
            r#"{"resize":[1,2],"x":1}"#,
            r#"{"resize":[70000,2]}"#,
        ] {
            assert!(up(Message::Text(wrong.into())).is_err(), "{wrong}");
        }
    }
}
