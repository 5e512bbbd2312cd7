//! How the cell's program is started, and what it finds around it.

use super::talk;
use anchorhold_jail::control::Interpreter;
use anchorhold_jail::fault;
use anchorhold_jail::hatch::Commit;
use anchorhold_jail::loopback::PROXY;
use anchorhold_jail::program::{Copies, Pipes, Program, Spare};
use anchorhold_jail::python::Python;
use anchorhold_jail::zygote::{Station, ZygoteError};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const PYTHON: &CStr = c"/usr/bin/python3";
const NODE: &CStr = c"/usr/local/bin/node";
const BASH: &CStr = c"/usr/bin/bash";

/// What runs in them. Part of this program and not of the image, so that both ends of a conversation are of one version.
const PYTHON_KERNEL: &str = include_str!("kernel.py");
const NODE_KERNEL: &str = include_str!("kernel.js");
const BASH_KERNEL: &str = include_str!("kernel.sh");
const COMMAND_KERNEL: &str = include_str!("command.sh");
/// Tells a Node that it is there before its session is known.
const AHEAD: &str = "ahead";

/// Makes a module of [`PYTHON_KERNEL`], since a program's `__main__` is its own, and calls its `zygote`.
const PYTHON_BOOT: &str = "\
import sys, types
module = types.ModuleType('anchorhold_kernel')
sys.modules[module.__name__] = module
library, first, source = sys.argv[1:]
sys.argv = ['']
exec(compile(source, '<anchorhold>', 'exec'), module.__dict__)
module.zygote(library, int(first))
";
/// Called in a copy of the zygote, before its session is known and then behind its walls. They bind no name of the
/// program's.
const PYTHON_PREPARE: &CStr = c"__import__('anchorhold_kernel').prepare()";
const PYTHON_SERVE: &CStr = c"__import__('anchorhold_kernel').serve()";

/// The library that a zygote loads, and the program that pid 1 of its cells is; beside this program.
const LIBRARY: &str = "libanchorhold_python.so";
/// The program that pid 1 of a native cell is.
pub const FIRST: &str = "anchorhold-pid1";

/// Of every program.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/home/user/.local/bin:/usr/local/bin:/usr/bin:/bin"),
    ("HOME", "/home/user"),
    ("USER", "user"),
    ("PWD", "/workspace"),
    ("TMPDIR", "/tmp"),
    ("SHELL", "/bin/bash"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
    ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
    ("MATPLOTLIBRC", "/etc/matplotlibrc"),
    ("MPLCONFIGDIR", "/tmp/.matplotlib"),
    ("IPYTHONDIR", "/tmp/.ipython"),
    ("PLOTLY_RENDERER", "plotly_mimetype"),
    ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ("NPM_CONFIG_PREFIX", "/home/user/.local"),
    ("NPM_CONFIG_UPDATE_NOTIFIER", "false"),
    ("NODE_OPTIONS", "--require=/usr/local/lib/preload.cjs"),
    ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ("no_proxy", "localhost,127.0.0.1,::1"),
];
/// Where the way out is, for programs that look.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
/// Numeric libraries read how many threads they may use when they are loaded.
const THREADS: [&str; 3] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"];

/// Opens the library and the program of pid 1, which the zygote finds nowhere any more once it is confined.
pub fn programs() -> io::Result<[File; 2]> {
    let own = std::env::current_exe()?;
    let open = |name| File::open(own.with_file_name(name));
    Ok([open(LIBRARY)?, open(FIRST)?])
}

/// Becomes the zygote: a Python of the image, which loads the library and calls into it.
pub fn become_zygote(station: Station, programs: [File; 2]) -> Result<Infallible, ZygoteError> {
    let text = |text: &str| CString::new(text).map_err(|_| ZygoteError::NotOurs);
    let [library, first] = programs.each_ref().map(AsRawFd::as_raw_fd);
    let (path, first) = (format!("/proc/self/fd/{library}"), first.to_string());
    let arguments = ["python3", "-I", "-c", PYTHON_BOOT, &path, &first, PYTHON_KERNEL];
    let arguments = arguments.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    // One thread, until a cell knows how many it has.
    let mut environment = environment(1, &[]);
    environment.insert("MALLOC_ARENA_MAX".into(), "1".into());
    if let Ok(step) = std::env::var(fault::VARIABLE) {
        environment.insert(fault::VARIABLE.into(), step);
    }
    // The allocator that Arrow brings would start a thread, and what has threads cannot be forked.
    environment.insert("JE_ARROW_MALLOC_CONF".into(), "background_thread:false".into());
    let environment = pairs(&environment).map_err(|_| ZygoteError::NotOurs)?;
    station.become_program(PYTHON, &arguments, &environment, &programs)
}

