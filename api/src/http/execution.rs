//! `/v1/sessions/{id}/executions` and `/v1/run`

use super::body::{Fields, Object, Query};
use super::error::Problem;
use super::openapi::{Cells, Exclusive, Live, Opens, Runs, Uploads, sent};
use super::session::{self, env};
use super::{Caller, Door, ExecutionAt, ListBody, SessionAt, about, event, json, key, long, ok, time};
use crate::aside::{LONG_BYTES, aside};
use crate::ledger::{ExecutionRow, GuestError, Output, Report, Rich};
use crate::service::{Await, ContextName, ExecutionRequest, OnDisconnect, Refusal, RunRequest, context_id};
use crate::tenant::Tenant;
use crate::words::{Engine, ExecutionStatus, Language, LimitName, Runtime, words};
use anchorhold_sandbox::WorkspacePath;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use utoipa::ToSchema;

/// What a context is named by in a request: longer than any name and any id.
const CONTEXT_BYTES_MAX: usize = 64;
const FILES_MAX: usize = 64;
/// The most words of a command.
const COMMAND_WORDS_MAX: usize = 1000;
/// The report of an execution that has none.
static NOTHING_YET: LazyLock<Report> = LazyLock::new(Report::default);

words!(
    /// What becomes of an execution whose caller went away.
    Disconnect {
        /// It goes on.
        Continue = "continue",
        /// It is cancelled.
        Cancel = "cancel",
    }
);

/// An execution: what became of it, what it wrote, what it used.
#[derive(Serialize, ToSchema)]
#[schema(as = Execution)]
pub(super) struct ExecutionBody<'a> {
    #[schema(pattern = "^exe_[0-9a-z]{26}$")]
    id: String,
    #[schema(pattern = "^ses_[0-9a-z]{26}$")]
    session_id: String,
    language: Language,
    /// Which interpreter, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<Engine>,
    runtime: Runtime,
    /// The name of its context.
    context: &'a str,
    context_id: Option<String>,
    status: ExecutionStatus,
    /// Standard output, as far as it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required)]
    stdout: Option<&'a str>,
    /// Standard error, as far as it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required)]
    stderr: Option<&'a str>,
    /// Bytes that it wrote to standard output, kept or not.
    stdout_bytes: u64,
    /// Bytes that it wrote to standard error, kept or not.
    stderr_bytes: u64,
    /// Whether it wrote more than `output_bytes`.
    truncated: bool,
    /// Rich values, in their order.
    #[schema(value_type = Vec<RichBody>)]
    results: &'a [Rich],
    /// The program's own error, when it failed by one.
    #[schema(value_type = Option<GuestErrorBody>)]
    error: Option<&'a GuestError>,
    /// What the program said when it exited by itself.
    exit_code: Option<i32>,
    /// What ended it, with `limit_exceeded`.
    limit: Option<LimitName>,
    /// Every limit that it ran into, whatever became of it.
    limits_hit: &'a [LimitName],
    /// Whether its context lost its variables.
    state_lost: bool,
    /// The files that were asked for by `return_files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<FileBody<'a>>>,
    usage: UsageBody,
    /// What it cost, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]+$")]
    cost_picos: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// Whether what it wrote is still kept: for 24 hours after the end of its session.
    output_kept: bool,
}

/// What an execution used.
#[derive(Serialize, ToSchema)]
#[schema(as = ExecutionUsage)]
pub(super) struct UsageBody {
    /// Microseconds from its start to its end.
    wall_us: u64,
    /// Microseconds of processor time.
    cpu_us: u64,
    /// The most bytes of memory at a time.
    memory_peak_bytes: u64,
    /// Memory over time: MiB times milliseconds.
    memory_mib_ms: u64,
    /// Bytes sent to the network and got from it, since the execution before in its context ended.
    egress_bytes: u64,
    /// Microseconds that it waited for its context; not billed.
    queued_us: u64,
}

/// A file that was asked for: its content, or why there is none.
#[derive(Serialize, ToSchema)]
#[schema(as = ReturnedFile)]
struct FileBody<'a> {
    path: &'a str,
    content_base64: Option<&'a str>,
    error: Option<&'a str>,
}

/// A rich value as in Jupyter. The guest made it: it is no more to be trusted than the code.
#[derive(ToSchema)]
#[schema(as = Result)]
#[expect(dead_code, reason = "the schema of the ledger's type, which knows nothing of documents")]
struct RichBody {
    /// Whether it is the value of the last expression.
    main: bool,
    /// The value, by media type: text, base64 or JSON.
    mime: BTreeMap<String, Value>,
}

