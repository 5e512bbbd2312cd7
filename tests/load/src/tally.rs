//! What happened to the requests: kept second by second while it happens, and summed up at the end.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest time told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(120);

/// A count of requests, by lanes: a lane is a kind of request whose times belong together.
///
/// Times are of answers only. A refusal comes quicker than an answer and would make a server look the faster the less
/// it does.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    lanes: Mutex<Vec<Open>>,
}

#[derive(Debug)]
struct Open {
    name: &'static str,
    total: Times,
    second: Times,
    refused: BTreeMap<String, u64>,
    refused_in_second: u64,
    last: Duration,
}

/// What a lane did in a second.
#[derive(Debug, Clone, Serialize)]
pub struct Pulse {
    /// Answers a second.
    pub answered: f64,
    /// Refusals and errors a second.
    pub refused: f64,
    /// Median time of the answers, in milliseconds; none without answers.
    pub p50_ms: Option<f64>,
    /// The time that 1 % of the answers took longer than, in milliseconds; none without answers.
    pub p99_ms: Option<f64>,
}

/// What a lane did in all.
#[derive(Debug, Clone, Serialize)]
pub struct Lane {
    /// Its name.
    pub name: &'static str,
    /// Answers.
    pub answered: u64,
    /// Answers a second, until the last one.
    pub rate: f64,
    /// Times of the answers, in milliseconds, to three digits.
    pub p50_ms: f64,
    /// 10 % took longer.
    pub p90_ms: f64,
    /// 1 % took longer.
    pub p99_ms: f64,
    /// None took longer.
    pub max_ms: f64,
    /// What was not answered as hoped, by problem code, by status where an execution did not succeed, or `transport`.
    pub refused: BTreeMap<String, u64>,
}

impl Lane {
    /// How many were not answered as hoped.
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Durations in microseconds.
#[derive(Debug)]
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        // Three digits are within what the library can do, so that this never fails.
        Self(Histogram::new_with_bounds(1, longest, 3).unwrap_or_else(|error| unreachable!("{error}")))
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The time that this share took at most, in milliseconds; 0 without any.
    fn at(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    fn at_if_any(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.at(share))
    }
}

impl Tally {
    /// Begins to count; the first lane is the one that is shown while it runs.
    pub fn new(lanes: &[&'static str]) -> Self {
        let open = |name: &&'static str| Open {
            name,
            total: Times::new(),
            second: Times::new(),
            refused: BTreeMap::new(),
            refused_in_second: 0,
            last: Duration::ZERO,
        };
        Self { started: Instant::now(), lanes: Mutex::new(lanes.iter().map(open).collect()) }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// A request of this lane was answered as hoped after this time.
    pub fn answered(&self, lane: &str, took: Duration) {
        self.with(lane, |lane, now| {
            lane.total.add(took);
            lane.second.add(took);
            lane.last = now;
        });
    }

    /// A request of this lane was not answered as hoped.
    pub fn refused(&self, lane: &str, code: &str) {
        self.with(lane, |lane, _| {
            *lane.refused.entry(code.to_owned()).or_default() += 1;
            lane.refused_in_second += 1;
        });
    }

    /// What each lane did since this was last asked, `span` ago.
    pub fn pulse(&self, span: Duration) -> Vec<Pulse> {
        let beat = |lane: &mut Open| {
            let pulse = Pulse {
                answered: lane.second.0.len() as f64 / span.as_secs_f64(),
                refused: lane.refused_in_second as f64 / span.as_secs_f64(),
                p50_ms: lane.second.at_if_any(0.5),
                p99_ms: lane.second.at_if_any(0.99),
            };
            lane.second.0.reset();
            lane.refused_in_second = 0;
            pulse
        };
        self.lanes().iter_mut().map(beat).collect()
    }

    /// The sums.
    pub fn sums(&self) -> Vec<Lane> {
        let sum = |lane: &Open| Lane {
            name: lane.name,
            answered: lane.total.0.len(),
            rate: if lane.last.is_zero() { 0.0 } else { lane.total.0.len() as f64 / lane.last.as_secs_f64() },
            p50_ms: lane.total.at(0.5),
            p90_ms: lane.total.at(0.9),
            p99_ms: lane.total.at(0.99),
            max_ms: lane.total.0.max() as f64 / 1e3,
            refused: lane.refused.clone(),
        };
        self.lanes().iter().map(sum).collect()
    }

    fn with(&self, name: &str, note: impl FnOnce(&mut Open, Duration)) {
        let now = self.started.elapsed();
        let mut lanes = self.lanes();
        let lane = lanes.iter_mut().find(|lane| lane.name == name);
        note(lane.unwrap_or_else(|| unreachable!("no lane {name}")), now);
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Open>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_answers_and_each_second_stands_alone() {
        let tally = Tally::new(&["a", "b"]);
        (1..=100).for_each(|ms| tally.answered("a", Duration::from_millis(ms)));
        tally.refused("a", "capacity");
        let first = tally.pulse(Duration::from_secs(2));
        assert_eq!((first[0].answered, first[0].refused), (50.0, 0.5));
        assert!(first[0].p50_ms.is_some_and(|ms| (49.9..50.2).contains(&ms)), "{first:?}");
        assert_eq!((first[1].answered, first[1].p99_ms), (0.0, None));
        tally.answered("a", Duration::from_secs(500));
        let second = tally.pulse(Duration::from_secs(1));
        assert_eq!((second[0].answered, second[0].refused), (1.0, 0.0));
        let sums = tally.sums();
        assert_eq!((sums[0].answered, sums[0].refusals()), (101, 1));
        assert!((98.9..100.2).contains(&sums[0].p99_ms), "{sums:?}");
        assert!(sums[0].max_ms >= 120_000.0, "what is too long counts as the longest");
        assert_eq!((sums[1].answered, sums[1].max_ms), (0, 0.0));
    }
}
