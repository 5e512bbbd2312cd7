//! Standard output and error of the program.
//!
//! Standard output is collected and written in pieces: a `console.log` in a loop must not cost a host call each.
//! It is flushed when it grows, before anything goes to standard error or is emitted (so that the order is kept), before
//! sleeping, every few thousand interpreter steps, and at the end of the execution.

use std::cell::RefCell;
use std::io::{Write, stderr, stdout};

use crate::stop;

const FLUSH_AT_BYTES: usize = 16 * 1024;

thread_local! {
    static PENDING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the text to be written with more of its kind.
pub fn write_stdout(text: &str) {
    if stop::is_exiting() {
        return;
    }
    PENDING.with_borrow_mut(|pending| {
        pending.extend_from_slice(text.as_bytes());
        if pending.len() >= FLUSH_AT_BYTES {
            write_out(pending);
        }
    });
}

/// Writes the text now.
pub fn write_stderr(text: &str) {
    if stop::is_exiting() {
        return;
    }
    flush();
    // A closed stream is the reader's choice: the program goes on without it.
    stderr().write_all(text.as_bytes()).ok();
}

/// Writes what was kept.
pub fn flush() {
    PENDING.with_borrow_mut(write_out);
}

fn write_out(pending: &mut Vec<u8>) {
    if pending.is_empty() {
        return;
    }
    let mut out = stdout().lock();
    out.write_all(pending).and_then(|()| out.flush()).ok();
    pending.clear();
    pending.shrink_to(FLUSH_AT_BYTES);
}