/// The program's own error.
#[derive(ToSchema)]
#[schema(as = ProgramError)]
#[expect(dead_code, reason = "the schema of the ledger's type, which knows nothing of documents")]
pub(super) struct GuestErrorBody {
    /// Its class.
    name: String,
    message: String,
    /// Where it came from, as the interpreter says it.
    traceback: String,
}

impl<'a> ExecutionBody<'a> {
    pub(super) fn new(row: &'a ExecutionRow) -> Self {
        let report = row.report.as_ref().unwrap_or(&NOTHING_YET);
        let output = row.output.as_ref();
        let queued_us = i64::try_from(report.queued_us).unwrap_or(i64::MAX);
        let context_id = context_id(row.session, &row.place);
        Self {
            id: format!("exe_{}", row.id),
            session_id: format!("ses_{}", row.session),
            language: row.place.language,
            engine: row.place.engine,
            runtime: row.place.runtime,
            context: &row.place.context,
            context_id: context_id.map(|id| format!("ctx_{id}")),
            status: row.status,
            stdout: Some(output.map_or("", |output| &output.stdout)),
            stderr: Some(output.map_or("", |output| &output.stderr)),
            stdout_bytes: report.stdout_bytes,
            stderr_bytes: report.stderr_bytes,
            truncated: report.truncated,
            results: output.map_or(&[], |output| &output.results),
            error: output.and_then(|output| output.error.as_ref()),
            exit_code: report.exit_code,
            limit: report.limit,
            limits_hit: &report.limits_hit,
            state_lost: report.state_lost,
            files: output.and_then(|output| output.files.as_ref()).map(|files| {
                let bodies = files.iter().map(|file| FileBody {
                    path: &file.path,
                    content_base64: file.content.as_deref().ok(),
                    error: file.content.as_ref().err().map(String::as_str),
                });
                bodies.collect()
            }),
            usage: UsageBody::new(Some(report)),
            cost_picos: report.cost_picos.to_string(),
            started_at: row.report.is_some().then(|| time(row.created_us.saturating_add(queued_us))),
            ended_at: row.ended_us.map(time),
            output_kept: output.is_some(),
        }
    }
}

impl UsageBody {
    pub(super) fn new(report: Option<&Report>) -> Self {
        let report = report.unwrap_or(&NOTHING_YET);
        Self {
            wall_us: report.wall_us,
            cpu_us: report.cpu_us,
            memory_peak_bytes: report.memory_peak_bytes,
            memory_mib_ms: report.memory_mib_ms,
            egress_bytes: report.egress_bytes,
            queued_us: report.queued_us,
        }
    }
}

/// One of an execution's two texts.
struct Printed(Arc<ExecutionRow>, fn(&Output) -> &str);

impl AsRef<str> for Printed {
    fn as_ref(&self) -> &str {
        self.0.output.as_ref().map_or("", self.1)
    }
}

async fn answer(row: impl Into<Arc<ExecutionRow>>) -> Response {
    let row = row.into();
    let subject = format!("exe_{}", row.id);
    if row.size() < LONG_BYTES {
        return about(subject, ok(&ExecutionBody::new(&row)));
    }
    let long = move || {
        let stdout = Printed(row.clone(), |output| &output.stdout);
        let stderr = Printed(row.clone(), |output| &output.stderr);
        let rest = ExecutionBody { stdout: None, stderr: None, ..ExecutionBody::new(&row) };
        long::ok(&rest, [("stdout", stdout), ("stderr", stderr)])
    };
    about(subject, aside(LONG_BYTES, long).await)
}

/// The forms of an answer to who runs something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All of it at its end.
    Whole,
    /// That it runs.
    Begun,
    /// What it says as it says it.
    Stream(OnDisconnect),
}

impl Form {
    pub(super) fn of(headers: &HeaderMap, request: &ExecutionRequest) -> Self {
        if event::wanted(headers) {
            Self::Stream(request.on_disconnect)
        } else if request.background {
            Self::Begun
        } else {
            Self::Whole
        }
    }

    /// What has to have happened before there is an answer.
    pub(super) fn awaited(self) -> Await {
        if self == Self::Whole { Await::End } else { Await::Record }
    }

