//! The interpreter of a session, and one execution after the other.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
};

use rustpython_vm::{
    AsObject, Interpreter, InterpreterBuilder, PyObjectRef, PyRef, PyResult, Settings, VirtualMachine,
    builtins::{PyBaseExceptionRef, PyCode, PyDictRef, PyStr, PyTypeRef},
    bytecode::CodeFlags,
    common::rc::PyRc,
    compiler::Mode,
    scope::Scope,
    signal,
};
use serde::Deserialize;

use crate::{abi, value, value::Emission};

/// `boot/` of the image folder, there only while the snapshot is taken. Python that is read here
/// instead of compiled in can be edited without compiling RustPython again.
const BOOT: &str = "/tmp/boot";
/// PyPI's tzdata, a zip file.
const TZDATA: &[u8] = include_bytes!("../patched/tzdata.zip");
/// Between the programs of `warm_up.py`.
const WARM_UP_SEPARATOR: &str = "#%%\n";
/// How many executions keep their source for tracebacks.
const SOURCES_MAX: u32 = 256;
const REASON_TIMEOUT: u8 = 1;

thread_local! {
    /// What an execution that ran into its time limit raises; here, because the handler of an
    /// interrupt is a plain function.
    static TIMEOUT: OnceCell<PyTypeRef> = const { OnceCell::new() };
}

/// The argument of `start`.
#[derive(Deserialize)]
struct Start {
    seed: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// The argument of `execute`.
#[derive(Deserialize)]
struct Execute {
    code: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<String>,
}

pub struct Session {
    interpreter: Interpreter,
    /// The names of `__main__`: what lives from one execution to the next.
    main: Scope,
    prelude: Prelude,
    /// `linecache.cache`, where tracebacks find source lines.
    sources: PyDictRef,
    count: Cell<u32>,
}

/// The functions of `boot/prelude.py` that are called from here.
struct Prelude {
    names: PyDictRef,
    renew_stdin: PyObjectRef,
    seed_random: PyObjectRef,
    update_environment: PyObjectRef,
    enter: PyObjectRef,
    leave: PyObjectRef,
    run_coroutine: PyObjectRef,
    bundle: PyObjectRef,
    describe: PyObjectRef,
}

impl Session {
    /// Build the interpreter. A failure here is a failure to build the image, hence the panics.
    pub fn create() -> Self {
        abi::share_workspace_as_home();
        std::env::set_current_dir("/workspace").expect("there is a /workspace");
        let interpreter = with_standard_library(InterpreterBuilder::new().settings(settings())).build();
        let (main, prelude, sources) = interpreter.enter(|vm| match initialize(vm) {
            Ok(parts) => parts,
            Err(exception) => {
                vm.print_exception(&exception);
                panic!("the prelude failed");
            }
        });
        signal::set_interrupt_handler(raise_interrupt);
        let session = Self { interpreter, main, prelude, sources, count: Cell::new(0) };
        session.warm_up();
        session
    }

    /// Run programs that use what most programs use, so that a session finds it ready.
    fn warm_up(&self) {
        for code in boot_file("warm_up.py").split(WARM_UP_SEPARATOR) {
            let execute = Execute { code: code.to_owned(), env: BTreeMap::new(), cwd: None };
            assert!(self.interpreter.enter(|vm| self.run_and_report(&execute, vm)), "failed: {code}");
        }
        self.count.set(0);
        self.interpreter.enter(|vm| {
            for count in 1..=SOURCES_MAX {
                let _ = self.sources.del_item(&*filename(count), vm);
            }
        });
    }

