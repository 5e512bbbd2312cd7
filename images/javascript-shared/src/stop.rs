//! Why the running program must stop before its end.
//!
//! The host stores a request from the middle of `execute`; `process.exit` stores one from inside.
//! The engine asks `requested` now and then and unwinds with an error that no `catch` sees.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

const NONE: i32 = 0;
const TIMEOUT: i32 = 1;
const CANCELLED: i32 = 2;
const EXIT: i32 = 3;

static REQUEST: AtomicI32 = AtomicI32::new(NONE);
static EXIT_CODE: AtomicI32 = AtomicI32::new(0);

/// Why a program stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its time is over.
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
    /// It asked for it, with this exit code.
    Exit(i32),
}

/// The host's request, by its number in the guest ABI. It only stores to memory.
pub fn request(reason: i32) {
    let request = if reason == TIMEOUT { TIMEOUT } else { CANCELLED };
    REQUEST.store(request, Relaxed);
}

/// The program's own request.
pub fn request_exit(code: i32) {
    EXIT_CODE.store(code, Relaxed);
    REQUEST.store(EXIT, Relaxed);
}

/// Whether there is a request.
#[must_use]
pub fn requested() -> bool {
    REQUEST.load(Relaxed) != NONE
}

/// `process.exit` was called, and what the program still does on its way out is nobody's business.
#[must_use]
pub fn is_exiting() -> bool {
    REQUEST.load(Relaxed) == EXIT
}

/// The pending request, which is then forgotten: what runs next is not stopped by it.
pub fn take() -> Option<Reason> {
    match REQUEST.swap(NONE, Relaxed) {
        NONE => None,
        TIMEOUT => Some(Reason::Timeout),
        EXIT => Some(Reason::Exit(EXIT_CODE.load(Relaxed))),
        _ => Some(Reason::Cancelled),
    }
}
