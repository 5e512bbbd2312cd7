//! The shapes of what is sent, for the document only: requests are read field by field (see `body`), so that every
//! mistake is named. `tests::what_is_documented_is_taken` holds the two together.

#![expect(dead_code, reason = "only the schemas of these are used")]

use super::{NetworkMode, merged};
use crate::http::archive::Format as ArchiveFormat;
use crate::http::execution::{Disconnect, Signal};
use crate::http::usage::GroupBy;
use crate::service::LinkRole;
use crate::words::{Engine, Language, Runtime, SessionStatus};
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// A session to be made. Everything is optional.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SessionRequest {
    /// For people: at most 128 bytes without control characters.
    #[schema(max_length = 128)]
    name: Option<String>,
    /// Where code runs when an execution does not say; the server's `default_runtime` where omitted.
    runtime: Option<Runtime>,
    /// Seconds until the session ends by itself: 900 where omitted; the server has a ceiling (8 hours by default).
    #[schema(minimum = 0.001)]
    ttl_seconds: Option<f64>,
    /// Seconds without an execution after which the session ends. Never, where omitted.
    #[schema(minimum = 0.001)]
    idle_timeout_seconds: Option<f64>,
    /// What the session may use. What is omitted is the server's default.
    limits: Option<LimitsRequest>,
    /// What the session may reach.
    network: Option<NetworkRequest>,
    /// Environment variables of every execution: at most 128, names of letters, digits and `_`, values of at most
    /// 32,768 bytes.
    env: Option<BTreeMap<String, String>>,
    /// Tags to find it by: at most 32, names and values of at most 256 bytes.
    metadata: Option<BTreeMap<String, String>>,
    /// The session is to have a browser: it may have 2,048 processes and threads, where nothing else is asked for.
    browser: Option<BrowserRequest>,
}

/// The browser of a session.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct BrowserRequest {
    /// How large its window is: 1280 × 720 where omitted.
    viewport: Option<ViewportRequest>,
}

/// The size of a browser's window, in CSS pixels.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ViewportRequest {
    #[schema(minimum = 1, maximum = 4096)]
    width: u16,
    #[schema(minimum = 1, maximum = 4096)]
    height: u16,
}

/// What a session may use. Each has a ceiling in the server's configuration (`anchorhold config` shows it).
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LimitsRequest {
    /// Processors, in thousandths: 0.5 is half of one.
    #[schema(minimum = 0.001, maximum = 1024)]
    cpu_cores: Option<f64>,
    /// Bytes of memory, of all interpreters together.
    #[schema(minimum = 1)]
    memory_bytes: Option<u64>,
    /// Bytes of the workspace.
    #[schema(minimum = 1)]
    disk_bytes: Option<u64>,
    /// Processes and threads.
    #[schema(minimum = 1)]
    processes: Option<u32>,
    /// Bytes of output that are kept of an execution. At four times as many it is ended.
    #[schema(minimum = 1)]
    output_bytes: Option<u64>,
    /// Seconds that an execution may take in the foreground.
    #[schema(minimum = 0.001)]
    execution_seconds: Option<f64>,
    /// Seconds of processor time of an execution.
    #[schema(minimum = 0.001)]
    cpu_seconds: Option<f64>,
}

/// What a session shall reach.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NetworkRequest {
    /// `none` where omitted. Only a browser has a use for it so far.
    mode: Option<NetworkMode>,
    /// With `allow`: at most 256 of `api.example.org`, `*.example.com` (names below it), `10.0.0.5:8443`. Without a port,
    /// 80 and 443. The operator's ceiling holds as well.
    #[schema(max_items = 256)]
    hosts: Option<Vec<String>>,
}

/// What a session may reach.
#[derive(ToSchema)]
pub(in crate::http) struct Network {
    mode: NetworkMode,
    /// With `allow`.
    hosts: Option<Vec<String>>,
}

/// What changes in a session. What is omitted stays.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SessionChange {
    /// Seconds from now until the session ends by itself.
    #[schema(minimum = 0.001)]
    ttl_seconds: Option<f64>,
    /// All tags, in place of the former ones.
    metadata: Option<BTreeMap<String, String>>,
    /// What the session may reach.
    network: Option<NetworkRequest>,
}