    pub(super) async fn answer(
        self,
        door: &Door,
        tenant: &Tenant,
        row: Arc<ExecutionRow>,
    ) -> Result<Response, Problem> {
        let (session, id) = (row.session, row.id);
        let response = match self {
            Self::Whole => return Ok(answer(row).await),
            Self::Begun => json(StatusCode::ACCEPTED, &ExecutionBody::new(&row)),
            Self::Stream(on_disconnect) => {
                let cancel = on_disconnect == OnDisconnect::Cancel;
                let cancel = cancel.then(|| door.service.cancel_on_drop(session, id));
                event::respond(door.service.follow(tenant, session, id, 0).await?, cancel)
            }
        };
        Ok(about(format!("exe_{id}"), response))
    }
}

/// In which language and by which interpreter; used by everything that names one.
pub(super) fn language(fields: &mut Fields<'_>) -> (Option<Language>, Option<Engine>) {
    let language: Option<Language> = fields.word("language", Language::ALL);
    let engine = fields.word("engine", Engine::ALL);
    match language {
        None => fields.missing("language"),
        Some(Language::Browser) => fields.wrong("language", "is for actions: POST …/browser/actions"),
        Some(Language::Command) => fields.wrong("language", "is said by the field command alone"),
        Some(Language::Terminal) => fields.wrong("language", "is a WebSocket's: GET …/terminal"),
        Some(Language::Python | Language::Bash) if engine.is_some() => {
            fields.wrong("engine", "is for javascript and typescript only");
        }
        Some(_) => {}
    }
    (language, engine)
}

/// Fields of an execution in a request; also those of `/v1/run`, whose session has the rest.
fn request(fields: &mut Fields<'_>) -> Option<ExecutionRequest> {
    let command = command(fields);
    let (language, engine, code) = match command {
        Some(command) => (Some(Language::Command), None, command),
        None => {
            let (language, engine) = language(fields);
            (language, engine, code(fields))
        }
    };
    let on_disconnect = disconnect(fields);
    // `null` leaves it open; omitted it is empty.
    let stdin_open = fields.is_null("stdin");
    let request = ExecutionRequest {
        language: language.unwrap_or(Language::Python),
        engine,
        runtime: None,
        context: context(fields, "context").unwrap_or_default(),
        reset_context: fields.flag("reset_context").unwrap_or(false),
        timeout_us: fields.seconds("timeout_seconds"),
        env: Vec::new(),
        cwd: fields.parsed("cwd", 8192),
        stdin: fields.any_text("stdin").unwrap_or_default().into_bytes(),
        stdin_open,
        code,
        background: fields.flag("background").unwrap_or(false),
        on_disconnect,
    };
    Some(request)
}

/// A program with its arguments, in place of code; as JSON. It has no language, and no context, which it would not share.
fn command(fields: &mut Fields<'_>) -> Option<String> {
    let words = fields.list("command", COMMAND_WORDS_MAX)?;
    let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
    match words.as_deref() {
        Some([program, ..]) if !program.is_empty() => {}
        _ => fields.wrong("command", "must be a list of texts, of which the first names a program"),
    }
    for other in ["language", "code", "engine", "context", "reset_context"] {
        if fields.has(other) {
            fields.wrong(other, "does not go with command");
        }
    }
    Some(words.map(|words| Value::from(words).to_string()).unwrap_or_default())
}

/// What becomes of it when its caller goes away.
pub(super) fn disconnect(fields: &mut Fields<'_>) -> OnDisconnect {
    match fields.word("on_disconnect", Disconnect::ALL) {
        Some(Disconnect::Cancel) => OnDisconnect::Cancel,
        Some(Disconnect::Continue) | None => OnDisconnect::Continue,
    }
}

/// Whatever characters it has: the interpreter judges them.
fn code(fields: &mut Fields<'_>) -> String {
    let code = fields.any_text("code");
    if code.is_none() {
        fields.missing("code");
    }
    code.unwrap_or_default()
}

/// The context that a field names, by name or by id; the default one where omitted.
fn context(fields: &mut Fields<'_>, field: &str) -> Option<ContextName> {
    let Some(text) = fields.text(field, CONTEXT_BYTES_MAX) else { return Some(ContextName::default()) };
    let name = ContextName::parse(&text);
    if name.is_none() {
        wrong_context(fields, field);
    }
    name
}

/// The name of a context; the default one where omitted.
pub(super) fn context_name(fields: &mut Fields<'_>, field: &str) -> Option<String> {
    match context(fields, field)? {
        ContextName::Name(name) => Some(name),
        ContextName::Id(_) => {
            wrong_context(fields, field);
            None
        }
    }
}

