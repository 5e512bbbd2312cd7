//! Numbers for whoever operates the server, as Prometheus reads them. No label holds what a client or guest chose, so
//! there are never more than a few hundred of them.

use crate::words::{ExecutionStatus, Language, Runtime};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The parts of an execution's time.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Until it began: its context's turn and, where there was none, a cell.
    pub queue: Duration,
    /// The part of it that was for a cell, where there was none.
    pub take: Option<Duration>,
    /// While it ran.
    pub run: Duration,
    /// Until its record was durable.
    pub settle: Duration,
}

/// What only a look at the service says.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    /// Live sessions.
    pub sessions: usize,
    /// Writes of the ledger that succeeded.
    pub written: u64,
    /// Writes of the ledger that failed.
    pub unwritten: u64,
}

/// All metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    executions: Family<Labels<3>, Counter>,
    steps: Family<Labels<1>, Histogram, fn() -> Histogram>,
    refusals: Family<Labels<1>, Counter>,
    sessions: Gauge,
    writes: Family<Labels<1>, Counter>,
    /// Held while what a glance says is taken over.
    looking: Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a tenth of a millisecond to almost two minutes.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        let mut inner = Inner {
            registry: Registry::with_prefix("anchorhold"),
            executions: Family::default(),
            steps: Family::new_with_constructor(histogram),
            refusals: Family::default(),
            sessions: Gauge::default(),
            writes: Family::default(),
            looking: Mutex::default(),
        };
        let registry = &mut inner.registry;
        registry.register("executions", "Executions that ended", inner.executions.clone());
        registry.register("execution_step_seconds", "Times of executions by step", inner.steps.clone());
        registry.register("refusals", "Requests that were refused, by code", inner.refusals.clone());
        registry.register("sessions", "Live sessions", inner.sessions.clone());
        registry.register("ledger_writes", "Writes of the ledger", inner.writes.clone());
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// An execution was closed.
    pub fn execution(&self, language: Language, runtime: Runtime, status: ExecutionStatus, times: Times) {
        let labels =
            [("language", language.as_str()), ("runtime", runtime.as_str()), ("status", status.as_str())];
        self.0.executions.get_or_create(&labels).inc();
        let steps = [
            ("queue", Some(times.queue)),
            ("take", times.take),
            ("run", Some(times.run)),
            ("settle", Some(times.settle)),
        ];
        for (step, time) in steps.into_iter().filter_map(|(step, time)| Some((step, time?))) {
            self.0.steps.get_or_create(&[("step", step)]).observe(time.as_secs_f64());
        }
    }

    /// A request was refused.
    pub fn refusal(&self, code: &'static str) {
        self.0.refusals.get_or_create(&[("code", code)]).inc();
    }

    /// Everything in Prometheus' text.
    pub fn text(&self, glance: Glance) -> Result<String, fmt::Error> {
        let _one_look_at_a_time = self.0.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.sessions.set(i64::try_from(glance.sessions).unwrap_or(i64::MAX));
        for (outcome, count) in [("written", glance.written), ("failed", glance.unwritten)] {
            let counter = self.0.writes.get_or_create(&[("outcome", outcome)]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told() {
        let metrics = Metrics::default();
        let times = Times {
            queue: Duration::from_micros(50),
            take: None,
            run: Duration::from_millis(3),
            settle: Duration::from_secs(1),
        };
        metrics.execution(Language::Python, Runtime::Wasm, ExecutionStatus::Failed, times);
        metrics.refusal("capacity");
        for written in [5, 7] {
            metrics.text(Glance { sessions: 2, written, unwritten: 0 }).unwrap();
        }
        let text = metrics.text(Glance { sessions: 3, written: 7, unwritten: 1 }).unwrap();
        for line in [
            r#"anchorhold_executions_total{language="python",runtime="wasm",status="failed"} 1"#,
            r#"anchorhold_execution_step_seconds_bucket{le="0.0001",step="queue"} 1"#,
            r#"anchorhold_execution_step_seconds_count{step="run"} 1"#,
            r#"anchorhold_refusals_total{code="capacity"} 1"#,
            "anchorhold_sessions 3",
            r#"anchorhold_ledger_writes_total{outcome="written"} 7"#,
            r#"anchorhold_ledger_writes_total{outcome="failed"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
    }
}
