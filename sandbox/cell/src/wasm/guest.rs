//! A guest: an interpreter that was snapshotted when its image was built, and the calls of its ABI
//! (`images/README.md`).

use super::Host;
use super::wasi;
use crate::engine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use tokio::runtime::Runtime;
use wasmtime::{
    AsContextMut, Engine, Global, Instance, InstancePre, Memory, Module, Result, Store, StoreContextMut,
    TypedFunc, Val, format_err,
};

/// How far below the guest's stack pointer an interrupt runs. A function that calls nothing may use the memory just
/// below (LLVM's red zone, 128 bytes) without saying so.
const STACK_SKIPPED: i32 = 4096;
/// The kernel copies a page on the first write to it.
const PAGE_BYTES: usize = 4096;
/// It maps this many pages of a file at once, where they are in memory (`fault_around_bytes`).
const PAGES_AROUND: usize = 16;
const PAGEMAP_ENTRY_BYTES: usize = 8;
/// The page is mapped.
const PAGE_PRESENT: u64 = 1 << 63;
/// It is the file's: nobody wrote to it.
const PAGE_OF_FILE: u64 = 1 << 61;
/// Hello in every language of ours. A guest understands one of them.
const REHEARSALS: [&str; 2] = ["print(1 + 1)", "console.log(1 + 1)"];
/// What a guest may use of the epoch before it has a session: everything.
const UNLIMITED_EPOCHS: u64 = 1 << 60;

/// Argument of the guest's `start`.
#[derive(Debug, Serialize)]
pub struct Start<'a> {
    /// 64 hexadecimal digits.
    pub seed: String,
    /// The session's environment.
    pub env: BTreeMap<&'a str, &'a str>,
}

/// Argument of the guest's `execute`.
#[derive(Debug, Serialize)]
pub struct Program<'a> {
    /// What to run.
    pub code: &'a str,
    /// Additions to the environment.
    pub env: BTreeMap<&'a str, &'a str>,
    /// Where; the workspace where omitted.
    pub cwd: Option<&'a str>,
}

/// What a zygote forks: a loaded image with one interpreter in it that has run nothing.
#[derive(Debug)]
pub struct Template {
    guest: Guest,
    runtime: Runtime,
    /// Pages of its memory that a first execution writes to.
    written: Vec<usize>,
}

impl Template {
    /// Loads an image. Without what [`Own`] holds the first execution of each cell is slower. It is taken by value: a
    /// cell must not inherit a way to its zygote's memory.
    pub fn load(image: File, own: Option<Own>) -> Result<Self> {
        let engine = Engine::new(&engine::config())?;
        let module = load_module(&engine, image)?;
        let pre = wasi::linker(&engine)?.instantiate_pre(&module)?;
        // With a runtime at hand wasmtime-wasi makes none of its own, and this one has no thread: a zygote must not have
        // a second one, and a cell needs none.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let entered = runtime.enter();
        let hot =
            own.as_ref().map_or_else(|| Ok(Hot::default()), |own| rehearse(&engine, &pre, &module, own))?;
        drop(entered);
        let mut guest = Guest::new(&engine, &pre)?;
        if let Some(own) = own {
            hot.map(guest.memory.data_mut(&mut guest.store), &module, &own);
        }
        Ok(Self { guest, runtime, written: hot.written })
    }

    /// The interpreter, which has run nothing, with the memory at hand that a first execution writes to: the kernel
    /// copies pages while the cell waits in its pool, not while somebody waits for an answer. And the runtime that has
    /// to be entered while it runs.
    pub fn into_guest(self) -> (Guest, Runtime) {
        let Self { mut guest, runtime, written } = self;
        let memory = guest.memory.data_mut(&mut guest.store);
        written.into_iter().for_each(|page| write_back(memory, page));
        (guest, runtime)
    }
}

/// What the kernel tells a process of its own memory, opened while there is a `/proc`.
#[derive(Debug)]
pub struct Own {
    pagemap: File,
    memory: File,
}

