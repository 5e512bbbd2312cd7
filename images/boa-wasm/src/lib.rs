//! The second JavaScript guest: Boa behind the guest ABI (see `images/README.md`), with no C in it.
//!
//! `wizer-initialize` builds the interpreter and evaluates the prelude, once, when the image is made.
//! Every session starts from that snapshot: `start` once, then any number of `execute`.
//!
//! An execution is one global script. It ends when its promise is settled and no timer is pending,
//! when it throws, when it calls `process.exit`, or when the host asks for it through `interrupt`.
//! In every case the interpreter is ready for the next one, with its variables kept.

mod dom_exception;
mod ending;
mod hooks;
mod host;
mod interpreter;
mod jobs;
mod kernel;
mod modules;

use std::cell::RefCell;

use anchorhold_javascript_shared::{abi, output, stop};
use boa_engine::ast::native_stack;
use boa_engine::vm::interrupt as engine_interrupt;
use interpreter::Interpreter;

thread_local! {
    static INTERPRETER: RefCell<Option<Interpreter>> = const { RefCell::new(None) };
}

/// Runs `action` on the interpreter. A trap is the right answer to a host that breaks the ABI.
fn with_interpreter<R>(action: impl FnOnce(&mut Interpreter) -> R) -> R {
    native_stack::set_top();
    INTERPRETER.with_borrow_mut(|slot| match slot {
        Some(interpreter) => action(interpreter),
        None => abi::trap("called before wizer-initialize"),
    })
}

#[unsafe(export_name = "wizer-initialize")]
pub extern "C" fn wizer_initialize() {
    match Interpreter::new() {
        Ok(interpreter) => INTERPRETER.set(Some(interpreter)),
        Err(error) => abi::trap(&format!("cannot build the interpreter: {error}")),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    abi::new_argument(len)
}

#[unsafe(no_mangle)]
pub extern "C" fn start(_ptr: *const u8, len: usize) {
    let argument = abi::take_argument(len);
    with_interpreter(|interpreter| interpreter.start(&argument));
}

/// Returns 0 if the program succeeded and 1 if it failed.
#[unsafe(no_mangle)]
pub extern "C" fn execute(_ptr: *const u8, len: usize) -> i32 {
    let argument = abi::take_argument(len);
    let succeeded = with_interpreter(|interpreter| interpreter.execute(&argument));
    output::flush();
    i32::from(!succeeded)
}

/// Called by the host while `execute` runs, so it must only store to memory.
#[unsafe(no_mangle)]
pub extern "C" fn interrupt(reason: i32) {
    stop::request(reason);
    engine_interrupt::request();
}
