//! One instance of a guest, in this process and without walls: the ABI of `images/README.md`.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Deserialize;
use tempfile::TempDir;
use wasmtime::{Caller, Global, Linker, Memory, Store, StoreContextMut, TypedFunc, UpdateDeadline, Val};
use wasmtime_wasi::{
    FsPerms, WasiCtxBuilder,
    cli::{IsTerminal, StdinStream},
    p1::{self, WasiP1Ctx},
    p2::{InputStream, Pollable, StreamError, StreamResult, pipe::MemoryOutputPipe},
};

use crate::{
    smoke::Cell,
    store::{Image, hex},
};

/// An epoch that is never reached, and leaves room for additions.
pub const NEVER: u64 = u64::MAX / 2;
/// How long an interrupted guest may take to end by itself.
const GRACE: Duration = Duration::from_secs(3);
/// Leaf functions keep up to 128 bytes below the stack pointer without moving it.
const STACK_GAP_BYTES: i32 = 1024;
const OUTPUT_MAX_BYTES: usize = 64 << 20;
const REASON_TIMEOUT: i32 = 1;

/// What host functions see.
pub struct Context {
    pub wasi: WasiP1Ctx,
    emitted: Vec<(i32, String)>,
    interrupt: Option<Interrupt>,
    interrupted: bool,
}

impl Context {
    pub fn new(wasi: WasiP1Ctx) -> Self {
        Self { wasi, emitted: Vec::new(), interrupt: None, interrupted: false }
    }
}

struct Interrupt {
    function: TypedFunc<i32, ()>,
    stack_pointer: Global,
}

/// The WASI context that guests get, except for the standard streams: descriptor 3 is `/workspace`,
/// descriptor 4 `/tmp`, when the snapshot is taken and ever after.
pub fn wasi(workspace: &Path, temporary: &Path) -> Result<WasiCtxBuilder> {
    let mut builder = WasiCtxBuilder::new();
    builder
        .allow_blocking_current_thread(true)
        .preopened_dir(workspace, "/workspace", FsPerms::ReadWrite)?
        .preopened_dir(temporary, "/tmp", FsPerms::ReadWrite)?;
    Ok(builder)
}

pub fn add_emit(linker: &mut Linker<Context>) -> Result<()> {
    linker.func_wrap(
        "anchorhold",
        "emit",
        |mut caller: Caller<'_, Context>, kind: i32, ptr: i32, len: i32| {
            let memory = caller.get_export("memory").and_then(|e| e.into_memory());
            let Some(memory) = memory else { wasmtime::bail!("the guest exports no memory") };
            let (start, len) = (ptr as u32 as usize, len as u32 as usize);
            let Some(bytes) = memory.data(&caller).get(start..start + len) else {
                wasmtime::bail!("emit: outside of memory")
            };
            let text = String::from_utf8_lossy(bytes).into_owned();
            caller.data_mut().emitted.push((kind, text));
            Ok(())
        },
    )?;
    Ok(())
}

/// What one execution did.
pub struct Finished {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub emitted: Vec<(i32, String)>,
    pub cost: Cost,
}

/// What a step cost. Page faults tell how much of the snapshot and of the code it touched first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    pub time: Duration,
    pub faults: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} page faults)", self.time, self.faults)
    }
}

struct Meter {
    faults: u64,
    begun: Instant,
}

impl Meter {
    fn start() -> Self {
        Self { faults: minor_faults(), begun: Instant::now() }
    }

    fn stop(self) -> Cost {
        let time = self.begun.elapsed();
        Cost { time, faults: minor_faults().saturating_sub(self.faults) }
    }
}

/// Of this thread, so far; 0 where the kernel does not say.
fn minor_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold spaces. Minor faults are the 10th field.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.split(' ').nth(7).and_then(|field| field.parse().ok()).unwrap_or(0)
}

pub struct Guest {
    store: Store<Context>,
    memory: Memory,
    alloc: TypedFunc<i32, i32>,
    start: TypedFunc<(i32, i32), ()>,
    execute: TypedFunc<(i32, i32), i32>,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    pub instantiate: Cost,
    pub start_cost: Cost,
    // Removed after the store is gone.
    _directories: Vec<TempDir>,
}

