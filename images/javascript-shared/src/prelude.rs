//! The JavaScript half of a guest: console, timers, Node's small modules, the module loader.
//!
//! The files in `prelude/` are CommonJS modules in the order of their dependencies. A guest evaluates them once, when
//! the image is built. `boot.js` is a function of `host` that gives `define(name, factory)`; every module is such a
//! factory ([`wrapped`]), and what the last one, `kernel.js`, exports is what Rust calls afterwards.
//!
//! `host` is an object with these functions:
//!
//! | of | functions |
//! |---|---|
//! | output | `writeStdout(text)`, `writeStderr(text)`, `emitResult(json)` |
//! | files | `readFile`, `readStdin`, `readStdinLine`, `writeFile`, `truncate`, `stat`, `readDirectory`, `makeDirectory`, `removeFile`, `removeDirectory`, `rename`, `copyFile`; a failure has `code`, `syscall` and `path` |
//! | time, chance | `monotonicMs()`, `random()`, `randomBytes(count)` |
//! | text | `utf8Encode(text)`, `utf8Decode(bytes, fatal?)` |
//! | URLs | `urlParse(text, base?)`, `urlParts(href)`, `urlSet(href, part, value)` |
//! | values | `classId(value)`: a number, the same for all objects of one kind (0 for primitives); `proxyTarget(value)`; `promiseState(value)` |
//! | the engine | `engine`: `{ name, versions }`; `compileFunction(file, source)`; `exit(code)`, which no `catch` sees |

macro_rules! modules {
    ($($name:literal),+ $(,)?) => {
        [$(Module { name: $name, source: include_str!(concat!("../prelude/", $name, ".js")) }),+]
    };
}

/// One file of the prelude.
#[derive(Debug)]
pub struct Module {
    /// Its name for `require` inside of the prelude.
    pub name: &'static str,
    /// What it holds.
    pub source: &'static str,
}

/// Evaluates to a function of `host`.
pub const BOOT: Module = Module { name: "boot", source: include_str!("../prelude/boot.js") };

/// In this order; the last one is the kernel.
pub const MODULES: &[Module] = &modules![
    "errors",
    "inspect",
    "console",
    "timers",
    "encoding",
    "buffer",
    "path",
    "url",
    "dom-events",
    "events",
    "clone",
    "equal",
    "crypto",
    "fs",
    "util",
    "assert",
    "process",
    "display",
    "modules",
    "globals",
    "kernel",
];

/// Run once when the image is built, so that what most programs use is compiled, allocated and in shape.
pub const WARM_UP: &str = include_str!("../prelude/warm-up.js");

impl Module {
    /// The name of its file in stacks. `errors.js` leaves such frames out of tracebacks.
    #[must_use]
    pub fn file(&self) -> String {
        format!("node:internal/{}", self.name)
    }

    /// Its source as an expression, the factory that `define` takes.
    #[must_use]
    pub fn wrapped(&self) -> String {
        // One line, so that the line numbers of the file stay right.
        format!("(function (exports, require, module, host) {{ 'use strict'; {}\n}})", self.source)
    }
}
