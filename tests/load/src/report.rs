//! What comes out: a table for the terminal, JSON for machines, a page for people.

mod html;
mod plot;

use crate::attack::Phase;
use crate::scenarios::Report;
use crate::tally::Lane;
use anchorhold_tests::host;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Codes that say that the server failed, not that it had too much to do.
const FAULTS: [&str; 4] = ["internal", "isolation_unavailable", "lost", "transport"];

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Book {
    /// Where.
    pub machine: String,
    /// On what.
    pub target: String,
    /// When it began, in UTC.
    pub at: String,
    /// The scenarios, in order.
    pub scenarios: Vec<Report>,
}

impl Book {
    /// An empty one, begun now.
    pub fn new(target: String) -> Self {
        let at = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
        Self { machine: host::machine(), target, at, scenarios: Vec::new() }
    }

    /// The table, as text.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<46} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>5} {:>6}\n",
            "milliseconds", "answered", "rate/s", "p50", "p90", "p99", "max", "refused", "cpu", "MiB"
        );
        for (scenario, phase) in self.phases() {
            for (n, lane) in phase.lanes.iter().enumerate() {
                // String's formatter never fails.
                let _ = writeln!(text, "{}", row(scenario, phase, lane, n == 0));
            }
        }
        for report in &self.scenarios {
            for fact in &report.facts {
                let _ = writeln!(text, "{}: {}: {:.2} {}", report.name, fact.what, fact.value, fact.unit);
            }
        }
        for (code, count) in self.refused() {
            let _ = writeln!(text, "refused or failed: {code} × {count}");
        }
        text
    }

    /// Ways in which the server failed, with how often.
    pub fn faults(&self) -> Vec<String> {
        // A program that must succeed does not fail by itself.
        let fault = |code: &str| FAULTS.contains(&code) || code.starts_with("failed");
        let refused = self.refused().into_iter().filter(|(code, _)| fault(code));
        refused.map(|(code, count)| format!("{code} × {count}")).collect()
    }

    /// Everything that was not answered as hoped, by code.
    fn refused(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for lane in self.phases().flat_map(|(_, phase)| &phase.lanes) {
            for (code, count) in &lane.refused {
                *sums.entry(code.as_str()).or_default() += count;
            }
        }
        sums
    }

    fn phases(&self) -> impl Iterator<Item = (&Report, &Phase)> {
        self.scenarios.iter().flat_map(|report| report.phases.iter().map(move |phase| (report, phase)))
    }
}

/// A lane's name with what it belongs to, each said once.
fn title(scenario: &Report, phase: &Phase, lane: &Lane) -> String {
    let words = [scenario.name.as_str(), phase.name, lane.name];
    let mut said: Vec<&str> = Vec::new();
    for word in words {
        if !said.contains(&word) {
            said.push(word);
        }
    }
    said.join(" · ")
}

fn row(scenario: &Report, phase: &Phase, lane: &Lane, first: bool) -> String {
    let server = format!(" {:>5.2} {:>6}", phase.cpu_cores, phase.memory_bytes >> 20);
    format!(
        "{:<46} {:>8} {:>8.1} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8}{}",
        title(scenario, phase, lane),
        lane.answered,
        lane.rate,
        lane.p50_ms,
        lane.p90_ms,
        lane.p99_ms,
        lane.max_ms,
        lane.refusals(),
        if first { server } else { String::new() }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::Second;
    use crate::scenarios::Fact;
    use crate::tally::Tally;
    use std::time::Duration;

    /// A book of one scenario, whose only phase answered once and refused twice with this code.
    pub(super) fn book(code: &str) -> Book {
        let tally = Tally::new(&["run"]);
        tally.answered("run", Duration::from_millis(4));
        tally.refused("run", code);
        tally.refused("run", code);
        let timeline = |at: f64| Second {
            at,
            lanes: tally.pulse(Duration::from_secs(1)),
            cpu_cores: 1.5,
            memory_bytes: (at < 2.0).then_some(7 << 20),
        };
        let phase = Phase {
            name: "ramp",
            seconds: 2.0,
            lanes: tally.sums(),
            cpu_cores: 1.5,
            memory_bytes: 7 << 20,
            timeline: [1.0, 2.0].map(timeline).into(),
        };
        let facts = vec![Fact { what: "knee", value: 12.0, unit: "/s" }];
        let report =
            Report { name: "ramp".into(), about: "<until> it refuses".into(), facts, phases: vec![phase] };
        Book { scenarios: vec![report], ..Book::new("a fresh server".into()) }
    }

    #[test]
    fn a_refusal_is_no_fault_and_a_fault_is() {
        let (refused, failed) = (book("capacity"), book("internal"));
        assert!(refused.faults().is_empty());
        assert_eq!(failed.faults(), ["internal × 2"]);
        assert_eq!(book("failed INTERPRETER_DIED").faults(), ["failed INTERPRETER_DIED × 2"]);
        let table = refused.table();
        assert!(table.contains("\nramp · run "), "{table}");
        assert!(table.contains("capacity × 2") && table.contains("knee: 12.00 /s"), "{table}");
    }
}
