//! `/v1/sessions/{id}/browser/cdp`: the browser's own protocol, for clients that speak it.

use super::link::enter;
use crate::http::Door;
use crate::http::error::{Code, Problem};
use crate::http::wire::{self, Over, Texts, close};
use crate::service::{Conversation, LinkRole};
use anchorhold_browser::MAX_CLIENT_MESSAGE_BYTES;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::response::Response;
use tokio::sync::mpsc;

/// Lets a client in. What it says goes to the cell, where it is read.
pub(in crate::http) async fn cdp(State(door): State<Door>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let (session, caller, _) = enter(&mut parts, &door, &[LinkRole::Cdp]).await?;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &door)
        .await
        .map_err(|why| Problem::new(Code::Malformed, format!("this takes WebSocket (HTTP/1.1): {why}")))?;
    let conversation = door.service.converse(&caller.0, session).await?;
    let upgrade = upgrade.max_message_size(MAX_CLIENT_MESSAGE_BYTES).max_frame_size(MAX_CLIENT_MESSAGE_BYTES);
    Ok(upgrade.on_upgrade(|socket| relay(socket, conversation)))
}

async fn relay(socket: WebSocket, mut conversation: Conversation) {
    let (_nothing, news) = mpsc::channel(1);
    let (sink, over) = wire::carry(socket, &mut conversation.line, Texts(|_: &str| true), news).await;
    let ending = conversation.end().await;
    match over {
        Over::Refused(code, why) => wire::goodbye(sink, code, why).await,
        _ if ending.well => wire::goodbye(sink, close::NORMAL, &ending.why).await,
        _ => wire::goodbye(sink, close::AWAY, &ending.why).await,
    }
}
