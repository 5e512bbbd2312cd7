//! The edge to the host: argument buffers and rich values.

use std::cell::RefCell;

thread_local! {
    /// The buffer of the next call. Kept here, so that reading an argument needs no raw pointer.
    static ARGUMENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[link(wasm_import_module = "anchorhold")]
unsafe extern "C" {
    #[link_name = "emit"]
    fn host_emit(kind: i32, ptr: *const u8, len: usize);
}

/// What the host does with an emitted text.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Adds it to the results: JSON `{"main","mime"}`.
    Result = 0,
    /// Tells it as the error that ended the program: JSON `{"name","message","traceback"}`.
    Error = 1,
    /// Takes it as the exit code, in decimal.
    ExitCode = 2,
}

/// Room for the argument of the next call.
pub fn new_argument(len: usize) -> *mut u8 {
    ARGUMENT.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.resize(len, 0);
        buffer.as_mut_ptr()
    })
}

/// What the host wrote there.
#[must_use]
pub fn take_argument(len: usize) -> Vec<u8> {
    let mut buffer = ARGUMENT.take();
    buffer.truncate(len);
    buffer
}

/// Hands a rich value to the host, behind all output so far.
pub fn emit(kind: Kind, text: &str) {
    // Whoever follows the program sees both in the order in which they were made.
    crate::output::flush();
    // SAFETY: the host reads `len` bytes at `ptr` before it returns and keeps neither.
    unsafe { host_emit(kind as i32, text.as_ptr(), text.len()) }
}

/// Ends the instance with a last word on standard error.
pub fn trap(reason: &str) -> ! {
    eprintln!("javascript guest: {reason}");
    std::process::abort()
}
