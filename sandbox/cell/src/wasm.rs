//! The wasm worker: one guest, one program at a time, until the hatch closes or the interpreter is lost.
//!
//! Two threads. The main thread runs the guest; it was forked with the interpreter in it. The receiving thread owns
//! reading the hatch, stops programs ([`watch`]), lets gathered output leave ([`outbox`]) and answers new listeners.

mod guest;
mod input;
mod wasi;

use crate::life::{self, Walling};
use crate::outbox::{self, Outbox};
use crate::typescript;
use crate::watch::{self, Request};
use anchorhold_jail::hatch::{Commit, Dialect, Ended, Execute, FromCell, How, ToCell, VALUE_BYTES_MAX};
use anchorhold_jail::id::{ExecutionId, random_bytes};
use anchorhold_jail::packet::{Assembler, PacketError};
use guest::{Guest, Interrupter, Program, Start};
pub use guest::{Own, Template};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::borrow::Cow;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasi::Session;
use wasmtime::{AsContextMut, ResourceLimiter, StoreContextMut, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;

/// Elements of a guest's table of functions; interpreters have some thousands and add none.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// The receiving thread decodes messages of some megabytes, on the heap.
const RECEIVER_STACK_BYTES: usize = 256 * 1024;
/// Why a guest is interrupted, as its ABI counts.
const REASON_TIMEOUT: i32 = 1;
const REASON_CANCELLED: i32 = 2;
/// Where the session's files are, for programs that look.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("HOME", "/home/user"),
    ("USER", "user"),
    ("PWD", "/workspace"),
    ("TMPDIR", "/tmp"),
    ("LANG", "C.UTF-8"),
];

/// What the host keeps for a guest.
pub struct Host {
    pub(crate) wasi: WasiP1Ctx,
    session: Option<Arc<Session>>,
    interrupter: Option<Interrupter>,
    memory: MemoryLimit,
    /// The error that the guest reported.
    error: Option<Vec<u8>>,
    /// The exit code that the guest reported.
    exit_code: Option<i32>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            wasi: wasi::nothing(),
            session: None,
            interrupter: None,
            memory: MemoryLimit::default(),
            error: None,
            exit_code: None,
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("session", &self.session)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// How much memory a guest may have.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimit {
    bytes: u64,
    refused: bool,
}

impl Default for MemoryLimit {
    fn default() -> Self {
        Self { bytes: u64::MAX, refused: false }
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        _now: usize,
        wanted: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = wanted as u64 <= self.bytes;
        self.refused |= !granted;
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _now: usize,
        wanted: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(wanted <= TABLE_ELEMENTS_MAX)
    }
}

/// Runs a cell in this process, from `Prepared` to its end.
pub fn run(template: Template, hatch: OwnedFd, walls: &mut dyn Walling) -> ! {
    life::end_on_panic();
    let (mut guest, runtime) = template.into_guest();
    let (commit, [root]) = life::wait_for_commit(&hatch);
    life::require(&hatch, walls.restrict(&commit, root.as_fd()));
    let session = Arc::new(Session {
        outbox: Arc::new(Outbox::new(hatch)),
        watch: Arc::default(),
        engine: guest.store().0.engine().clone(),
        origin: Instant::now(),
        input: input::Input::default(),
    });
    let hatch = session.outbox.hatch();
    let no_thread = |e| format!("start a thread: {e}");
    let starting = life::require(hatch, receiver(&session).map_err(no_thread));
    let _entered = runtime.enter();
    let connected = connect(&mut guest, &session, &commit, &root);
    life::require(hatch, connected.map_err(|e| format!("connect the guest: {e}")));
    life::require(hatch, starting.wait().map_err(no_thread));
    let stands = life::require(hatch, walls.seal());
    life::require(hatch, begin(&mut guest, &commit).map_err(|e| format!("start the guest: {e}")));
    if session.outbox.say(&FromCell::Ready(stands)).is_err() {
        life::end();
    }
    loop {
        let job = session.watch.next();
        execute(&mut guest, &session, job);
    }
}

