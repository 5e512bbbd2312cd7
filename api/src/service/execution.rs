//! Running code: `reserve → open record → run → close record → answer`.

use super::context::Defaults;
use super::converse::Talk;
use super::live::{Live, Running};
use super::once::{Answer, Await, Key};
use super::{Refusal, Service, SessionRequest, context_id, now_us};
use crate::ledger::{Closing, ExecutionRow, NewExecution, Once, Place, ReturnedFile};
use crate::metrics::Times;
use crate::tenant::Tenant;
use crate::words::{CloseReason, Engine, Language, Runtime};
use anchorhold_sandbox::{
    Class, ContextKey, Dialect, Error, Execution, ExecutionId, Finished, Id, Image, Interpreter, SessionId,
    WorkspacePath,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Of an execution that names none, where its session allows as much.
const TIMEOUT_DEFAULT_US: u64 = 30_000_000;
/// The longest name of a context.
const CONTEXT_BYTES_MAX: usize = 64;
/// The context of executions that name none.
const CONTEXT_DEFAULT: &str = "default";
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

impl ContextName {
    /// As clients write it: an id (`ctx_…`), or a name of 1 to 64 of `A-Z a-z 0-9 _ . -`. What begins as an id does is
    /// never a name, so that no request can mean either.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(id) = text.strip_prefix("ctx_") {
            return id.parse().ok().map(Self::Id);
        }
        let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        (letters && (1..=CONTEXT_BYTES_MAX).contains(&text.len())).then(|| Self::Name(text.to_owned()))
    }
}

impl Default for ContextName {
    /// The one of executions that name none.
    fn default() -> Self {
        Self::Name(CONTEXT_DEFAULT.to_owned())
    }
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
    /// Its input, or the beginning of it.
    pub stdin: Vec<u8>,
    /// More of it may follow.
    pub stdin_open: bool,
    /// The program.
    pub code: String,
    /// Nobody waits for it: it may take as long as its session lives.
    pub background: bool,
    /// What becomes of it when the caller goes away.
    pub on_disconnect: OnDisconnect,
}

