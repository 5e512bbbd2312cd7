//! What egress decided about sessions: all of it for the operator's log, refusals for the audit log.
//!
//! How often is bounded twice: egress tells at a bounded pace, and of one session only so many refusals a second are noted.
//! Of what is left out, how much.

use super::Service;
use super::live::Live;
use crate::audit::Refused;
use crate::tenant::Bucket;
use anchorhold_sandbox::{Boottime, Decision, SessionId};
use std::sync::atomic::{AtomicU64, Ordering};

/// Refusals of one session that are noted within a second.
const REFUSALS_PER_SECOND: u64 = 5;

/// What of a session's refusals was noted.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    noted: Bucket,
    /// Decisions since the last one that was noted, of which nothing is noted.
    missed: AtomicU64,
}

impl Refusals {
    /// Whether one more is noted, and then how many before it were not.
    fn admit(&self, missed_before: u64, now: Boottime) -> Option<u64> {
        let missed = self.missed.fetch_add(missed_before, Ordering::Relaxed) + missed_before;
        if self.noted.take(REFUSALS_PER_SECOND, now.0) {
            self.missed.fetch_sub(missed, Ordering::Relaxed);
            return Some(missed);
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Service {
    /// Notes a decision about a session.
    pub(super) fn decided(&self, session: SessionId, decision: Decision) {
        tell(session, &decision);
        let Decision { target, rule, missed, .. } = decision;
        if let (Some(rule), Some(live)) = (rule, self.0.live.get(session)) {
            self.refused(&live, target, rule, missed);
        }
    }

    fn refused(&self, live: &Live, target: Option<String>, rule: String, missed: u64) {
        if let Some(missed) = live.refusals.admit(missed, Boottime::now()) {
            let tenant = live.tenant.clone();
            self.0.audit.note_refused(Refused { tenant, session: live.id, target, rule, missed });
        }
    }
}

/// Says what egress decided. The target is in canonical form (letters, digits, hyphens, dots, a port) and bounded.
fn tell(session: SessionId, decision: &Decision) {
    let Decision { way, target, address, rule, missed } = decision;
    let target = target.as_deref().unwrap_or("-");
    match rule {
        None => tracing::info!(%session, ?way, target, ?address, missed, "egress allowed"),
        Some(rule) => tracing::info!(%session, ?way, target, rule, missed, "egress refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_noted_at_a_bounded_pace_and_counted() {
        let refusals = Refusals::default();
        let mut told = 0;
        let mut lines = 0;
        // A thousand a second for ten seconds; egress left out one of every two.
        for n in 0..10_000u64 {
            if let Some(missed) = refusals.admit(1, Boottime(1_000_000 + n * 1000)) {
                (lines, told) = (lines + 1, told + 1 + missed);
            }
        }
        assert!((50..=55).contains(&lines), "{lines}");
        let last = refusals.admit(0, Boottime(60_000_000)).unwrap();
        assert_eq!(told + last, 20_000);
    }
}
