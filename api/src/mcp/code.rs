//! `execute_code`, `run_command`, `start_command`, `get_task`, `stop_task`

use super::answer::{Done, TEXT_BYTES_MAX, bounded, invalid};
use super::conversation::Call;
use super::session::span;
use super::watch::{SILENCE_MAX, Telling};
use crate::http::error::Problem;
use crate::ledger::{ExecutionRow, GuestError, Rich};
use crate::service::{Await, ContextName, Events, ExecutionRequest, OnDisconnect, Refusal, Told, Word};
use crate::words::{ExecutionStatus, Language, LimitName, Runtime};
use anchorhold_sandbox::{ExecutionId, SessionId, WorkspacePath};
use rmcp::model::ContentBlock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// The longest that `get_task` waits for news.
const WAIT_US_MAX: u64 = 30_000_000;
/// The most rich values of an answer, and the most bytes of images.
const RESULTS_MAX: usize = 32;
const IMAGE_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecuteCode {
    language: CodeLanguage,
    /// The program. The value of its last expression is answered; top-level await works.
    code: String,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
    /// What runs it; the session's where omitted.
    #[schemars(with = "Option<String>", extend("enum" = Runtime::ALL))]
    runtime: Option<Runtime>,
    /// Which interpreter of the session, by any name: each has variables of its own.
    context: Option<String>,
    /// Its time; 30 where omitted.
    timeout_seconds: Option<f64>,
    /// Its standard input.
    stdin: Option<String>,
    /// True: answers at once with a task_id, and the program may run as long as the session lives. See get_task.
    #[serde(default)]
    background: bool,
}

// No comments on the variants: they would make the schema a union.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CodeLanguage {
    Python,
    JavaScript,
    TypeScript,
}

