//! A cell as its session holds it, and the task that reads its hatch.

use super::Inner;
use crate::channel::Channel;
use crate::execution::{Breach, Collector, Stop};
use crate::usage::{Meter, Taking};
use anchorhold_jail::control::{Boottime, Tombstone};
use anchorhold_jail::counters::{Counters, Reading};
use anchorhold_jail::egress::TrafficReader;
use anchorhold_jail::hatch::{Ended, ToCell};
use anchorhold_jail::id::{CellId, ExecutionId};
use anchorhold_jail::packet::{PacketError, Packets};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// A living cell: what is shared by the session, the task that reads it, and file transfers.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) channel: Channel,
    pub(crate) counters: Counters,
    /// What its way out carries, where it has one.
    pub(super) traffic: Option<TrafficReader>,
    /// The warden said that it is gone, or nobody waits for that any more.
    pub(crate) gone: CancellationToken,
}

impl Cell {
    /// Bytes that it sent to the network and got from it.
    pub(super) fn egress_bytes(&self) -> u64 {
        self.traffic.as_ref().map_or(0, |traffic| traffic.read().sum_bytes())
    }

    /// Says something to the cell. What goes wrong shows elsewhere: the hatch's end to its reader, silence to the
    /// watch.
    pub(crate) fn say(&self, message: &ToCell) {
        match Packets::new(message) {
            Ok(packets) => self.send(packets, Vec::new()),
            Err(error) => tracing::error!(cell = %self.id, %error, "a message to a cell cannot be encoded"),
        }
    }

    /// As [`Cell::say`], encoded already, with descriptors.
    pub(crate) fn send(&self, packets: Packets, descriptors: Vec<OwnedFd>) {
        if let Err(error) = self.channel.send(packets, descriptors) {
            tracing::debug!(cell = %self.id, %error, "a cell cannot be reached");
        }
    }
}

/// What a session knows of one of its cells.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) cell: Arc<Cell>,
    pub(super) meter: Meter,
    /// How long it took to get; of no execution yet.
    pub(super) taking: Option<Taking>,
    /// What it runs; in an adopted cell also what it ran and was not told to forget.
    pub(super) runs: Vec<Run>,
    /// Killed when it is still there then.
    pub(super) kill_at: Option<Instant>,
    /// Left behind when it is still there then.
    pub(super) lost_at: Option<Instant>,
    pub(super) tombstone: Option<Tombstone>,
    /// Adopted, and nobody said yet which context's it is.
    pub(super) nameless: bool,
    /// The generation of an `Attach` that it did not answer yet: until then it speaks to another process.
    pub(super) attaching: Option<u64>,
    /// It broke the protocol: nothing that it says counts.
    pub(super) distrusted: bool,
    /// An execution of it was lost: nothing more of it is charged.
    pub(super) written_off: bool,
}

impl Held {
    pub(super) fn new(cell: Arc<Cell>, meter: Meter) -> Self {
        Self {
            cell,
            meter,
            taking: None,
            runs: Vec::new(),
            kill_at: None,
            lost_at: None,
            tombstone: None,
            nameless: false,
            attaching: None,
            distrusted: false,
            written_off: false,
        }
    }

    pub(super) fn run(&mut self, execution: ExecutionId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == execution)
    }

    /// Nobody needs to wait for its answer to `Attach` any more.
    pub(super) fn mark_attached(&mut self, inner: &Inner) {
        if self.attaching.take().is_some() {
            inner.attaching.send_modify(|count| *count -= 1);
        }
    }

    /// Whether what it says of executions counts.
    pub(super) fn is_heard(&self) -> bool {
        !self.written_off && !self.distrusted
    }

    /// Kills it at `at`, or earlier where that was planned.
    pub(super) fn kill_by(&mut self, at: Instant) {
        self.kill_at = Some(self.kill_at.map_or(at, |planned| planned.min(at)));
    }

    /// Leaves it behind at `at`, or earlier where that was planned.
    pub(super) fn lost_by(&mut self, at: Instant) {
        self.lost_at = Some(self.lost_at.map_or(at, |planned| planned.min(at)));
    }
}

/// An execution in a cell.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: ExecutionId,
    pub(super) collector: Collector,
    /// When it started; when it was adopted, for one of another process.
    pub(super) started: Instant,
    pub(super) memory_start_bytes: Option<u64>,
    pub(super) stop: Option<Stop>,
    pub(super) ended: Option<Ended>,
    /// Standard input that followed it, in bytes.
    pub(super) input_bytes: usize,
    /// The counters when it ended.
    pub(super) reading: Option<Reading>,
    /// Another process of the API started it.
    pub(super) adopted: bool,
}

/// Reads a cell until it is gone.
pub(super) async fn read(session: Arc<Inner>, cell: Arc<Cell>) {
    let failure = tokio::select! {
        () = cell.gone.cancelled() => return,
        failure = cell.channel.read_with(|| session.read(&cell)) => failure,
        Err(error) = cell.channel.flush() => error,
    };
    match failure {
        PacketError::Closed | PacketError::Io(_) => session.hung_up(cell.id),
        PacketError::Malformed(why) => session.breach(cell.id, Breach(why)),
    }
}

/// The moment, so many microseconds from now, at which the warden shall act.
pub(super) fn boottime_in(us: u64) -> Boottime {
    Boottime::now().plus_us(us)
}
