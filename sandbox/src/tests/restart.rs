//! The warden dies, or the API does.

use super::*;
use crate::{Accounted, Cause, Outcome, SessionState};

#[tokio::test]
async fn sessions_with_cells_die_with_the_warden_and_others_go_on() {
    let (warden, sandbox, mut events) = start().await;
    let (idle, used) = (sandbox.open(spec()), sandbox.open(spec()));
    let with_files = sandbox.open(spec());
    with_files.stat(&"a".parse().unwrap()).await.unwrap();
    let (_, running) = launch(&used, execution("wait")).await;
    warden.die();
    assert_eq!(running.await.unwrap(), Err(Error::Lost));
    assert_eq!(events.recv().await, Some(Event::WardenLost));
    for lost in [&used, &with_files] {
        assert_eq!(lost.state(), SessionState::Lost);
        assert_eq!(run(lost, "quick").await, Err(Error::Closed));
        assert_eq!(lost.close().await, Err(Error::Lost));
    }
    assert_eq!(idle.state(), SessionState::Open);
    while !sandbox.is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(run(&idle, "quick").await.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(sandbox.images().len(), 1);
}

#[tokio::test]
async fn cells_of_a_lost_session_are_ended_when_the_warden_still_has_them() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    run(&session, "quick").await.unwrap();
    warden.hang_up();
    while session.state() != SessionState::Lost || !warden.cells().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(sandbox.survivors().is_empty());
}

#[tokio::test]
async fn a_new_api_finds_what_ran_and_what_runs() {
    let (warden, sandbox, _events) = start().await;
    let spec = spec();
    let session = sandbox.open(spec.clone());
    let burnt = execution("burn:300");
    let burnt_id = burnt.id;
    let recorded = session.execute(execution("burn:50")).await.unwrap();
    session.execute(burnt).await.unwrap();
    let (running_id, running) = launch(&session, execution("wait")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The old process forgets everything.
    running.abort();
    drop((session, sandbox));

    let (sandbox, mut events) = Sandbox::connect(&warden.path).await.unwrap();
    assert_eq!(sandbox.survivors(), vec![spec.id]);
    let session = sandbox.adopt(spec, Vec::new(), |_| recorded.accounted).await;
    assert!(sandbox.survivors().is_empty());
    let finished = session.recover(burnt_id, &context("default")).await.unwrap();
    assert_eq!(
        (finished.outcome, finished.usage.cpu_us, finished.accounted.cpu_us),
        (Outcome::Succeeded, 300, 350)
    );
    session.acknowledge(burnt_id);
    assert_eq!(session.recover(ExecutionId::random(), &context("default")).await, Err(Error::Lost));
    let recovered = tokio::spawn({
        let session = session.clone();
        async move { session.recover(running_id, &context("default")).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(session.cancel(running_id));
    let finished = recovered.await.unwrap().unwrap();
    assert_eq!((finished.outcome, finished.stdout.text.as_str()), (Outcome::Cancelled, "hi\n"));
    let next = run(&session, "burn:7").await.unwrap();
    assert_eq!((next.cell, next.usage.cpu_us, next.accounted.cpu_us), (recorded.cell, 7, 357));
    session.close().await.unwrap();
    assert_eq!(cell_ended(&mut events).await.1, Some(0));
}

#[tokio::test]
async fn every_byte_is_accounted_once_whatever_restarts() {
    let (warden, sandbox, _events) = start().await;
    let spec = spec();
    let session = sandbox.open(spec.clone());
    let first = execution("transfer:300");
    let id = first.id;
    let first = session.execute(first).await.unwrap();
    assert_eq!((first.usage.egress_bytes, first.accounted.egress_bytes), (300, 300));
    let quiet = run(&session, "quick").await.unwrap();
    assert_eq!((quiet.usage.egress_bytes, quiet.accounted.egress_bytes), (0, 300));
    session.acknowledge(id);
    drop((session, sandbox));

    let (sandbox, mut events) = Sandbox::connect(&warden.path).await.unwrap();
    let names = vec![(first.cell.unwrap(), context("default"))];
    let session = sandbox.adopt(spec, names, |_| quiet.accounted).await;
    let next = run(&session, "transfer:7").await.unwrap();
    assert_eq!((next.cell, next.usage.egress_bytes, next.accounted.egress_bytes), (first.cell, 7, 307));
    let died = run(&session, "transfer_and_die:11").await.unwrap();
    assert_eq!((died.usage.egress_bytes, died.accounted.egress_bytes), (11, 318));
    assert_eq!(cell_ended(&mut events).await.0.traffic.sum_bytes(), 318);
}

#[tokio::test]
async fn a_cell_that_the_ledger_names_goes_on() {
    let (warden, sandbox, _events) = start().await;
    let spec = spec();
    let session = sandbox.open(spec.clone());
    let done = execution("burn:50");
    let id = done.id;
    let first = session.execute(done).await.unwrap();
    session.acknowledge(id);
    session.stat(&"a".parse().unwrap()).await.unwrap();
    let mut other = execution("quick");
    other.context = context("nobody knows it");
    let other_id = other.id;
    let nameless = session.execute(other).await.unwrap().cell;
    session.acknowledge(other_id);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop((session, sandbox));

    let (sandbox, _events) = Sandbox::connect(&warden.path).await.unwrap();
    let names = vec![(first.cell.unwrap(), context("default"))];
    let session = sandbox.adopt(spec, names, |_| first.accounted).await;
    let next = run(&session, "burn:5").await.unwrap();
    assert_eq!((next.cell, next.usage.cpu_us), (first.cell, 5));
    while warden.cells().contains(&nameless.unwrap()) {
        // A cell that nobody can name is ended.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(session.stat(&"a".parse().unwrap()).await.unwrap().size, 3);
}

#[tokio::test]
async fn strays_and_tombstones_are_settled() {
    let (warden, sandbox, _events) = start().await;
    let (one, two) = (sandbox.open(spec()), sandbox.open(spec()));
    run(&one, "quick").await.unwrap();
    let (id, task) = launch(&two, execution("wait")).await;
    task.abort();
    drop(sandbox);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let ended = two.contexts()[0].cell.unwrap();
    warden.hang_up();
    warden.end(ended, Cause::Deadline(id));

    let (sandbox, mut events) = Sandbox::connect(&warden.path).await.unwrap();
    let (tombstone, standing) = cell_ended(&mut events).await;
    assert_eq!((tombstone.cell, standing), (ended, None));
    let mut spec = spec();
    spec.id = two.id();
    let adopted = sandbox.adopt(spec, Vec::new(), |_| Accounted::default()).await;
    let finished = adopted.recover(id, &context("default")).await.unwrap();
    assert_eq!((finished.outcome, finished.state_lost), (Outcome::TimedOut, true));
    sandbox.acknowledge(ended);
    assert_eq!(sandbox.survivors(), vec![one.id()]);
    sandbox.end_stray(one.id()).await;
    assert!(sandbox.survivors().is_empty() && warden.cells().is_empty());
    let (stray, standing) = cell_ended(&mut events).await;
    assert_eq!((stray.session, standing), (one.id(), None));
    sandbox.acknowledge(stray.cell);
    while !warden.tombstones().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_a_warden_there_is_an_answer() {
    let nowhere = std::env::temp_dir().join("anchorhold-no-warden-here");
    let start = std::time::Instant::now();
    assert!(matches!(Sandbox::connect(&nowhere).await, Err(Error::Unavailable)));
    assert!(start.elapsed() < Duration::from_secs(7));
}
