//! A WebSocket as the two pipes of a conversation: messages are carried, and not read.
//!
//! On a pipe a message stands behind its length, four bytes, the lowest first. Both sides are waited for: a peer that does
//! not read stops the cell's writing, and the other way round. What is held here at a time is one message of each
//! direction, of bounded length.

use anchorhold_sandbox::Line;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{MissedTickBehavior, interval};

/// The longest message of a cell. The longest that a browser says, and what it is wrapped in.
const FROM_CELL_BYTES_MAX: u32 = 33 << 20;
/// KiB of messages from cells that are held at a time, of all conversations.
static HELD_KIB: Semaphore = Semaphore::const_new(256 << 10);
/// How often a peer is asked whether it is there …
const PING_EVERY: Duration = Duration::from_secs(20);
/// … and how long it may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// Why nothing is carried any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The peer closed, or went away.
    Left,
    /// Its message is no text, or too long.
    Refused(u16, &'static str),
    /// The cell's side has ended.
    Ended,
}

/// A code of RFC 6455.
pub(super) mod close {
    pub(in crate::http) const NORMAL: u16 = 1000;
    pub(in crate::http) const AWAY: u16 = 1001;
    pub(in crate::http) const UNSUPPORTED: u16 = 1003;
    pub(super) const TOO_LONG: u16 = 1009;
}

/// When the peer was last heard.
struct Pulse {
    began: Instant,
    last_ms: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn beat(&self) {
        self.last_ms.store(self.ms(), Ordering::Relaxed);
    }

    /// Until the next beat nothing is heard for another reason.
    fn hold(&self) {
        self.last_ms.store(u64::MAX, Ordering::Relaxed);
    }

    fn silent(&self) -> bool {
        let silent_ms = self.ms().saturating_sub(self.last_ms.load(Ordering::Relaxed));
        Duration::from_millis(silent_ms) > SILENCE_MAX
    }
}

type Sink = SplitSink<WebSocket, Message>;

/// What is said between a peer and a cell.
pub(super) trait Speech {
    /// What the cell is told of a message, if anything. An error refuses the peer.
    fn up(&mut self, message: Message) -> Result<Option<Bytes>, (u16, &'static str)>;
    /// What the peer is told. `None`: a cell may not say this.
    fn down(message: Vec<u8>) -> Option<Message>;
}

/// Texts, of which the peer's are carried if they are admitted.
pub(super) struct Texts<A>(pub(super) A);

impl<A: FnMut(&str) -> bool> Speech for Texts<A> {
    fn up(&mut self, message: Message) -> Result<Option<Bytes>, (u16, &'static str)> {
        match message {
            Message::Text(text) => Ok(self.0(text.as_str()).then(|| text.into())),
            _ => Err((close::UNSUPPORTED, "messages are text")),
        }
    }

    fn down(message: Vec<u8>) -> Option<Message> {
        String::from_utf8(message).ok().map(|text| Message::Text(text.into()))
    }
}

/// Carries messages both ways until one side ends; the peer is still there to be told why. It is told our own `news`, too.
pub(super) async fn carry<S: Speech>(
    socket: WebSocket,
    line: &mut Line,
    mut speech: S,
    news: mpsc::Receiver<String>,
) -> (Sink, Over) {
    let (mut sink, mut stream) = socket.split();
    let pulse = Pulse::new();
    let (next, messages) = mpsc::channel(1);
    let over = tokio::select! {
        over = up(&mut stream, &mut line.to, &mut speech, &pulse) => over,
        over = down::<S>(&mut sink, messages, news, &pulse) => over,
        // What it has read last is still to be told.
        () = async { read(&mut line.from, next).await; std::future::pending().await } => Over::Ended,
    };
    (sink, over)
}

/// Tells the peer why, if it still listens.
pub(super) async fn goodbye(mut sink: Sink, code: u16, why: &str) {
    // A control frame has 125 bytes: the code, and this.
    let mut end = why.len().min(120);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    let frame = CloseFrame { code, reason: why[..end].into() };
    let told = async {
        sink.send(Message::Close(Some(frame))).await?;
        sink.close().await
    };
    let _gone = tokio::time::timeout(GOODBYE, told).await;
}

/// From the peer to the cell.
async fn up(
    stream: &mut SplitStream<WebSocket>,
    to: &mut pipe::Sender,
    speech: &mut impl Speech,
    pulse: &Pulse,
) -> Over {
    while let Some(message) = stream.next().await {
        pulse.beat();
        let said = match message {
            // Pings are answered by whoever reads them.
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Close(_)) => return Over::Left,
            Ok(message) => speech.up(message),
            Err(error) if is_too_long(&error) => {
                return Over::Refused(close::TOO_LONG, "a message is too long");
            }
            Err(_) => return Over::Left,
        };
        let told = match said {
            Ok(Some(told)) => told,
            Ok(None) => continue,
            Err((code, why)) => return Over::Refused(code, why),
        };
        let Ok(length) = u32::try_from(told.len()) else { return Over::Left };
        let sent = async {
            to.write_u32_le(length).await?;
            to.write_all(&told).await
        };
        // While the cell takes nothing (a person has taken over), the peer is not listened to, which is no silence of its.
        pulse.hold();
        if sent.await.is_err() {
            return Over::Ended;
        }
        pulse.beat();
    }
    Over::Left
}

fn is_too_long(error: &axum::Error) -> bool {
    // The only sign of it that axum gives.
    error.to_string().to_ascii_lowercase().contains("message too long")
}

/// What the cell said, and the room that it takes.
type Held = (Vec<u8>, SemaphorePermit<'static>);

/// What the cell says, message by message, until it ends or says what is none.
async fn read(from: &mut pipe::Receiver, next: mpsc::Sender<Held>) {
    loop {
        let Ok(length) = from.read_u32_le().await else { return };
        if length > FROM_CELL_BYTES_MAX {
            return tracing::warn!(length, "a cell's message is too long");
        }
        // Never closed.
        let Ok(permit) = HELD_KIB.acquire_many(length / 1024 + 1).await else { return };
        let mut message = Vec::new();
        match (&mut *from).take(length.into()).read_to_end(&mut message).await {
            Ok(read) if u32::try_from(read) == Ok(length) => {}
            _ => return,
        }
        if next.send((message, permit)).await.is_err() {
            return;
        }
    }
}

/// From the cell to the peer, and pings when there is nothing.
async fn down<S: Speech>(
    sink: &mut Sink,
    mut messages: mpsc::Receiver<Held>,
    mut news: mpsc::Receiver<String>,
    pulse: &Pulse,
) -> Over {
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (message, _permit) = tokio::select! {
            message = messages.recv() => match message {
                Some((message, permit)) => match S::down(message) {
                    Some(message) => (message, Some(permit)),
                    None => {
                        tracing::warn!("a cell says what it may not");
                        return Over::Ended;
                    }
                },
                None => return Over::Ended,
            },
            Some(text) = news.recv() => (Message::Text(text.into()), None),
            _ = ticks.tick() => (Message::Ping(Default::default()), None),
        };
        // A peer that does not read is cut off by its connection.
        if pulse.silent() || sink.send(message).await.is_err() {
            return Over::Left;
        }
    }
}
