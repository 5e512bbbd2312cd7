//! The native cell: an interpreter or a program of the image, and this process, its pid 1, which starts it, passes its
//! input and output on, interrupts it and says how it ended.
//!
//! Python is a copy of the zygote, which is a Python that has imported what programs are likely to need. Node, bash and single
//! programs are executed in its place; a Node also before anybody knows its session. This process is a small program of its
//! own: `anchorhold_jail::twin`.
//!
//! Two threads. The main one converses with the program, also between executions, so that what a daemon prints never
//! fills a pipe. The receiving thread reads the hatch and answers new listeners.

mod input;
mod interpreter;
mod talk;
mod terminal;

use crate::life::{self, Walling};
use crate::orders::{self, Order};
use crate::outbox::{self, Outbox};
use crate::watch::{Request, State};
use anchorhold_jail::control::Interpreter;
use anchorhold_jail::hatch::{Execute, FromCell, How, Stream, ToCell};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::packet;
use anchorhold_jail::program::{Pipes, Spare};
use anchorhold_jail::zygote::{Station, ZygoteError};
use anchorhold_jail::{loopback, root, twin};
use input::Input;
use interpreter::Start;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use talk::{Said, Talk};
use terminal::Terminal;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};

pub use interpreter::{FIRST, become_zygote, programs};

/// Of a program's output that is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the zygote does from when its Python has called into this library. `first` is the number of the descriptor of
/// [`FIRST`].
pub fn serve(first: i32) -> Result<(), ZygoteError> {
    let station = Station::resume()?;
    station.serve_copies(twin::program(first).ok_or(ZygoteError::NotOurs)?, &interpreter::Copied::here()?)
}

