//! What use costs: a versioned plan, integers only, rounded once per record.

use anchorhold_sandbox::BrowserTime;
use serde::{Deserialize, Serialize};

/// Microseconds of an hour, for rates per hour.
const HOUR_US: i128 = 3_600_000_000;
/// MiB·ms of a GiB-hour.
const GIB_HOUR_MIB_MS: i128 = 1024 * 3_600_000;
/// Bytes of a GiB.
const GIB_BYTES: i128 = 1 << 30;
/// A multiple of all three, so that the parts of a cost are added before anything is rounded.
const DENOMINATOR: i128 = HOUR_US << 20;

/// Pico-dollars: 10⁻¹² dollars. A record holds at most some nine million dollars.
pub type Picos = i64;

/// The prices of one version. The version is stored with each record, so a new plan never changes what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Names the plan; change it whenever a rate changes.
    pub version: String,
    /// One processor for an hour, in pico-dollars.
    pub cpu_core_hour_picos: u64,
    /// One GiB of memory for an hour, in pico-dollars.
    pub memory_gib_hour_picos: u64,
    /// One GiB to or from the network, in pico-dollars.
    pub egress_gib_picos: u64,
    /// A browser that can run, for an hour, in pico-dollars. What its actions use is paid beside it.
    pub browser_active_hour_picos: u64,
    /// A browser that is frozen, for an hour, in pico-dollars.
    pub browser_standby_hour_picos: u64,
}

impl Default for Plan {
    /// What the large clouds ask for the same thing; for bytes, what they ask for those that pass a gateway in either
    /// direction. A browser in standby pays for the quarter of a GiB that it keeps; one that is awake keeps the processor's
    /// attention, too.
    fn default() -> Self {
        Self {
            version: "2026-11".into(),
            cpu_core_hour_picos: 89_500_000_000,
            memory_gib_hour_picos: 9_450_000_000,
            egress_gib_picos: 45_000_000_000,
            browser_active_hour_picos: 20_000_000_000,
            browser_standby_hour_picos: 2_400_000_000,
        }
    }
}

/// What is paid for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Processor time.
    pub cpu_us: u64,
    /// Memory over time.
    pub memory_mib_ms: u64,
    /// Bytes to and from the network.
    pub egress_bytes: u64,
    /// A browser's time.
    pub browser: BrowserTime,
}

impl Plan {
    /// The cost of one record, rounded half up to a pico-dollar.
    pub fn cost(&self, used: Used) -> Picos {
        let BrowserTime { active_us, standby_us } = used.browser;
        let parts = [
            (used.cpu_us, self.cpu_core_hour_picos, HOUR_US),
            (used.memory_mib_ms, self.memory_gib_hour_picos, GIB_HOUR_MIB_MS),
            (used.egress_bytes, self.egress_gib_picos, GIB_BYTES),
            (active_us, self.browser_active_hour_picos, HOUR_US),
            (standby_us, self.browser_standby_hour_picos, HOUR_US),
        ];
        let sum = parts.into_iter().fold(0_i128, |sum, (amount, rate, unit)| {
            let part = i128::from(amount).saturating_mul(i128::from(rate)).saturating_mul(DENOMINATOR / unit);
            sum.saturating_add(part)
        });
        let rounded = sum.saturating_add(DENOMINATOR / 2) / DENOMINATOR;
        Picos::try_from(rounded).unwrap_or(Picos::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_hour_costs_its_rate() {
        let plan = Plan::default();
        assert_eq!(plan.cost(Used { cpu_us: 3_600_000_000, ..Used::default() }), 89_500_000_000);
        assert_eq!(plan.cost(Used { memory_mib_ms: 1024 * 3_600_000, ..Used::default() }), 9_450_000_000);
        assert_eq!(plan.cost(Used { egress_bytes: 1 << 30, ..Used::default() }), 45_000_000_000);
        let browser = |active_us, standby_us| Used {
            browser: BrowserTime { active_us, standby_us },
            ..Used::default()
        };
        assert_eq!(plan.cost(browser(3_600_000_000, 0)), 20_000_000_000);
        assert_eq!(plan.cost(browser(0, 3_600_000_000)), 2_400_000_000);
        assert_eq!(plan.cost(Used::default()), 0);
    }

    #[test]
    fn parts_are_added_before_they_are_rounded() {
        // Half a pico-dollar each: rounded apart they would cost two.
        let plan = Plan {
            version: "t".into(),
            cpu_core_hour_picos: 1_800_000_000,
            memory_gib_hour_picos: 1_843_200,
            egress_gib_picos: 1 << 29,
            ..Plan::default()
        };
        assert_eq!(plan.cost(Used { cpu_us: 1, ..Used::default() }), 1);
        assert_eq!(plan.cost(Used { memory_mib_ms: 1000, ..Used::default() }), 1);
        assert_eq!(plan.cost(Used { egress_bytes: 1, ..Used::default() }), 1);
        assert_eq!(plan.cost(Used { cpu_us: 1, memory_mib_ms: 1000, ..Used::default() }), 1);
        assert_eq!(plan.cost(Used { cpu_us: 1, memory_mib_ms: 1000, egress_bytes: 1, ..Used::default() }), 2);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let plan = Plan {
            version: "t".into(),
            cpu_core_hour_picos: u64::MAX,
            memory_gib_hour_picos: u64::MAX,
            egress_gib_picos: u64::MAX,
            browser_active_hour_picos: u64::MAX,
            browser_standby_hour_picos: u64::MAX,
        };
        let browser = BrowserTime { active_us: u64::MAX, standby_us: u64::MAX };
        let most = Used { cpu_us: u64::MAX, memory_mib_ms: u64::MAX, egress_bytes: u64::MAX, browser };
        assert_eq!(plan.cost(most), Picos::MAX);
    }

    proptest! {
        #[test]
        fn within_half_a_pico_of_the_exact_cost(
            cpu_us in 0u64..1 << 42, memory_mib_ms in 0u64..1 << 42, egress_bytes in 0u64..1 << 42,
        ) {
            let plan = Plan::default();
            let cost = i128::from(plan.cost(Used { cpu_us, memory_mib_ms, egress_bytes, ..Used::default() }));
            let exact = i128::from(cpu_us) * 89_500_000_000 * (1 << 20)
                + i128::from(memory_mib_ms) * 9_450_000_000 * 1_024_000
                + i128::from(egress_bytes) * 45_000_000_000 * 3_515_625;
            prop_assert!((cost * DENOMINATOR - exact).abs() * 2 <= DENOMINATOR);
        }

        #[test]
        fn more_use_never_costs_less(a in 0u64..1 << 40, b in 0u64..1 << 40, m in 0u64..1 << 40) {
            let plan = Plan::default();
            let (low, high) = (a.min(b), a.max(b));
            let cost = |cpu_us| plan.cost(Used { cpu_us, memory_mib_ms: m, egress_bytes: m, ..Used::default() });
            prop_assert!(cost(low) <= cost(high));
        }
    }
}