impl Guest {
    pub fn new(image: &Image, workspace: Option<&Path>) -> Result<Self> {
        let mut linker = Linker::new(&image.engine);
        p1::add_to_linker_sync(&mut linker, |context: &mut Context| &mut context.wasi)?;
        add_emit(&mut linker)?;
        let ready = linker.instantiate_pre(&image.module)?;

        let (empty, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (stdin, stdout, stderr) = (Input::default(), Output::new(), Output::new());
        let mut builder = wasi(workspace.unwrap_or(empty.path()), temporary.path())?;
        builder.stdin(stdin.clone()).stdout(stdout.pipe.clone()).stderr(stderr.pipe.clone());
        let mut store = Store::new(&image.engine, Context::new(builder.build_p1()));
        store.set_epoch_deadline(NEVER);
        store.epoch_deadline_callback(on_deadline);

        let meter = Meter::start();
        let instance = ready.instantiate(&mut store)?;
        let instantiate = meter.stop();
        let interrupt = Interrupt {
            function: instance.get_typed_func(&mut store, "interrupt")?,
            stack_pointer: instance
                .get_global(&mut store, "__stack_pointer")
                .context("no __stack_pointer")?,
        };
        store.data_mut().interrupt = Some(interrupt);
        Ok(Self {
            memory: instance.get_memory(&mut store, "memory").context("no memory")?,
            alloc: instance.get_typed_func(&mut store, "alloc")?,
            start: instance.get_typed_func(&mut store, "start")?,
            execute: instance.get_typed_func(&mut store, "execute")?,
            store,
            stdin,
            stdout,
            stderr,
            instantiate,
            start_cost: Cost::default(),
            _directories: vec![empty, temporary],
        })
    }

    pub fn start(&mut self, environment: &BTreeMap<String, String>) -> Result<()> {
        let mut seed = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut seed)?;
        let request = serde_json::json!({ "seed": hex(&seed), "env": environment }).to_string();
        let meter = Meter::start();
        let argument = self.pass(&request)?;
        self.start.call(&mut self.store, argument).map_err(anyhow::Error::from).context("start trapped")?;
        self.start_cost = meter.stop();
        Ok(())
    }

    pub fn execute(&mut self, cell: &Cell) -> Result<Finished> {
        self.stdin.set(cell.stdin.as_deref().unwrap_or_default());
        let request = serde_json::json!({ "code": cell.code, "env": cell.env, "cwd": cell.cwd }).to_string();
        self.store.set_epoch_deadline(1);
        self.store.data_mut().interrupted = false;
        let timer = cell.timeout.map(|after| Timer::start(self.store.engine().clone(), after));
        let meter = Meter::start();
        let argument = self.pass(&request)?;
        let status = self.execute.call(&mut self.store, argument);
        let cost = meter.stop();
        drop(timer);
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let status = status
            .map_err(anyhow::Error::from)
            .with_context(|| format!("execute trapped; stdout: {stdout:?}, stderr: {stderr:?}"))?;
        let emitted = std::mem::take(&mut self.store.data_mut().emitted);
        Ok(Finished { status, stdout, stderr, emitted, cost })
    }

    fn pass(&mut self, text: &str) -> Result<(i32, i32)> {
        let len = i32::try_from(text.len())?;
        let ptr = self.alloc.call(&mut self.store, len)?;
        self.memory.write(&mut self.store, ptr as u32 as usize, text.as_bytes())?;
        Ok((ptr, len))
    }
}

