//! What becomes of executions in cells that do as they are told, or die.

use super::*;
use crate::{Cause, Limit, Outcome, SessionState};
use std::time::Instant;

#[tokio::test]
async fn an_execution_says_what_it_did() {
    let (_warden, sandbox, _events) = start().await;
    assert!(sandbox.is_ready());
    assert_eq!(sandbox.images()[0].digest, IMAGE);
    let session = sandbox.open(spec());
    assert_eq!(session.walls(), None);
    let finished = run(&session, "print").await.unwrap();
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!((finished.stdout.text.as_str(), finished.stdout.total_bytes), ("hi\n", 3));
    assert_eq!(finished.values, vec![b"{\"a\":[1]}".to_vec()]);
    assert_eq!((finished.error, finished.exit_code, finished.state_lost), (None, None, false));
    assert!(session.walls().is_some());
    assert_eq!(session.contexts().len(), 1);
    assert_eq!(session.contexts()[0].cell, finished.cell);
    assert_eq!(run(&session, "print").await.unwrap().cell, finished.cell, "the context keeps its cell");
    let exit = run(&session, "exit").await.unwrap();
    assert_eq!((exit.outcome, exit.exit_code), (Outcome::Failed, Some(3)));
}

#[tokio::test]
async fn every_microsecond_is_accounted_once() {
    let (_warden, sandbox, mut events) = start().await;
    let session = sandbox.open(spec());
    let first = run(&session, "burn:300").await.unwrap();
    assert_eq!((first.usage.cpu_us, first.accounted.cpu_us), (300, 300));
    let second = run(&session, "burn:50").await.unwrap();
    assert_eq!((second.usage.cpu_us, second.accounted.cpu_us), (50, 350));
    let died = run(&session, "die").await.unwrap();
    assert_eq!((died.outcome, died.state_lost), (Outcome::Failed, true));
    assert_eq!((died.usage.cpu_us, died.accounted.cpu_us), (700, 1050));
    assert_eq!(died.stdout.text, "hi\n", "what it wrote before is kept");
    let error = String::from_utf8(died.error.unwrap()).unwrap();
    assert!(error.contains("INTERPRETER_DIED"), "{error}");
    let (tombstone, standing) = cell_ended(&mut events).await;
    assert_eq!((Some(tombstone.cell), tombstone.cpu_us, standing), (died.cell, 1050, Some(0)));
    let next = run(&session, "quick").await.unwrap();
    assert_ne!(next.cell, died.cell, "a dead cell is never used again");
    session.close().await.unwrap();
    assert_eq!(session.state(), SessionState::Closed);
    let (tombstone, standing) = events
        .try_recv()
        .map(|event| match event {
            Event::CellEnded { tombstone, standing_cpu_us } => (tombstone, standing_cpu_us),
            other @ (Event::WardenLost | Event::Decided { .. }) => panic!("{other:?}"),
        })
        .expect("delivered before `close` returns");
    assert_eq!((Some(tombstone.cell), standing), (next.cell, Some(0)));
    sandbox.acknowledge(tombstone.cell);
}

#[tokio::test]
async fn memory_is_a_mean_and_a_survived_refusal_is_told() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let grown = run(&session, "grow").await.unwrap();
    assert_eq!((grown.outcome, grown.limits_hit.as_slice()), (Outcome::Succeeded, &[Limit::Memory][..]));
    let (mean_mib, ms) = (2, grown.usage.wall_us / 1000);
    assert!((mean_mib * ms..=mean_mib * (ms + 1)).contains(&grown.usage.memory_mib_ms), "{:?}", grown.usage);
    assert_eq!(grown.usage.memory_peak_bytes, 2 << 20);
}

#[tokio::test]
async fn limits_are_told_apart_from_kernel_counters() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let oom = run(&session, "oom").await.unwrap();
    assert_eq!((oom.outcome, oom.state_lost), (Outcome::Exceeded(Limit::Memory), true));
    let crashed = run(&session, "crash_for_memory").await.unwrap();
    assert_eq!((crashed.outcome, crashed.state_lost), (Outcome::Exceeded(Limit::Memory), true));
    assert_eq!(crashed.usage.cpu_us, 500);
    let crashed = run(&session, "crash").await.unwrap();
    assert_eq!((crashed.outcome, crashed.state_lost), (Outcome::Failed, true));
    assert!(crashed.error.is_some());
}

