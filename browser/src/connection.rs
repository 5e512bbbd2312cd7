//! The pipe: bytes in, matched answers and events out.
//!
//! ```text
//!            call ──► outbox ──► writer task ──► Chromium
//!             ▲                                      │
//!   answer, or how it ended                          ▼
//!             └── pending ◄── reader task ◄── frames (NUL after each)
//!                                  ├─► events, in order, to one listener
//!                                  └─► answers and events of an outside client's sessions, to it (`client`)
//! ```
//!
//! Chromium may be in the hands of a page. A message's length is known before it is parsed, a message that is too long is
//! skipped without being kept, JSON is read to a bounded depth, and only the fields somebody asked for become values. A
//! call ends with its answer, with its deadline, or when the renderer it was meant for dies: Chromium itself never answers
//! a call whose renderer is gone.

use crate::client::Ear;
use chromiumoxide_cdp::cdp::browser_protocol::target::SessionId;
use chromiumoxide_types::Command;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// The longest message that is read; longer ones are skipped and their call fails. A picture of a page of 30,000 pixels
/// has about 5 MiB.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Messages that may wait for Chromium to read them. Only a Chromium that has stopped reading lets it come to this.
const OUTBOX_MESSAGES: usize = 4096;
/// Calls that may wait for their answers, those of an outside client included.
const CALLS_MAX: usize = 4096;
/// Enough of a message that is too long to see whose answer it was; Chromium writes the id first.
const HEAD_BYTES: usize = 64;
const CHUNK_BYTES: usize = 64 << 10;
/// A refusal's text may hold what a page wrote.
const REFUSAL_CHARS: usize = 500;

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The pipe ended: the browser is gone.
    #[error("the browser has ended")]
    Ended,
    /// The time was over. Whether the call had its effect is not known.
    #[error("the time was over")]
    Deadline,
    /// The renderer that was to answer has died.
    #[error("the page has crashed")]
    Crashed,
    /// The page or frame that was to answer is gone.
    #[error("the page is gone")]
    Detached,
    /// Chromium refused the call; it had no effect.
    #[error("refused by the browser: {message}")]
    Refused {
        /// The protocol's number for it.
        code: i64,
        /// The protocol's text, shortened.
        message: String,
    },
    /// The answer has more than [`MAX_MESSAGE_BYTES`].
    #[error("the answer is larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// The answer does not have the shape that the protocol gives it.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
}

/// An event as it came. `params` is valid JSON of at most [`MAX_MESSAGE_BYTES`], nothing more is known of it.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub session: Option<&'a str>,
    pub method: &'a str,
    pub params: &'a str,
}

/// What hears the events, in order, on the task that reads the pipe: it must not wait for anything. When the pipe ends the
/// listener is dropped.
pub(crate) trait Listener: Send + 'static {
    fn event(&mut self, connection: &Connection, event: &Event<'_>);
}

/// A handle on the conversation; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    calls: Arc<Mutex<Calls>>,
    outbox: mpsc::Sender<Message>,
}

/// A message to Chromium, and who waits until it was written.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    written: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Calls {
    last_id: u64,
    pending: HashMap<u64, Pending>,
    /// The outside client's side, while there is one.
    client: Option<Ear>,
    ended: bool,
}

#[derive(Debug)]
struct Pending {
    session: Option<SessionId>,
    caller: Caller,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Caller {
    Ours(oneshot::Sender<Result<Box<RawValue>, CallError>>),
    /// The outside client, who has a number of its own for the call.
    Client(i64),
}

#[derive(Serialize)]
struct Request<'a, P> {
    id: u64,
    method: &'a str,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a SessionId>,
    params: P,
}

/// Either an answer (`id`) or an event (`method`); fields that it does not name are not looked at.
#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

/// What Chromium answered a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer<'a> {
    Result(&'a RawValue),
    Refused(&'a RawValue),
    TooLarge,
}

impl Answer<'_> {
    fn for_us(self) -> Result<Box<RawValue>, CallError> {
        match self {
            Answer::Result(result) => Ok(result.to_owned()),
            Answer::TooLarge => Err(CallError::TooLarge),
            Answer::Refused(why) => Err(match serde_json::from_str(why.get()) {
                Ok(Refusal { code, message }) => {
                    CallError::Refused { code, message: message.chars().take(REFUSAL_CHARS).collect() }
                }
                Err(error) => CallError::Malformed(error.to_string()),
            }),
        }
    }
}

