//! An outside client: a program such as Playwright that speaks the protocol itself, while it is let in.
//!
//! Chromium has one pipe, and it is ours. The client gets a session of its own with the browser, as if it were a connection,
//! and everything below it:
//!
//! ```text
//!   client ── {"id":7,"method":"Target.getTargets"} ──► gate ──► {"id":321,…,"sessionId":B} ──► Chromium
//!          ◄─ {"id":7,"result":…} ◄── {"id":321,"result":…,"sessionId":B} ◄──┘
//!          ◄─ events in B without a session, events in sessions that B made as they are
//! ```
//!
//! So it cannot name a session of ours, and we hear nothing of what is said in its own. What it did to the browser by its
//! sessions (emulation, interception, scripts for new documents) ends with them; pages that it opened stay.
//!
//! While a person has taken over, what the client says waits, and it is told so by events of a domain of ours:
//! `Anchorhold.paused`, `Anchorhold.resumed`.
//!
//! Both directions are bounded: a message by its length, what it asks by its own waiting until Chromium has read, what it
//! does not read by a backlog after which it is dismissed.

use crate::connection::{Answer, CallError, Connection};
use crate::gate::{Verdict, judge};
use crate::run::Browser;
use crate::screen::Hold;
use crate::store::accept_downloads;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    CreateTargetParams, DetachFromTargetParams, SessionId,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

/// The longest message of a client; a longer one ends its connection.
pub const MAX_CLIENT_MESSAGE_BYTES: usize = 16 << 20;
/// What a client may leave unread. More than two of the longest messages.
const BACKLOG_BYTES: usize = 80 << 20;
/// Sessions of a client; what is attached beyond is not its own.
const SESSIONS_MAX: usize = 1024;
/// How long the browser may take to let a client in.
const ADMISSION: Duration = Duration::from_secs(10);

/// The protocol's numbers for what went wrong.
const UNREADABLE: i64 = -32700;
const REFUSED: i64 = -32000;
const NO_SESSION: i64 = -32001;

/// How a client's connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Departure {
    /// It hung up, or closed "the browser".
    #[error("the client has left")]
    Left,
    /// It sent what is no message, or one of more than [`MAX_CLIENT_MESSAGE_BYTES`].
    #[error("a message of the client is too long")]
    TooLong,
    /// It does not read what it is told.
    #[error("the client does not read")]
    Deaf,
    /// The browser did not let it in, or has ended.
    #[error(transparent)]
    Browser(#[from] CallError),
}

/// What the reader of Chromium's pipe knows of the client.
#[derive(Debug)]
pub(crate) struct Ear {
    /// The session that is the client's connection.
    root: String,
    /// Those that came of it.
    sessions: HashSet<String>,
    backlog: Backlog,
}

/// What waits to be read by the client.
#[derive(Debug, Clone)]
struct Backlog {
    messages: mpsc::UnboundedSender<Vec<u8>>,
    bytes: Arc<AtomicUsize>,
    /// Rings when there is too much of it.
    full: Arc<Notify>,
}

/// A message for the client, of any kind.
#[derive(Default, Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, RawValue>>,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

/// A message of the client.
#[derive(Deserialize)]
struct Call<'a> {
    id: i64,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InSession {
    session_id: Option<String>,
}

impl Backlog {
    /// Whether it is still read.
    fn say(&self, said: &Said<'_>) -> bool {
        let Ok(message) = serde_json::to_vec(said) else { return false };
        if self.bytes.load(Ordering::Relaxed).saturating_add(message.len()) > BACKLOG_BYTES {
            self.full.notify_one();
            return false;
        }
        self.bytes.fetch_add(message.len(), Ordering::Relaxed);
        self.messages.send(message).is_ok()
    }

