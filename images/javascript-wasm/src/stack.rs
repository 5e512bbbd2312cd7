//! How deep JavaScript may recurse.
//!
//! QuickJS compares the shadow stack pointer with a limit and throws a `RangeError` below it. Two stacks grow
//! together: the shadow stack (8 MiB, set by the toolchain) and the machine stack of the host (`max_wasm_stack`,
//! 16 MiB), on which a call takes up to four times as much. The limit leaves room on both, so that a deep
//! recursion is an error and never a trap. Recursion in C stops earlier: see `quickjs-prefix.h`.

use rquickjs::{Ctx, qjs};

const LIMIT_BYTES: usize = 3 * 1024 * 1024;

/// A limit under which no function can be called: see `jobs::discard`.
const NO_CALLS_BYTES: usize = 1;

pub fn set_limit(ctx: &Ctx<'_>) {
    set(ctx, LIMIT_BYTES);
}

pub fn forbid_calls(ctx: &Ctx<'_>) {
    set(ctx, NO_CALLS_BYTES);
}

fn set(ctx: &Ctx<'_>, bytes: usize) {
    // SAFETY: the runtime of a live context is live, and both calls only store numbers in it.
    unsafe {
        let runtime = qjs::JS_GetRuntime(ctx.as_raw().as_ptr());
        qjs::JS_UpdateStackTop(runtime);
        qjs::JS_SetMaxStackSize(runtime, bytes as _);
    }
}
