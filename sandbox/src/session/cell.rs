//! A cell as its session holds it, and the task that reads its hatch.

use super::Inner;
use crate::channel::Channel;
use crate::execution::{Breach, Collector, Stop};
use crate::quota::Counted;
use crate::usage::{Meter, Taking};
use anchorhold_jail::control::{Boottime, Class, Tombstone};
use anchorhold_jail::counters::{Counters, Reading};
use anchorhold_jail::egress::TrafficReader;
use anchorhold_jail::hatch::{Ended, ToCell};
use anchorhold_jail::id::{CellId, ExecutionId};
use anchorhold_jail::packet::{PacketError, Packets};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A living cell: what is shared by the session, the task that reads it, and file transfers.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) id: CellId,
    pub(crate) class: Class,
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

/// Somebody converses with a cell beside what it runs.
#[derive(Debug)]
pub struct Watching {
    _counted: Arc<()>,
}

/// How long a browser has not been used, and whether it was frozen for that.
#[derive(Debug, Default)]
pub(super) struct Standby {
    idle_since: Option<Instant>,
    frozen: bool,
    watchers: Arc<()>,
}

impl Standby {
    /// Counts one who converses with it for as long as the answer is kept.
    pub(super) fn watch(&self) -> Watching {
        Watching { _counted: Arc::clone(&self.watchers) }
    }

    /// It is about to be used. Whether it has to be woken.
    pub(super) fn wake(&mut self) -> bool {
        self.idle_since = None;
        std::mem::take(&mut self.frozen)
    }

    /// Whether it has to be frozen now. `runs`: something runs in it.
    pub(super) fn is_due(&mut self, runs: bool, after: Duration, now: Instant) -> bool {
        if runs || Arc::strong_count(&self.watchers) > 1 {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        let due = !self.frozen && now.saturating_duration_since(since) >= after;
        self.frozen |= due;
        due
    }
}

/// What a session knows of one of its cells.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) cell: Arc<Cell>,
    /// Until its end is decided it counts against what its group may have.
    pub(super) counted: Vec<Counted>,
    /// Of a browser.
    pub(super) standby: Option<Standby>,
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
    pub(super) fn new(cell: Arc<Cell>, meter: Meter, counted: Vec<Counted>) -> Self {
        Self {
            counted,
            standby: (cell.class == Class::Browser).then(Standby::default),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_frozen_when_nobody_has_used_it_for_a_while() {
        let (start, after) = (Instant::now(), Duration::from_secs(5));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut standby = Standby::default();
        assert!(!standby.is_due(false, after, at(0)));
        assert!(!standby.is_due(true, after, at(4)), "it runs something");
        assert!(!standby.is_due(false, after, at(6)), "the time begins anew");
        assert!(!standby.is_due(false, after, at(10)));
        assert!(standby.is_due(false, after, at(11)));
        assert!(!standby.is_due(false, after, at(12)), "it is frozen already");
        assert!(standby.wake());
        assert!(!standby.wake());
        let watching = standby.watch();
        assert!(!standby.is_due(false, after, at(20)));
        assert!(!standby.is_due(false, after, at(30)), "it is watched");
        drop(watching);
        assert!(!standby.is_due(false, after, at(31)));
        assert!(standby.is_due(false, after, at(36)));
    }
}