#[tokio::test]
async fn a_deadline_is_the_wardens() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let mut wait = execution("wait");
    wait.timeout_us = 100_000;
    let start = Instant::now();
    let finished = session.execute(wait).await.unwrap();
    assert_eq!((finished.outcome, finished.state_lost), (Outcome::TimedOut, true));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1050) && took < Duration::from_millis(1600), "{took:?}");
}

#[tokio::test]
async fn a_cancelled_execution_ends_kindly_or_not() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let (id, task) = launch(&session, execution("wait")).await;
    assert!(session.cancel(id));
    let finished = task.await.unwrap().unwrap();
    assert_eq!((finished.outcome, finished.state_lost), (Outcome::Cancelled, false));
    assert_eq!(finished.stdout.text, "hi\n");
    assert!(!session.cancel(id), "it is over");
    let (id, task) = launch(&session, execution("hang")).await;
    assert!(session.cancel(id) && session.cancel(id));
    let start = Instant::now();
    let finished = task.await.unwrap().unwrap();
    assert_eq!((finished.outcome, finished.state_lost), (Outcome::Cancelled, true));
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn cpu_beyond_its_limit_ends_an_execution() {
    let (_warden, sandbox, _events) = start().await;
    let mut spec = spec();
    spec.limits.cpu_us = 50_000;
    let session = sandbox.open(spec);
    assert_eq!(run(&session, "burn:40000").await.unwrap().outcome, Outcome::Succeeded);
    let finished = run(&session, "burn_and_wait:60000").await.unwrap();
    assert_eq!((finished.outcome, finished.state_lost), (Outcome::Exceeded(Limit::Cpu), false));
    assert_eq!(finished.usage.cpu_us, 60_000);
    let mut thrifty = execution("burn_and_wait:100");
    thrifty.timeout_us = 200_000;
    assert_eq!(session.execute(thrifty).await.unwrap().outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn contexts_are_parallel_and_each_is_in_order() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let (first, blocked) = launch(&session, execution("wait")).await;
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let (session, execution) = (session.clone(), execution("quick"));
        let id = execution.id;
        waiting.push((id, tokio::spawn(async move { session.execute(execution).await })));
        tokio::task::yield_now().await;
    }
    while session.contexts()[0].waiting < 64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(run(&session, "quick").await, Err(Error::ContextBusy));
    let mut other = execution("quick");
    other.context = context("other");
    assert_eq!(session.execute(other).await.unwrap().outcome, Outcome::Succeeded);
    let (withdrawn, task) = waiting.remove(10);
    assert!(session.cancel(withdrawn));
    let finished = task.await.unwrap().unwrap();
    assert_eq!((finished.outcome, finished.cell, finished.usage.wall_us), (Outcome::Cancelled, None, 0));
    assert!(finished.usage.queued_us > 0);
    session.cancel(first);
    assert_eq!(blocked.await.unwrap().unwrap().outcome, Outcome::Cancelled);
    let mut last_queued_us = 0;
    for (_, task) in waiting {
        let finished = task.await.unwrap().unwrap();
        assert_eq!(finished.outcome, Outcome::Succeeded);
        last_queued_us = finished.usage.queued_us;
    }
    assert!(last_queued_us > 0);
}

