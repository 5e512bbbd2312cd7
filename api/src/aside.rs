//! Work that takes long, on threads that give way to all others.
//!
//! What guests wrote is written down, and told, by this process. A tenant that floods its outputs must not keep it from
//! what it does for others: so this work is done with the lowest priority, and by not more threads than there are
//! processors.

use futures_util::{Stream, stream};
use std::io;
use std::sync::LazyLock;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// From so many bytes on they are many.
pub const LONG_BYTES: usize = 64 << 10;
/// As nice as there is: setpriority(2).
const NICE: i32 = 19;

/// Begins the threads, while there is room for them: whoever has none can do nothing that is long any more.
pub fn start() {
    LazyLock::force(&THREADS);
}

#[expect(clippy::expect_used, reason = "at the beginning of the process, which then does not begin")]
static THREADS: LazyLock<Runtime> = LazyLock::new(|| {
    let nicely = || {
        // It is done at any priority.
        let _refused = rustix::process::nice(NICE);
    };
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let threads = threads.worker_threads(count).thread_name("aside").on_thread_start(nicely).build();
    threads.expect("a process that begins has room for threads")
});

/// Does what takes as long as there are bytes: elsewhere, where they are many.
pub async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes < LONG_BYTES {
        return work();
    }
    // Nobody stops it, so it has panicked if it does not end.
    let done = THREADS.spawn(async move { work() }).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// The same for what is made bit by bit: each as soon as the one before it was taken. What ends before its end has an error.
///
/// However many ask for theirs at once, few threads make them in turn. So what becomes of them comes in turn, too, and the
/// tasks of others do not queue behind a bit of everybody's.
pub fn bits<T: Send + 'static>(
    made: impl Iterator<Item = T> + Send + 'static,
) -> impl Stream<Item = io::Result<T>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(1);
    THREADS.spawn(async move {
        for bit in made.map(Some).chain([None]) {
            // Nobody wants the rest.
            if sender.send(bit).await.is_err() {
                return;
            }
        }
    });
    stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(bit) => Some((Ok(bit?), Some(receiver))),
            None => Some((Err(io::Error::other("it was not made")), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn long_work_gives_way_and_short_work_does_not() {
        let own = priority();
        let (short, long) = (aside(1, priority).await, aside(LONG_BYTES, priority).await);
        assert_eq!((short, long, priority()), (own, NICE, own));
    }

    #[tokio::test]
    async fn bits_come_in_order_from_a_thread_that_gives_way() {
        use futures_util::StreamExt as _;
        let made = bits((0..1000).map(|n| (n, priority()))).map(Result::unwrap);
        assert_eq!(made.collect::<Vec<_>>().await, (0..1000).map(|n| (n, NICE)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_was_not_made_to_its_end_is_an_error() {
        use futures_util::StreamExt as _;
        let made = bits((0..3).inspect(|n| assert!(*n < 2, "as it should")));
        let made: Vec<_> = made.map(|bit| bit.ok()).collect().await;
        assert_eq!(made, [Some(0), Some(1), None]);
    }

    #[tokio::test]
    async fn a_panic_is_passed_on_and_the_threads_go_on() {
        for _ in 0..100 {
            let task = tokio::spawn(async { aside(LONG_BYTES, || panic!("as it should")).await });
            assert!(task.await.unwrap_err().is_panic());
        }
        assert_eq!(aside(LONG_BYTES, || 1).await, 1);
    }
}