/// Code to be run in a session.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ExecutionRequest {
    /// What the code is written in.
    language: Option<Language>,
    /// The code. The value of a last expression becomes a result; `await` works at the top.
    code: Option<String>,
    /// In place of `language` and `code`: a program with its arguments, which runs natively and waits for no context.
    #[schema(max_items = 1000)]
    command: Option<Vec<String>>,
    /// Which interpreter, for `javascript` and `typescript`: `quickjs` where omitted.
    engine: Option<Engine>,
    /// Where it runs; the session's where omitted. One that the server has no image for is refused.
    runtime: Option<Runtime>,
    /// The interpreter whose variables it sees: a name of `A-Z a-z 0-9 _ . -`, or an id (`ctx_…`). `default` where
    /// omitted. Executions of one context run one after the other.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    context: Option<String>,
    /// Begin the context anew, without its variables.
    reset_context: Option<bool>,
    /// Seconds until it is interrupted: 30 where omitted. At most `limits.execution_seconds`, or what is left of the
    /// session's life in the background. Waiting for the context does not count.
    #[schema(minimum = 0.001)]
    timeout_seconds: Option<f64>,
    /// Environment variables besides the session's.
    env: Option<BTreeMap<String, String>>,
    /// Its working directory: a path in the workspace.
    cwd: Option<String>,
    /// Its input; empty where omitted. `null` leaves it open for `POST …/stdin`.
    stdin: Option<String>,
    /// Answer at once with 202; the execution goes on.
    background: Option<bool>,
    /// What becomes of it when the client of its stream goes away: `continue` where omitted.
    on_disconnect: Option<Disconnect>,
}

/// Actions for the session's browser.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ActionsRequest {
    /// In their order. Each has a `type`: `navigate {url, wait_until}`, `back`, `forward`, `reload`,
    /// `click {target, button, modifiers}`, `double_click`, `hover`, `drag {from, to}`, `type {target, text, delay_ms}`,
    /// `fill {target, value}`, `fill_form {fields}`, `clear {target}`, `select {target, value | label}`,
    /// `check {target}`, `uncheck {target}`, `upload {target, paths}`, `press {key}`, `scroll {target | dx, dy}`,
    /// `wait_for {text | target | url | load | seconds}`, `snapshot {budget_bytes, since, optional}`,
    /// `extract {format, target}`, `screenshot {format, full_page, target, clip, path}`, `pdf {path}`,
    /// `evaluate {expression}`, `dialog {accept, text}`, `cookies {op}`, `storage {op, area}`, `set_viewport {width, height}`, `tabs {op}`.
    #[schema(max_items = 100, value_type = Vec<Object>)]
    actions: Vec<serde_json::Value>,
    /// Seconds for all of them: 30 where omitted, at most `limits.execution_seconds`.
    #[schema(minimum = 0.001)]
    timeout_seconds: Option<f64>,
    /// Answer at once with 202; they go on.
    background: Option<bool>,
    /// What becomes of them when the client of their stream goes away: `continue` where omitted.
    on_disconnect: Option<Disconnect>,
}

/// A link to a session's browser.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LinkRequest {
    /// What it is for.
    role: LinkRole,
    /// Seconds that it is good: 300 where omitted, at most 3,600.
    #[schema(minimum = 0.001, maximum = 3600)]
    ttl_seconds: Option<f64>,
}

/// A port to open.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PortRequest {
    /// Where a program listens, at `localhost` of the session's native runtime.
    #[schema(minimum = 1, maximum = 65535)]
    port: u16,
    /// Seconds that the link is good: 3,600 where omitted, at most 86,400.
    #[schema(minimum = 0.001, maximum = 86400)]
    ttl_seconds: Option<f64>,
}

/// A session and an execution in one: the fields of both, and files.
pub(in crate::http) struct RunRequest;

impl PartialSchema for RunRequest {
    fn schema() -> RefOr<Schema> {
        let about = "A session and an execution in one: the fields of both, and files.";
        // What runs in the background needs a session that outlives the call.
        merged(
            about,
            &["background"],
            [ExecutionRequest::schema(), SessionRequest::schema(), RunFiles::schema()],
        )
    }
}

impl ToSchema for RunRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        ExecutionRequest::schemas(schemas);
        SessionRequest::schemas(schemas);
        RunFiles::schemas(schemas);
    }
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct RunFiles {
    /// Files that are there before the code runs.
    #[schema(max_items = 64)]
    files: Option<Vec<FileContent>>,
    /// Paths of files that the answer shall hold.
    #[schema(max_items = 64)]
    return_files: Option<Vec<String>>,
}