    /// Once per session, before anything else.
    pub fn start(&self, argument: &[u8]) {
        // Unseeded `random.Random()` objects draw from Rust's generator, which is in the snapshot too.
        let reseeded = rand::rng().reseed();
        assert!(reseeded.is_ok(), "the host gives no randomness");
        self.interpreter.enter(|vm| {
            // A host may warm a pooled cell up with executions before it knows the session: they do
            // not count, and leave no result behind.
            self.count.set(0);
            let _ = vm.builtins.as_object().del_attr("_", vm);
            if let Err(exception) = self.seed_and_set_environment(argument, vm) {
                // A session whose generators are not seeded must not live.
                vm.print_exception(&exception);
                panic!("the session cannot start");
            }
        });
    }

    fn seed_and_set_environment(&self, argument: &[u8], vm: &VirtualMachine) -> PyResult<()> {
        let Start { seed, env } = serde_json::from_slice(argument)
            .map_err(|error| vm.new_value_error(format!("start: {error}")))?;
        let seed = vm.ctx.types.int_type.as_object().call((seed, 16), vm)?;
        self.prelude.seed_random.call((seed,), vm)?;
        if !env.is_empty() {
            self.prelude.update_environment.call((to_dict(&env, vm)?,), vm)?;
        }
        Ok(())
    }

    /// One execution. Returns whether it succeeded.
    pub fn execute(&self, argument: &[u8]) -> bool {
        self.interpreter.enter(|vm| match serde_json::from_slice(argument) {
            Ok(request) => self.run_and_report(&request, vm),
            Err(error) => {
                abi::emit(&Emission::error("SystemError", &format!("execute: {error}"), ""));
                false
            }
        })
    }

    fn run_and_report(&self, request: &Execute, vm: &VirtualMachine) -> bool {
        signal::clear_interrupt();
        let outcome = self.run_in_surroundings(request, vm);
        let succeeded = match outcome {
            Ok(()) => true,
            Err(exception) if exception.class().fast_issubclass(vm.ctx.exceptions.system_exit) => {
                report_exit(&exception, vm)
            }
            Err(exception) => {
                self.report_error(exception, vm);
                false
            }
        };
        for stream in ["stdout", "stderr"] {
            flush(stream, vm);
        }
        if self.prelude.names.get_item("stdin_used", vm).is_ok_and(|used| used.is(&vm.ctx.true_value)) {
            let _ = self.prelude.renew_stdin.call((), vm);
        }
        // One that came too late must not end the next execution.
        signal::clear_interrupt();
        succeeded
    }

    /// Run with the request's environment and working directory, and undo them.
    fn run_in_surroundings(&self, request: &Execute, vm: &VirtualMachine) -> PyResult<()> {
        if request.env.is_empty() && request.cwd.is_none() {
            return self.run(&request.code, vm);
        }
        let cwd = request.cwd.as_deref().map_or_else(|| vm.ctx.none(), |cwd| vm.ctx.new_str(cwd).into());
        let before = self.prelude.enter.call((to_dict(&request.env, vm)?, cwd), vm)?;
        let outcome = self.run(&request.code, vm);
        // A deadline that has done its work must not stop the undoing.
        signal::clear_interrupt();
        // The program's error, if there is one, matters more than ours.
        let undone = self.prelude.leave.call((before,), vm);
        outcome.and(undone.map(drop))
    }

    fn run(&self, source: &str, vm: &VirtualMachine) -> PyResult<()> {
        let code = self.compile(source, vm)?;
        let is_coroutine = code.flags.contains(CodeFlags::COROUTINE);
        let mut result = vm.run_code_obj(code, self.main.clone())?;
        if is_coroutine {
            result = self.prelude.run_coroutine.call((result,), vm)?;
        }
        if vm.is_none(&result) {
            return Ok(());
        }
        vm.builtins.set_attr("_", result.clone(), vm)?;
        self.emit_result(result, vm)
    }

    fn compile(&self, source: &str, vm: &VirtualMachine) -> PyResult<PyRef<PyCode>> {
        let count = self.count.get() + 1;
        self.count.set(count);
        let name = filename(count);
        self.remember_source(count, &name, source, vm)?;
        let mut options = vm.compile_opts();
        options.allow_top_level_await = true;
        vm.compile_with_opts(source, Mode::BlockExpr, name, options)
            .map_err(|error| error.into_pyexception(vm, Some(source)))
    }