    /// Returns when all of it was written, or never will be.
    async fn written(&self) {
        while self.bytes.load(Ordering::Relaxed) > 0 && !self.messages.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Ear {
    /// What Chromium answered one of the client's calls.
    pub(crate) fn answer(&mut self, id: i64, session: Option<&SessionId>, answer: Answer<'_>) {
        let session = session.map(|session| session.as_ref() as &str).filter(|session| *session != self.root);
        let mut said = Said { id: Some(id), session, ..Said::default() };
        match answer {
            Answer::Result(result) => said.result = Some(Cow::Borrowed(result)),
            Answer::Refused(why) => said.error = Some(Cow::Borrowed(why)),
            Answer::TooLarge => said.error = error(REFUSED, "the answer is too large"),
        }
        self.backlog.say(&said);
    }

    /// Whether what is said in this session is the client's.
    pub(crate) fn hears(&self, session: &str) -> bool {
        session == self.root || self.sessions.contains(session)
    }

    /// An event of such a session; which session is gone by it, if one is.
    pub(crate) fn event(&mut self, session: &str, method: &str, params: Option<&RawValue>) -> Option<String> {
        let named = || serde_json::from_str::<InSession>(params?.get()).ok()?.session_id;
        let gone = match method {
            "Target.attachedToTarget" => {
                self.sessions.extend(named().filter(|_| self.sessions.len() < SESSIONS_MAX));
                None
            }
            "Target.detachedFromTarget" => named().inspect(|gone| {
                self.sessions.remove(gone);
            }),
            _ => None,
        };
        let session = Some(session).filter(|session| *session != self.root);
        self.backlog.say(&Said { method: Some(method), params, session, ..Said::default() });
        gone
    }
}

fn error(code: i64, message: &str) -> Option<Cow<'static, RawValue>> {
    let said = serde_json::json!({"code": code, "message": message});
    to_raw_value(&said).ok().map(Cow::Owned)
}

/// A client's stay; it ends when this is dropped.
struct Stay {
    connection: Connection,
    root: SessionId,
    backlog: Backlog,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.connection.dismiss();
        let root = Some(self.root.clone());
        self.connection.tell(None, &DetachFromTargetParams { session_id: root });
        // What it said of them has ended with its session, and with that what we said.
        accept_downloads(&self.connection);
    }
}

impl Browser {
    /// Lets a client speak to the browser until it leaves: `reader` is what it says, `writer` what it hears; before each
    /// message stands its length, four bytes, the lowest first. It finds a page open.
    pub async fn converse(
        &mut self,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
    ) -> Departure {
        match self.let_in().await {
            Err(why) => why.into(),
            Ok((stay, heard)) => tokio::select! {
                departure = listen(reader, &stay, &self.hold) => departure,
                () = tell_pauses(&stay.backlog, &self.hold) => Departure::Deaf,
                departure = speak(writer, heard, &stay.backlog.bytes) => departure,
                () = stay.backlog.full.notified() => Departure::Deaf,
                () = self.ended() => CallError::Ended.into(),
            },
        }
    }

    async fn let_in(&mut self) -> Result<(Stay, mpsc::UnboundedReceiver<Vec<u8>>), CallError> {
        let (connection, deadline) = (&self.link.connection, Instant::now() + ADMISSION);
        if self.link.state().tabs.is_empty() {
            connection.call(None, &CreateTargetParams::new("about:blank"), deadline).await?;
            self.link.until(deadline, |state| state.tabs.first().map(drop)).await?;
        }
        let nothing = serde_json::Map::new();
        let attached: InSession =
            connection.call_as(None, "Target.attachToBrowserTarget", nothing, deadline).await?;
        let root = attached.session_id.ok_or(CallError::Detached)?;
        let (messages, heard) = mpsc::unbounded_channel();
        let backlog = Backlog { messages, bytes: Arc::default(), full: Arc::default() };
        connection.admit(Ear { root: root.clone(), sessions: HashSet::new(), backlog: backlog.clone() });
        Ok((Stay { connection: connection.clone(), root: root.into(), backlog }, heard))
    }
}

/// Writes what the client is to hear.
async fn speak(
    mut writer: impl AsyncWrite + Unpin,
    mut heard: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: &AtomicUsize,
) -> Departure {
    while let Some(message) = heard.recv().await {
        let Ok(length) = u32::try_from(message.len()) else { return Departure::Deaf };
        let sent = async {
            writer.write_u32_le(length).await?;
            writer.write_all(&message).await
        };
        if sent.await.is_err() {
            return Departure::Left;
        }
        waiting.fetch_sub(message.len(), Ordering::Relaxed);
    }
    Departure::Deaf
}

