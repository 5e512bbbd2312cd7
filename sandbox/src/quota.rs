//! How much the sessions of one group may have together.

use crate::channel::locked;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What may be said within this time may be said at once.
const SAID_AT_ONCE: Duration = Duration::from_secs(2);

/// Things that are counted, and how many there may be.
#[derive(Debug)]
pub struct Count {
    used: AtomicU64,
    most: AtomicU64,
}

/// One that counts, until this is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Count>);

impl Count {
    /// None yet, of at most so many.
    pub fn of(most: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), most: AtomicU64::new(most) })
    }

    /// From now on there may be so many. What there is stays.
    pub fn allow(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// One more, if there may be one; otherwise how many there may be.
    fn take(self: &Arc<Self>) -> Result<Counted, u64> {
        let most = self.most.load(Ordering::Relaxed);
        let more = |used| (used < most).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(|_| Counted(Arc::clone(self)))
            .map_err(|_| most)
    }

    /// One that is there already.
    fn resume(self: &Arc<Self>) -> Counted {
        self.used.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How fast is taken what programs say: the generic cell rate algorithm, with bytes for cells. What is not taken waits in
/// its cell, whose program waits with it.
#[derive(Debug)]
pub struct Flow {
    per_second: u64,
    /// When all that was taken would have been said at that rate.
    said_at: Mutex<Instant>,
}

impl Flow {
    /// So many bytes of answers per second, and twice as many at once.
    pub fn of(per_second: u64) -> Arc<Self> {
        Arc::new(Self { per_second: per_second.max(1), said_at: Mutex::new(Instant::now()) })
    }

    /// So many bytes were taken.
    pub(crate) fn add(&self, bytes: usize, now: Instant) {
        let takes = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.per_second);
        let mut said_at = locked(&self.said_at);
        *said_at = (*said_at).max(now) + takes;
    }

    /// How long to wait before more is taken.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let ahead = locked(&self.said_at).checked_duration_since(now)?;
        ahead.checked_sub(SAID_AT_ONCE).filter(|wait| !wait.is_zero())
    }
}

/// What there may be only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Cells of any kind.
    Cells,
    /// Cells with a browser.
    Browsers,
}

/// The counts of a group, shared by its sessions.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// Cells of any kind.
    pub cells: Arc<Count>,
    /// Those with a browser.
    pub browsers: Arc<Count>,
    /// What programs say, in bytes of answers.
    pub said: Arc<Flow>,
}

impl Allowance {
    /// For another cell. Otherwise what there is too much of, and how many there may be.
    pub(crate) fn take(&self, browser: bool) -> Result<Vec<Counted>, (Scarce, u64)> {
        let mut counted = vec![self.cells.take().map_err(|most| (Scarce::Cells, most))?];
        if browser {
            counted.push(self.browsers.take().map_err(|most| (Scarce::Browsers, most))?);
        }
        Ok(counted)
    }

    /// For a cell that is there already.
    pub(crate) fn resume(&self, browser: bool) -> Vec<Counted> {
        let mut counted = vec![self.cells.resume()];
        if browser {
            counted.push(self.browsers.resume());
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn never_more_than_there_may_be_and_nothing_is_forgotten() {
        let allowance = Allowance { cells: Count::of(3), browsers: Count::of(1), said: Flow::of(1) };
        let first = allowance.take(true).unwrap();
        assert_eq!(allowance.take(true).unwrap_err(), (Scarce::Browsers, 1));
        let others = [allowance.take(false).unwrap(), allowance.take(false).unwrap()];
        assert_eq!(allowance.take(false).unwrap_err(), (Scarce::Cells, 3));
        drop(first);
        let again = allowance.take(true).unwrap();
        allowance.cells.allow(1);
        drop((others, again));
        let one = allowance.take(false).unwrap();
        assert_eq!(allowance.take(false).unwrap_err(), (Scarce::Cells, 1));
        // What survived a restart counts, also beyond what there may be.
        let resumed = allowance.resume(true);
        drop(one);
        assert_eq!(allowance.take(false).unwrap_err(), (Scarce::Cells, 1));
        drop(resumed);
        assert!(allowance.take(true).is_ok());
    }

    proptest! {
        /// Whoever waits when told to gets what the rate gives, what is free at once, and the last piece.
        #[test]
        fn no_more_is_taken_than_flows(per_second in 1u64..1 << 30, pieces in prop::collection::vec(1usize..1 << 16, 1..200)) {
            let flow = Flow::of(per_second);
            let begun = Instant::now();
            let (mut now, mut taken) = (begun, 0);
            for piece in pieces {
                now += flow.wait(now).unwrap_or_default();
                prop_assert_eq!(flow.wait(now), None);
                let time = now.duration_since(begun) + SAID_AT_ONCE;
                prop_assert!(u128::from(taken) <= u128::from(per_second) * time.as_nanos() / 1_000_000_000 + 200);
                flow.add(piece, now);
                taken += piece as u64;
            }
        }
    }

    #[test]
    fn who_says_little_never_waits() {
        let flow = Flow::of(1 << 20);
        let mut now = Instant::now();
        flow.add(2 << 20, now);
        assert_eq!(flow.wait(now), None);
        flow.add(1 << 20, now);
        assert_eq!(flow.wait(now), Some(Duration::from_secs(1)));
        now += Duration::from_secs(4);
        assert_eq!(flow.wait(now), None);
    }

    #[test]
    fn a_hundred_at_once_get_exactly_as_many_as_there_may_be() {
        let allowance = Allowance { cells: Count::of(10), browsers: Count::of(10), said: Flow::of(1) };
        let taken: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..100).map(|_| scope.spawn(|| allowance.take(true).ok())).collect();
            all.into_iter().filter_map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 10);
    }
}
