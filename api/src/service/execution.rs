//! Running code: `reserve → open record → run → close record → answer`.

use super::live::{Live, Running};
use super::once::{Answer, Key};
use super::{Refusal, Service, SessionRequest, now_us};
use crate::ledger::{
    Closing, ExecutionRow, GuestError, NewExecution, Once, Output, Place, Report, ReturnedFile, Rich,
};
use crate::price::Used;
use crate::tenant::Tenant;
use crate::words::{CloseReason, Engine, ExecutionStatus, Language, LimitName, Runtime};
use anchorhold_sandbox::{
    Capture, ContextKey, Dialect, Error, Execution, ExecutionId, Finished, Id, Image, Limit, Outcome, SessionId,
    WorkspacePath,
};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Of an execution that names none, where its session allows as much.
const TIMEOUT_DEFAULT_US: u64 = 30_000_000;
/// How long a cancellation waits for the execution's end.
const CANCEL_WAIT: Duration = Duration::from_secs(5);
/// An execution that is not in the sandbox yet is asked for again after this.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// What becomes of an execution whose caller went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It goes on.
    Continue,
    /// It is cancelled.
    Cancel,
}

/// How an execution names its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextName {
    /// By name, among those of the same language and runtime.
    Name(String),
    /// By the id that an earlier execution answered.
    Id(Id),
}

/// Code to run.
#[derive(Debug, Clone)]
pub struct ExecutionRequest {
    /// What it is written in.
    pub language: Language,
    /// Which interpreter.
    pub engine: Option<Engine>,
    /// On what; the session's where omitted.
    pub runtime: Option<Runtime>,
    /// Where.
    pub context: ContextName,
    /// In a new interpreter.
    pub reset_context: bool,
    /// Its time.
    pub timeout_us: Option<u64>,
    /// Additions to the session's environment.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub cwd: Option<WorkspacePath>,
    /// Its input.
    pub stdin: Vec<u8>,
    /// The program.
    pub code: String,
    /// What becomes of it when the caller goes away.
    pub on_disconnect: OnDisconnect,
}

/// A session for one execution.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The session.
    pub session: SessionRequest,
    /// The execution.
    pub execution: ExecutionRequest,
    /// Files that are there before it runs.
    pub files: Vec<(WorkspacePath, Bytes)>,
    /// Files to answer with.
    pub return_files: Vec<WorkspacePath>,
}

/// An execution on its way: opened in the ledger, not closed.
struct Opened {
    live: Arc<Live>,
    new: NewExecution,
    _running: Running,
    _room: Option<OwnedSemaphorePermit>,
}

/// Cancels an execution when its caller goes away before the answer.
struct CancelOnDrop {
    service: Service,
    session: SessionId,
    id: ExecutionId,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        // Also after the answer: then there is nothing of that id to cancel.
        if let Some(live) = self.service.0.live.get(self.session) {
            live.cells.cancel(self.id);
        }
    }
}