fn wrong_context(fields: &mut Fields<'_>, field: &str) {
    fields.wrong(field, "must be 1 to 64 of A-Z a-z 0-9 _ . -, or in an execution an id (ctx_…)");
}

/// Run code in a session
///
/// Answers when the execution ended, also when the program failed: that is its `status`, not the answer's. With
/// `background` it answers at once. With `Accept: text/event-stream` it answers with events as they happen, see
/// `GET …/events`.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/executions", tag = "Executions", operation_id = "create_execution",
    params(sent::SessionPath, sent::Once),
    request_body = sent::ExecutionRequest,
    responses(
        (
            status = 200,
            description = "The execution when it ended, however it ended; or its events, when the request accepts \
                `text/event-stream`.",
            content((ExecutionBody = "application/json"), (sent::Event = "text/event-stream")),
        ),
        (status = 202, description = "The execution, which goes on.", body = ExecutionBody),
        Live, Runs, Cells,
    ),
)]
pub(super) async fn create(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let request = object.read(|fields| {
        let runtime = fields.word("runtime", Runtime::ALL);
        let env = env(fields);
        request(fields).map(|request| ExecutionRequest { runtime, env, ..request })
    })?;
    let form = Form::of(&headers, &request);
    let row = door.service.execute(&tenant, session, request, key, form.awaited()).await?;
    form.answer(&door, &tenant, row).await
}

/// Run code
///
/// A whole life in one call: a session is made, files are written, the code runs, files are read, the session ends. Takes
/// the fields of a session and of an execution together.
#[utoipa::path(
    post, path = "/v1/run", tag = "Run", operation_id = "run",
    params(sent::Once),
    request_body = sent::RunRequest,
    responses(
        (
            status = 200,
            description = "The execution when it ended, however it ended; or its events, when the request accepts \
                `text/event-stream`.",
            content((ExecutionBody = "application/json"), (sent::Event = "text/event-stream")),
        ),
        Opens, Live, Runs, Uploads,
    ),
)]
pub(super) async fn run(
    State(door): State<Door>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let request = object.read(|fields| {
        let execution = request(fields)?;
        if execution.background {
            fields.wrong("background", "needs a session: create one first");
        }
        Some(RunRequest {
            session: session::request(fields),
            execution,
            files: files(fields),
            return_files: return_files(fields),
        })
    })?;
    let form = Form::of(&headers, &request.execution);
    let row = door.service.run(&tenant, request, key, form.awaited()).await?;
    form.answer(&door, &tenant, row).await
}

fn files(fields: &mut Fields<'_>) -> Vec<(WorkspacePath, Bytes)> {
    let mut files = Vec::new();
    for (at, value) in fields.list("files", FILES_MAX).unwrap_or_default().into_iter().enumerate() {
        fields.within(&format!("files.{at}"), value, |file| {
            let path = path(file);
            files.extend(path.zip(content(file).map(Bytes::from)));
        });
    }
    files
}

/// The content of a file that is written, as a text or in base64.
pub(super) fn content(file: &mut Fields<'_>) -> Option<Vec<u8>> {
    match (file.any_text("content"), file.any_text("content_base64")) {
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(text)) => Some(decoded(file, "content_base64", &text)),
        _ => {
            file.wrong("content", "exactly one of content and content_base64 is needed");
            None
        }
    }
}

fn path(fields: &mut Fields<'_>) -> Option<WorkspacePath> {
    match fields.parsed::<WorkspacePath>("path", 8192) {
        Some(path) if path.is_root() => {
            fields.wrong("path", "must name a file");
            None
        }
        path => path,
    }
}

fn return_files(fields: &mut Fields<'_>) -> Vec<WorkspacePath> {
    let mut paths = Vec::new();
    for value in fields.list("return_files", FILES_MAX).unwrap_or_default() {
        match value.as_str().map(str::parse::<WorkspacePath>) {
            Some(Ok(path)) if !path.is_root() => paths.push(path),
            Some(Err(error)) => fields.wrong("return_files", error.to_string()),
            _ => fields.wrong("return_files", "must be a list of paths of files"),
        }
    }
    paths
}

/// List executions
///
/// Those of a session, the newest first.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/executions", tag = "Executions", operation_id = "list_executions",
    params(sent::SessionPath, sent::PageQuery),
    responses((status = 200, description = "A page of executions.", body = ListBody<ExecutionBody<'_>>)),
)]
pub(super) async fn list(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let (before, limit) = (query.cursor(), query.limit());
    query.finish()?;
    let page = door.service.executions(&tenant, session, before, limit).await?;
    Ok(ok(&ListBody {
        items: page.items.iter().map(ExecutionBody::new).collect(),
        next_cursor: page.next.map(|next| next.to_string()),
    }))
}

