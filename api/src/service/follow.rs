//! Following an execution: what it says while it runs, or said before, from any position on.
//!
//! Nothing is copied for a follower: while the execution runs its feed is read, afterwards the ledger. Positions are
//! the same in both.

use super::closing::rich;
use super::live::Live;
use super::{Refusal, Service};
use crate::ledger::{ExecutionRow, GuestError, Output, Report, Rich};
use crate::tenant::Tenant;
use anchorhold_sandbox::{ExecutionId, Follower, PieceKind, Said, SessionId, cut, slices};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// What a follower is given at a time, in bytes, unless one piece is longer.
const CHUNK_BYTES: usize = 64 * 1024;
/// An execution that was accepted and is not in the sandbox yet is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Streams of events that may be open.
pub(super) const STREAMS_MAX: usize = 4096;

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Told {
    /// Behind it; following from there gives what comes after.
    pub position: u64,
    /// In microseconds since 1970.
    pub at_us: i64,
    /// What.
    pub word: Word,
}

/// What can happen.
#[derive(Debug, Clone)]
pub enum Word {
    /// It was accepted.
    Start(Arc<ExecutionRow>),
    /// It wrote to standard output.
    Stdout(String),
    /// It wrote to standard error.
    Stderr(String),
    /// It made a rich value.
    Result(Rich),
    /// Something that it wrote was not kept: why, and how many bytes, where that is known.
    Gap(&'static str, Option<u64>),
    /// It failed by itself.
    Error(GuestError),
    /// It ended; nothing follows.
    End(Arc<ExecutionRow>),
}

/// The events of an execution.
#[derive(Debug)]
pub struct Events {
    service: Service,
    session: SessionId,
    id: ExecutionId,
    after: u64,
    stage: Stage,
    ready: VecDeque<Told>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Stage {
    Begin(Arc<ExecutionRow>),
    Following(Follower),
    Stored(Arc<ExecutionRow>),
    Over,
}

impl Service {
    /// What an execution says, behind the position `after` (0: all of it).
    pub async fn follow(
        &self,
        tenant: &Tenant,
        session: SessionId,
        id: ExecutionId,
        after: u64,
    ) -> Result<Events, Refusal> {
        let permit = self.0.streams.clone().try_acquire_owned().map_err(|_| Refusal::Streams)?;
        let row = Arc::new(self.execution(tenant, session, id).await?);
        Ok(Events {
            service: self.clone(),
            session,
            id,
            after,
            stage: Stage::Begin(row),
            ready: VecDeque::new(),
            _permit: permit,
        })
    }
}

impl Events {
    /// The next one; waits for it. `None` after the end, and when the ledger cannot be read.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                self.after = self.after.max(told.position);
                return Some(told);
            }
            self.stage = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Begin(row) => self.begin(row).await?,
                Stage::Following(follower) => self.hear(follower).await?,
                Stage::Stored(row) => self.read(row),
                Stage::Over => return None,
            };
        }
    }

    async fn begin(&mut self, row: Arc<ExecutionRow>) -> Option<Stage> {
        if self.after < anchorhold_sandbox::BEGINNING {
            let (position, at_us) = (anchorhold_sandbox::BEGINNING, row.created_us);
            self.ready.push_back(Told { position, at_us, word: Word::Start(row.clone()) });
        }
        if row.ended_us.is_some() {
            return Some(Stage::Stored(row));
        }
        while let Some(live) = self.live() {
            if let Some(follower) = live.cells.follow(self.id) {
                return Some(Stage::Following(follower));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.stored().await
    }

    async fn hear(&mut self, mut follower: Follower) -> Option<Stage> {
        let Some(said) = follower.next(self.after, CHUNK_BYTES).await else {
            if let Some(live) = self.live() {
                live.execution_ended(self.id).await;
            }
            return self.stored().await;
        };
        for (said, position, at_us) in said {
            let word = match said {
                Said::Text(PieceKind::Stderr, text) => Word::Stderr(text),
                Said::Text(_, text) => Word::Stdout(text),
                Said::Value(json) => Word::Result(rich(&json)),
            };
            self.ready.push_back(Told { position, at_us, word });
        }
        Some(Stage::Following(follower))
    }

    /// The session, while the execution is open in it.
    fn live(&self) -> Option<Arc<Live>> {
        self.service.0.live.get(self.session).filter(|live| live.is_running(self.id))
    }

    async fn stored(&self) -> Option<Stage> {
        match self.service.0.ledger.execution(self.session, self.id).await {
            Ok(row) => row.map(|row| Stage::Stored(Arc::new(row))),
            Err(error) => {
                tracing::warn!(%error, "a stream of events ends early");
                None
            }
        }
    }

    /// The next of what the ledger has; at the end what is said last.
    fn read(&mut self, row: Arc<ExecutionRow>) -> Stage {
        let Some(output) = &row.output else {
            let at_us = row.ended_us.unwrap_or(row.created_us);
            let gap = Word::Gap("outputs are not kept for longer", None);
            self.ready.push_back(Told { position: self.after, at_us, word: gap });
            self.finish(&row, self.after);
            return Stage::Over;
        };
        let mut left = CHUNK_BYTES;
        for slice in slices(&output.pieces, self.after) {
            let word = match slice.kind {
                PieceKind::Stdout => Word::Stdout(cut(&output.stdout, slice.range)),
                PieceKind::Stderr => Word::Stderr(cut(&output.stderr, slice.range)),
                PieceKind::Value => match output.results.get(slice.range.start) {
                    Some(value) => Word::Result(value.clone()),
                    None => continue,
                },
            };
            self.ready.push_back(Told { position: slice.position, at_us: slice.at_us, word });
            left = left.saturating_sub(self.ready.back().map_or(0, Told::length));
            if left == 0 {
                return Stage::Stored(row.clone());
            }
        }
        self.finish(&row, end_of(output));
        Stage::Over
    }

    /// What comes last. `position`: the end of what it wrote.
    fn finish(&mut self, row: &Arc<ExecutionRow>, position: u64) {
        let at_us = row.ended_us.unwrap_or(row.created_us);
        let report = row.report.as_ref();
        if report.is_some_and(|report| report.truncated) {
            let lost = report.zip(row.output.as_ref()).map(|(report, output)| dropped(report, output));
            let gap = Word::Gap("more than output_bytes", lost);
            self.ready.push_back(Told { position: position.max(self.after), at_us, word: gap });
        }
        let error = row.output.as_ref().and_then(|output| output.error.clone());
        let last = position + 1 + u64::from(error.is_some());
        if let Some(error) = error.filter(|_| self.after < last - 1) {
            self.ready.push_back(Told { position: last - 1, at_us, word: Word::Error(error) });
        }
        self.ready.push_back(Told { position: last.max(self.after), at_us, word: Word::End(row.clone()) });
    }
}

impl Told {
    fn length(&self) -> usize {
        match &self.word {
            Word::Stdout(text) | Word::Stderr(text) => text.len(),
            // Of bounded size, and few.
            _ => 1024,
        }
    }
}

/// The position behind everything that was written.
fn end_of(output: &Output) -> u64 {
    anchorhold_sandbox::BEGINNING + output.pieces.iter().map(|piece| piece.length as u64).sum::<u64>()
}

/// Bytes that were written and not kept; text that was no UTF-8 is longer than what was written.
fn dropped(report: &Report, output: &Output) -> u64 {
    let kept = (output.stdout.len() + output.stderr.len()) as u64;
    (report.stdout_bytes + report.stderr_bytes).saturating_sub(kept)
}
