//! recipe → wasm → snapshot → native code → smoke programs → store; or recipe → tree → store.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use wasmtime::{Engine, Instance, Linker, Module, OptLevel, RegallocAlgorithm, Store as WasmStore, Val};
use wasmtime_wasi::p1;
use wasmtime_wizer::{InstanceState, SnapshotVal, ValType, Wizer};

use crate::{
    engine, guest,
    recipe::Recipe,
    smoke,
    store::{self, Kind, Manifest, Store},
    tree,
};

/// The function of a guest that makes it what its snapshot shows.
const INITIALIZE: &str = "wizer-initialize";
const LOCK_FILE: &str = include_str!("../Cargo.lock");

pub fn build(recipe: &Recipe, store: &Store, bless: bool) -> Result<()> {
    if store.holds(&recipe.name, &recipe.key)? {
        eprintln!("{}: up to date", recipe.name);
        return Ok(());
    }
    let _lock = store.lock()?;
    match recipe.kind {
        Kind::Wasm => build_module(recipe, store, bless),
        Kind::Root => tree::build(recipe, store),
    }
}

fn build_module(recipe: &Recipe, store: &Store, bless: bool) -> Result<()> {
    let wasm = step(recipe, "compile the guest", || compile_guest(recipe))?;
    let snapshot = step(recipe, "take the snapshot", || snapshot(recipe, &wasm))?;
    let native = step(recipe, "compile to native code", || {
        Ok(Engine::new(&recipe.processor.settings()?)?.precompile_module(&snapshot)?)
    })?;
    let (digest, path) = store.add_blob(&native)?;
    let image = store::load_blob(&path)?;
    step(recipe, "run the smoke programs", || smoke::run(recipe, &image, bless))?;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    eprintln!(
        "{}: wasm {:.1} MiB, snapshot {:.1} MiB, native {:.1} MiB",
        recipe.name,
        mib(wasm.len()),
        mib(snapshot.len()),
        mib(native.len())
    );
    store.publish(&Manifest {
        name: recipe.name.clone(),
        kind: recipe.kind,
        digest,
        recipe: recipe.key.clone(),
        size_bytes: native.len() as u64,
        language: recipe.language,
        version: recipe.version.clone(),
        built_with: format!(
            "wasmtime {}, anchorhold-image {}",
            wasmtime_version(),
            env!("CARGO_PKG_VERSION")
        ),
    })
}

fn wasmtime_version() -> &'static str {
    let lines = LOCK_FILE.lines().skip_while(|line| *line != r#"name = "wasmtime""#);
    let version = lines.skip(1).find_map(|line| line.strip_prefix("version = "));
    version.map_or("of unknown version", |version| version.trim_matches('"'))
}

pub fn step<T>(recipe: &Recipe, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("{}: {what} ...", recipe.name);
    let begun = Instant::now();
    let made = work().with_context(|| format!("{}: could not {what}", recipe.name))?;
    eprintln!("{}: {what}: {:.1} s", recipe.name, begun.elapsed().as_secs_f64());
    Ok(made)
}

fn compile_guest(recipe: &Recipe) -> Result<Vec<u8>> {
    let out = tempfile::tempdir()?;
    let module = out.path().join("guest.wasm");
    run_script(recipe, &module)?;
    fs::read(&module).context("build.sh wrote no module")
}

/// Run the folder's `build.sh`. It makes its first argument, and keeps what it wants to keep between builds in
/// `$GUEST_TARGET_DIR`.
pub fn run_script(recipe: &Recipe, out: &Path) -> Result<()> {
    // Guests are compiled with one standard library, which is compiled once for all of them.
    let name = if recipe.kind == Kind::Wasm { "guests" } else { &recipe.name };
    let target = store::cache_directory()?.join("target").join(name);
    fs::create_dir_all(&target)?;
    let status = Command::new("sh")
        .arg(recipe.folder.join("build.sh"))
        .arg(out)
        .current_dir(&recipe.folder)
        .env("GUEST_TARGET_DIR", &target)
        .stdin(Stdio::null())
        .status()
        .context("cannot start build.sh")?;
    if !status.success() {
        bail!("build.sh failed: {status}");
    }
    Ok(())
}

/// Initialise the interpreter once and keep its memory. Meanwhile the guest finds the folder's `boot/`,
/// if there is one, as `/tmp/boot`.
fn snapshot(recipe: &Recipe, wasm: &[u8]) -> Result<Vec<u8>> {
    // Native code that runs once is compiled fast rather than well.
    let mut fast = engine::config();
    fast.cranelift_opt_level(OptLevel::None).cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    let engine = Engine::new(&fast)?;
    let mut linker = Linker::new(&engine);
    p1::add_to_linker_sync(&mut linker, |context: &mut guest::Context| &mut context.wasi)?;
    guest::add_emit(&mut linker)?;
    let (workspace, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
    copy_boot_files(&recipe.folder.join("boot"), &temporary.path().join("boot"))?;
    let context = snapshot_context(workspace.path(), temporary.path())?;
    let mut store = WasmStore::new(&engine, context);
    store.set_epoch_deadline(guest::NEVER);
    let mut wizer = Wizer::new();
    wizer.init_func(INITIALIZE);
    let (instrumentation, instrumented) = wizer.instrument(wasm)?;
    let instance = linker.instantiate(&mut store, &Module::new(&engine, &instrumented)?)?;
    for function in ["_initialize", INITIALIZE] {
        let function = instance.get_typed_func::<(), ()>(&mut store, function)?;
        function.call(&mut store, ()).map_err(anyhow::Error::from).context("an initialization trapped")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(wizer.snapshot(&instrumentation, &mut Initialized { store, instance }))?)
}

/// What a guest has become, for wizer to write down. The exports that it asks for are its own instrumentation's.
struct Initialized {
    store: WasmStore<guest::Context>,
    instance: Instance,
}

impl InstanceState for Initialized {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name).expect("a global");
        match global.get(&mut self.store) {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            Val::F32(bits) => SnapshotVal::F32(bits),
            Val::F64(bits) => SnapshotVal::F64(bits),
            Val::V128(value) => SnapshotVal::V128(value.as_u128()),
            other => panic!("a global of the type {other:?}"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        contents(self.instance.get_memory(&mut self.store, name).expect("a memory").data(&self.store));
    }
}

fn snapshot_context(workspace: &Path, temporary: &Path) -> Result<guest::Context> {
    let mut builder = guest::wasi(workspace, temporary)?;
    // What warm-up programs print is of no interest; why an initialisation fails is.
    builder.inherit_stderr();
    Ok(guest::Context::new(builder.build_p1()))
}

fn copy_boot_files(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("{}: boot files are plain files", entry.path().display()))?;
    }
    Ok(())
}
