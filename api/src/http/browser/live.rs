//! `/v1/sessions/{id}/browser/live`: a page on which a person watches the browser and may take it over; and, with an upgrade,
//! what that page is told and says.
//!
//! | told | |
//! |---|---|
//! | `{"type":"hello","role":"view"}` | what the link is for |
//! | `{"type":"control","holder":"you"}` | who has taken over: `you`, `other`, or nobody (`null`) |
//! | `{"type":"page",…}`, `{"type":"frame",…}` | what there is to see; a cell said it |
//!
//! | said | |
//! |---|---|
//! | `{"type":"take"}`, `{"type":"release"}` | takes over, gives back |
//! | `{"type":"mouse",…}` and others | for the browser; passed on from whoever has taken over |

use super::link::enter;
use crate::http::Door;
use crate::http::error::{Code, Problem};
use crate::http::wire::{self, Over, Texts, close};
use crate::service::{Hand, Holder, LinkRole, Watch};
use anchorhold_sandbox::Id;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

const PAGE: &str = include_str!("live/page.html");
/// The longest message of the page: a text that is pasted.
const WORD_BYTES_MAX: usize = 60 << 10;

/// The page, or its connection.
pub(in crate::http) async fn live(State(door): State<Door>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let (session, caller, role) = enter(&mut parts, &door, &[LinkRole::View, LinkRole::Control]).await?;
    if !parts.headers.contains_key(header::UPGRADE) {
        door.service.look_up(&caller.0, session).await?;
        return Ok(page());
    }
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &door)
        .await
        .map_err(|why| Problem::new(Code::Malformed, format!("this takes WebSocket (HTTP/1.1): {why}")))?;
    let watch = door.service.watch(&caller.0, session, role == Some(LinkRole::Control)).await?;
    let upgrade = upgrade.max_message_size(WORD_BYTES_MAX).max_frame_size(WORD_BYTES_MAX);
    Ok(upgrade.on_upgrade(|socket| relay(socket, watch)))
}

/// It needs nothing from elsewhere, and what it is told can neither be kept nor followed.
fn page() -> Response {
    let nonce = Id::random();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    );
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("content-security-policy"), policy),
    ];
    (headers, PAGE.replace("NONCE", &nonce.to_string())).into_response()
}

/// Only what kind of word it is; the rest is for the cell.
#[derive(Deserialize)]
struct Word {
    r#type: String,
}

async fn relay(socket: WebSocket, watch: Watch) {
    let Watch { mut line, hand, .. } = watch;
    let (news, told) = mpsc::channel(4);
    // There is room for these.
    let role = if hand.may_take() { LinkRole::Control } else { LinkRole::View };
    let _first = news.try_send(json!({"type": "hello", "role": role}).to_string());
    let admit = |text: &str| admit(&hand, text);
    let (sink, over) = tokio::select! {
        over = wire::carry(socket, &mut line, Texts(admit), told) => over,
        () = tell_changes(&hand, news) => return,
    };
    drop(line);
    match over {
        Over::Refused(code, why) => wire::goodbye(sink, code, why).await,
        _ => wire::goodbye(sink, close::AWAY, "the browser has ended").await,
    }
}

/// Whether a word is for the browser now.
fn admit(hand: &Hand, text: &str) -> bool {
    let Ok(Word { r#type }) = serde_json::from_str(text) else { return false };
    match &*r#type {
        "take" => hand.take(),
        "release" => {
            let held = hand.acts();
            hand.release();
            held
        }
        _ => hand.acts(),
    }
}

/// Tells who has taken over, whenever that is another.
async fn tell_changes(hand: &Hand, news: mpsc::Sender<String>) {
    let mut changes = hand.changes();
    loop {
        changes.mark_unchanged();
        let holder = hand.holder().map(|holder| match holder {
            Holder::You => "you",
            Holder::Other => "other",
        });
        let told = news.send(json!({"type": "control", "holder": holder}).to_string()).await;
        if told.is_err() || changes.changed().await.is_err() {
            // The other side of the select ends.
            return std::future::pending().await;
        }
    }
}
