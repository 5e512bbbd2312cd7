//! What was consumed, in integers.

use anchorhold_jail::counters::{Counters, Reading};
use std::time::Instant;

/// What an execution consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Wall time from its start in the cell to its end, in microseconds.
    pub wall_us: u64,
    /// CPU of its cell between the previous accounted event and its end, in microseconds.
    pub cpu_us: u64,
    /// Most memory that the cell had so far (also before this execution), in bytes.
    pub memory_peak_bytes: u64,
    /// Mean memory of the cell over the wall time, in MiB times milliseconds.
    pub memory_mib_ms: u64,
    /// Bytes that its cell sent to the network and got from it between the previous accounted event and its end.
    pub egress_bytes: u64,
    /// Wall time between its acceptance and its start, in microseconds: not billed.
    pub queued_us: u64,
}

/// How much of what a cell used since its session took it is accounted: by executions, and not again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounted {
    /// CPU, in microseconds.
    pub cpu_us: u64,
    /// Bytes sent to the network and got from it.
    pub egress_bytes: u64,
}

/// How long a cell took to get, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taking {
    /// From the question to the answer.
    pub take_us: u64,
    /// The part of it in which the cell was given its session's limits and files and locked itself.
    pub commit_us: u64,
}

/// Counts a cell's CPU and bytes so that each is accounted once: each account takes what was used since the one before,
/// whoever used it.
#[derive(Debug)]
pub(crate) struct Meter {
    /// What the counter said when the session took the cell.
    base_us: u64,
    accounted: Accounted,
    /// Memory at the last reading: an idle interpreter does not change it.
    memory_bytes: Option<u64>,
    oom_kills: u64,
}

impl Meter {
    /// Of a cell whose counter of CPU stood at `base_us` when the session took it; so much of its use was `accounted`
    /// before (by another process).
    pub(crate) fn new(base_us: u64, accounted: Accounted) -> Self {
        Self { base_us, accounted, memory_bytes: None, oom_kills: 0 }
    }

    /// Memory at the start of an execution, in bytes.
    pub(crate) fn memory_at_start(&mut self, counters: &Counters) -> u64 {
        let memory = self.memory_bytes.or_else(|| counters.read().ok().map(|reading| reading.memory_bytes));
        self.memory_bytes = memory;
        memory.unwrap_or(0)
    }

    /// The counter's value at which `cpu_us` more than what is accounted are used.
    pub(crate) fn counter_after(&self, cpu_us: u64) -> u64 {
        self.base_us.saturating_add(self.accounted.cpu_us).saturating_add(cpu_us)
    }

    /// What is accounted since the session took the cell.
    pub(crate) fn accounted(&self) -> Accounted {
        self.accounted
    }

    /// Accounts all CPU until `total_us` (since the session took the cell).
    pub(crate) fn account(&mut self, total_us: u64) -> u64 {
        advance(&mut self.accounted.cpu_us, total_us)
    }

    /// Accounts all bytes until `total_bytes`.
    pub(crate) fn account_bytes(&mut self, total_bytes: u64) -> u64 {
        advance(&mut self.accounted.egress_bytes, total_bytes)
    }

    /// Accounts what a living cell's counters say. The CPU since the last account, and whether the kernel killed a
    /// process of it for memory since the last reading.
    pub(crate) fn read(&mut self, reading: &Reading) -> (u64, bool) {
        self.memory_bytes = Some(reading.memory_bytes);
        let killed = reading.oom_kills > self.oom_kills;
        self.oom_kills = reading.oom_kills;
        (self.account(reading.cpu_us.saturating_sub(self.base_us)), killed)
    }
}

/// Brings an account to a counter's total; what that adds. A counter that seems to run backwards adds nothing, now or
/// later.
fn advance(account: &mut u64, total: u64) -> u64 {
    let used = total.saturating_sub(*account);
    *account += used;
    used
}

/// Microseconds between two moments.
pub(crate) fn us_between(start: Instant, end: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}

/// Mean of two amounts of memory over a time, in MiB times milliseconds, rounded to the nearest.
pub(crate) fn mib_ms(start_bytes: u64, end_bytes: u64, wall_us: u64) -> u64 {
    const MIB_MS: u128 = 1024 * 1024 * 1000;
    let twice = (u128::from(start_bytes) + u128::from(end_bytes)).saturating_mul(u128::from(wall_us));
    u64::try_from(twice.saturating_add(MIB_MS) / (2 * MIB_MS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_microsecond_once(
            base in 0u64..1_000_000, before in 0u64..1000,
            steps in prop::collection::vec((0u64..5000, prop::bool::weighted(0.7)), 0..50),
        ) {
            let mut meter = Meter::new(base, Accounted { cpu_us: before, egress_bytes: 0 });
            let (mut counter, mut executions) = (base + before, 0);
            for (used, is_execution) in steps {
                counter += used;
                if is_execution {
                    let reading = Reading { cpu_us: counter, ..Reading::default() };
                    executions += meter.read(&reading).0;
                }
            }
            let last = counter - base;
            let standing = meter.account(last);
            prop_assert_eq!(before + executions + standing, last);
            prop_assert_eq!(meter.accounted(), Accounted { cpu_us: last, egress_bytes: 0 });
        }

        #[test]
        fn a_counter_that_runs_backwards_adds_nothing(totals in prop::collection::vec(0u64..1000, 1..50)) {
            let mut meter = Meter::new(0, Accounted::default());
            let sum: u64 = totals.iter().map(|total| meter.account_bytes(*total)).sum();
            prop_assert_eq!(sum, *totals.iter().max().unwrap());
        }
    }

    #[test]
    fn memory_over_time() {
        let mib = 1024 * 1024;
        assert_eq!(mib_ms(5 * mib, 5 * mib, 812), 4);
        assert_eq!(mib_ms(10 * mib, 20 * mib, 2_000_000), 30_000);
        assert_eq!(mib_ms(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(mib_ms(0, 0, 5), 0);
    }
}