impl Connection {
    /// Starts the conversation on the two ends of the pipe. It ends when Chromium closes its end, or when the last handle
    /// and the listener are gone; then both ends are closed.
    pub(crate) fn open(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        listener: impl Listener,
    ) -> (Connection, Tasks) {
        let (outbox, messages) = mpsc::channel(OUTBOX_MESSAGES);
        let connection = Connection { calls: Arc::default(), outbox };
        let write = tokio::spawn(write(writer, messages));
        let read = tokio::spawn(read(reader, connection.clone(), listener));
        (connection, Tasks { read, write })
    }

    /// Calls a method and waits for its answer.
    pub(crate) async fn call<C: Command>(
        &self,
        session: Option<&SessionId>,
        command: &C,
        deadline: Instant,
    ) -> Result<C::Response, CallError> {
        self.call_as(session, &command.identifier(), command, deadline).await
    }

    /// As [`call`](Self::call), with an answer of our own shape.
    pub(crate) async fn call_as<R: serde::de::DeserializeOwned>(
        &self,
        session: Option<&SessionId>,
        method: &str,
        params: impl Serialize,
        deadline: Instant,
    ) -> Result<R, CallError> {
        let (answer, receiver) = oneshot::channel();
        let id = self.expect(session.cloned(), Caller::Ours(answer))?;
        // Dropping the future is how callers give up, so forgetting the call hangs on a guard.
        let _pending = Forget { connection: self, id };
        let message = encode(id, method, session, params)?;
        let answered = async {
            let message = Message { bytes: message, written: None };
            self.outbox.send(message).await.map_err(|_| CallError::Ended)?;
            receiver.await.map_err(|_| CallError::Ended)?
        };
        let raw =
            tokio::time::timeout_at(deadline.into(), answered).await.map_err(|_| CallError::Deadline)??;
        serde_json::from_str(raw.get()).map_err(|error| CallError::Malformed(format!("{method}: {error}")))
    }

    /// Calls a method whose answer nobody needs. Does not wait, so that a listener may use it.
    pub(crate) fn tell<C: Command>(&self, session: Option<&SessionId>, command: &C) {
        let method = command.identifier();
        let id = {
            let mut calls = self.calls();
            calls.last_id += 1;
            calls.last_id
        };
        let sent = encode(id, &method, session, command)
            .map(|bytes| self.outbox.try_send(Message { bytes, written: None }));
        if !matches!(sent, Ok(Ok(()))) {
            tracing::warn!(%method, "the browser does not take messages");
        }
    }

    /// Ends the calls that wait for an answer from `session`.
    pub(crate) fn fail(&self, session: &SessionId, why: &CallError) {
        let mut calls = self.calls();
        let theirs: Vec<u64> = calls
            .pending
            .iter()
            .filter(|(_, pending)| pending.session.as_ref() == Some(session))
            .map(|(id, _)| *id)
            .collect();
        for pending in theirs.iter().filter_map(|id| calls.pending.remove(id)) {
            if let Caller::Ours(answer) = pending.caller {
                // Nobody listens when the caller has just given up.
                let _gone = answer.send(Err(why.clone()));
            }
        }
    }

    /// From now on what Chromium says in these sessions is the client's.
    pub(crate) fn admit(&self, client: Ear) {
        self.calls().client = Some(client);
    }

    /// Nobody outside hears or is answered any more.
    pub(crate) fn dismiss(&self) {
        let mut calls = self.calls();
        calls.client = None;
        calls.pending.retain(|_, pending| matches!(pending.caller, Caller::Ours(_)));
    }

    /// Looks at the client's side, if there is a client.
    pub(crate) fn with_client<T>(&self, look: impl FnOnce(&mut Ear) -> T) -> Option<T> {
        self.calls().client.as_mut().map(look)
    }