impl ExecutionRequest {
    /// A program with nothing else said about it.
    pub fn new(language: Language, code: String) -> Self {
        Self {
            language,
            engine: None,
            runtime: None,
            context: ContextName::default(),
            reset_context: false,
            timeout_us: None,
            env: Vec::new(),
            cwd: None,
            stdin: Vec::new(),
            stdin_open: false,
            code,
            background: false,
            on_disconnect: OnDisconnect::Continue,
        }
    }
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
pub(super) struct Opened {
    pub(super) live: Arc<Live>,
    new: NewExecution,
    /// Somebody was told that it is accepted: from then on it ends in a record, whatever happens.
    told: bool,
    _running: Running,
    _room: Option<OwnedSemaphorePermit>,
}

/// An execution that is recorded to run, with what it runs.
pub(super) struct Work {
    opened: Opened,
    execution: Execution,
    /// It converses instead of running code.
    talk: Option<Talk>,
    /// It has a session of its own, which ends with it.
    run: Option<RunFiles>,
}

impl Work {
    /// The same, conversing.
    pub(super) fn talking(self, talk: Talk) -> Self {
        Self { talk: Some(talk), ..self }
    }
}

/// What a run takes from and gives to its caller besides the execution.
struct RunFiles {
    given: Vec<(WorkspacePath, Bytes)>,
    wanted: Vec<WorkspacePath>,
}

/// Cancels an execution when it is dropped: when the caller goes away before the answer.
#[derive(Debug)]
pub struct CancelOnDrop {
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
    /// Runs code in a session.
    pub async fn execute(
        &self,
        tenant: &Tenant,
        session: SessionId,
        request: ExecutionRequest,
        key: Option<Key>,
        awaited: Await,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let id = ExecutionId::random();
        let cancelled = awaited == Await::End && request.on_disconnect == OnDisconnect::Cancel;
        let _cancel = cancelled.then(|| self.cancel_on_drop(session, id));
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.id(), format!("executions/{session}")));
        let answer = self.at_most_once(once.clone(), awaited, async move {
            if request.language == Language::Browser {
                service.find(&tenant, session).await?.helm.may_act().await?;
            }
            let work = service.open(&tenant, session, id, request, once).await?;
            service.go_on(work, awaited).await
        });
        execution(answer.await?)
    }

    /// Makes a session, runs code in it, ends it.
    pub async fn run(
        &self,
        tenant: &Tenant,
        request: RunRequest,
        key: Option<Key>,
        awaited: Await,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.id(), "run"));
        let answer = self.at_most_once(once.clone(), awaited, async move {
            let work = service.open_run(&tenant, request, once).await?;
            service.go_on(work, awaited).await
        });
        execution(answer.await?)
    }

    /// Cancels an execution when the guard is dropped.
    pub fn cancel_on_drop(&self, session: SessionId, id: ExecutionId) -> CancelOnDrop {
        CancelOnDrop { service: self.clone(), session, id }
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

    /// More standard input for a running execution, or its end.
    pub async fn input(
        &self,
        tenant: &Tenant,
        session: SessionId,
        id: ExecutionId,
        bytes: Vec<u8>,
        end: bool,
    ) -> Result<(), Refusal> {
        let live = self.find(tenant, session).await?;
        if live.cells.input(id, bytes, end)? {
            return Ok(());
        }
        self.execution(tenant, session, id).await?;
        Err(Refusal::NotRunning)
    }

    /// Ends an execution together with its interpreter.
    pub async fn kill(&self, tenant: &Tenant, session: SessionId, id: ExecutionId) -> Result<(), Refusal> {
        let live = self.find(tenant, session).await?;
        if live.cells.kill(id) {
            return Ok(());
        }
        self.execution(tenant, session, id).await?;
        Err(Refusal::NotRunning)
    }

    pub(super) async fn open(
        &self,
        tenant: &Tenant,
        session: SessionId,
        id: ExecutionId,
        request: ExecutionRequest,
        once: Option<Once>,
    ) -> Result<Work, Refusal> {
        self.accepting()?;
        let live = self.find(tenant, session).await?;
        let timeout_us = live.timeout(&request)?;
        let (place, defaults) = self.place(&live, id, &request)?;
        let room = self.room(&request, 0)?;
        let running = live.admit(id, &place)?;
        let new = NewExecution { id, session, created_us: now_us(), place };
        self.0.ledger.open_execution(&new, once.as_ref()).await?;
        let execution = assignment(&new, request, defaults, timeout_us);
        let opened = Opened { live, new, told: false, _running: running, _room: Some(room) };
        Ok(Work { opened, execution, talk: None, run: None })
    }

    async fn open_run(
        &self,
        tenant: &Tenant,
        request: RunRequest,
        once: Option<Once>,
    ) -> Result<Work, Refusal> {
        let (live, row) = self.admit_session(tenant, request.session)?;
        let prepared = async {
            let timeout_us = live.timeout(&request.execution)?;
            let id = ExecutionId::random();
            let (place, defaults) = self.place(&live, id, &request.execution)?;
            let files = request.files.iter().map(|(_, content)| content.len()).sum();
            let room = self.room(&request.execution, files)?;
            let running = live.admit(id, &place)?;
            let new = NewExecution { id, session: live.id, created_us: row.created_us, place };
            self.0.ledger.open_run(&row, &new, once.as_ref()).await?;
            let execution = assignment(&new, request.execution, defaults, timeout_us);
            let opened =
                Opened { live: live.clone(), new, told: false, _running: running, _room: Some(room) };
            Ok((opened, execution))
        };
        match prepared.await {
            Ok((opened, execution)) => {
                let run = RunFiles { given: request.files, wanted: request.return_files };
                Ok(Work { opened, execution, talk: None, run: Some(run) })
            }
            Err(refusal) => {
                self.0.live.remove(&live);
                Err(refusal)
            }
        }
    }

    /// Runs it, in a task of its own where only the beginning is waited for.
    pub(super) async fn go_on(&self, mut work: Work, awaited: Await) -> Result<Answer, Refusal> {
        if awaited == Await::End {
            return self.finish(work).await.map(Answer::Execution);
        }
        work.opened.told = true;
        let row = Arc::new(work.opened.new.row());
        let service = self.clone();
        self.0.work.spawn(async move {
            let _recorded = service.finish(work).await;
        });
        Ok(Answer::Execution(row))
    }

    async fn finish(&self, work: Work) -> Result<Arc<ExecutionRow>, Refusal> {
        let Work { opened, execution, talk, run } = work;
        let live = opened.live.clone();
        let Some(run) = run else {
            let outcome = opened.run(execution, talk).await;
            return self.conclude(opened, outcome, None).await;
        };
        let answer = self.finish_run(opened, execution, run).await;
        if answer.is_err() {
            live.set_forgettable();
        }
        // The answer does not wait for the session's end.
        self.begin_close(&live, CloseReason::Client);
        answer
    }

    async fn finish_run(
        &self,
        opened: Opened,
        execution: Execution,
        run: RunFiles,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        let live = opened.live.clone();
        for (path, content) in run.given {
            let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let body = futures_util::stream::iter([Ok(content)]);
            if let Err(error) = live.cells.upload(&path, Some(length), body).await {
                return self.conclude(opened, Err(error), None).await;
            }
        }
        let outcome = live.cells.execute(execution).await;
        let returned = match (&outcome, &*run.wanted) {
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
        let opened = Opened { live: live.clone(), new, told: true, _running: running, _room: None };
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
            Ok(finished) => self.closing(&opened.new, &opened.live.tenant, finished, files),
            Err(Error::Lost) => self.lost(&opened.new, &opened.live.tenant),
            Err(error) if opened.told => self.not_run(&opened.new, &opened.live.tenant, error),
            Err(error) => return self.release(opened, error).await,
        };
        let begun = Instant::now();
        let Err(error) = self.0.ledger.close_execution(&closing).await else {
            self.count(&closing, begun.elapsed());
            self.note_spent(&opened.live.account).await;
            opened.live.cells.acknowledge(closing.id);
            return Ok(Arc::new(closing.into_row()));
        };
        // It ran, so it is recorded when there is room again; the caller need not wait for that.
        let service = self.clone();
        self.0.work.spawn(async move {
            service.until_written("close an execution", || service.0.ledger.close_execution(&closing)).await;
            service.count(&closing, begun.elapsed());
            service.note_spent(&opened.live.account).await;
            opened.live.cells.acknowledge(closing.id);
            drop(opened);
        });
        Err(error.into())
    }

    fn count(&self, closing: &Closing, settle: Duration) {
        let [queue, run] = [closing.report.queued_us, closing.report.wall_us].map(Duration::from_micros);
        let place = &closing.place;
        let take = closing.taking.map(|taking| Duration::from_micros(taking.take_us));
        let times = Times { queue, take, run, settle };
        self.0.metrics.execution(place.language, place.runtime, closing.status, times);
        self.0.traces.execution(closing, settle);
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

    /// Room for what the request makes this process hold.
    fn room(&self, request: &ExecutionRequest, files: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let env: usize = request.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = request.code.len() + request.stdin.len() + env + files;
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = self.0.waiting_kib.clone().try_acquire_many_owned(kib);
        room.map_err(|_| Refusal::Capacity("too much code waits to run".into()))
    }

    /// Where the execution runs, and what its context gives it.
    fn place(
        &self,
        live: &Live,
        id: ExecutionId,
        request: &ExecutionRequest,
    ) -> Result<(Place, Defaults), Refusal> {
        let place = match &request.context {
            // It waits for nothing, and nothing is left for others: a context that nobody else names.
            _ if request.language.stands_alone() => {
                self.place_named(id.to_string(), request.language, request.engine, Runtime::Native)?
            }
            ContextName::Name(name) => {
                let runtime = request.runtime.unwrap_or(live.terms.runtime);
                self.place_named(name.clone(), request.language, request.engine, runtime)?
            }
            ContextName::Id(id) => {
                let (place, defaults) = live.context(*id).ok_or(Refusal::ContextNotFound)?;
                if place.language != request.language {
                    let why = format!("is a context of {}", place.language);
                    return Err(Refusal::Invalid { field: "context", why });
                }
                let engine = place.engine.unwrap_or(Engine::DEFAULT);
                if request.engine.is_some_and(|asked| asked != engine) {
                    let why = format!("is a context of {engine}");
                    return Err(Refusal::Invalid { field: "context", why });
                }
                return Ok((place, defaults));
            }
        };
        let known = context_id(live.id, &place).and_then(|id| live.context(id));
        Ok((place, known.map(|(_, defaults)| defaults).unwrap_or_default()))
    }

    /// Where a context of this name is.
    pub(super) fn place_named(
        &self,
        context: String,
        language: Language,
        engine: Option<Engine>,
        runtime: Runtime,
    ) -> Result<Place, Refusal> {
        if engine.is_some() && runtime == Runtime::Native {
            let why = "is for the runtime wasm".into();
            return Err(Refusal::Invalid { field: "engine", why });
        }
        let images = self.0.sandbox.images();
        if images.is_empty() && !self.0.sandbox.is_ready() {
            return Err(Refusal::Capacity("the warden is away".into()));
        }
        let image = choose(&images, language, engine, runtime)
            .ok_or_else(|| Refusal::Isolation(missing(language, engine, runtime)))?;
        Ok(Place { language, engine, runtime, image: image.digest, context })
    }

    /// Whether there is an image for native sessions.
    pub(super) fn runs_natively(&self) -> bool {
        self.0.sandbox.images().iter().any(|image| image.class == Class::Native)
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

fn execution(answer: Answer) -> Result<Arc<ExecutionRow>, Refusal> {
    match answer {
        Answer::Execution(row) => Ok(row),
        Answer::Made(_) => Err(Refusal::Internal),
    }
}

impl Live {
    /// The time of an execution.
    fn timeout(&self, request: &ExecutionRequest) -> Result<u64, Refusal> {
        let foreground_us = self.terms.limits.execution_us;
        let (most_us, what) = if request.background {
            (self.left_us(), "what is left of the session's life")
        } else {
            (foreground_us, "limits.execution_seconds")
        };
        // A command in the background is often a server.
        let endless = request.background && request.language == Language::Command;
        let default_us = if endless { most_us } else { TIMEOUT_DEFAULT_US.min(most_us) };
        let timeout_us = request.timeout_us.unwrap_or(default_us);
        if timeout_us <= most_us {
            return Ok(timeout_us);
        }
        let why = format!("must be at most {what} ({} s)", most_us / 1_000_000);
        Err(Refusal::Invalid { field: "timeout_seconds", why })
    }
}

/// Where nothing else is said, an execution takes this from its context.
fn assignment(
    new: &NewExecution,
    request: ExecutionRequest,
    defaults: Defaults,
    timeout_us: u64,
) -> Execution {
    let mut env = defaults.env;
    env.retain(|(name, _)| request.env.iter().all(|(other, _)| other != name));
    env.extend(request.env);
    Execution {
        id: new.id,
        context: context_key(&new.place),
        reset_context: request.reset_context,
        code: request.code,
        dialect: dialect(new.place.language),
        stdin: request.stdin,
        stdin_open: request.stdin_open,
        env,
        cwd: request.cwd.or(defaults.cwd).map(|path| format!("/workspace/{path}")),
        timeout_us,
    }
}

/// Contexts of two languages never share an interpreter, also where one image runs both.
pub(super) fn context_key(place: &Place) -> ContextKey {
    ContextKey {
        image: place.image,
        interpreter: interpreter(place),
        name: format!("{}/{}", place.language, place.context),
    }
}

/// What of the image runs it.
fn interpreter(place: &Place) -> Interpreter {
    match (place.runtime, place.language) {
        (Runtime::Wasm, _) | (Runtime::Native, Language::Browser) => Interpreter::Own,
        (Runtime::Native, Language::Python) => Interpreter::Python,
        (Runtime::Native, Language::JavaScript | Language::TypeScript) => Interpreter::Node,
        (Runtime::Native, Language::Bash) => Interpreter::Bash,
        (Runtime::Native, Language::Command) => Interpreter::Command,
        (Runtime::Native, Language::Terminal) => Interpreter::Terminal,
    }
}

fn dialect(language: Language) -> Dialect {
    match language {
        Language::TypeScript => Dialect::TypeScript,
        _ => Dialect::Own,
    }
}

fn missing(language: Language, engine: Option<Engine>, runtime: Runtime) -> String {
    let by = engine.map(|engine| format!(" by {engine}")).unwrap_or_default();
    format!("no image on this server runs {language}{by} ({runtime})")
}

/// The image for a language; the engine decides where there are several. TypeScript runs as JavaScript. One image runs
/// everything that is native.
fn choose(images: &[Image], language: Language, engine: Option<Engine>, runtime: Runtime) -> Option<&Image> {
    let class = match (runtime, language) {
        (_, Language::Browser) => Class::Browser,
        (Runtime::Native, _) => return images.iter().find(|image| image.class == Class::Native),
        (Runtime::Wasm, _) => Class::Wasm,
    };
    let boa = engine.unwrap_or(Engine::DEFAULT) == Engine::Boa;
    let speaks = if language == Language::TypeScript { Language::JavaScript } else { language }.as_str();
    let mut fitting = images.iter().filter(|image| image.class == class && image.language == speaks);
    fitting.find(|image| image.name.starts_with("boa") == boa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_chooses_among_images_of_a_language() {
        let image = |name: &str, language: &str| Image {
            name: name.into(),
            class: if language == "native" { Class::Native } else { Class::Wasm },
            language: language.into(),
            digest: anchorhold_sandbox::Digest([u8::try_from(name.len()).unwrap(); 32]),
        };
        let images = [
            image("boa-wasm", "javascript"),
            image("javascript-wasm", "javascript"),
            image("python-wasm", "python"),
            image("code", "native"),
        ];
        let chosen = |language, engine, runtime| {
            choose(&images, language, engine, runtime).map(|image| image.name.as_str())
        };
        let name = |language, engine| chosen(language, engine, Runtime::Wasm);
        assert_eq!(name(Language::JavaScript, None), Some("javascript-wasm"));
        assert_eq!(name(Language::JavaScript, Some(Engine::QuickJs)), Some("javascript-wasm"));
        assert_eq!(name(Language::JavaScript, Some(Engine::Boa)), Some("boa-wasm"));
        assert_eq!(name(Language::TypeScript, None), Some("javascript-wasm"));
        assert_eq!(name(Language::TypeScript, Some(Engine::Boa)), Some("boa-wasm"));
        assert_eq!(name(Language::Python, None), Some("python-wasm"));
        assert_eq!(name(Language::Bash, None), None);
        for language in [Language::Python, Language::JavaScript, Language::TypeScript, Language::Bash] {
            assert_eq!(chosen(language, None, Runtime::Native), Some("code"));
        }
        assert_eq!(chosen(Language::Browser, None, Runtime::Native), None);
    }
}
