//! Cells that were taken over: each attack ends its cell, and neither the session nor its neighbour.

use super::*;
use crate::{Limit, Outcome};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_breaks_the_protocol_dies() {
    let (_warden, sandbox, _events) = start().await;
    let (session, neighbour) = (sandbox.open(spec()), sandbox.open(spec()));
    run(&neighbour, "quick").await.unwrap();
    for attack in [
        "garbage",
        "flag",
        "endless_message",
        "wrong_id",
        "endless_output",
        "empty_output",
        "long_output",
        "long_value",
        "endless_values",
        "cancelled",
        "other_end",
        "prepared",
        "attached",
        "file",
        "descriptors",
        "hang_up",
    ] {
        let start = Instant::now();
        let finished = run(&session, attack).await.unwrap();
        assert_eq!((finished.outcome, finished.state_lost), (Outcome::Failed, true), "{attack}");
        let error = String::from_utf8(finished.error.unwrap()).unwrap();
        assert!(error.contains("INTERPRETER_DIED"), "{attack}: {error}");
        assert!(finished.stdout.text.len() <= 100_000, "{attack}");
        assert!(start.elapsed() < Duration::from_secs(2), "{attack} took {:?}", start.elapsed());
        let unharmed = run(&neighbour, "quick").await.unwrap();
        assert_eq!((unharmed.outcome, unharmed.state_lost), (Outcome::Succeeded, false), "{attack}");
    }
    assert_eq!(run(&session, "print").await.unwrap().outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn an_end_is_said_once() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let finished = run(&session, "twice").await.unwrap();
    assert_eq!((finished.outcome, finished.state_lost), (Outcome::Succeeded, false));
    let next = run(&session, "quick").await.unwrap();
    assert!(next.cell != finished.cell || next.outcome == Outcome::Failed, "the liar is gone");
}

#[tokio::test]
async fn what_the_guest_wrote_is_checked() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let finished = run(&session, "bad_json").await.unwrap();
    assert_eq!(finished.outcome, Outcome::Failed);
    assert_eq!(finished.values, vec![b"2".to_vec()]);
    assert_eq!(finished.error, None);
    assert_eq!(finished.stdout.total_bytes, u64::MAX, "a number of the cell's, and only shown");
    let finished = run(&session, "many_values").await.unwrap();
    assert!(finished.values.iter().map(Vec::len).sum::<usize>() <= 16 << 20);
    assert_eq!((finished.values.len(), finished.limits_hit.as_slice()), (8, &[Limit::Output][..]));
}
