//! The CPython that this process is, when a cell's library was loaded into one.
//!
//! A zygote of native cells is a Python that has imported what its cells are likely to need, and called into this
//! library to fork them. The few functions of Python's that this takes are looked up, so that the same code also links
//! into programs that are no Python. See "Operating System Utilities" in the Python/C API manual.

use std::ffi::{CStr, c_char, c_int, c_void};

/// Functions of the Python in this process. Whoever calls them holds the interpreter's lock: the zygote's only thread,
/// which came here from Python.
#[derive(Debug, Clone, Copy)]
pub struct Python {
    before_fork: extern "C" fn(),
    after_fork_in_parent: extern "C" fn(),
    after_fork_in_child: extern "C" fn(),
    run: extern "C" fn(*const c_char) -> c_int,
}

impl Python {
    /// `None` when this process is no Python.
    pub fn here() -> Option<Self> {
        Some(Self {
            before_fork: function(c"PyOS_BeforeFork")?,
            after_fork_in_parent: function(c"PyOS_AfterFork_Parent")?,
            after_fork_in_child: function(c"PyOS_AfterFork_Child")?,
            run: run(c"PyRun_SimpleString")?,
        })
    }

    /// Before a fork.
    pub fn before_fork(self) {
        (self.before_fork)();
    }

    /// Behind it, in the process that forked.
    pub fn after_fork(self) {
        (self.after_fork_in_parent)();
    }

    /// Behind it, in the copy: it is a Python of its own from here on.
    pub fn begin(self) {
        (self.after_fork_in_child)();
    }

    /// Runs a statement. Whether it came to its end without an exception, which it would have printed.
    pub fn run(self, statement: &CStr) -> bool {
        (self.run)(statement.as_ptr()) == 0
    }
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    #[expect(unsafe_code, reason = "looking a symbol up has no safe form")]
    // SAFETY: reads a string that outlives the call, and runs no code of a library: all of them are loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

fn function(name: &CStr) -> Option<extern "C" fn()> {
    #[expect(unsafe_code, reason = "a symbol has no type")]
    // SAFETY: the names that are passed here are those of functions `void f(void)`, by Python's stable interface.
    symbol(name).map(|found| unsafe { std::mem::transmute::<*mut c_void, extern "C" fn()>(found) })
}

fn run(name: &CStr) -> Option<extern "C" fn(*const c_char) -> c_int> {
    #[expect(unsafe_code, reason = "a symbol has no type")]
    // SAFETY: `int PyRun_SimpleString(const char *)`, by Python's interface.
    symbol(name).map(|found| unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(found)
    })
}
