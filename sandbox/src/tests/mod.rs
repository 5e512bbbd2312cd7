//! Sessions against a warden and cells that are threads ([`crate::fake`]).

mod executions;
mod files;
mod hostile;
mod latency;
mod restart;

use crate::fake::{FakeWarden, IMAGE};
use crate::{
    Allowance, Boottime, ContextKey, Count, Dialect, Error, Event, Execution, ExecutionId, Finished, Flow,
    GroupId, Interpreter, Limits, Network, Sandbox, Session, SessionId, SessionSpec,
};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

async fn start() -> (FakeWarden, Sandbox, UnboundedReceiver<Event>) {
    let warden = FakeWarden::start();
    let (sandbox, events) = Sandbox::connect(&warden.path).await.unwrap();
    (warden, sandbox, events)
}

fn spec() -> SessionSpec {
    SessionSpec {
        id: SessionId::random(),
        group: GroupId::random(),
        limits: Limits {
            cpu_millicores: 1000,
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 29,
            processes: 64,
            output_bytes: 100_000,
            execution_us: 60_000_000,
            cpu_us: 60_000_000,
        },
        env: vec![("A".to_owned(), "b".to_owned())],
        network: Network::None,
        allowance: Allowance {
            cells: Count::of(u64::MAX),
            browsers: Count::of(u64::MAX),
            said: Flow::of(1 << 30),
        },
        window: anchorhold_jail::control::Window::default(),
        standby_after: None,
        expires_at: Boottime::now().plus_us(3_600_000_000),
    }
}

fn context(name: &str) -> ContextKey {
    ContextKey { image: IMAGE, interpreter: Interpreter::Own, name: name.to_owned() }
}

fn execution(code: &str) -> Execution {
    Execution {
        id: ExecutionId::random(),
        context: context("default"),
        reset_context: false,
        code: code.to_owned(),
        dialect: Dialect::Own,
        stdin: Vec::new(),
        stdin_open: false,
        env: Vec::new(),
        cwd: None,
        timeout_us: 10_000_000,
    }
}

async fn run(session: &Session, code: &str) -> Result<Finished, Error> {
    let done = tokio::time::timeout(Duration::from_secs(15), session.execute(execution(code)));
    done.await.expect("every wait has an end")
}

/// Starts an execution in a task of its own; returns when it runs in a cell.
async fn launch(
    session: &Session,
    execution: Execution,
) -> (ExecutionId, tokio::task::JoinHandle<Result<Finished, Error>>) {
    let (id, running) = (execution.id, session.clone());
    let task = tokio::spawn(async move { running.execute(execution).await });
    while !session.contexts().iter().any(|context| context.running == Some(id)) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (id, task)
}

async fn cell_ended(events: &mut UnboundedReceiver<Event>) -> (crate::Tombstone, Option<u64>) {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        if let Event::CellEnded { tombstone, standing_cpu_us } = event {
            return (tombstone, standing_cpu_us);
        }
    }
}
