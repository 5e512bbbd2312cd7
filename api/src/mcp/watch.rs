//! What a client is told while a call runs: progress, where it gave a token for it, and what the program writes as log
//! messages, where it asked for them.

#![expect(
    deprecated,
    reason = "logging leaves the protocol by SEP-2577; clients of today's revisions have nothing else"
)]

use rmcp::RoleServer;
use rmcp::model::{
    LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam, ProgressToken,
    ServerCapabilities, SetLevelRequestParams,
};
use rmcp::service::{Peer, RequestContext};
use std::time::{Duration, Instant};

/// Progress is told this often at most, and at least this often of a program that says nothing.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The longest piece of a program's text in one message, in bytes.
const PIECE_BYTES_MAX: usize = 4096;

/// How a client asks for log messages.
pub(super) type SetLevel = SetLevelRequestParams;

/// Which log messages a client asked for. None, unless it did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loudness(Option<LoggingLevel>);

impl Loudness {
    pub(super) fn of(request: &SetLevel) -> Self {
        Self(Some(request.level))
    }

    fn has(self, level: LoggingLevel) -> bool {
        // Levels are declared in the order of their weight.
        self.0.is_some_and(|least| level as u8 >= least as u8)
    }
}

/// A client that may want to hear of a call while it runs.
pub(super) struct Watch {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    loudness: Loudness,
}

/// A call that is being told of.
pub(super) struct Telling<'a> {
    watch: &'a Watch,
    begun: Instant,
    told: Instant,
}

/// What this server can do.
pub(super) fn capabilities() -> ServerCapabilities {
    ServerCapabilities::builder().enable_logging().enable_resources().enable_tools().build()
}

impl Watch {
    pub(super) fn of(context: &RequestContext<RoleServer>, loudness: Loudness) -> Self {
        let loudness = context.meta.log_level().map_or(loudness, |level| Loudness(Some(level)));
        Self { peer: context.peer.clone(), token: context.meta.get_progress_token(), loudness }
    }

    /// Whether there is anything to tell it.
    pub(super) fn is_wanted(&self) -> bool {
        self.token.is_some() || self.loudness.has(LoggingLevel::Warning)
    }

    pub(super) fn begin(&self) -> Telling<'_> {
        let now = Instant::now();
        Telling { watch: self, begun: now, told: now }
    }
}

impl Telling<'_> {
    /// The program wrote to standard output.
    pub(super) async fn stdout(&mut self, text: &str) {
        self.log(LoggingLevel::Info, "stdout", text).await;
        self.progress(last_line(text)).await;
    }

    /// The program wrote to standard error.
    pub(super) async fn stderr(&mut self, text: &str) {
        self.log(LoggingLevel::Warning, "stderr", text).await;
        self.progress(last_line(text)).await;
    }

    /// It runs and says nothing.
    pub(super) async fn silence(&mut self) {
        self.progress("running").await;
    }

    async fn progress(&mut self, message: &str) {
        let Some(token) = &self.watch.token else { return };
        if self.told.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told = Instant::now();
        let seconds = self.begun.elapsed().as_secs_f64();
        let told = ProgressNotificationParam::new(token.clone(), seconds).with_message(message);
        // A client that is gone cancels the call; nothing else is lost with a message.
        let _gone = self.watch.peer.notify_progress(told).await;
    }

    async fn log(&self, level: LoggingLevel, stream: &str, text: &str) {
        if !self.watch.loudness.has(level) {
            return;
        }
        let (text, _) = super::answer::bounded(text, PIECE_BYTES_MAX);
        let told = LoggingMessageNotificationParam::new(level, text.into()).with_logger(stream);
        let _gone = self.watch.peer.notify_logging_message(told).await;
    }
}

/// The last line with something in it, not too long.
fn last_line(text: &str) -> &str {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    &line[..line.floor_char_boundary(line.len().min(200))]
}