    /// An entry of `linecache`, where tracebacks and `inspect` find source lines.
    fn remember_source(&self, count: u32, name: &str, source: &str, vm: &VirtualMachine) -> PyResult<()> {
        let lines = source.split_inclusive('\n').map(|line| vm.ctx.new_str(line).into()).collect();
        // Size, time of change (none: never stale), lines, name.
        let entry = vec![
            vm.ctx.new_int(source.len()).into(),
            vm.ctx.none(),
            vm.ctx.new_list(lines).into(),
            vm.ctx.new_str(name).into(),
        ];
        self.sources.set_item(name, vm.ctx.new_tuple(entry).into(), vm)?;
        if count > SOURCES_MAX {
            let _ = self.sources.del_item(&*filename(count - SOURCES_MAX), vm);
        }
        Ok(())
    }

    fn emit_result(&self, result: PyObjectRef, vm: &VirtualMachine) -> PyResult<()> {
        let emission = if value::is_plain(&result, vm) {
            let repr = result.repr(vm)?;
            let repr = repr.to_string_lossy();
            value::check_size(&repr, vm)?;
            Emission::plain_result(&repr)
        } else {
            let bundle = self.prelude.bundle.call((result,), vm)?;
            let bundle = bundle.str(vm)?;
            Emission::result(true, &bundle.to_string_lossy())
        };
        abi::emit(&emission);
        Ok(())
    }

    fn report_error(&self, exception: PyBaseExceptionRef, vm: &VirtualMachine) {
        let name = exception.class().name().to_owned();
        // Describing runs the program's own `__str__`, needs modules that the program may have broken,
        // and may be interrupted; what the interpreter itself prints needs less.
        let (message, traceback) =
            self.describe(exception.clone(), vm).unwrap_or_else(|_| plain_description(&exception, vm));
        abi::emit(&Emission::error(&name, &message, &traceback));
    }