/// The deadline has passed: ask the guest to stop; if it has been asked before, stop it.
fn on_deadline(mut store: StoreContextMut<'_, Context>) -> wasmtime::Result<UpdateDeadline> {
    if std::mem::replace(&mut store.data_mut().interrupted, true) {
        wasmtime::bail!("the guest did not react to an interrupt within {GRACE:?}");
    }
    let Some(interrupt) = store.data_mut().interrupt.take() else {
        wasmtime::bail!("interrupted before the guest was ready")
    };
    // `interrupt` checks the epoch itself, so the deadline must lie ahead before it is called.
    store.set_epoch_deadline(NEVER);
    let Val::I32(stack) = interrupt.stack_pointer.get(&mut store) else {
        wasmtime::bail!("__stack_pointer is no i32")
    };
    interrupt.stack_pointer.set(&mut store, Val::I32((stack - STACK_GAP_BYTES) & !15))?;
    interrupt.function.call(&mut store, REASON_TIMEOUT)?;
    interrupt.stack_pointer.set(&mut store, Val::I32(stack))?;
    store.data_mut().interrupt = Some(interrupt);
    Ok(UpdateDeadline::Continue(1))
}

/// Advances the epoch after a time and once more after the grace, unless dropped before.
struct Timer {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Timer {
    fn start(engine: wasmtime::Engine, after: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for wait in [after, GRACE] {
                if stopped.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
                engine.increment_epoch();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_default();
        }
    }
}

/// Collects a stream; each execution takes what is new.
struct Output {
    pipe: MemoryOutputPipe,
    taken: usize,
}

impl Output {
    fn new() -> Self {
        Self { pipe: MemoryOutputPipe::new(OUTPUT_MAX_BYTES), taken: 0 }
    }

    fn take(&mut self) -> String {
        let all = self.pipe.contents();
        let new = String::from_utf8_lossy(&all[self.taken..]).into_owned();
        self.taken = all.len();
        new
    }
}

/// Standard input that is filled anew for each execution.
#[derive(Clone, Default)]
struct Input(Arc<Mutex<Bytes>>);

impl Input {
    fn set(&self, text: &str) {
        *self.lock() = Bytes::copy_from_slice(text.as_bytes());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncRead + Send + Sync> {
        Box::new(std::io::Cursor::new(self.lock().to_vec()))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {}
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut left = self.lock();
        if left.is_empty() {
            return Err(StreamError::Closed);
        }
        let size = size.min(left.len());
        Ok(left.split_to(size))
    }
}

#[derive(Deserialize)]
struct ErrorValue {
    name: String,
    message: String,
    traceback: String,
}

#[derive(Deserialize)]
struct ResultValue {
    main: bool,
    mime: BTreeMap<String, serde_json::Value>,
}

/// The transcript: what smoke programs are compared with.
impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        block(f, "", &self.stdout)?;
        if !self.stderr.is_empty() {
            block(f, "[stderr]\n", &self.stderr)?;
        }
        for (kind, text) in &self.emitted {
            match kind {
                0 => result(f, text)?,
                1 => error(f, text)?,
                2 => writeln!(f, "[exit] {text}")?,
                other => writeln!(f, "[kind {other}?] {text}")?,
            }
        }
        if self.status != 0 {
            writeln!(f, "[status] {}", self.status)?;
        }
        Ok(())
    }
}

fn result(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let Ok(value) = serde_json::from_str::<ResultValue>(text) else {
        return writeln!(f, "[result?] {text}");
    };
    for (mime, content) in &value.mime {
        let content = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        let main = if value.main { "result" } else { "display" };
        if content.len() > 2000 {
            let head: String = content.chars().take(60).collect();
            writeln!(f, "[{main} {mime}] {head}... ({} bytes)", content.len())?;
        } else {
            writeln!(f, "[{main} {mime}] {content}")?;
        }
    }
    Ok(())
}

fn error(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    match serde_json::from_str::<ErrorValue>(text) {
        Ok(e) => {
            writeln!(f, "[error] {}: {}", e.name, e.message)?;
            block(f, "", &e.traceback)
        }
        Err(_) => writeln!(f, "[error?] {text}"),
    }
}

/// Text that ends in a line break, whether or not the guest wrote one.
fn block(f: &mut fmt::Formatter<'_>, title: &str, text: &str) -> fmt::Result {
    write!(f, "{title}{text}")?;
    if !text.is_empty() && !text.ends_with('\n') {
        writeln!(f, "⏎")?;
    }
    Ok(())
}