impl Service {
    /// Runs code in a session and waits for its end.
    pub async fn execute(
        &self,
        tenant: &Tenant,
        session: SessionId,
        request: ExecutionRequest,
        key: Option<Key>,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let id = ExecutionId::random();
        let _cancel = (request.on_disconnect == OnDisconnect::Cancel).then(|| CancelOnDrop {
            service: self.clone(),
            session,
            id,
        });
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.name(), format!("executions/{session}")));
        let answer = self.at_most_once(once.clone(), async move {
            service.accepting()?;
            let live = service.find(&tenant, session).await?;
            service.execute_in(&live, id, request, once).await.map(Answer::Execution)
        });
        execution(answer.await?)
    }

    /// Makes a session, runs code in it, ends it.
    pub async fn run(
        &self,
        tenant: &Tenant,
        request: RunRequest,
        key: Option<Key>,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.name(), "run"));
        let answer = self.at_most_once(once.clone(), async move {
            service.run_whole(&tenant, request, once).await.map(Answer::Execution)
        });
        execution(answer.await?)
    }

    /// Ends an execution; answers what is known of it after its end, or after a while.
    pub async fn cancel(
        &self,
        tenant: &Tenant,
        session: SessionId,
        id: ExecutionId,
    ) -> Result<ExecutionRow, Refusal> {
        if let Ok(live) = self.find(tenant, session).await {
            let asked = async {
                while live.is_running(id) {
                    // `false`: it was accepted, but the sandbox does not have it yet.
                    if live.cells.cancel(id) {
                        live.execution_ended(id).await;
                    } else {
                        tokio::time::sleep(CANCEL_AGAIN).await;
                    }
                }
            };
            let _late = tokio::time::timeout(CANCEL_WAIT, asked).await;
        }
        self.execution(tenant, session, id).await
    }

    async fn execute_in(
        &self,
        live: &Arc<Live>,
        id: ExecutionId,
        request: ExecutionRequest,
        once: Option<Once>,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let timeout_us = timeout(&request, live.terms.limits.execution_us)?;
        let place = self.place(live, &request)?;
        let room = self.room(&request, 0)?;
        let running = live.admit(id, &place)?;
        let new = NewExecution { id, session: live.id, created_us: now_us(), place };
        self.0.ledger.open_execution(&new, once.as_ref()).await?;
        let opened = Opened { live: live.clone(), new, _running: running, _room: Some(room) };
        let outcome = live.cells.execute(assignment(&opened.new, request, timeout_us)).await;
        self.conclude(opened, outcome, None).await
    }

    async fn run_whole(
        &self,
        tenant: &Tenant,
        request: RunRequest,
        once: Option<Once>,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let (live, row) = self.admit_session(tenant, request.session)?;
        let prepared = async {
            let timeout_us = timeout(&request.execution, live.terms.limits.execution_us)?;
            let place = self.place(&live, &request.execution)?;
            let files = request.files.iter().map(|(_, content)| content.len()).sum();
            let room = self.room(&request.execution, files)?;
            let id = ExecutionId::random();
            let running = live.admit(id, &place)?;
            let new = NewExecution { id, session: live.id, created_us: row.created_us, place };
            self.0.ledger.open_run(&row, &new, once.as_ref()).await?;
            Ok((timeout_us, Opened { live: live.clone(), new, _running: running, _room: Some(room) }))
        };
        let (timeout_us, opened) = match prepared.await {
            Ok(prepared) => prepared,
            Err(refusal) => {
                self.0.live.remove(&live);
                return Err(refusal);
            }
        };
        let answer =
            self.run_opened(opened, request.execution, timeout_us, request.files, &request.return_files);
        let answer = answer.await;
        if answer.is_err() {
            live.set_forgettable();
        }
        // The answer does not wait for the session's end.
        self.begin_close(&live, CloseReason::Client);
        answer
    }

    async fn run_opened(
        &self,
        opened: Opened,
        request: ExecutionRequest,
        timeout_us: u64,
        files: Vec<(WorkspacePath, Bytes)>,
        return_files: &[WorkspacePath],
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let live = opened.live.clone();
        for (path, content) in files {
            let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let body = futures_util::stream::iter([Ok(content)]);
            if let Err(error) = live.cells.upload(&path, Some(length), body).await {
                return self.release(opened, error).await;
            }
        }
        let outcome = live.cells.execute(assignment(&opened.new, request, timeout_us)).await;
        let returned = match (&outcome, return_files) {
            (Err(_), _) | (_, []) => None,
            (Ok(_), paths) => Some(live.return_files(paths).await),
        };
        self.conclude(opened, outcome, returned).await
    }

    /// Takes up an execution that an earlier process opened.
    pub(super) fn take_up(&self, live: Arc<Live>, row: ExecutionRow) {
        let running = live.resume(row.id);
        let new =
            NewExecution { id: row.id, session: row.session, created_us: row.created_us, place: row.place };
        let opened = Opened { live: live.clone(), new, _running: running, _room: None };
        let (service, key) = (self.clone(), context_key(&opened.new.place));
        self.0.work.spawn(async move {
            // Whatever is not a result: no cell can tell what became of it.
            let outcome = live.cells.recover(opened.new.id, &key).await.map_err(|_| Error::Lost);
            let _answer = service.conclude(opened, outcome, None).await;
        });
    }

    /// Closes an execution, or releases it when nothing ran.
    async fn conclude(
        &self,
        opened: Opened,
        outcome: Result<Finished, Error>,
        files: Option<Vec<ReturnedFile>>,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let closing = match outcome {
            Ok(finished) => self.closing(&opened, finished, files),
            Err(Error::Lost) => lost(&opened.new, opened.live.tenant.clone(), &self.0.prices.version),
            Err(error) => return self.release(opened, error).await,
        };
        let Err(error) = self.0.ledger.close_execution(&closing).await else {
            opened.live.cells.acknowledge(closing.id);
            return Ok(Arc::new(closing.into_row()));
        };
        // It ran, so it is recorded when there is room again; the caller need not wait for that.
        let service = self.clone();
        self.0.work.spawn(async move {
            service.until_written("close an execution", || service.0.ledger.close_execution(&closing)).await;
            opened.live.cells.acknowledge(closing.id);
            drop(opened);
        });
        Err(error.into())
    }

    async fn release(&self, opened: Opened, error: Error) -> Result<Arc<ExecutionRow>, Refusal> {
        let service = self.clone();
        let id = opened.new.id;
        if self.0.ledger.release_execution(id).await.is_err() {
            self.0.work.spawn(async move {
                service
                    .until_written("release an execution", || service.0.ledger.release_execution(id))
                    .await;
                drop(opened);
            });
        }
        Err(error.into())
    }

    fn closing(&self, opened: &Opened, finished: Finished, files: Option<Vec<ReturnedFile>>) -> Closing {
        let used = Used { cpu_us: finished.usage.cpu_us, memory_mib_ms: finished.usage.memory_mib_ms };
        let mut report = report(&finished);
        report.cost_picos = if finished.cell.is_some() { self.0.prices.cost(used) } else { 0 };
        Closing {
            id: opened.new.id,
            session: opened.new.session,
            tenant: opened.live.tenant.clone(),
            status: status(finished.outcome),
            created_us: opened.new.created_us,
            ended_us: now_us(),
            place: opened.new.place.clone(),
            cell: finished.cell.map(|cell| (cell, finished.cpu_total_us)),
            report,
            price_version: self.0.prices.version.clone(),
            output: Output {
                stdout: text(finished.stdout),
                stderr: text(finished.stderr),
                results: finished.values.iter().map(|json| rich(json)).collect(),
                error: finished.error.as_deref().map(guest_error),
                files,
            },
        }
    }

    /// Room for what the request makes this process hold.
    fn room(&self, request: &ExecutionRequest, files: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let env: usize = request.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = request.code.len() + request.stdin.len() + env + files;
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = self.0.waiting_kib.clone().try_acquire_many_owned(kib);
        room.map_err(|_| Refusal::Capacity("too much code waits to run".into()))
    }

    /// Where the execution runs.
    fn place(&self, live: &Live, request: &ExecutionRequest) -> Result<Place, Refusal> {
        let context = match &request.context {
            ContextName::Name(name) => name.clone(),
            ContextName::Id(id) => {
                let place = live.context(*id).ok_or(Refusal::ContextNotFound)?;
                return if place.language == request.language {
                    Ok(place)
                } else {
                    let why = format!("is a context of {}", place.language);
                    Err(Refusal::Invalid { field: "context", why })
                };
            }
        };
        let runtime = request.runtime.unwrap_or(live.terms.runtime);
        if runtime == Runtime::Native {
            return Err(Refusal::Isolation("no image on this server runs code natively".into()));
        }
        let images = self.0.sandbox.images();
        if images.is_empty() && !self.0.sandbox.is_ready() {
            return Err(Refusal::Capacity("the warden is away".into()));
        }
        let image = choose(&images, request.language, request.engine).ok_or_else(|| {
            Refusal::Isolation(format!("no image on this server runs {} in wasm", request.language))
        })?;
        let (language, engine) = (request.language, request.engine);
        Ok(Place { language, engine, runtime, image: image.digest, context })
    }
}