/// Show an execution
#[utoipa::path(
    get, path = "/v1/sessions/{id}/executions/{exe}", tag = "Executions", operation_id = "show_execution",
    params(sent::ExecutionPath),
    responses((status = 200, description = "The execution.", body = ExecutionBody)),
)]
pub(super) async fn show(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ExecutionAt(id): ExecutionAt,
) -> Result<Response, Problem> {
    match id {
        Some(id) => Ok(answer(door.service.execution(&tenant, session, id).await?).await),
        None => Err(not_found(&door, &tenant, session).await),
    }
}

/// Cancel an execution
///
/// Its program is interrupted; variables live on where the program heeds that. One that is over stays as it is.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/executions/{exe}/cancel", tag = "Executions", operation_id = "cancel_execution",
    params(sent::ExecutionPath),
    responses((status = 200, description = "The execution, which ended or is about to.", body = ExecutionBody), Live),
)]
pub(super) async fn cancel(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ExecutionAt(id): ExecutionAt,
) -> Result<Response, Problem> {
    match id {
        Some(id) => Ok(answer(door.service.cancel(&tenant, session, id).await?).await),
        None => Err(not_found(&door, &tenant, session).await),
    }
}

words!(
    /// A signal that a program can be sent.
    Signal {
        /// As Ctrl-C: the program ends, its interpreter lives on where it can.
        Interrupt = "SIGINT",
        /// Likewise.
        Terminate = "SIGTERM",
        /// The interpreter ends with it.
        Kill = "SIGKILL",
    }
);

/// Signal an execution
#[utoipa::path(
    post, path = "/v1/sessions/{id}/executions/{exe}/signal", tag = "Executions", operation_id = "signal_execution",
    params(sent::ExecutionPath),
    request_body = sent::SignalRequest,
    responses((status = 200, description = "The execution.", body = ExecutionBody), Live, Exclusive),
)]
pub(super) async fn signal(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ExecutionAt(id): ExecutionAt,
    object: Object,
) -> Result<Response, Problem> {
    let signal = object.read(|fields| {
        let signal = fields.word("signal", Signal::ALL);
        if signal.is_none() {
            fields.missing("signal");
        }
        signal
    })?;
    let Some(id) = id else { return Err(not_found(&door, &tenant, session).await) };
    if signal == Signal::Kill {
        door.service.kill(&tenant, session, id).await?;
    }
    Ok(answer(door.service.cancel(&tenant, session, id).await?).await)
}

/// Send input to an execution
///
/// For one that was begun with `"stdin": null`, while it runs. At most 16 MiB that the program did not read yet.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/executions/{exe}/stdin", tag = "Executions", operation_id = "send_input",
    params(sent::ExecutionPath),
    request_body = sent::InputRequest,
    responses((status = 200, description = "What was taken.", body = sent::Input), Live, Exclusive),
)]
pub(super) async fn stdin(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ExecutionAt(id): ExecutionAt,
    object: Object,
) -> Result<Response, Problem> {
    let (bytes, end) = object.read(|fields| {
        let end = fields.flag("eof").unwrap_or(false);
        let bytes = match (fields.any_text("text"), fields.any_text("base64")) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => decoded(fields, "base64", &text),
            (None, None) if end => Vec::new(),
            _ => {
                fields.wrong("text", "exactly one of text and base64 is needed, or eof alone");
                Vec::new()
            }
        };
        Some((bytes, end))
    })?;
    let Some(id) = id else { return Err(not_found(&door, &tenant, session).await) };
    let length = bytes.len();
    door.service.input(&tenant, session, id, bytes, end).await?;
    Ok(ok(&serde_json::json!({ "bytes": length, "eof": end })))
}

fn decoded(fields: &mut Fields<'_>, name: &str, text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_else(|_| {
        fields.wrong(name, "is not base64");
        Vec::new()
    })
}

/// What is no id is answered like one that is unknown: the session is looked for first.
pub(super) async fn not_found(
    door: &Door,
    tenant: &Tenant,
    session: anchorhold_sandbox::SessionId,
) -> Problem {
    match door.service.session(tenant, session).await {
        Ok(_) => Problem::from(Refusal::ExecutionNotFound),
        Err(refusal) => refusal.into(),
    }
}