/// Tells the client when a person takes over and gives back. Ends when it does not read.
async fn tell_pauses(backlog: &Backlog, hold: &Hold) {
    loop {
        hold.until(true).await;
        if !backlog.say(&Said { method: Some("Anchorhold.paused"), ..Said::default() }) {
            return;
        }
        hold.until(false).await;
        if !backlog.say(&Said { method: Some("Anchorhold.resumed"), ..Said::default() }) {
            return;
        }
    }
}

/// Reads what the client says, and does it; while a person has taken over, it waits.
async fn listen(mut reader: impl AsyncRead + Unpin, stay: &Stay, hold: &Hold) -> Departure {
    let mut message = Vec::new();
    loop {
        let Ok(length) = reader.read_u32_le().await else { return Departure::Left };
        if usize::try_from(length).map_or(true, |length| length > MAX_CLIENT_MESSAGE_BYTES) {
            return Departure::TooLong;
        }
        message.clear();
        // Grows with what arrives, not with what is promised.
        match (&mut reader).take(length.into()).read_to_end(&mut message).await {
            Ok(read) if u32::try_from(read) == Ok(length) => {}
            _ => return Departure::Left,
        }
        hold.until(false).await;
        match take(&message, stay).await {
            Ok(true) => {}
            Ok(false) => return Departure::Left,
            Err(error) => return error.into(),
        }
        message.shrink_to(64 << 10);
    }
}

/// Does what one message asks for. `false`: the client leaves.
async fn take(message: &[u8], stay: &Stay) -> Result<bool, CallError> {
    let call: Call<'_> = match serde_json::from_slice(message) {
        Ok(call) => call,
        Err(why) => {
            let error = error(UNREADABLE, &format!("not a message: {why}"));
            return Ok(stay.backlog.say(&Said { error, ..Said::default() }));
        }
    };
    let session = match &call.session {
        None => Some(stay.root.clone()),
        Some(id) => stay.owns(id).then(|| SessionId::from(id.to_string())),
    };
    let Some(session) = session else {
        return Ok(stay.refuse(&call, NO_SESSION, "Session with given id not found."));
    };
    match judge(&call.method, call.params) {
        Verdict::Leave => {
            let result = to_raw_value(&serde_json::Map::new()).ok().map(Cow::Owned);
            stay.backlog.say(&Said { id: Some(call.id), result, ..Said::default() });
            stay.backlog.written().await;
            Ok(false)
        }
        Verdict::Refuse(why) => Ok(stay.refuse(&call, REFUSED, &why)),
        Verdict::Pass(params) if detaches_another(&call, params.as_deref(), stay) => {
            Ok(stay.refuse(&call, NO_SESSION, "No session with given id"))
        }
        Verdict::Pass(params) => {
            match stay.connection.forward(&session, call.id, &call.method, params.as_deref()).await {
                Ok(()) => Ok(true),
                Err(CallError::Refused { code, message }) => Ok(stay.refuse(&call, code, &message)),
                Err(error) => Err(error),
            }
        }
    }
}

fn detaches_another(call: &Call<'_>, params: Option<&RawValue>, stay: &Stay) -> bool {
    let named = || serde_json::from_str::<InSession>(params?.get()).ok()?.session_id;
    call.method == "Target.detachFromTarget" && named().is_none_or(|session| !stay.owns(&session))
}

impl Stay {
    fn owns(&self, session: &str) -> bool {
        self.connection.with_client(|ear| ear.sessions.contains(session)).unwrap_or(false)
    }

    /// Whether it is still read.
    fn refuse(&self, call: &Call<'_>, code: i64, why: &str) -> bool {
        let session = call.session.as_deref();
        self.backlog.say(&Said { id: Some(call.id), error: error(code, why), session, ..Said::default() })
    }
}
