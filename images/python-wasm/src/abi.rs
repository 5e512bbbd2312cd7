//! The exports and imports of a guest.

use std::cell::{OnceCell, RefCell};

use crate::{session::Session, value::Emission};

thread_local! {
    /// The host writes the next call's argument here.
    static ARGUMENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Made when the image is built.
    static SESSION: OnceCell<Session> = const { OnceCell::new() };
}

mod host {
    #[link(wasm_import_module = "anchorhold")]
    unsafe extern "C" {
        pub fn emit(kind: i32, ptr: *const u8, len: usize);
    }
    unsafe extern "C" {
        /// Of the C library: names one more prefix under which a preopened directory is found.
        pub fn __wasilibc_register_preopened_fd(fd: i32, prefix: *const std::ffi::c_char) -> i32;
    }
}

/// Hand a value to the host.
pub fn emit(emission: &Emission) {
    let text = emission.text();
    // SAFETY: the host only reads `len` bytes from `ptr`, before it returns.
    unsafe { host::emit(emission.kind(), text.as_ptr(), text.len()) }
}

/// Let `/home/user` name the same directory as `/workspace`.
pub fn share_workspace_as_home() {
    // SAFETY: the C library copies the prefix, and descriptor 3 is open for as long as the guest lives.
    let result = unsafe { host::__wasilibc_register_preopened_fd(3, c"/home/user".as_ptr()) };
    assert_eq!(result, 0, "descriptor 3 is not a preopened directory");
}

/// Take the argument that the host wrote, if this is where it was told to write.
fn argument(ptr: *const u8, len: usize) -> Option<Vec<u8>> {
    let mut bytes = ARGUMENT.take();
    if !std::ptr::eq(bytes.as_ptr(), ptr) || len > bytes.len() {
        return None;
    }
    bytes.truncate(len);
    Some(bytes)
}

#[unsafe(export_name = "wizer-initialize")]
extern "C" fn initialize() {
    SESSION.with(|session| {
        let _ = session.set(Session::create());
    });
}

#[unsafe(no_mangle)]
extern "C" fn alloc(len: usize) -> *mut u8 {
    ARGUMENT.with_borrow_mut(|bytes| {
        bytes.clear();
        bytes.resize(len, 0);
        bytes.as_mut_ptr()
    })
}

#[unsafe(no_mangle)]
extern "C" fn start(ptr: *const u8, len: usize) {
    let argument = argument(ptr, len).unwrap_or_default();
    SESSION.with(|session| session.get().map(|s| s.start(&argument)));
}

#[unsafe(no_mangle)]
extern "C" fn execute(ptr: *const u8, len: usize) -> i32 {
    let argument = argument(ptr, len).unwrap_or_default();
    let succeeded = SESSION.with(|session| session.get().is_some_and(|s| s.execute(&argument)));
    i32::from(!succeeded)
}

/// Called in the middle of `execute`, between any two instructions of it, `malloc` included: two
/// stores to memory and nothing else.
#[unsafe(no_mangle)]
extern "C" fn interrupt(reason: i32) {
    rustpython_vm::signal::request_interrupt(reason as u8);
}