impl Own {
    /// Opens `/proc/self/pagemap` and `/proc/self/mem`.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self {
            pagemap: File::open("/proc/self/pagemap")?,
            memory: File::options().read(true).write(true).open("/proc/self/mem")?,
        })
    }

    /// What is mapped of a piece of memory. See `Documentation/admin-guide/mm/pagemap.rst`.
    fn pages(&self, memory: &[u8]) -> Result<Vec<u64>> {
        let first = memory.as_ptr().addr() / PAGE_BYTES;
        let mut entries = vec![0; memory.len().div_ceil(PAGE_BYTES) * PAGEMAP_ENTRY_BYTES];
        self.pagemap.read_exact_at(&mut entries, (first * PAGEMAP_ENTRY_BYTES) as u64)?;
        let (entries, _) = entries.as_chunks();
        Ok(entries.iter().copied().map(u64::from_le_bytes).collect())
    }
}

/// Writes a page as it is, so that this process has its own. The compiler must not see that nothing changes.
fn write_back(memory: &mut [u8], page: usize) {
    if let Some(byte) = memory.get_mut(page * PAGE_BYTES) {
        *byte = black_box(*byte);
    }
}

/// Pages that the first steps of a session use.
#[derive(Debug, Default)]
struct Hot {
    /// Of the guest's memory, written.
    written: Vec<usize>,
    /// Of its memory, read: one for each group that the kernel maps at once.
    read: Vec<usize>,
    /// Of its code: likewise.
    code: Vec<usize>,
}

impl Hot {
    /// What was used so far of a guest's memory and code.
    fn of(guest: &Guest, module: &Module, own: &Own) -> Result<Self> {
        let memory = own.pages(guest.memory.data(&guest.store))?;
        let is_written = |entry: u64| entry & (PAGE_PRESENT | PAGE_OF_FILE) == PAGE_PRESENT;
        let groups = |entries: &[u64]| {
            let groups = (0..entries.len()).step_by(PAGES_AROUND);
            groups
                .filter_map(|at| {
                    (at..entries.len().min(at + PAGES_AROUND)).find(|page| {
                        entries[*page] & (PAGE_PRESENT | PAGE_OF_FILE) == PAGE_PRESENT | PAGE_OF_FILE
                    })
                })
                .collect()
        };
        Ok(Self {
            written: (0..memory.len()).filter(|page| is_written(memory[*page])).collect(),
            read: groups(&memory),
            code: groups(&own.pages(module.text())?),
        })
    }

    /// Maps them in a zygote. A fork copies such entries only of mappings of which some page was written, so one page of
    /// each is written, as it is.
    fn map(&self, memory: &mut [u8], module: &Module, own: &Own) {
        if let Some(page) = self.written.first() {
            write_back(memory, *page);
        }
        for page in &self.read {
            black_box(memory.get(page * PAGE_BYTES).copied());
        }
        let text = module.text();
        if let Some(byte) = text.first() {
            // Code is not writable but through this file; where the kernel forbids that, too, each cell maps its own.
            let _forbidden = own.memory.write_all_at(&[*byte], text.as_ptr().addr() as u64);
        }
        for page in &self.code {
            black_box(text.get(page * PAGE_BYTES).copied());
        }
    }
}

#[expect(unsafe_code, reason = "a precompiled module can only be loaded on trust")]
fn load_module(engine: &Engine, image: File) -> Result<Module> {
    // SAFETY: the file is what our image builder compiled: the warden opened it in a store that only root can write,
    // checked that its SHA-256 is the image's digest, and passed this descriptor, not a path. Nobody can change it
    // while it is mapped. That it was compiled for this engine and these settings is checked by wasmtime.
    unsafe { Module::deserialize_open_file(engine, image) }
}

/// Runs the first steps of a session in an interpreter that is thrown away, and says which pages that took. Those of a
/// program that fails are left out: telling an error takes ten times as many.
fn rehearse(engine: &Engine, pre: &InstancePre<Host>, module: &Module, own: &Own) -> Result<Hot> {
    for code in REHEARSALS {
        let mut guest = Guest::new(engine, pre)?;
        guest.host().wasi = wasi::rehearsal()?;
        guest.start(&Start { seed: "0".repeat(64), env: BTreeMap::new() })?;
        if guest.execute(&Program { code, env: BTreeMap::new(), cwd: None })? {
            return Hot::of(&guest, module, own);
        }
    }
    Err(format_err!("the guest cannot say hello"))
}

