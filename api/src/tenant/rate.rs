//! How often something may happen: the generic cell rate algorithm, a token bucket in one number.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bucket holds what may happen within a second.
const SECOND_US: u64 = 1_000_000;

/// A bucket of tokens. It begins full.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When it is full again.
    full_at_us: AtomicU64,
}

impl Bucket {
    /// Takes a token, if there is one at this moment (of a clock that never goes back) and so many come in a second.
    pub fn take(&self, per_second: u64, now_us: u64) -> bool {
        let step_us = SECOND_US / per_second.max(1);
        let later = |full_at_us: u64| {
            let next = full_at_us.max(now_us).saturating_add(step_us);
            (next <= now_us.saturating_add(SECOND_US)).then_some(next)
        };
        self.full_at_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }

    /// Makes it full at once.
    pub fn fill(&self) {
        self.full_at_us.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_a_second_is_one_a_second() {
        let bucket = Bucket::default();
        let taken: Vec<bool> =
            [0, 1, 999_999, 1_000_000, 1_000_001, 2_000_000].map(|now_us| bucket.take(1, now_us)).into();
        assert_eq!(taken, [true, false, false, true, false, true]);
    }

    proptest! {
        /// In any span of time at most a full bucket and what comes meanwhile; whoever waits gets one.
        #[test]
        fn never_more_than_promised(per_second in 1u64..2000, pauses in prop::collection::vec(0u64..5000, 1..500)) {
            let bucket = Bucket::default();
            let (mut now_us, mut taken) = (7, 0);
            for pause in pauses {
                now_us += pause;
                taken += u64::from(bucket.take(per_second, now_us));
            }
            let step_us = SECOND_US / per_second;
            prop_assert!(taken <= SECOND_US / step_us + (now_us - 7) / step_us + 1);
            prop_assert!(bucket.take(per_second, now_us + step_us));
        }
    }
}
