//! What this layer adds to an execution. Prints; asserts only what a loaded machine keeps, too.

use super::*;
use anchorhold_jail::hatch::{Dialect, Ended, Execute, FromCell, How, ToCell};
use anchorhold_jail::packet;
use std::time::Instant;

const ROUNDS: usize = 5_000;

fn percentiles(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// The same words between two threads, without this crate.
fn bare() -> Vec<Duration> {
    let (ours, theirs) = packet::pair().unwrap();
    let cell = std::thread::spawn(move || {
        while let Ok((ToCell::Execute(execute), _)) = packet::receive::<ToCell>(&theirs) {
            let ended = Ended {
                execution: execute.execution,
                how: How::Succeeded,
                error: None,
                exit_code: None,
                wall_us: 5,
                stdout_bytes: 0,
                stderr_bytes: 0,
                state_lost: false,
                memory_refused: false,
            };
            packet::send(&theirs, &FromCell::Ended(ended), &[]).unwrap();
        }
    });
    let took = (0..ROUNDS).map(|_| {
        let execute = Execute {
            execution: ExecutionId::random(),
            code: "quick".to_owned(),
            dialect: Dialect::Own,
            stdin: Vec::new(),
            stdin_open: false,
            env: Vec::new(),
            cwd: None,
            timeout_us: 1,
            output_bytes: 1,
        };
        let start = Instant::now();
        packet::send(&ours, &ToCell::Execute(execute), &[]).unwrap();
        packet::receive::<FromCell>(&ours).unwrap();
        start.elapsed()
    });
    let took = took.collect();
    drop(ours);
    cell.join().unwrap();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_execution_costs_little() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let task = tokio::spawn(async move {
        let mut took = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let execution = execution("quick");
            let id = execution.id;
            let start = Instant::now();
            session.execute(execution).await.unwrap();
            took.push(start.elapsed());
            session.acknowledge(id);
        }
        let start = Instant::now();
        for _ in 0..200 {
            let session = sandbox.open(spec());
            session.execute(super::execution("quick")).await.unwrap();
            session.close().await.unwrap();
        }
        (took, start.elapsed() / 200)
    });
    let (took, whole) = task.await.unwrap();
    let (p50, p99) = percentiles(took);
    let (bare50, bare99) = percentiles(tokio::task::spawn_blocking(bare).await.unwrap());
    println!(
        "warm execution {p50:?} (p99 {p99:?}); the bare exchange {bare50:?} (p99 {bare99:?}); whole session {whole:?}"
    );
    assert!(p50 < Duration::from_millis(2));
}
