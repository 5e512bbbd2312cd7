//! How an execution is closed: what the sandbox said of it becomes what the ledger keeps. What guests wrote is taken for
//! what it is, whatever it is.

use super::{Refusal, Service, now_us};
use crate::ledger::{Closing, ExecutionRow, GuestError, NewExecution, Output, Report, ReturnedFile, Rich};
use crate::price::Used;
use crate::words::{ExecutionStatus, LimitName};
use anchorhold_sandbox::{Capture, Error, Finished, Interpreter, Limit, Outcome};
use serde_json::Value;
use std::sync::Arc;

impl Service {
    /// Of one that ran.
    pub(super) fn closing(
        &self,
        new: &NewExecution,
        tenant: &str,
        finished: Finished,
        files: Option<Vec<ReturnedFile>>,
    ) -> Closing {
        let usage = &finished.usage;
        let used = Used { cpu_us: usage.cpu_us, memory_mib_ms: usage.memory_mib_ms, ..Used::default() };
        let moved = Used { egress_bytes: usage.egress_bytes, ..Used::default() };
        // Two records, each rounded for itself.
        let cost = |used| if finished.cell.is_some() { self.0.prices.cost(used) } else { 0 };
        let egress_picos = cost(moved);
        let mut report = report(&finished);
        report.cost_picos = cost(used).saturating_add(egress_picos);
        let cell = finished.cell.map(|cell| (cell, finished.accounted));
        let output = Arc::new(Output {
            stdout: finished.stdout.text,
            stderr: finished.stderr.text,
            results: finished.values.iter().map(|json| rich(json)).collect(),
            error: finished.error.as_deref().map(guest_error),
            files,
            pieces: finished.pieces,
        });
        let (status, taking) = (status(finished.outcome), finished.taking);
        Closing { status, cell, report, output, egress_picos, taking, ..self.lost(new, tenant) }
    }

    /// Of one that nobody can tell anything of: nothing is billed.
    pub(super) fn lost(&self, new: &NewExecution, tenant: &str) -> Closing {
        Closing {
            id: new.id,
            session: new.session,
            tenant: tenant.to_owned(),
            status: ExecutionStatus::Lost,
            created_us: new.created_us,
            ended_us: now_us(),
            place: new.place.clone(),
            cell: None,
            report: Report { state_lost: true, ..Report::default() },
            output: Arc::default(),
            egress_picos: 0,
            price_version: self.0.prices.version.clone(),
            taking: None,
        }
    }

    /// Of one that somebody was told is accepted, and then there was no cell for it.
    pub(super) fn not_run(&self, new: &NewExecution, tenant: &str, why: Error) -> Closing {
        let message = Refusal::from(why).to_string();
        let error = GuestError { name: "NOT_RUN".into(), message, traceback: String::new() };
        let output = Arc::new(Output { error: Some(error), ..Output::default() });
        Closing { report: Report::default(), output, ..self.lost(new, tenant) }
    }
}

impl NewExecution {
    /// The execution as the ledger has it now.
    pub(super) fn row(&self) -> ExecutionRow {
        ExecutionRow {
            id: self.id,
            session: self.session,
            status: ExecutionStatus::Running,
            created_us: self.created_us,
            ended_us: None,
            place: self.place.clone(),
            report: None,
            output: None,
        }
    }
}

impl Closing {
    /// The execution as the ledger has it after this.
    pub(super) fn into_row(self) -> ExecutionRow {
        ExecutionRow {
            id: self.id,
            session: self.session,
            status: self.status,
            created_us: self.created_us,
            ended_us: Some(self.ended_us),
            place: self.place,
            report: Some(self.report),
            output: Some(Arc::unwrap_or_clone(self.output)),
        }
    }
}

fn status(outcome: Outcome) -> ExecutionStatus {
    match outcome {
        Outcome::Succeeded => ExecutionStatus::Succeeded,
        Outcome::Failed => ExecutionStatus::Failed,
        Outcome::TimedOut => ExecutionStatus::TimedOut,
        Outcome::Cancelled => ExecutionStatus::Cancelled,
        Outcome::Exceeded(_) => ExecutionStatus::LimitExceeded,
    }
}

fn report(finished: &Finished) -> Report {
    let usage = &finished.usage;
    let cut = |stream: &Capture| stream.total_bytes > stream.kept_bytes;
    Report {
        limit: match finished.outcome {
            Outcome::Exceeded(limit) => Some(limit_name(limit)),
            _ => None,
        },
        limits_hit: finished.limits_hit.iter().map(|&limit| limit_name(limit)).collect(),
        // Neither a command nor a terminal has any.
        state_lost: finished.state_lost
            && !matches!(finished.context.interpreter, Interpreter::Command | Interpreter::Terminal),
        exit_code: finished.exit_code,
        stdout_bytes: finished.stdout.total_bytes,
        stderr_bytes: finished.stderr.total_bytes,
        truncated: cut(&finished.stdout) || cut(&finished.stderr),
        wall_us: usage.wall_us,
        cpu_us: usage.cpu_us,
        memory_peak_bytes: usage.memory_peak_bytes,
        memory_mib_ms: usage.memory_mib_ms,
        egress_bytes: usage.egress_bytes,
        queued_us: usage.queued_us,
        cost_picos: 0,
    }
}

fn limit_name(limit: Limit) -> LimitName {
    match limit {
        Limit::Memory => LimitName::Memory,
        Limit::Cpu => LimitName::Cpu,
        Limit::Output => LimitName::Output,
        Limit::Processes => LimitName::Processes,
        Limit::Disk => LimitName::Disk,
    }
}

/// A guest wrote this. What has not the shape of a rich value is shown as what it is: JSON.
pub(super) fn rich(json: &[u8]) -> Rich {
    let mut value: Value = serde_json::from_slice(json).unwrap_or_default();
    if let Some(Value::Object(mime)) = value.get_mut("mime").map(Value::take) {
        return Rich { main: value["main"] == true, mime };
    }
    let value = serde_json::from_slice(json).unwrap_or_default();
    Rich { main: false, mime: [("application/json".to_owned(), value)].into_iter().collect() }
}

/// A guest wrote this too.
fn guest_error(json: &[u8]) -> GuestError {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if value.is_object() {
        return GuestError { name: text("name"), message: text("message"), traceback: text("traceback") };
    }
    GuestError {
        name: "Error".into(),
        message: String::from_utf8_lossy(json).into_owned(),
        traceback: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_guests_write_is_taken_for_what_it_is() {
        let value = rich(br#"{"main":true,"mime":{"text/plain":"42"}}"#);
        assert!(value.main && value.mime["text/plain"] == "42");
        let value = rich(b"[1,2]");
        assert_eq!(value.mime["application/json"], serde_json::json!([1, 2]));
        assert_eq!(guest_error(br#"{"name":"ValueError","message":"no"}"#).name, "ValueError");
        assert_eq!(guest_error(b"[]").message, "[]");
    }

    proptest! {
        #[test]
        fn nothing_a_guest_writes_panics(bytes: Vec<u8>) {
            let _value = rich(&bytes);
            let _error = guest_error(&bytes);
        }
    }
}
