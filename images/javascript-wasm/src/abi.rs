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
#[derive(Clone, Copy)]
pub enum Kind {
    Result = 0,
    Error = 1,
    ExitCode = 2,
}

pub fn new_argument(len: usize) -> *mut u8 {
    ARGUMENT.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.resize(len, 0);
        buffer.as_mut_ptr()
    })
}

pub fn take_argument(len: usize) -> Vec<u8> {
    let mut buffer = ARGUMENT.take();
    buffer.truncate(len);
    buffer
}

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