impl From<CodeLanguage> for Language {
    fn from(language: CodeLanguage) -> Self {
        match language {
            CodeLanguage::Python => Self::Python,
            CodeLanguage::JavaScript => Self::JavaScript,
            CodeLanguage::TypeScript => Self::TypeScript,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunCommand {
    /// The command line.
    command: String,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
    /// Its working directory, a path in /workspace; /workspace where omitted.
    cwd: Option<String>,
    /// Its time; 30 where omitted.
    timeout_seconds: Option<f64>,
    /// Its standard input.
    stdin: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartCommand {
    /// The command line.
    command: String,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
    /// Its working directory, a path in /workspace; /workspace where omitted.
    cwd: Option<String>,
    /// Its time; what is left of the session's where omitted.
    timeout_seconds: Option<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GetTask {
    /// The task, as execute_code or start_command answered it.
    task_id: String,
    /// Its session; the current one where omitted.
    session_id: Option<String>,
    /// What it wrote behind this position, the next of an earlier answer; from the beginning where omitted.
    after: Option<u64>,
    /// Waits as long for its end or for a full answer; at most 30, 0 where omitted.
    wait_seconds: Option<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StopTask {
    /// The task, as execute_code or start_command answered it.
    task_id: String,
    /// Its session; the current one where omitted.
    session_id: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Task {
    session_id: String,
    task_id: String,
    #[schemars(with = "String", extend("enum" = ExecutionStatus::ALL))]
    status: ExecutionStatus,
    stdout: String,
    stderr: String,
    /// The value of the last expression, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Other values that the program showed. Images follow this text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Shown>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// Which limit ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("enum" = LimitName::ALL))]
    limit: Option<LimitName>,
    /// Some of what it wrote is not here.
    truncated: bool,
    /// Its interpreter and all variables are gone.
    state_lost: bool,
    /// The position behind what is here: get_task goes on from it. Only where more is there or may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
    wall_us: u64,
    /// In 10⁻¹² dollars, decimal.
    cost_picos: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Shown {
    mime: String,
    text: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Failure {
    name: String,
    message: String,
    traceback: String,
}

impl From<&GuestError> for Failure {
    fn from(error: &GuestError) -> Self {
        let text = |text: &str| bounded(text, TEXT_BYTES_MAX / 4).0;
        Self { name: text(&error.name), message: text(&error.message), traceback: text(&error.traceback) }
    }
}

/// What a program wrote, or the part of it that is answered.
#[derive(Debug, Default)]
struct Part {
    stdout: String,
    stderr: String,
    results: Vec<Rich>,
    error: Option<GuestError>,
    truncated: bool,
    next: Option<u64>,
}

impl Call<'_> {
    pub(super) async fn execute_code(&self, asked: ExecuteCode) -> Result<Done, Problem> {
        let named = asked.session_id.clone();
        self.run_request(named.as_deref(), request(asked)?).await
    }

    pub(super) async fn run_command(&self, asked: RunCommand) -> Result<Done, Problem> {
        let request = ExecutionRequest {
            cwd: directory(asked.cwd.as_deref())?,
            timeout_us: span("timeout_seconds", asked.timeout_seconds)?,
            stdin: asked.stdin.unwrap_or_default().into_bytes(),
            ..command(&asked.command)
        };
        self.run_request(asked.session_id.as_deref(), request).await
    }

    pub(super) async fn start_command(&self, asked: StartCommand) -> Result<Done, Problem> {
        let request = ExecutionRequest {
            cwd: directory(asked.cwd.as_deref())?,
            timeout_us: span("timeout_seconds", asked.timeout_seconds)?,
            background: true,
            ..command(&asked.command)
        };
        self.run_request(asked.session_id.as_deref(), request).await
    }

    /// To its end, or in the background only to its beginning.
    async fn run_request(&self, named: Option<&str>, request: ExecutionRequest) -> Result<Done, Problem> {
        let session = self.session(named).await?;
        if request.background {
            let row = self.service().execute(self.tenant(), session, request, None, Await::Record).await?;
            let next = Some(anchorhold_sandbox::BEGINNING);
            return task(&row, Part { next, ..Part::default() });
        }
        let row = if self.watch.is_wanted() {
            self.execute_watched(session, request).await?
        } else {
            self.service().execute(self.tenant(), session, request, None, Await::End).await?
        };
        let mut done = task(&row, Part::whole(&row))?;
        done.failed = row.status != ExecutionStatus::Succeeded;
        Ok(done)
    }

    /// Runs it, and tells what it says as it says it.
    async fn execute_watched(
        &self,
        session: SessionId,
        request: ExecutionRequest,
    ) -> Result<Arc<ExecutionRow>, Problem> {
        let (service, tenant) = (self.service(), self.tenant());
        let row = service.execute(tenant, session, request, None, Await::Record).await?;
        let _cancel = service.cancel_on_drop(session, row.id);
        let mut events = service.follow(tenant, session, row.id, 0).await?;
        let mut telling = self.watch.begin();
        while let Some(told) = next_or_silence(&mut events, &mut telling).await {
            match told.word {
                Word::Stdout(text) => telling.stdout(&text).await,
                Word::Stderr(text) => telling.stderr(&text).await,
                Word::End(row) => return Ok(row),
                Word::Start(_) | Word::Result(_) | Word::Gap(..) | Word::Error(_) => {}
            }
        }
        // The ledger could not be read.
        Err(Refusal::Ledger.into())
    }

    pub(super) async fn get_task(&self, asked: GetTask) -> Result<Done, Problem> {
        let wait_us = match asked.wait_seconds {
            None | Some(0.0) => 0,
            seconds => span("wait_seconds", seconds)?.unwrap_or(0),
        };
        if wait_us > WAIT_US_MAX {
            return Err(invalid("wait_seconds: must be at most 30"));
        }
        let session = self.known_session(asked.session_id.as_deref()).await?;
        let id = self.task_id(session, &asked.task_id).await?;
        let after = asked.after.unwrap_or(0);
        let events = self.service().follow(self.tenant(), session, id, after).await?;
        let (part, end) = Part::read(events, after, Duration::from_micros(wait_us)).await;
        let row = match end {
            Some(row) => row,
            None => Arc::new(self.service().execution(self.tenant(), session, id).await?),
        };
        task(&row, part)
    }

    pub(super) async fn stop_task(&self, asked: StopTask) -> Result<Done, Problem> {
        let session = self.known_session(asked.session_id.as_deref()).await?;
        let id = self.task_id(session, &asked.task_id).await?;
        let row = self.service().cancel(self.tenant(), session, id).await?;
        task(&row, Part::whole(&row))
    }

    /// What is no id is answered like one that is unknown: the session is looked for first.
    async fn task_id(&self, session: SessionId, text: &str) -> Result<ExecutionId, Problem> {
        if let Some(id) = text.strip_prefix("exe_").and_then(|id| id.parse().ok()) {
            return Ok(id);
        }
        self.service().session(self.tenant(), session).await?;
        Err(Refusal::ExecutionNotFound.into())
    }
}

fn request(asked: ExecuteCode) -> Result<ExecutionRequest, Problem> {
    let context = match &asked.context {
        None => ContextName::default(),
        Some(text) => ContextName::parse(text)
            .ok_or_else(|| invalid("context: must be 1 to 64 of A-Z a-z 0-9 _ . -, or an id (ctx_…)"))?,
    };
    Ok(ExecutionRequest {
        runtime: asked.runtime,
        context,
        timeout_us: span("timeout_seconds", asked.timeout_seconds)?,
        stdin: asked.stdin.unwrap_or_default().into_bytes(),
        background: asked.background,
        // By which dropping the call cancels it. In an MCP session a lost connection does not drop calls.
        on_disconnect: OnDisconnect::Cancel,
        ..ExecutionRequest::new(asked.language.into(), asked.code)
    })
}

/// A command line, which a shell of its own reads.
fn command(line: &str) -> ExecutionRequest {
    let code = Value::from(["bash", "-c", line].as_slice()).to_string();
    ExecutionRequest { on_disconnect: OnDisconnect::Cancel, ..ExecutionRequest::new(Language::Command, code) }
}

fn directory(path: Option<&str>) -> Result<Option<WorkspacePath>, Problem> {
    let parsed = path.map(str::parse::<WorkspacePath>).transpose();
    parsed.map_err(|error| invalid(format!("cwd: {error}")))
}

/// The next event. Asking for it cannot be broken off, so the waiting is told of beside it.
async fn next_or_silence(events: &mut Events, telling: &mut Telling<'_>) -> Option<Told> {
    let mut next = pin!(events.next());
    loop {
        match tokio::time::timeout(SILENCE_MAX, next.as_mut()).await {
            Ok(told) => return told,
            Err(_) => telling.silence().await,
        }
    }
}

impl Part {
    /// All that was kept of an execution that ended.
    fn whole(row: &ExecutionRow) -> Self {
        let Some(output) = &row.output else { return Self::default() };
        let (stdout, cut) = bounded(&output.stdout, TEXT_BYTES_MAX);
        let (stderr, cut_too) = bounded(&output.stderr, TEXT_BYTES_MAX);
        Self {
            stdout,
            stderr,
            results: output.results.clone(),
            error: output.error.clone(),
            truncated: cut || cut_too,
            next: None,
        }
    }

    /// What comes within a time, and the execution, if it ended.
    async fn read(mut events: Events, after: u64, wait: Duration) -> (Self, Option<Arc<ExecutionRow>>) {
        let mut part = Self { next: Some(after), ..Self::default() };
        let deadline = tokio::time::Instant::now() + wait;
        while part.stdout.len() + part.stderr.len() < TEXT_BYTES_MAX && part.results.len() < RESULTS_MAX {
            // After a time-out the events are not asked again: it broke off what was asked.
            let Ok(Some(told)) = tokio::time::timeout_at(deadline, events.next()).await else { break };
            part.next = Some(told.position);
            match told.word {
                Word::Stdout(text) => part.stdout.push_str(&text),
                Word::Stderr(text) => part.stderr.push_str(&text),
                Word::Result(value) => part.results.push(value),
                Word::Error(error) => part.error = Some(error),
                Word::Gap(..) => part.truncated = true,
                Word::Start(_) => {}
                Word::End(row) => {
                    part.next = None;
                    return (part, Some(row));
                }
            }
        }
        (part, None)
    }
}

fn task(row: &ExecutionRow, part: Part) -> Result<Done, Problem> {
    let report = row.report.as_ref();
    let task_id = format!("exe_{}", row.id);
    let (values, blocks, cut) = rich(&part.results);
    let (mut value, mut results) = (None, Vec::new());
    for (main, shown) in values {
        if main && value.is_none() { value = Some(shown.text) } else { results.push(shown) }
    }
    let task = Task {
        session_id: format!("ses_{}", row.session),
        task_id: task_id.clone(),
        status: row.status,
        stdout: part.stdout,
        stderr: part.stderr,
        value,
        results,
        error: part.error.as_ref().map(Failure::from),
        exit_code: report.and_then(|report| report.exit_code),
        limit: report.and_then(|report| report.limit),
        truncated: part.truncated || cut || report.is_some_and(|report| report.truncated),
        state_lost: report.is_some_and(|report| report.state_lost),
        next: part.next,
        wall_us: report.map_or(0, |report| report.wall_us),
        cost_picos: report.map_or(0, |report| report.cost_picos).to_string(),
    };
    let mut done = Done::new(task_id, &task)?;
    done.blocks = blocks;
    Ok(done)
}

/// Values as text, images as images; whether it is the last expression's; and whether some were left out.
fn rich(values: &[Rich]) -> (Vec<(bool, Shown)>, Vec<ContentBlock>, bool) {
    let (mut texts, mut images, mut room) = (Vec::new(), Vec::new(), IMAGE_BYTES_MAX);
    let mut cut = values.len() > RESULTS_MAX;
    for value in values.iter().take(RESULTS_MAX) {
        if let Some((mime, data)) = image(&value.mime) {
            if data.len() <= room {
                room -= data.len();
                images.push(ContentBlock::image(data, mime));
            } else {
                cut = true;
            }
            continue;
        }
        let Some((mime, text)) = text(&value.mime) else { continue };
        let (text, shortened) = bounded(&text, TEXT_BYTES_MAX / 4);
        cut |= shortened;
        texts.push((value.main, Shown { mime: mime.clone(), text }));
    }
    (texts, images, cut)
}

/// In base64, as every client can show it.
fn image(mime: &Map<String, Value>) -> Option<(&str, &str)> {
    ["image/png", "image/jpeg", "image/gif", "image/webp"]
        .into_iter()
        .find_map(|kind| Some((kind, mime.get(kind)?.as_str()?)))
}

/// The form that a model reads best.
fn text(mime: &Map<String, Value>) -> Option<(&String, String)> {
    let best = ["text/plain", "application/json", "text/markdown", "text/html"];
    let known = best.into_iter().find_map(|kind| mime.get_key_value(kind));
    let (mime, value) = known.or_else(|| mime.iter().next())?;
    Some((mime, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(main: bool, mime: Value) -> Rich {
        Rich { main, mime: mime.as_object().unwrap().clone() }
    }

    #[test]
    fn values_are_told_in_their_best_form() {
        let values = [
            value(false, json!({"text/html": "<b>1</b>", "text/plain": "1"})),
            value(false, json!({"image/png": "iVBO", "text/plain": "<Figure>"})),
            value(true, json!({"application/json": {"a": 1}})),
            value(false, json!({"image/png": "x".repeat(IMAGE_BYTES_MAX)})),
        ];
        let (texts, images, cut) = rich(&values);
        let told: Vec<_> = texts.iter().map(|(main, shown)| (*main, &*shown.mime, &*shown.text)).collect();
        assert_eq!(told, [(false, "text/plain", "1"), (true, "application/json", "{\"a\":1}")]);
        assert_eq!(images, [ContentBlock::image("iVBO", "image/png")]);
        assert!(cut, "the second image is too large");
    }
}