/// Gives the guest its session's files, streams, limits and interruption.
fn connect(
    guest: &mut Guest,
    session: &Arc<Session>,
    commit: &Commit,
    root: &OwnedFd,
) -> wasmtime::Result<()> {
    let host = guest.host();
    host.wasi = wasi::context(session, root.as_fd(), &[])?;
    host.session = Some(Arc::clone(session));
    host.memory.bytes = commit.memory_bytes;
    let (store, interrupter) = guest.store();
    // Host calls copy at most what the guest has in memory.
    store.set_hostcall_fuel(usize::try_from(commit.memory_bytes).unwrap_or(usize::MAX));
    store.data_mut().interrupter = Some(interrupter);
    store.epoch_deadline_callback(|store| {
        let doomed = stop_if_asked(store)?;
        Ok(if doomed { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
    });
    Ok(())
}

/// Interrupts the guest, from a call that it made, when its program is to stop. Whether it is to be trapped.
fn stop_if_asked(mut store: StoreContextMut<'_, Host>) -> wasmtime::Result<bool> {
    let Host { session: Some(session), interrupter: Some(interrupter), .. } = store.data() else {
        return Ok(false);
    };
    let (session, interrupter) = (Arc::clone(session), interrupter.clone());
    if let Request::Interrupt(how) = session.watch.request() {
        let reason = if how == How::TimedOut { REASON_TIMEOUT } else { REASON_CANCELLED };
        interrupter.interrupt(store.as_context_mut(), reason)?;
        store.set_epoch_deadline(1);
    }
    // Asked after the interrupt: it may have become too late meanwhile.
    Ok(session.watch.is_doomed())
}

/// The guest's own start, with randomness that no other cell of the zygote has.
fn begin(guest: &mut Guest, commit: &Commit) -> wasmtime::Result<()> {
    let seed = random_bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut env: std::collections::BTreeMap<&str, &str> = ENVIRONMENT.into_iter().collect();
    env.extend(commit.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    guest.start(&Start { seed, env })
}

/// Runs one program and says how it ended.
fn execute(guest: &mut Guest, session: &Session, mut job: Execute) {
    let execution = job.execution;
    session.outbox.begin(execution, job.output_bytes);
    session.input.begin(execution, std::mem::take(&mut job.stdin), job.stdin_open);
    let host = guest.host();
    (host.error, host.exit_code, host.memory.refused) = (None, None, false);
    let began = Instant::now();
    let outcome = match own_language(guest, &job) {
        Ok(code) => run_program(guest, session, &job, &code),
        Err(error) => {
            guest.host().error = Some(error);
            Ok(false)
        }
    };
    let wall = began.elapsed();
    let stopped = session.watch.finish(outcome.is_err());
    let ended = settle(guest.host(), &session.outbox, execution, outcome, stopped, wall);
    let state_lost = ended.state_lost;
    session.outbox.end(ended);
    if state_lost {
        life::end();
    }
}

/// The program in the guest's language, or the error that it has instead. Nothing interrupts this: what takes too long is
/// abandoned with its cell.
fn own_language<'a>(guest: &Guest, job: &'a Execute) -> Result<Cow<'a, str>, Vec<u8>> {
    match job.dialect {
        Dialect::Own => Ok(Cow::Borrowed(&job.code)),
        Dialect::TypeScript => match typescript::to_javascript(&job.code) {
            Ok(code) => Ok(Cow::Owned(code)),
            Err(error) => Err(error.to_json(&format!("<execution {}>", guest.executions() + 1))),
        },
    }
}

fn run_program(guest: &mut Guest, session: &Session, job: &Execute, code: &str) -> wasmtime::Result<bool> {
    let program = Program {
        code,
        env: job.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        cwd: job.cwd.as_deref(),
    };
    // From here on a nudge reaches the guest. One that came before it is repeated by the receiving thread.
    guest.store().0.set_epoch_deadline(1);
    match session.watch.request() {
        Request::None => guest.execute(&program),
        // Stopped before its first step.
        Request::Interrupt(_) | Request::Trap => Ok(false),
    }
}

/// What is said of an execution that came to its end.
fn settle(
    host: &mut Host,
    outbox: &Outbox,
    execution: ExecutionId,
    outcome: wasmtime::Result<bool>,
    stopped: Option<How>,
    wall: Duration,
) -> Ended {
    let refused = host.memory.refused;
    let mut ended = ended(outbox, execution, wall);
    ended.error = host.error.take();
    ended.exit_code = host.exit_code.take();
    ended.memory_refused = refused;
    match outcome {
        // Trapped because it would not stop: there is no more to say of it.
        Err(_) if stopped.is_some() => ended.state_lost = true,
        Ok(true) => ended.how = How::Succeeded,
        Ok(false) => ended.how = How::Failed,
        Err(trap) => {
            ended.state_lost = true;
            match trap.downcast_ref::<I32Exit>() {
                // The program ended its interpreter itself (`os._exit`).
                Some(I32Exit(code)) => {
                    ended.exit_code = Some(*code);
                    ended.how = if *code == 0 { How::Succeeded } else { How::Failed };
                }
                None => {
                    ended.how = How::Crashed;
                    ended.error = ended.error.or_else(|| Some(crash(&trap, refused)));
                }
            }
        }
    }
    if let Some(how) = stopped {
        ended.how = how;
    }
    ended
}

fn ended(outbox: &Outbox, execution: ExecutionId, wall: Duration) -> Ended {
    let written = outbox.written();
    Ended {
        execution,
        how: How::Failed,
        error: None,
        exit_code: None,
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        stdout_bytes: written.stdout,
        stderr_bytes: written.stderr,
        state_lost: false,
        memory_refused: false,
    }
}

/// The error of a guest that could not tell one.
fn crash(error: &wasmtime::Error, memory_refused: bool) -> Vec<u8> {
    let trap = error.downcast_ref::<Trap>();
    let (name, message) = match trap {
        Some(Trap::StackOverflow) => ("STACK_OVERFLOW", "the program recursed too deeply".to_owned()),
        _ if memory_refused => {
            ("OUT_OF_MEMORY", "the program asked for more memory than its limit".to_owned())
        }
        Some(trap) => ("INTERPRETER_DIED", trap.to_string()),
        None => ("INTERPRETER_DIED", error.root_cause().to_string()),
    };
    let mut json =
        serde_json::json!({"name": name, "message": message, "traceback": ""}).to_string().into_bytes();
    json.truncate(VALUE_BYTES_MAX);
    json
}

/// Starts the receiving thread.
fn receiver(session: &Arc<Session>) -> std::io::Result<life::Starting> {
    let session = Arc::clone(session);
    life::spawn(RECEIVER_STACK_BYTES, move || Receiver { session, assembler: Assembler::default() }.run())
}

struct Receiver {
    session: Arc<Session>,
    assembler: Assembler,
}

impl Receiver {
    fn run(mut self) {
        loop {
            let tick = self.session.watch.tick();
            self.act(tick);
            let wait = tick.next.map(|next| if tick.running { next.min(outbox::GATHER) } else { next });
            if readable(self.session.outbox.hatch(), wait) {
                self.receive();
            }
        }
    }

    fn act(&self, tick: watch::Tick) {
        if tick.nudge {
            self.session.engine.increment_epoch();
        }
        if let Some((execution, how, wall)) = tick.abandoned {
            let mut ended = ended(&self.session.outbox, execution, wall);
            (ended.how, ended.state_lost) = (how, true);
            // Not said where nobody reads: the warden's hard deadline tells then.
            let _said = self.session.outbox.try_end(ended);
            life::end();
        }
        if tick.running {
            self.session.outbox.flush_due();
        }
    }

    fn receive(&mut self) {
        match self.assembler.receive_next(self.session.outbox.hatch().as_fd()) {
            Ok(None) => {}
            Ok(Some((message, _descriptors))) => {
                if self.handle(message).is_err() {
                    life::end();
                }
            }
            // Both the warden and the API are gone, or something that is neither of them speaks: the session is over.
            Err(_) => life::end(),
        }
    }

    fn handle(&self, message: ToCell) -> Result<(), PacketError> {
        let Session { outbox, watch, engine, input, .. } = &*self.session;
        match message {
            ToCell::Execute(job) => {
                let execution = job.execution;
                if !watch.offer(job) {
                    outbox.say(&FromCell::Ended(busy(execution)))?;
                }
            }
            ToCell::Cancel { execution } => {
                if watch.ask(Some(execution), How::Cancelled) {
                    engine.increment_epoch();
                }
            }
            ToCell::Input { execution, bytes, end } => input.add(execution, &bytes, end),
            ToCell::Attach { generation } => outbox.attach(generation)?,
            ToCell::Acknowledge { execution } => outbox.acknowledge(execution),
            // Of another kind of cell.
            ToCell::Prepare { .. }
            | ToCell::Commit(_)
            | ToCell::File(_)
            | ToCell::Complete { .. }
            | ToCell::Watch => {
                return Err(PacketError::Malformed("not for a wasm cell"));
            }
        }
        Ok(())
    }
}

/// The API runs one program at a time in a context; a second one is its mistake and costs it nothing.
fn busy(execution: ExecutionId) -> Ended {
    Ended {
        execution,
        how: How::Failed,
        error: Some(
            br#"{"name":"CELL_BUSY","message":"another program is running","traceback":""}"#.to_vec(),
        ),
        exit_code: None,
        wall_us: 0,
        stdout_bytes: 0,
        stderr_bytes: 0,
        state_lost: false,
        memory_refused: false,
    }
}

/// Waits for something to receive, at most that long.
fn readable(hatch: &OwnedFd, wait: Option<Duration>) -> bool {
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    let mut sockets = [PollFd::new(hatch, PollFlags::IN)];
    poll(&mut sockets, wait.as_ref()).is_ok_and(|ready| ready > 0)
}
