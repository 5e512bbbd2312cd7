//! Work that takes long, on threads that others wait for.

use tokio::runtime::{Handle, RuntimeFlavor};

/// From so many bytes on they are many.
pub const LONG_BYTES: usize = 64 << 10;

/// Does what takes as long as there are bytes. Where they are many, the other tasks of this thread go on elsewhere.
pub fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let elsewhere =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if elsewhere && bytes >= LONG_BYTES { tokio::task::block_in_place(work) } else { work() }
}
