//! The CPython that this process is, when a cell's library was loaded into one.
//!
//! A zygote of native cells is a Python that has imported what its cells are likely to need, and called into this
//! library to fork them. The function of Python's that this takes is looked up, so that the same code also links into
//! programs that are no Python. See "Operating System Utilities" in the Python/C API manual.

use std::ffi::{CStr, c_char, c_int, c_void};

/// The Python in this process. Whoever calls it holds the interpreter's lock: the zygote's only thread, which came here
/// from Python, and that thread in its copies.
///
/// None of what Python does before and after a fork of its own is done: it makes new the locks that other threads may have
/// held, and there are none, and seeds what is random, as our kernel does. It takes nearly as long as the fork.
#[derive(Debug, Clone, Copy)]
pub struct Python {
    run: extern "C" fn(*const c_char) -> c_int,
}

impl Python {
    /// `None` when this process is no Python.
    pub fn here() -> Option<Self> {
        function(c"PyRun_SimpleString").map(|run| Self { run })
    }

    /// Runs a statement. Whether it came to its end without an exception, which it would have printed.
    pub fn run(self, statement: &CStr) -> bool {
        (self.run)(statement.as_ptr()) == 0
    }
}

fn function(name: &CStr) -> Option<extern "C" fn(*const c_char) -> c_int> {
    #[expect(unsafe_code, reason = "looking a symbol up has no safe form")]
    // SAFETY: reads a string that outlives the call, and runs no code of a library: all of them are loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    #[expect(unsafe_code, reason = "a symbol has no type")]
    // SAFETY: `int PyRun_SimpleString(const char *)`, by Python's interface.
    (!found.is_null())
        .then(|| unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(found) })
}