    fn describe(&self, exception: PyBaseExceptionRef, vm: &VirtualMachine) -> PyResult<(String, String)> {
        let texts = self.prelude.describe.call((exception,), vm)?;
        let text = |index: usize| -> PyResult<String> {
            Ok(texts.get_item(&index, vm)?.str(vm)?.to_string_lossy().into_owned())
        };
        Ok((text(0)?, text(1)?))
    }
}

fn boot_file(name: &str) -> String {
    let path = format!("{BOOT}/{name}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn filename(count: u32) -> String {
    format!("<execution {count}>")
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    // The seed of `hash(str)` is part of the snapshot, so chance could only make images differ.
    settings.hash_seed = Some(0);
    settings.install_signal_handlers = false;
    settings.write_bytecode = false;
    settings.ignore_environment = true;
    settings.argv = vec![String::new()];
    // As in an interactive CPython: modules beside the program are found, wherever it stands.
    settings.path_list = vec![String::new()];
    settings
}

/// What the `rustpython` crate does; that one is a command line too, and brings along what such a thing needs.
fn with_standard_library(builder: InterpreterBuilder) -> InterpreterBuilder {
    let native = rustpython_stdlib::stdlib_module_defs(&builder.ctx);
    builder.add_native_modules(&native).add_frozen_modules(rustpython_pylib::FROZEN_STDLIB).init_hook(|vm| {
        let state = PyRc::get_mut(&mut vm.state).expect("nobody else has it yet");
        state.config.paths.stdlib_dir = Some(rustpython_pylib::LIB_PATH.to_owned());
    })
}

fn initialize(vm: &VirtualMachine) -> PyResult<(Scope, Prelude, PyDictRef)> {
    let module = vm.new_module("anchorhold", vm.ctx.new_dict(), None);
    let names = module.dict();
    names.set_item("emit_display", vm.new_function("emit_display", emit_display).into(), vm)?;
    names.set_item("check_size", vm.new_function("check_size", check_size).into(), vm)?;
    names.set_item("TZDATA", vm.ctx.new_bytes(TZDATA.to_vec()).into(), vm)?;
    vm.sys_module.get_attr("modules", vm)?.set_item("anchorhold", module.into(), vm)?;

    let prelude = boot_file("prelude.py");
    let code = vm
        .compile(&prelude, Mode::Exec, "<anchorhold>".to_owned())
        .map_err(|error| error.into_pyexception(vm, Some(&prelude)))?;
    vm.run_code_obj(code, Scope::with_builtins(None, names.clone(), vm))?;
    let get = |name: &str| names.get_item(name, vm);
    let prelude = Prelude {
        names: names.clone(),
        renew_stdin: get("renew_stdin")?,
        seed_random: get("seed_random")?,
        update_environment: get("update_environment")?,
        enter: get("enter")?,
        leave: get("leave")?,
        run_coroutine: get("run_coroutine")?,
        bundle: get("bundle")?,
        describe: get("describe")?,
    };
    let timeout = get("ExecutionTimeout")?.downcast::<rustpython_vm::builtins::PyType>();
    TIMEOUT.with(|cell| cell.set(timeout.expect("a class")).expect("set once"));
    let sources = vm.import("linecache", 0)?.get_attr("cache", vm)?.downcast().expect("a dict");
    Ok((vm.new_scope_with_main()?, prelude, sources))
}

fn emit_display(mime: PyRef<PyStr>) {
    abi::emit(&Emission::result(false, &mime.to_string_lossy()));
}

fn check_size(text: PyRef<PyStr>, vm: &VirtualMachine) -> PyResult<()> {
    value::check_size(&text.to_string_lossy(), vm)
}

fn to_dict(map: &BTreeMap<String, String>, vm: &VirtualMachine) -> PyResult<PyDictRef> {
    let dict = vm.ctx.new_dict();
    for (name, value) in map {
        dict.set_item(&**name, vm.ctx.new_str(&**value).into(), vm)?;
    }
    Ok(dict)
}

/// `sys.exit`: the code is the answer, a text goes to standard error as in CPython.
fn report_exit(exception: &PyBaseExceptionRef, vm: &VirtualMachine) -> bool {
    let (code, text) = value::exit_code(exception, vm);
    if let Some(text) = text
        && let Ok(stderr) = vm.sys_module.get_attr("stderr", vm)
    {
        let _ = vm.call_method(&stderr, "write", (format!("{text}\n"),));
    }
    abi::emit(&Emission::exit_code(code));
    code == 0
}

fn plain_description(exception: &PyBaseExceptionRef, vm: &VirtualMachine) -> (String, String) {
    let message = exception.as_object().str(vm);
    let message = message.map_or_else(
        |_| "<the message cannot be shown>".to_owned(),
        |message| message.to_string_lossy().into_owned(),
    );
    let mut traceback = String::new();
    let _ = vm.write_exception(&mut traceback, exception);
    (message, traceback)
}

/// The program may have replaced, closed or deleted its streams: that is its own affair.
fn flush(stream: &'static str, vm: &VirtualMachine) {
    if let Ok(stream) = vm.sys_module.get_attr(stream, vm)
        && !vm.is_none(&stream)
    {
        let _ = vm.call_method(&stream, "flush", ());
    }
}

/// Called by the interpreter at its next check after `interrupt`.
fn raise_interrupt(vm: &VirtualMachine, reason: u8) -> PyResult<()> {
    let timeout = TIMEOUT.with(|cell| cell.get().cloned());
    Err(match timeout {
        Some(class) if reason == REASON_TIMEOUT => {
            vm.new_exception_msg(class, "the execution ran into its time limit".into())
        }
        _ => vm.new_exception_msg(
            vm.ctx.exceptions.keyboard_interrupt.to_owned(),
            "the execution was cancelled".into(),
        ),
    })
}