/// An interpreter.
pub struct Guest {
    store: Store<Host>,
    memory: Memory,
    alloc: TypedFunc<i32, i32>,
    start: TypedFunc<(i32, i32), ()>,
    execute: TypedFunc<(i32, i32), i32>,
    interrupter: Interrupter,
    executions: u32,
}

/// How to interrupt a guest in the middle of `execute`.
#[derive(Clone)]
pub struct Interrupter {
    interrupt: TypedFunc<i32, ()>,
    stack_pointer: Global,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("host", self.store.data()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Interrupter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupter").field("stack_pointer", &self.stack_pointer).finish_non_exhaustive()
    }
}

impl Guest {
    fn new(engine: &Engine, pre: &InstancePre<Host>) -> Result<Self> {
        let mut store = Store::new(engine, Host::default());
        store.limiter(|host| &mut host.memory);
        store.set_epoch_deadline(UNLIMITED_EPOCHS);
        // The snapshot is initialised: calling `_initialize` again would do it twice.
        let instance = pre.instantiate(&mut store)?;
        Self::from_instance(store, &instance)
    }

    fn from_instance(mut store: Store<Host>, instance: &Instance) -> Result<Self> {
        let missing = |name| move || format_err!("the guest exports no {name}");
        Ok(Self {
            memory: instance.get_memory(&mut store, "memory").ok_or_else(missing("memory"))?,
            alloc: instance.get_typed_func(&mut store, "alloc")?,
            start: instance.get_typed_func(&mut store, "start")?,
            execute: instance.get_typed_func(&mut store, "execute")?,
            interrupter: Interrupter {
                interrupt: instance.get_typed_func(&mut store, "interrupt")?,
                stack_pointer: instance
                    .get_global(&mut store, "__stack_pointer")
                    .ok_or_else(missing("__stack_pointer"))?,
            },
            executions: 0,
            store,
        })
    }

    /// What the host keeps for it.
    pub fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// The store and how to interrupt what runs in it.
    pub fn store(&mut self) -> (&mut Store<Host>, Interrupter) {
        (&mut self.store, self.interrupter.clone())
    }

    /// The session begins.
    pub fn start(&mut self, start: &Start<'_>) -> Result<()> {
        let argument = self.pass(&serde_json::to_vec(start)?)?;
        self.start.call(&mut self.store, argument)
    }

    /// How many programs it was given. Guests count them too, and name sources by the number.
    pub fn executions(&self) -> u32 {
        self.executions
    }

    /// Runs a program; whether it succeeded.
    pub fn execute(&mut self, program: &Program<'_>) -> Result<bool> {
        self.executions = self.executions.saturating_add(1);
        let argument = self.pass(&serde_json::to_vec(program)?)?;
        Ok(self.execute.call(&mut self.store, argument)? == 0)
    }

    fn pass(&mut self, argument: &[u8]) -> Result<(i32, i32)> {
        let length = i32::try_from(argument.len())?;
        let at = self.alloc.call(&mut self.store, length)?;
        self.memory.write(&mut self.store, at.cast_unsigned() as usize, argument)?;
        Ok((at, length))
    }
}

impl Interrupter {
    /// Tells the guest to stop, from the middle of a call into it. The guest only takes a note; it runs on a part of its
    /// stack that nothing uses.
    pub fn interrupt(&self, mut store: StoreContextMut<'_, Host>, reason: i32) -> Result<()> {
        // Else the call would meet the same passed deadline.
        store.set_epoch_deadline(UNLIMITED_EPOCHS);
        let Val::I32(top) = self.stack_pointer.get(&mut store) else {
            return Err(format_err!("the stack pointer is not an i32"));
        };
        // A guest at the end of its stack has no free part: it is about to overflow, and the trap will stop it.
        let Some(free) = top.checked_sub(STACK_SKIPPED).filter(|free| *free > 0) else { return Ok(()) };
        self.stack_pointer.set(&mut store, Val::I32(free))?;
        let told = self.interrupt.call(store.as_context_mut(), reason);
        self.stack_pointer.set(&mut store, Val::I32(top))?;
        told
    }
}
