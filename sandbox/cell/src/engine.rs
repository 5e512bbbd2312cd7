//! The one engine configuration.
//!
//! `anchorhold-image` compiles guests with it and the cell loads them with it: wasmtime refuses a
//! file whose compile-time settings differ. Only methods that exist without the compiler are called,
//! so this file builds with wasmtime's features `runtime, std` alone and with `cranelift` too.

use wasmtime::{Config, WasmFeatures};

/// How much of the host's stack one call into a guest may use.
///
/// Interpreters recurse. Their own guard watches the guest's shadow stack (8 MiB); the frames that
/// compiled code keeps on the host's stack come on top, and must not run out first: a guest that
/// exhausts its shadow stack raises `RecursionError`, one that exhausts this traps and is lost.
pub const WASM_STACK_BYTES: usize = 64 << 20;

/// The stack of a thread that calls into a guest: the guest's part and room for host calls.
///
/// The main thread's stack is too small under the usual `RLIMIT_STACK` of 8 MiB. Pages that are
/// never reached are never allocated.
pub const HOST_STACK_BYTES: usize = WASM_STACK_BYTES + (2 << 20);

/// What LLVM emits for our guests. A proposal that no guest needs is attack surface.
const GUEST_FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    // Only the encoding of `call_indirect`: without wasmtime's feature `gc` there are no references.
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS);

/// The configuration for compiling, loading and running guests.
#[must_use]
pub fn config() -> Config {
    let mut config = Config::new();
    config
        // No threads, no component model, no garbage collector, no exceptions, no 64-bit memory.
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(GUEST_FEATURES, true)
        // Deadlines and cancellation: the guest checks a counter at loops and function entries.
        .epoch_interruption(true)
        // Component-model machinery, whose default follows a cargo feature.
        .concurrency_support(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        // Only the snapshot step runs async; wasmtime insists on this order of sizes everywhere.
        .async_stack_size(HOST_STACK_BYTES)
        // A session starts from the snapshot by copy-on-write: only pages that it touches cost.
        .memory_init_cow(true)
        // The whole 32-bit address space plus guards is reserved, so no access needs a bounds check
        // and the memory never moves. Hence no RLIMIT_AS in a cell: its cgroup limits memory.
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .memory_may_move(false)
        .guard_before_linear_memory(true)
        // Guests are stripped, so a wasm backtrace would hold nothing but addresses. Without it and
        // without unwind tables a guest's file is 5 % smaller and nothing is registered at load.
        .generate_address_map(false)
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false);
    // The allocator stays the default, on demand: a process holds one instance in its whole life, so
    // a pool would only reserve address space that is never used again.
    config
}
