//! Work that takes long, on threads that give way to all others.
//!
//! What guests wrote is written down, and told, by this process. A tenant that floods its outputs must not keep it from
//! what it does for others: so this work is done with the lowest priority, and by not more threads than there are
//! processors.

use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use tokio::runtime::{Handle, RuntimeFlavor};

/// From so many bytes on they are many.
pub const LONG_BYTES: usize = 64 << 10;
/// As nice as there is: setpriority(2).
const NICE: i32 = 19;

/// Does what takes as long as there are bytes. Where they are many, the other tasks of this thread go on elsewhere.
pub fn aside<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    let elsewhere =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if elsewhere && bytes >= LONG_BYTES { tokio::task::block_in_place(|| give_way(work)) } else { work() }
}

/// On a thread of its own, since one that has given up its priority may not take it back.
fn give_way<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let turn = Turn::wait();
    let done = std::thread::scope(|scope| {
        let nicely = move || {
            // It is done at any priority.
            let _refused = rustix::process::nice(NICE);
            work()
        };
        scope.spawn(nicely).join()
    });
    drop(turn);
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How many may work.
static FREE: LazyLock<Mutex<usize>> =
    LazyLock::new(|| Mutex::new(std::thread::available_parallelism().map_or(1, usize::from)));
static FREED: Condvar = Condvar::new();

/// One of those that may work.
struct Turn;

impl Turn {
    fn wait() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = FREED.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn long_work_gives_way_and_short_work_does_not() {
        let own = priority();
        let (short, long) =
            tokio::spawn(async { (aside(1, priority), aside(LONG_BYTES, priority)) }).await.unwrap();
        assert_eq!((short, long, priority()), (own, NICE, own));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_passed_on_and_its_turn_comes_back() {
        for _ in 0..100 {
            let task = tokio::spawn(async { aside(LONG_BYTES, || panic!("as it should")) });
            assert!(task.await.unwrap_err().is_panic());
        }
        assert_eq!(tokio::spawn(async { aside(LONG_BYTES, || 1) }).await.unwrap(), 1);
    }
}