impl Live {
    /// Reads files after a run. One that cannot be read says why; it does not spoil the others.
    async fn return_files(&self, paths: &[WorkspacePath]) -> Vec<ReturnedFile> {
        let mut files = Vec::with_capacity(paths.len());
        let mut room = super::file::RETURNED_BYTES_MAX;
        for path in paths {
            let content = super::file::read_whole(self, path, room).await;
            room = room.saturating_sub(content.as_ref().map_or(0, String::len));
            files.push(ReturnedFile { path: path.to_string(), content });
        }
        files
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
            output: Some(self.output),
        }
    }
}

fn execution(answer: Answer) -> Result<Arc<ExecutionRow>, Refusal> {
    match answer {
        Answer::Execution(row) => Ok(row),
        Answer::Session(_) => Err(Refusal::Internal),
    }
}

fn timeout(request: &ExecutionRequest, most_us: u64) -> Result<u64, Refusal> {
    let timeout_us = request.timeout_us.unwrap_or(TIMEOUT_DEFAULT_US.min(most_us));
    if timeout_us <= most_us {
        return Ok(timeout_us);
    }
    let why = format!("must be at most limits.execution_seconds ({} s)", most_us / 1_000_000);
    Err(Refusal::Invalid { field: "timeout_seconds", why })
}