/// Runs a cell in this process, its pid 1, from before `Prepared` to its end.
pub fn run(hatch: OwnedFd, spare: Spare, walls: &mut dyn Walling) -> Infallible {
    life::end_on_panic();
    life::require(&hatch, spare.wait().map_err(|e| format!("a Python: {e}")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = life::require(&hatch, runtime.map_err(|e| format!("a runtime: {e}")));
    life::say_prepared(&hatch);
    let (commit, stage) = match life::receive_order(&hatch) {
        (ToCell::Commit(commit), given) => {
            let stage = life::require(&hatch, Stage::set(&Start::now(&commit), given, spare));
            (commit, stage)
        }
        (ToCell::Prepare { interpreter, require_landlock }, given) => {
            let start = Start::ahead(interpreter, require_landlock);
            let stage = life::require(&hatch, Stage::set(&start, given, spare));
            life::require(&hatch, talk::wait_until_there(&stage.pipes.from));
            let (commit, []) = life::wait_for_commit(&hatch);
            (commit, stage)
        }
        _ => life::end(),
    };
    let Stage { files, listener, terminal, pipes, is_early } = stage;
    let entered = runtime.enter();
    let input = Input::of(&files).map_err(|e| format!("open /tmp: {e}"));
    let input = life::require(&hatch, input);
    life::require(&hatch, walls.restrict(&commit, files.as_fd()));
    let outbox = Arc::new(Outbox::new(hatch));
    let hatch = outbox.hatch();
    let program = Program::new(commit.interpreter, pipes, input, Arc::clone(&outbox));
    let mut program = life::require(hatch, program.map_err(|e| format!("the program's pipes: {e}")));
    let terminal = terminal.map(Terminal::new).transpose().map_err(|e| format!("the terminal: {e}"));
    program.terminal = life::require(hatch, terminal);
    if is_early {
        program.talk.mouth.tell(&interpreter::beginning(&commit));
    }
    let (sender, mut orders) = mpsc::unbounded_channel();
    let no_thread = |e: io::Error| format!("start a thread: {e}");
    let starting = life::require(hatch, orders::receive(&outbox, sender).map_err(no_thread));
    life::require(hatch, starting.wait().map_err(no_thread));
    let stands = life::require(hatch, walls.seal());
    if packet::send(hatch, &FromCell::Ready(stands), &[listener.as_fd()]).is_err() {
        life::end();
    }
    drop((listener, entered));
    runtime.block_on(program.attend(&mut orders));
    life::end()
}

/// A cell's root with the session's files in it, and its program.
struct Stage {
    /// The root of the files.
    files: OwnedFd,
    /// What the way out will be made of.
    listener: OwnedFd,
    terminal: Option<OwnedFd>,
    pipes: Pipes,
    /// It is there before it can be given its environment, and is told.
    is_early: bool,
}

impl Stage {
    fn set(start: &Start<'_>, given: [OwnedFd; 4], spare: Spare) -> Result<Self, String> {
        let [files, workspace, tmp, shm] = given;
        let listener = loopback::listen().map_err(|e| format!("listen: {e}"))?;
        root::furnish(&[workspace, tmp, shm]).map_err(|e| e.to_string())?;
        let terminal = (start.interpreter == Interpreter::Terminal).then(root::terminal).transpose();
        let terminal = terminal.map_err(|e| e.to_string())?;
        Ok(Self {
            files,
            listener,
            terminal,
            pipes: interpreter::start(start, spare)?,
            is_early: start.is_early(),
        })
    }
}

/// The cell's program.
struct Program {
    interpreter: Interpreter,
    pid: Pid,
    talk: Talk,
    output: [Output; 2],
    children: Signals,
    input: Input,
    terminal: Option<Terminal>,
    outbox: Arc<Outbox>,
    running: Option<Running>,
    watch: State,
    /// How it ended, once it has.
    ended: Option<WaitStatus>,
}

struct Running {
    execution: ExecutionId,
    began: Instant,
}

/// One of its two streams.
struct Output {
    stream: Stream,
    pipe: pipe::Receiver,
    open: bool,
}

impl Program {
    fn new(interpreter: Interpreter, pipes: Pipes, input: Input, outbox: Arc<Outbox>) -> io::Result<Self> {
        let pid = Pid::from_raw(pipes.pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
        let [stdout, stderr] = pipes.output.ok_or(io::ErrorKind::NotFound)?;
        let output = |stream, pipe| {
            pipe::Receiver::from_owned_fd(pipe).map(|pipe| Output { stream, pipe, open: true })
        };
        Ok(Self {
            interpreter,
            pid,
            talk: Talk::new(pipes.from, pipes.to)?,
            output: [output(Stream::Stdout, stdout)?, output(Stream::Stderr, stderr)?],
            children: signal(SignalKind::child())?,
            input,
            terminal: None,
            outbox,
            running: None,
            watch: State::default(),
            ended: None,
        })
    }

    /// Executes until the program or the hatch has ended.
    async fn attend(&mut self, orders: &mut UnboundedReceiver<Order>) {
        loop {
            let wait = self.tick();
            let [stdout, stderr] = &self.output;
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                heard = self.talk.ear.hear() => match heard {
                    Ok(said) => self.heard(said),
                    // Its end shows by the signal; what speaks like this is not ours any more.
                    Err(talk::Broken::Closed) => {}
                    Err(talk::Broken::Nonsense) => self.kill(Signal::KILL),
                },
                () = self.talk.mouth.write(), if self.talk.mouth.has_unsent() => {}
                _ = stdout.pipe.readable(), if stdout.open => self.print(0),
                _ = stderr.pipe.readable(), if stderr.open => self.print(1),
                () = self.input.write(), if self.input.has_unsent() => {}
                carried = carry(&mut self.terminal) => if carried.is_err() {
                    self.hung_up();
                },
                _ = self.children.recv() => {}
                () = sleep(wait) => {}
            }
            if self.reap() {
                self.over();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Execute(job, wires) => self.begin(job, wires),
            // There is nothing to see.
            Order::Watch(_) => {}
            Order::Cancel(execution) => {
                // It is told at the next tick, which is now.
                self.watch.ask(Some(execution), How::Cancelled, Instant::now());
            }
            Order::Input { execution, bytes, end } => {
                if self.running.as_ref().is_some_and(|running| running.execution == execution) {
                    self.input.add(&bytes, end);
                }
            }
        }
    }

    fn begin(&mut self, mut job: Execute, wires: Vec<OwnedFd>) {
        let (execution, began) = (job.execution, Instant::now());
        if self.running.is_some()
            || !self.watch.begin(execution, Duration::from_micros(job.timeout_us), began)
        {
            return orders::refuse(&self.outbox, execution, "another program is running");
        }
        self.outbox.begin(execution, job.output_bytes);
        self.running = Some(Running { execution, began });
        let input = self.input.begin(std::mem::take(&mut job.stdin), job.stdin_open);
        let seated = self.terminal.as_mut().map_or(Ok(()), |terminal| terminal.attach(wires));
        let told = seated.and(input).map_err(|e| format!("its input: {e}"));
        match told.and_then(|path| talk::job(self.interpreter, &job, path.as_deref())) {
            Ok(message) => self.talk.mouth.tell(&message),
            Err(why) => {
                let error = orders::error("NOT_STARTED", &why);
                self.conclude(How::Failed, Some(error), None, false);
            }
        }
    }

    /// Nobody is at the terminal any more: what it was for ends with it.
    fn hung_up(&mut self) {
        self.end(How::Succeeded, None, None, true, None);
        life::end();
    }

    fn heard(&mut self, said: Said) {
        if self.running.is_none() {
            return;
        }
        match said {
            Said::InputOpened => self.input.opened(),
            Said::Value(json) => {
                self.drain();
                self.outbox.value(&json);
            }
            Said::Done(done) => {
                self.drain();
                let how = if done.is_success() { How::Succeeded } else { How::Failed };
                let error = done.error.map(|error| error.get().as_bytes().to_vec());
                self.conclude(how, error, done.exit_code, false);
            }
        }
    }

    /// Passes on what one of its streams has.
    fn print(&mut self, which: usize) {
        let mut buffer = [0; CHUNK_BYTES];
        let read = self.output[which].pipe.try_read(&mut buffer);
        self.printed(which, &buffer, read);
    }

    /// Passes on what was printed before the program said something else. The runtime may not know yet that there is
    /// something to read, so it is not asked.
    fn drain(&mut self) {
        let mut buffer = [0; CHUNK_BYTES];
        for which in 0..self.output.len() {
            loop {
                let read = rustix::io::read(&self.output[which].pipe, &mut buffer).map_err(io::Error::from);
                if !self.printed(which, &buffer, read) {
                    break;
                }
            }
        }
    }

    /// What reading a stream gave. Whether there may be more.
    fn printed(&mut self, which: usize, buffer: &[u8], read: io::Result<usize>) -> bool {
        let output = &mut self.output[which];
        match read {
            Ok(length) if length > 0 => {
                if self.outbox.write(output.stream, &buffer[..length]).is_err() {
                    self.watch.ask(None, How::OutputExceeded, Instant::now());
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(_) | Err(_) => {
                output.open = false;
                false
            }
        }
    }

    /// Does what it is time for; how long until there is more to do.
    fn tick(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let tick = self.watch.tick(now);
        if let Some((_, how, _)) = tick.abandoned {
            self.end(how, None, None, true, None);
            life::end();
        }
        if tick.nudge {
            match self.watch.request(now) {
                Request::Interrupt(_) => self.kill(Signal::INT),
                Request::Trap => self.kill(Signal::KILL),
                Request::None => {}
            }
        }
        if tick.running {
            self.outbox.flush_due();
        }
        tick.next.map(|next| if tick.running { next.min(outbox::GATHER) } else { next })
    }

    /// Sends a signal to the program and the children that are in its group.
    fn kill(&self, signal: Signal) {
        if self.ended.is_none() {
            // Fails only when all of them have ended.
            let _gone = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Takes ended children off the kernel's hands: those of the program's that it left behind are ours. Whether the
    /// program itself is among them.
    fn reap(&mut self) -> bool {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                self.ended = Some(status);
            }
        }
        self.ended.is_some()
    }

    /// The program has ended, and with it what it was needed for.
    fn over(&mut self) {
        self.drain();
        if let Some(terminal) = &mut self.terminal {
            terminal.show_the_last();
        }
        // What it said last may say more than its end.
        while let Some(said) = self.talk.ear.last() {
            self.heard(said);
        }
        if self.running.is_some()
            && let Some(status) = self.ended.take()
        {
            let (how, error, exit_code) = judge(status);
            self.conclude(how, error, exit_code, true);
        }
        life::end()
    }

    /// The execution came to its end, perhaps because it was made to.
    fn conclude(&mut self, how: How, error: Option<Vec<u8>>, exit_code: Option<i32>, died: bool) {
        let stopped = self.watch.finish(died).flatten();
        self.end(how, error, exit_code, died, stopped);
    }

    fn end(
        &mut self,
        how: How,
        error: Option<Vec<u8>>,
        exit_code: Option<i32>,
        died: bool,
        stopped: Option<How>,
    ) {
        let Some(Running { execution, began }) = self.running.take() else { return };
        self.input.end();
        let written = self.outbox.written();
        let mut ended = orders::ended(execution, stopped.unwrap_or(how), began.elapsed());
        (ended.error, ended.exit_code, ended.state_lost) = (error, exit_code, died);
        (ended.stdout_bytes, ended.stderr_bytes) = (written.stdout, written.stderr);
        self.outbox.end(ended);
    }
}

/// What a program's end says.
fn judge(status: WaitStatus) -> (How, Option<Vec<u8>>, Option<i32>) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => (How::Succeeded, None, Some(0)),
        (Some(code), _) => (How::Failed, None, Some(code)),
        (None, signal) => {
            let number = signal.unwrap_or_default();
            let error = orders::error("INTERPRETER_DIED", &format!("ended by signal {number}"));
            (How::Crashed, Some(error), None)
        }
    }
}

async fn carry(terminal: &mut Option<Terminal>) -> Result<(), terminal::HungUp> {
    match terminal {
        Some(terminal) => terminal.carry().await,
        None => std::future::pending().await,
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