    /// Passes a client's call on, under a number of ours, and returns when it was written: so a client has at most one
    /// message in this process that Chromium has not read.
    pub(crate) async fn forward(
        &self,
        session: &SessionId,
        id: i64,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<(), CallError> {
        if self.calls().pending.len() >= CALLS_MAX {
            let message = format!("{CALLS_MAX} calls wait for their answers already");
            return Err(CallError::Refused { code: -32000, message });
        }
        let ours = self.expect(Some(session.clone()), Caller::Client(id))?;
        let bytes = match params {
            Some(params) => encode(ours, method, Some(session), params),
            None => encode(ours, method, Some(session), serde_json::Map::new()),
        }?;
        let (written, done) = oneshot::channel();
        let message = Message { bytes, written: Some(written) };
        self.outbox.send(message).await.map_err(|_| CallError::Ended)?;
        done.await.map_err(|_| CallError::Ended)
    }

    fn expect(&self, session: Option<SessionId>, caller: Caller) -> Result<u64, CallError> {
        let mut calls = self.calls();
        if calls.ended {
            return Err(CallError::Ended);
        }
        calls.last_id += 1;
        let id = calls.last_id;
        calls.pending.insert(id, Pending { session, caller });
        Ok(id)
    }

    fn answer(&self, id: u64, answer: Answer<'_>) {
        let mut calls = self.calls();
        // Answers to calls that were given up, or made by `tell`, are not missed.
        let Some(Pending { session, caller }) = calls.pending.remove(&id) else { return };
        match (caller, &mut calls.client) {
            (Caller::Ours(ours), _) => {
                let _gone = ours.send(answer.for_us());
            }
            (Caller::Client(id), Some(client)) => client.answer(id, session.as_ref(), answer),
            (Caller::Client(_), None) => {}
        }
    }

    /// Whether an event was the client's, and is with it now.
    fn told_client(&self, session: Option<&str>, method: &str, params: Option<&RawValue>) -> bool {
        let Some(session) = session else { return false };
        let mut calls = self.calls();
        let Some(client) = calls.client.as_mut().filter(|client| client.hears(session)) else { return false };
        if let Some(gone) = client.event(session, method, params) {
            // Chromium answers nothing in a session that is gone.
            let of_it = |pending: &Pending| pending.session.as_ref().is_some_and(|id| *id.as_ref() == *gone);
            calls.pending.retain(|_, pending| !of_it(pending));
        }
        true
    }

    fn end(&self) {
        let mut calls = self.calls();
        calls.ended = true;
        calls.pending.clear();
        calls.client = None;
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.calls().pending.remove(&self.id);
    }
}

/// The two tasks of a conversation. Dropping them closes the pipe, which ends the browser.
#[derive(Debug)]
pub(crate) struct Tasks {
    read: tokio::task::JoinHandle<()>,
    write: tokio::task::JoinHandle<()>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.read.abort();
        self.write.abort();
    }
}

fn encode(
    id: u64,
    method: &str,
    session: Option<&SessionId>,
    params: impl Serialize,
) -> Result<Vec<u8>, CallError> {
    let mut message = serde_json::to_vec(&Request { id, method, session, params })
        .map_err(|error| CallError::Malformed(error.to_string()))?;
    message.push(0);
    Ok(message)
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut messages: mpsc::Receiver<Message>) {
    while let Some(Message { bytes, written }) = messages.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
        if let Some(written) = written {
            // Who waited may have given up.
            let _gone = written.send(());
        }
    }
}

async fn read(mut reader: impl AsyncRead + Unpin, connection: Connection, mut listener: impl Listener) {
    let mut frames = Frames::new(MAX_MESSAGE_BYTES);
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = reader.read(&mut chunk).await {
        frames.push(&chunk[..length], |frame| match frame {
            Frame::Whole(bytes) => take(&connection, &mut listener, bytes),
            Frame::Oversized { head } => skip(&connection, head),
        });
    }
    connection.end();
}

fn take(connection: &Connection, listener: &mut impl Listener, bytes: &[u8]) {
    let envelope: Envelope = match serde_json::from_slice(bytes) {
        Ok(envelope) => envelope,
        Err(error) => return tracing::warn!(%error, "not a message of the protocol"),
    };
    match envelope {
        Envelope { id: Some(id), error: Some(why), .. } => connection.answer(id, Answer::Refused(why)),
        Envelope { id: Some(id), result: Some(result), .. } => connection.answer(id, Answer::Result(result)),
        Envelope { method: Some(method), session, params, .. } => {
            if connection.told_client(session.as_deref(), &method, params) {
                return;
            }
            let params = params.map_or("{}", RawValue::get);
            listener.event(connection, &Event { session: session.as_deref(), method: &method, params });
        }
        _ => tracing::warn!("a message that is neither answer nor event"),
    }
}

fn skip(connection: &Connection, head: &[u8]) {
    tracing::warn!("a message of the browser was too large and was skipped");
    if let Some(id) = id_in(head) {
        connection.answer(id, Answer::TooLarge);
    }
}