/// The Python that is copied.
pub(super) struct Copied(Python);

impl Copied {
    pub(super) fn here() -> Result<Self, ZygoteError> {
        Python::here().map(Self).ok_or(ZygoteError::NotOurs)
    }
}

impl Copies for Copied {
    fn get_ready(&self) -> bool {
        self.0.run(PYTHON_PREPARE)
    }

    fn go_on(&self) {
        self.0.run(PYTHON_SERVE);
    }
}

/// How a cell's program is started.
pub(super) struct Start<'a> {
    pub(super) interpreter: Interpreter,
    require_landlock: bool,
    threads: u32,
    /// The session's environment.
    env: &'a [(String, String)],
    /// Before anybody knows its session.
    is_ahead: bool,
}

impl<'a> Start<'a> {
    /// For the session that has taken its cell.
    pub(super) fn now(commit: &'a Commit) -> Self {
        Self {
            interpreter: commit.interpreter,
            require_landlock: commit.require_landlock,
            threads: threads(commit),
            env: &commit.env,
            is_ahead: false,
        }
    }

    /// For whoever will take its cell.
    pub(super) fn ahead(interpreter: Interpreter, require_landlock: bool) -> Self {
        Self { interpreter, require_landlock, threads: 1, env: &[], is_ahead: true }
    }

    /// Whether it is there before its environment, and has to be told of it: [`beginning`].
    pub(super) fn is_early(&self) -> bool {
        self.is_ahead || self.interpreter == Interpreter::Python
    }
}

/// Starts the program in the spare.
pub(super) fn start(start: &Start<'_>, spare: Spare) -> Result<Pipes, String> {
    spare.start(start.require_landlock, program(start)?).map_err(|e| e.to_string())
}

/// What is executed. Nothing for Python, which is there already.
fn program(start: &Start<'_>) -> Result<Option<Program>, String> {
    let (path, arguments): (_, &[&str]) = match start.interpreter {
        Interpreter::Own => return Err("the image has several interpreters, and none was named".into()),
        Interpreter::Python => return Ok(None),
        Interpreter::Node if start.is_ahead => (NODE, &["node", "--no-warnings", "-e", NODE_KERNEL, AHEAD]),
        Interpreter::Node => (NODE, &["node", "--no-warnings", "-e", NODE_KERNEL]),
        Interpreter::Bash => (BASH, &["bash", "-c", BASH_KERNEL, "bash"]),
        Interpreter::Command | Interpreter::Terminal => (BASH, &["bash", "-c", COMMAND_KERNEL, "bash"]),
    };
    let text = |text: &&str| CString::new(*text).map_err(|e| format!("{text}: {e}"));
    Ok(Some(Program {
        path: path.to_owned(),
        at_terminal: start.interpreter == Interpreter::Terminal,
        arguments: arguments.iter().map(text).collect::<Result<_, _>>()?,
        environment: pairs(&environment(start.threads, start.env))?,
    }))
}

/// The first that a program is told that was there before anybody knew its session.
pub(super) fn beginning(commit: &Commit) -> Vec<u8> {
    let threads = threads(commit);
    talk::framed(&serde_json::json!({"env": environment(threads, &commit.env), "threads": threads}))
}

fn threads(commit: &Commit) -> u32 {
    commit.cpu_millicores.div_ceil(1000).max(1)
}

fn environment(threads: u32, session: &[(String, String)]) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> =
        ENVIRONMENT.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    all.extend(PROXIES.map(|name| (name.to_owned(), format!("http://{PROXY}"))));
    all.extend(THREADS.map(|name| (name.to_owned(), threads.to_string())));
    all.extend(session.iter().cloned());
    all
}

fn pairs(environment: &BTreeMap<String, String>) -> Result<Vec<CString>, String> {
    let pair = |(name, value): (&String, &String)| {
        CString::new(format!("{name}={value}")).map_err(|_| format!("{name} holds a zero byte"))
    };
    environment.iter().map(pair).collect()
}