#[tokio::test]
async fn a_reset_context_starts_in_a_new_cell() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let first = run(&session, "quick").await.unwrap();
    let mut reset = execution("quick");
    reset.reset_context = true;
    let second = session.execute(reset).await.unwrap();
    assert_ne!(second.cell, first.cell);
    assert_eq!(warden.cells(), second.cell.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn no_cell_no_execution() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    warden.full(true);
    assert_eq!(run(&session, "quick").await, Err(Error::Capacity("no room in the test".to_owned())));
    warden.full(false);
    let mut other = execution("quick");
    other.context.image = crate::Digest([1; 32]);
    assert_eq!(session.execute(other).await, Err(Error::NoImage));
    let huge = execution(&"x".repeat(5 << 20));
    assert_eq!(session.execute(huge).await, Err(Error::TooLarge));
    assert_eq!(run(&session, "quick").await.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(session.contexts().len(), 1);
}

#[tokio::test]
async fn long_code_arrives_whole() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let mut long = execution("quick");
    long.stdin = vec![7; 3 << 20];
    assert_eq!(session.execute(long).await.unwrap().outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn closing_ends_everything() {
    let (warden, sandbox, mut events) = start().await;
    let session = sandbox.open(spec());
    let (_, running) = launch(&session, execution("wait")).await;
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.execute(execution("quick")).await }
    });
    while session.contexts()[0].waiting == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (one, two) = tokio::join!(session.close(), session.close());
    assert_eq!((one, two), (Ok(()), Ok(())));
    let running = running.await.unwrap().unwrap();
    assert_eq!((running.outcome, running.state_lost), (Outcome::Cancelled, true));
    let waiting = waiting.await.unwrap().unwrap();
    assert_eq!((waiting.outcome, waiting.cell), (Outcome::Cancelled, None));
    assert_eq!(run(&session, "quick").await, Err(Error::Closed));
    assert_eq!(session.stat(&"a".parse().unwrap()).await, Err(Error::Closed));
    assert!(warden.cells().is_empty());
    assert_eq!(cell_ended(&mut events).await.0.cause, Cause::Killed);
    assert_eq!(session.close().await, Ok(()));
    let untouched = sandbox.open(spec());
    assert_eq!(untouched.close().await, Ok(()));
    let ends = || warden.said().iter().filter(|said| *said == "EndSession").count();
    while ends() < 2 {
        // Nobody waits for the end of what has nothing.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ends(), 2);
}

#[tokio::test]
async fn an_expired_session_is_over() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let (_, running) = launch(&session, execution("wait")).await;
    warden.end(warden.cells()[0], Cause::Expired);
    assert_eq!(running.await.unwrap().unwrap().outcome, Outcome::TimedOut);
    assert_eq!(session.state(), SessionState::Closing);
    assert_eq!(run(&session, "quick").await, Err(Error::Closed));
    assert_eq!(session.close().await, Ok(()));
}

#[tokio::test]
async fn a_result_outlives_its_caller() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let (id, task) = launch(&session, execution("wait")).await;
    task.abort();
    assert!(task.await.is_err());
    assert!(session.cancel(id));
    let finished = session.recover(id, &context("default")).await.unwrap();
    assert_eq!((finished.outcome, finished.stdout.text.as_str()), (Outcome::Cancelled, "hi\n"));
    session.acknowledge(id);
    assert_eq!(session.recover(id, &context("default")).await, Err(Error::Lost));
    // Also when it was on its way to a caller who did not look.
    let quick = execution("quick");
    let id = quick.id;
    let mut unheeded = Box::pin(session.execute(quick));
    assert!(futures_util::poll!(&mut unheeded).is_pending());
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(unheeded);
    assert_eq!(session.recover(id, &context("default")).await.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(run(&session, "quick").await.unwrap().outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_cell_that_does_not_end_is_left_behind() {
    let (warden, sandbox, mut events) = start().await;
    let session = sandbox.open(spec());
    let (id, task) = launch(&session, execution("hang")).await;
    warden.deaf();
    session.cancel(id);
    let start = Instant::now();
    assert_eq!(task.await.unwrap(), Err(Error::Lost));
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
    let [left] = warden.cells()[..] else { panic!("one cell") };
    let next = run(&session, "quick").await.unwrap();
    assert_ne!(next.cell, Some(left));
    warden.end(left, Cause::Killed);
    let (tombstone, standing) = cell_ended(&mut events).await;
    assert_eq!((tombstone.cell, standing), (left, Some(0)), "what is lost is not charged");
}

#[tokio::test]
async fn an_idle_cell_that_died_is_replaced() {
    let (warden, sandbox, mut events) = start().await;
    let session = sandbox.open(spec());
    let first = run(&session, "burn:10").await.unwrap();
    warden.end(first.cell.unwrap(), Cause::OutOfMemory);
    assert_eq!(cell_ended(&mut events).await.1, Some(0));
    assert!(session.contexts().is_empty());
    assert_eq!(run(&session, "quick").await.unwrap().outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_of_a_cell_are_heard_before_its_end() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    for _ in 0..100 {
        let finished = run(&session, "last_words").await.unwrap();
        assert_eq!((finished.outcome, finished.state_lost), (Outcome::TimedOut, true));
        assert_eq!(finished.stdout.text, "hi\n");
    }
}