/// The id in the beginning of an answer. An event has none there.
fn id_in(head: &[u8]) -> Option<u64> {
    let digits = head.strip_prefix(b"{\"id\":")?;
    let length = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

/// Cuts a stream into messages at NUL bytes, holding at most `limit_bytes` of one.
struct Frames {
    limit_bytes: usize,
    /// What has come of the current message; of one that is too long, its head.
    held: Vec<u8>,
    oversized: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Frame<'a> {
    Whole(&'a [u8]),
    Oversized { head: &'a [u8] },
}

impl Frames {
    fn new(limit_bytes: usize) -> Self {
        Frames { limit_bytes, held: Vec::new(), oversized: false }
    }

    fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while let Some(end) = chunk.iter().position(|byte| *byte == 0) {
            self.hold(&chunk[..end]);
            if self.oversized {
                each(Frame::Oversized { head: &self.held });
            } else {
                each(Frame::Whole(&self.held));
            }
            self.oversized = false;
            self.held.clear();
            // One large picture must not be paid for during the rest of the session.
            self.held.shrink_to(CHUNK_BYTES);
            chunk = &chunk[end + 1..];
        }
        self.hold(chunk);
    }

    fn hold(&mut self, part: &[u8]) {
        if !self.oversized && self.held.len() + part.len() <= self.limit_bytes {
            return self.held.extend_from_slice(part);
        }
        self.oversized = true;
        let missing = HEAD_BYTES.saturating_sub(self.held.len()).min(part.len());
        self.held.extend_from_slice(&part[..missing]);
        self.held.truncate(HEAD_BYTES);
        self.held.shrink_to(HEAD_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(limit: usize, chunks: &[&[u8]]) -> Vec<Result<Vec<u8>, Vec<u8>>> {
        let mut frames = Frames::new(limit);
        let mut out = Vec::new();
        for chunk in chunks {
            frames.push(chunk, |frame| {
                out.push(match frame {
                    Frame::Whole(bytes) => Ok(bytes.to_vec()),
                    Frame::Oversized { head } => Err(head.to_vec()),
                });
            });
        }
        out
    }

    #[test]
    fn what_is_too_long_is_skipped_and_what_follows_is_read() {
        let long = [b"{\"id\":7,\"result\":".as_slice(), &[b'x'; 200], &[0], b"{}", &[0]].concat();
        let frames = cut(100, &[&long]);
        let head = frames[0].as_ref().unwrap_err();
        assert_eq!(head.len(), HEAD_BYTES);
        assert_eq!(id_in(head), Some(7));
        assert_eq!(frames[1], Ok(b"{}".to_vec()));
        assert_eq!(id_in(b"{\"method\":\"Page.x\""), None);
    }

    proptest! {
        /// However the stream is cut into reads, the messages are the same, and none longer than the limit is held.
        #[test]
        fn reads_of_any_length_give_the_same_messages(
            messages in proptest::collection::vec(proptest::collection::vec(1u8.., 0..300), 0..8),
            cuts in 1usize..64,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| m.iter().copied().chain([0])).collect();
            let chunks: Vec<&[u8]> = stream.chunks(cuts).collect();
            let expected: Vec<_> = messages
                .iter()
                .map(|m| if m.len() <= 100 { Ok(m.clone()) } else { Err(m[..HEAD_BYTES].to_vec()) })
                .collect();
            prop_assert_eq!(cut(100, &chunks), expected);
        }
    }

    struct Deaf;
    impl Listener for Deaf {
        fn event(&mut self, _: &Connection, _: &Event<'_>) {}
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_call_ends_with_its_answer_its_session_or_the_pipe() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        let (connection, _tasks) = Connection::open(reader, writer, Deaf);
        let session = SessionId::from("S".to_owned());

        let call = |method: &'static str| {
            let (connection, session) = (connection.clone(), session.clone());
            tokio::spawn(async move {
                connection.call_as::<serde_json::Value>(Some(&session), method, (), soon()).await
            })
        };
        let mut sent = [0u8; 256];
        let first = call("A.one");
        let length = theirs.read(&mut sent).await.unwrap();
        assert_eq!(&sent[..length], b"{\"id\":1,\"method\":\"A.one\",\"sessionId\":\"S\",\"params\":null}\0");
        theirs
            .write_all(b"{\"id\":9,\"result\":{}}\0garbage\0{\"id\":1,\"result\":{\"a\":1}}\0")
            .await
            .unwrap();
        assert_eq!(first.await.unwrap().unwrap()["a"], 1);

        let second = call("A.two");
        assert!(theirs.read(&mut sent).await.unwrap() > 0);
        connection.fail(&session, &CallError::Crashed);
        assert_eq!(second.await.unwrap(), Err(CallError::Crashed));

        let third = call("A.three");
        assert!(theirs.read(&mut sent).await.unwrap() > 0);
        drop(theirs);
        assert_eq!(third.await.unwrap(), Err(CallError::Ended));
        assert_eq!(call("A.four").await.unwrap(), Err(CallError::Ended));
        assert!(connection.calls().pending.is_empty());
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_is_forgotten() {
        let (ours, _theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        let (connection, _tasks) = Connection::open(reader, writer, Deaf);
        let short = Instant::now() + std::time::Duration::from_millis(20);
        let answer = connection.call_as::<serde_json::Value>(None, "A.b", (), short).await;
        assert_eq!(answer, Err(CallError::Deadline));
        assert!(connection.calls().pending.is_empty());
    }

    #[test]
    fn json_that_nests_without_end_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(serde_json::from_str::<serde_json::Value>(&deep).is_err());
    }
}