/// A file: its path and exactly one of `content` and `content_base64`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FileContent {
    /// Relative to the workspace.
    path: String,
    /// Its content as text.
    content: Option<String>,
    /// Its content as bytes, in base64.
    content_base64: Option<String>,
}

/// Changes of files.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct BatchRequest {
    /// In their order.
    #[schema(max_items = 1000)]
    operations: Vec<FileOperation>,
}

/// One change.
#[derive(ToSchema)]
#[serde(tag = "op", rename_all = "lowercase")]
enum FileOperation {
    /// Writes a file: `content` or `content_base64`. Parents are made, and a regular file makes way.
    Write {
        /// Relative to the workspace.
        path: String,
        /// The file's content as text.
        content: Option<String>,
        /// The file's content as bytes, in base64.
        content_base64: Option<String>,
    },
    /// Removes a file or a directory.
    Delete {
        /// Relative to the workspace.
        path: String,
        /// A directory with everything below it.
        recursive: Option<bool>,
    },
    /// Gives a file or a directory another path.
    Move {
        /// Where it is, relative to the workspace.
        path: String,
        /// Where it shall be. Parents are made; nothing may be there.
        to: String,
    },
    /// Makes a directory and its parents; one that is there stays.
    Mkdir {
        /// Relative to the workspace.
        path: String,
    },
}

/// More input for a running execution: `text`, or `base64`, or `eof` alone.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct InputRequest {
    /// Text.
    text: Option<String>,
    /// Bytes, in base64.
    base64: Option<String>,
    /// Nothing more will follow.
    eof: Option<bool>,
}

/// One event of a stream, in the fields that server-sent events have.
#[derive(ToSchema)]
pub(in crate::http) struct Event {
    /// What happened: `start`, `stdout`, `stderr`, `result`, `gap`, `error` or `end`.
    event: String,
    /// Its position.
    id: String,
    /// JSON.
    data: String,
}

/// What of the input was taken.
#[derive(ToSchema)]
pub(in crate::http) struct Input {
    /// How many bytes.
    bytes: u64,
    /// Whether the input is closed now.
    eof: bool,
}

/// A signal for a running execution.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SignalRequest {
    signal: Signal,
}

/// A context to be prepared.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ContextRequest {
    /// What its code will be written in.
    language: Language,
    /// Which interpreter, for `javascript` and `typescript`: `quickjs` where omitted.
    engine: Option<Engine>,
    /// Where its code will run; the session's where omitted.
    runtime: Option<Runtime>,
    /// Its name, unique for its language and runtime: `default` where omitted.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    name: Option<String>,
    /// The working directory of its executions: a path in the workspace.
    cwd: Option<String>,
    /// Environment variables of its executions, besides the session's.
    env: Option<BTreeMap<String, String>>,
}

/// A tenant to be made.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct TenantRequest {
    /// Unique: letters, digits and `_ . -`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    name: String,
    /// How much it may use. What is omitted is not limited for it alone.
    quotas: Option<QuotasRequest>,
}

/// What changes in a tenant. What is omitted stays.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct TenantChange {
    /// Unique: letters, digits and `_ . -`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    name: Option<String>,
    /// Whether its keys are refused and its sessions ended.
    disabled: Option<bool>,
    /// All quotas, in place of the former ones.
    quotas: Option<QuotasRequest>,
}

/// How much a tenant may use at a time, or in all.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct QuotasRequest {
    /// Live sessions.
    #[schema(minimum = 1)]
    sessions: Option<u64>,
    /// Cells of live sessions: one of each context and command that runs, of each browser, and of each session whose files
    /// are used.
    #[schema(minimum = 1)]
    cells: Option<u64>,
    /// Open browsers.
    #[schema(minimum = 1)]
    browsers: Option<u64>,
    /// Executions that wait or run.
    #[schema(minimum = 1)]
    concurrent_executions: Option<u64>,
    /// Executions begun in a second.
    #[schema(minimum = 1, maximum = 1000000)]
    executions_per_second: Option<u64>,
    /// Bytes of memory that its live sessions may have together.
    #[schema(minimum = 1)]
    memory_bytes: Option<u64>,
    /// Bytes of workspace that its live sessions may have together.
    #[schema(minimum = 1)]
    workspace_bytes: Option<u64>,
    /// Bytes that it may send to the network and get from it in all.
    #[schema(minimum = 1)]
    egress_bytes: Option<u64>,
    /// What it may spend in all, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]{1,20}$")]
    budget_picos: Option<String>,
}

