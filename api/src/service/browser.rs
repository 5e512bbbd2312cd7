//! A session's browser, as its one context of the language `browser`: actions are its code.

use super::{ContextName, ExecutionRequest, OnDisconnect};
use crate::ledger::ExecutionRow;
use crate::words::{Language, Runtime};
use anchorhold_sandbox::RequestedLimits;
use serde_json::Value;

/// The one browser of a session, as a context.
pub(super) const CONTEXT: &str = "browser";
/// What cells call the values of an execution of actions.
const RESULT: &str = "application/vnd.anchorhold.action+json";
const PAGE: &str = "application/vnd.anchorhold.page+json";
/// Processes and threads of a session with a browser, where nothing else is asked for: forty renderers have 500.
const PROCESSES: u32 = 2048;

/// Actions to be run, as JSON; they were read as [`anchorhold_browser::Action`]s before.
pub fn actions(
    actions: Vec<Value>,
    timeout_us: Option<u64>,
    on_disconnect: OnDisconnect,
) -> ExecutionRequest {
    ExecutionRequest {
        runtime: Some(Runtime::Native),
        context: ContextName::Name(CONTEXT.to_owned()),
        timeout_us,
        on_disconnect,
        ..ExecutionRequest::new(Language::Browser, Value::Array(actions).to_string())
    }
}

/// What became of actions, one for each that was reported, and where the browser is after them. A cell said it: it is
/// JSON of bounded size and depth, and no more is known of it.
pub fn acted(row: &ExecutionRow) -> (Vec<&Value>, Option<&Value>) {
    let values = |kind: &'static str| {
        let rich = row.output.iter().flat_map(|output| &output.results);
        rich.filter_map(move |rich| rich.mime.get(kind))
    };
    (values(RESULT).collect(), values(PAGE).next_back())
}

/// The limits of a session that is to have a browser: one of some pages has more threads than programs need.
pub fn limits(asked: RequestedLimits) -> RequestedLimits {
    RequestedLimits { processes: asked.processes.or(Some(PROCESSES)), ..asked }
}
