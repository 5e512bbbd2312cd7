//! How much a session may do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most that a session may do. All are present: unlimited is not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Connections to outside at the same time.
    pub connections: u32,
    /// Requests (new connections) within a second; a whole second's may come at once.
    pub requests_per_second: u32,
    /// Bytes in both directions together, over the session's life. Each connection under way may overshoot by what it
    /// reads at once, at most 64 KiB.
    pub bytes: u64,
    /// How long a connection may stay without a byte moving.
    pub idle: Duration,
}

impl Caps {
    /// For an operator who says nothing.
    pub const DEFAULT: Self =
        Self { connections: 64, requests_per_second: 100, bytes: 10 << 30, idle: Duration::from_secs(300) };

    /// What both allow.
    #[must_use]
    pub fn under(self, ceiling: Self) -> Self {
        Self {
            connections: self.connections.min(ceiling.connections),
            requests_per_second: self.requests_per_second.min(ceiling.requests_per_second),
            bytes: self.bytes.min(ceiling.bytes),
            idle: self.idle.min(ceiling.idle),
        }
    }
}

const SECOND_US: u64 = 1_000_000;

/// So many a second: the generic cell rate algorithm, a token bucket in one number. It begins full.
#[derive(Debug)]
pub(crate) struct Rate {
    begun: Instant,
    per_second: u32,
    /// When the bucket is full again, since `begun`.
    full_at_us: AtomicU64,
}

impl Rate {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { begun: Instant::now(), per_second, full_at_us: AtomicU64::new(0) }
    }

    /// Takes one, if there is one now.
    pub(crate) fn take(&self) -> bool {
        let now_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.take_at(now_us)
    }

    fn take_at(&self, now_us: u64) -> bool {
        if self.per_second == 0 {
            return false;
        }
        let step_us = SECOND_US / u64::from(self.per_second);
        let later = |full_at_us: u64| {
            let next = full_at_us.max(now_us).saturating_add(step_us);
            (next <= now_us.saturating_add(SECOND_US)).then_some(next)
        };
        self.full_at_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_stricter_cap_holds_one_by_one() {
        let low = Caps { connections: 1, requests_per_second: 200, bytes: 5, idle: Duration::from_secs(400) };
        let both = Caps { requests_per_second: 100, idle: Duration::from_secs(300), ..low };
        assert_eq!(low.under(Caps::DEFAULT), both);
        assert_eq!(Caps::DEFAULT.under(low), both);
    }

    proptest! {
        /// In any span of time at most a full bucket and what comes meanwhile; whoever waits gets one.
        #[test]
        fn never_more_than_promised(per_second in 1u32..2000, pauses in prop::collection::vec(0u64..5000, 1..300)) {
            let rate = Rate::new(per_second);
            let (mut now_us, mut taken) = (7, 0);
            for pause in pauses {
                now_us += pause;
                taken += u64::from(rate.take_at(now_us));
            }
            let step_us = SECOND_US / u64::from(per_second);
            prop_assert!(taken <= SECOND_US / step_us + (now_us - 7) / step_us + 1);
            prop_assert!(rate.take_at(now_us + step_us));
        }
    }
}
