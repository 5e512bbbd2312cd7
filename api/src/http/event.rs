//! An execution as a stream of server-sent events.
//!
//! Each event's data is JSON with `n` (a position: it grows, it does not count) and `at`; its `id` is `n`, so that a
//! client that reconnects as browsers do goes on where it was.

use super::body::Query;
use super::error::Problem;
use super::execution::{ExecutionBody, not_found};
use super::openapi::{Streams, sent};
use super::{Caller, Door, ExecutionAt, SessionAt, time};
use crate::ledger::{GuestError, Rich};
use crate::service::{CancelOnDrop, Events, Told, Word};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;

/// A comment this often tells both sides that the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Whether the client asked for events rather than for one answer.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|part| {
        part.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

/// Follow an execution
///
/// Server-sent events while it runs, from any position, also after its end. Each event's data is JSON with `n` (its
/// position, which is also its `id`) and `at` (a time), and:
///
/// - `start`: the execution, which runs
/// - `stdout`, `stderr`: `text`
/// - `result`: `result`, a rich value
/// - `gap`: `reason` and `bytes`; something is not kept any more
/// - `error`: `error`, the program's own
/// - `end`: the execution, which ended; nothing follows
///
/// A comment every 5 seconds shows that the stream lives.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/executions/{exe}/events", tag = "Executions", operation_id = "follow_execution",
    params(sent::ExecutionPath, sent::EventsQuery, sent::LastEvent),
    responses((status = 200, description = "Events.", content_type = "text/event-stream", body = sent::Event), Streams),
)]
pub(super) async fn stream(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ExecutionAt(id): ExecutionAt,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let after: Option<u64> = query.parsed("after", "a position");
    query.finish()?;
    let last = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|n| n.parse().ok()));
    let after = match (after, last) {
        (Some(after), _) => after,
        (None, Some(Some(last))) => last,
        (None, Some(None)) => return Err(Problem::field("Last-Event-ID", "must be a position")),
        (None, None) => 0,
    };
    let Some(id) = id else { return Err(not_found(&door, &tenant, session).await) };
    Ok(respond(door.service.follow(&tenant, session, id, after).await?, None))
}

/// The events; `cancel` is dropped with the connection or at the end.
pub(super) fn respond(events: Events, cancel: Option<CancelOnDrop>) -> Response {
    let stream = futures_util::stream::unfold((events, cancel), |(mut events, cancel)| async {
        let event = render(events.next().await?);
        Some((Ok::<_, Infallible>(event), (events, cancel)))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("here");
    let mut response = Sse::new(stream).keep_alive(keep_alive).into_response();
    // Proxies that gather answers would hold back what is live.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[derive(Serialize)]
struct Data<T> {
    n: u64,
    at: String,
    #[serde(flatten)]
    what: T,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Part<'a> {
    Text(&'a str),
    Result(&'a Rich),
    Error(&'a GuestError),
}

#[derive(Serialize)]
struct Gap {
    reason: &'static str,
    bytes: Option<u64>,
}

fn render(Told { position, at_us, word }: Told) -> Event {
    match &word {
        Word::Start(row) => event("start", position, at_us, ExecutionBody::new(row)),
        Word::Stdout(text) => event("stdout", position, at_us, Part::Text(text)),
        Word::Stderr(text) => event("stderr", position, at_us, Part::Text(text)),
        Word::Result(value) => event("result", position, at_us, Part::Result(value)),
        Word::Gap(reason, bytes) => event("gap", position, at_us, Gap { reason, bytes: *bytes }),
        Word::Error(error) => event("error", position, at_us, Part::Error(error)),
        Word::End(row) => event("end", position, at_us, ExecutionBody::new(row)),
    }
}

fn event(name: &str, n: u64, at_us: i64, what: impl Serialize) -> Event {
    let data = Data { n, at: time(at_us), what };
    let event = Event::default().event(name).id(n.to_string());
    event.json_data(data).unwrap_or_else(|error| {
        tracing::error!(%error, "an event could not be written");
        Event::default().event("gap")
    })
}