fn assignment(new: &NewExecution, request: ExecutionRequest, timeout_us: u64) -> Execution {
    Execution {
        id: new.id,
        context: context_key(&new.place),
        reset_context: request.reset_context,
        code: request.code,
        dialect: dialect(new.place.language),
        stdin: request.stdin,
        env: request.env,
        cwd: request.cwd.map(|path| format!("/workspace/{path}")),
        timeout_us,
    }
}

/// Contexts of two languages never share an interpreter, also where one image runs both.
pub(super) fn context_key(place: &Place) -> ContextKey {
    ContextKey { image: place.image, name: format!("{}/{}", place.language, place.context) }
}

fn dialect(language: Language) -> Dialect {
    match language {
        Language::TypeScript => Dialect::TypeScript,
        Language::Python | Language::JavaScript | Language::Bash => Dialect::Own,
    }
}

/// The image for a language; the engine decides where there are several. TypeScript runs as JavaScript.
fn choose(images: &[Image], language: Language, engine: Option<Engine>) -> Option<&Image> {
    let boa = engine == Some(Engine::Boa);
    let speaks = if language == Language::TypeScript { Language::JavaScript } else { language }.as_str();
    images.iter().find(|image| image.language == speaks && image.name.starts_with("boa") == boa)
}

/// The record of an execution that nobody can tell anything of: nothing is billed.
pub(super) fn lost(new: &NewExecution, tenant: String, price_version: &str) -> Closing {
    Closing {
        id: new.id,
        session: new.session,
        tenant,
        status: ExecutionStatus::Lost,
        created_us: new.created_us,
        ended_us: now_us(),
        place: new.place.clone(),
        cell: None,
        report: Report { state_lost: true, ..Report::default() },
        output: Output::default(),
        price_version: price_version.to_owned(),
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
    let cut = |stream: &Capture| stream.total_bytes > u64::try_from(stream.bytes.len()).unwrap_or(u64::MAX);
    Report {
        limit: match finished.outcome {
            Outcome::Exceeded(limit) => Some(limit_name(limit)),
            _ => None,
        },
        limits_hit: finished.limits_hit.iter().map(|&limit| limit_name(limit)).collect(),
        state_lost: finished.state_lost,
        exit_code: finished.exit_code,
        stdout_bytes: finished.stdout.total_bytes,
        stderr_bytes: finished.stderr.total_bytes,
        truncated: cut(&finished.stdout) || cut(&finished.stderr),
        wall_us: usage.wall_us,
        cpu_us: usage.cpu_us,
        memory_peak_bytes: usage.memory_peak_bytes,
        memory_mib_ms: usage.memory_mib_ms,
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

/// What a program wrote need not be text; what is not becomes U+FFFD.
fn text(stream: Capture) -> String {
    String::from_utf8(stream.bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A guest wrote this. What has not the shape of a rich value is shown as what it is: JSON.
fn rich(json: &[u8]) -> Rich {
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
            let _text = text(Capture { bytes, total_bytes: 0 });
        }
    }

    #[test]
    fn the_engine_chooses_among_images_of_a_language() {
        let image = |name: &str, language: &str| Image {
            name: name.into(),
            language: language.into(),
            digest: anchorhold_sandbox::Digest([u8::try_from(name.len()).unwrap(); 32]),
        };
        let images = [
            image("boa-wasm", "javascript"),
            image("javascript-wasm", "javascript"),
            image("python-wasm", "python"),
        ];
        let name = |language, engine| choose(&images, language, engine).map(|image| image.name.as_str());
        assert_eq!(name(Language::JavaScript, None), Some("javascript-wasm"));
        assert_eq!(name(Language::JavaScript, Some(Engine::QuickJs)), Some("javascript-wasm"));
        assert_eq!(name(Language::JavaScript, Some(Engine::Boa)), Some("boa-wasm"));
        assert_eq!(name(Language::TypeScript, None), Some("javascript-wasm"));
        assert_eq!(name(Language::TypeScript, Some(Engine::Boa)), Some("boa-wasm"));
        assert_eq!(name(Language::Python, None), Some("python-wasm"));
        assert_eq!(name(Language::Bash, None), None);
    }
}