/// A key to be made.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct KeyRequest {
    /// Unique among the tenant's: letters, digits and `_ . -`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    name: String,
}

/// Bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(in crate::http) struct Bytes(Vec<u8>);

/// A session in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct SessionPath {
    /// The session's id.
    #[param(pattern = "^ses_[0-9a-z]{26}$")]
    id: String,
}

/// A port of a session in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct PortPath {
    /// The session's id.
    #[param(pattern = "^ses_[0-9a-z]{26}$")]
    id: String,
    /// The port.
    #[param(example = 3000, minimum = 1, maximum = 65535)]
    port: u16,
}

/// An execution in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct ExecutionPath {
    /// The session's id.
    #[param(pattern = "^ses_[0-9a-z]{26}$")]
    id: String,
    /// The execution's id.
    #[param(pattern = "^exe_[0-9a-z]{26}$")]
    exe: String,
}

/// A context in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct ContextPath {
    /// The session's id.
    #[param(pattern = "^ses_[0-9a-z]{26}$")]
    id: String,
    /// The context's id.
    #[param(pattern = "^ctx_[0-9a-z]{26}$")]
    ctx: String,
}

/// A file in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct FilePath {
    /// The session's id.
    #[param(pattern = "^ses_[0-9a-z]{26}$")]
    id: String,
    /// Where it is, relative to the workspace. Slashes may be sent as they are or as `%2F`.
    #[param(min_length = 1, example = "notes.txt")]
    path: String,
}

/// A tenant in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct TenantPath {
    /// The tenant's id.
    #[param(pattern = "^ten_[0-9a-z]{26}$")]
    id: String,
}

/// A key in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct KeyPath {
    /// The tenant's id.
    #[param(pattern = "^ten_[0-9a-z]{26}$")]
    id: String,
    /// The key's id.
    #[param(pattern = "^key_[0-9a-z]{26}$")]
    key: String,
}

/// What makes a request happen once.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(in crate::http) struct Once {
    /// A text of the client's choice. For 24 hours the same key with the same body gets the same answer, and nothing
    /// happens twice.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[\\t -~]+$")]
    key: Option<String>,
}

/// A page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct PageQuery {
    /// How many items at most: 100 where omitted.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: the `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which sessions.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct SessionsQuery {
    /// Only sessions that are in this part of their life.
    #[param(inline)]
    status: Option<SessionStatus>,
    /// Only sessions with this tag. `team` stands for the name of any tag, and several may be asked for.
    #[param(rename = "metadata.team", example = "blue")]
    tag: Option<String>,
}

/// Which events.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct EventsQuery {
    /// The position behind which the stream begins: the `n` of the last event that was seen.
    #[param(minimum = 0)]
    after: Option<u64>,
}

/// Which events, in the words of browsers.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(in crate::http) struct LastEvent {
    /// As `after`, which comes first: what browsers send when they connect again.
    #[param(rename = "Last-Event-ID", pattern = "^[0-9]{1,19}$")]
    last_event_id: Option<String>,
}

/// Which files.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct FilesQuery {
    /// The directory, relative to the workspace; the workspace itself where omitted.
    path: Option<String>,
    /// With everything below it.
    recursive: Option<bool>,
}

/// Which directory, and what kind of archive.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ArchiveQuery {
    /// The directory, relative to the workspace; the workspace itself where omitted.
    path: Option<String>,
    /// What it is, or shall be.
    #[param(inline)]
    format: Option<ArchiveFormat>,
}

/// How a file is deleted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct DeleteQuery {
    /// A directory with everything below it.
    recursive: Option<bool>,
}

/// Which part of a file.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(in crate::http) struct PartHeader {
    /// One range of bytes, as `bytes=0-99`, `bytes=100-` or `bytes=-100`. What is no such range is passed over.
    #[param(rename = "Range", example = "bytes=0-99")]
    range: Option<String>,
}

/// Which usage, and how it is summed up.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct UsageQuery {
    /// Records that end at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Records that end before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    /// One sum for each of these; a single sum where omitted.
    #[param(inline, example = "kind")]
    group_by: Option<GroupBy>,
}
