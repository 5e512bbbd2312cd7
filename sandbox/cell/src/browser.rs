//! The browser cell: a Chromium, and this process, its pid 1, which drives it.
//!
//! An execution's code is a list of actions, JSON as the API's clients write it. One that comes with two ends of pipes
//! instead is a client that speaks the browser's protocol itself, for as long as it does. What Chromium and clients say is
//! read here, behind walls and on the session's account, and not by the API.
//!
//! Two threads. The main one converses with Chromium, also between executions, because a browser that nobody listens to
//! stops. The receiving thread reads the hatch and answers new listeners.

pub mod chromium;

use crate::life::{self, Walling};
use crate::orders::{self, Order};
use crate::outbox::Outbox;
use anchorhold_browser::{Action, Browser, Departure, Failure, Outcome, Screen, page, report};
use anchorhold_jail::control::Window;
use anchorhold_jail::hatch::{Execute, FromCell, How, VALUE_BYTES_MAX};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::packet;
use anchorhold_jail::{lock::WORKSPACE_DIR, loopback, root};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// How long Chromium may take to be ready.
const START_WAIT: Duration = Duration::from_secs(9);
/// How long it may take to give its window the size that the session wants.
const RESIZE_WAIT: Duration = Duration::from_secs(1);
/// How long the browser may take to say where it is, after everything.
const WHERE_WAIT: Duration = Duration::from_secs(1);

/// Those who watch at a time.
const WATCHERS_MAX: usize = 16;

/// What the values of an execution are: what became of an action, and where the browser is after all of them.
const RESULT: &str = "application/vnd.anchorhold.action+json";
const PAGE: &str = "application/vnd.anchorhold.page+json";

/// Runs a cell in this process, from before `Prepared` to its end. Its browser waits for the session with it.
pub fn run(hatch: OwnedFd, walls: &mut dyn Walling) -> ! {
    life::end_on_panic();
    let require_landlock = life::wait_for_identity(&hatch);
    let listener = life::require(&hatch, loopback::listen().map_err(|e| format!("listen: {e}")));
    let namespaces = life::require(&hatch, root::furnish_alone().map_err(|e| e.to_string()));
    let pipes = life::require(&hatch, chromium::start(require_landlock));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = life::require(&hatch, runtime.map_err(|e| format!("a runtime: {e}")));
    let mut browser = life::require(&hatch, runtime.block_on(chromium::meet(pipes, START_WAIT)));
    life::require(&hatch, namespaces.close().map_err(|e| e.to_string()));
    life::say_prepared(&hatch);
    life::require(&hatch, runtime.block_on(wait(&hatch, &browser)));
    let (commit, [files, workspace]) = life::receive_commit(&hatch);
    life::require(&hatch, root::put_workspace(&workspace).map_err(|e| e.to_string()));
    if commit.window != Window::default() {
        let Window { width, height } = commit.window;
        let sized = runtime.block_on(browser.resize(width, height, Instant::now() + RESIZE_WAIT));
        life::require(&hatch, sized.map_err(|e| format!("the window: {e}")));
    }
    life::require(&hatch, walls.restrict(&commit, files.as_fd()));
    let store = life::require(&hatch, Store::open(&files).map_err(|e| format!("open the workspace: {e}")));
    let outbox = Arc::new(Outbox::new(hatch));
    let (sender, mut orders) = mpsc::unbounded_channel();
    let no_thread = |e: io::Error| format!("start a thread: {e}");
    let starting = life::require(outbox.hatch(), orders::receive(&outbox, sender).map_err(no_thread));
    life::require(outbox.hatch(), starting.wait().map_err(no_thread));
    let stands = life::require(outbox.hatch(), walls.seal());
    if packet::send(outbox.hatch(), &FromCell::Ready(stands), &[listener.as_fd()]).is_err() {
        life::end();
    }
    drop(listener);
    runtime.block_on(work(&mut browser, &outbox, &store, &mut orders));
    life::end()
}

/// Waits for what the warden says next. Meanwhile the browser is listened to.
async fn wait(hatch: &OwnedFd, browser: &Browser) -> Result<(), String> {
    let failed = |e: io::Error| format!("the hatch: {e}");
    let heard = hatch.try_clone().map_err(failed)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of types that lie about their descriptor; `OwnedFd` does not"
    )]
    let heard = AsyncFd::new(heard).map_err(failed)?;
    tokio::select! {
        heard = heard.readable() => heard.map(drop).map_err(failed),
        () = browser.ended() => Err("the browser ended".to_owned()),
    }
}

/// Executes until the browser or the hatch has ended.
async fn work(browser: &mut Browser, outbox: &Outbox, store: &Store, orders: &mut UnboundedReceiver<Order>) {
    let screen = browser.screen();
    tokio::spawn(async move { screen.cast().await });
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = browser.ended() => return,
        };
        match order {
            Some(Order::Execute(job, wires)) => execute(browser, outbox, store, orders, (job, wires)).await,
            // It ended before it was told; and actions read no input.
            Some(Order::Cancel(_) | Order::Input { .. }) => {}
            Some(Order::Watch(wires)) => watch(browser.screen(), wires),
            None => return,
        }
    }
}

async fn execute(
    browser: &mut Browser,
    outbox: &Outbox,
    store: &Store,
    orders: &mut UnboundedReceiver<Order>,
    (job, wires): (Execute, Vec<OwnedFd>),
) {
    let began = Instant::now();
    outbox.begin(job.execution, job.output_bytes);
    let deadline = began + Duration::from_micros(job.timeout_us);
    let screen = browser.screen();
    let done = async {
        match <[OwnedFd; 2]>::try_from(wires) {
            Ok(wires) => converse(browser, wires, deadline).await,
            Err(_) => act(browser, outbox, store, &job.code, deadline).await,
        }
    };
    let (how, error) = tokio::select! {
        biased;
        done = done => done,
        () = cancelled(orders, outbox, &screen, job.execution) => (How::Cancelled, None),
    };
    if let Ok(summary) = browser.summary(Instant::now() + WHERE_WAIT).await {
        outbox.value(value(PAGE, page(&summary)).as_bytes());
    }
    let mut ended = orders::ended(job.execution, how, began.elapsed());
    ended.error = error.map(|(name, message)| orders::error(name, &message));
    // With Chromium its pages are gone: the cell has nothing more to do.
    ended.state_lost = tokio::time::timeout(Duration::ZERO, browser.ended()).await.is_ok();
    let over = ended.state_lost;
    outbox.end(ended);
    if over {
        life::end();
    }
}

/// How an execution ended, and the name and text of its error.
type Done = (How, Option<(&'static str, String)>);

async fn act(browser: &mut Browser, outbox: &Outbox, store: &Store, code: &str, deadline: Instant) -> Done {
    let actions = match serde_json::from_str::<Vec<Action>>(code) {
        Ok(actions) => actions,
        Err(error) => return (How::Failed, Some(("INVALID_ACTIONS", error.to_string()))),
    };
    let mut run = Run { browser, outbox, store, deadline, failure: None };
    run.actions(&actions).await;
    run.outcome()
}

/// Lets a client speak for itself until it leaves: by the first pipe it is heard, by the second it hears.
async fn converse(browser: &mut Browser, [heard, told]: [OwnedFd; 2], deadline: Instant) -> Done {
    let wires = pipe::Receiver::from_owned_fd(heard).and_then(|heard| {
        let told = pipe::Sender::from_owned_fd(told)?;
        Ok((heard, told))
    });
    let (heard, told) = match wires {
        Ok(wires) => wires,
        Err(error) => return (How::Failed, Some(("NO_PIPE", error.to_string()))),
    };
    match tokio::time::timeout_at(deadline.into(), browser.converse(heard, told)).await {
        Err(_) => (How::TimedOut, None),
        Ok(Departure::Left) => (How::Succeeded, None),
        Ok(why) => (How::Failed, Some(("CLIENT_DISMISSED", why.to_string()))),
    }
}

/// Shows the browser to one more, if there is room for it.
fn watch(screen: Screen, wires: Vec<OwnedFd>) {
    let Ok([heard, told]) = <[OwnedFd; 2]>::try_from(wires) else { return };
    let (Ok(heard), Ok(told)) = (pipe::Receiver::from_owned_fd(heard), pipe::Sender::from_owned_fd(told))
    else {
        return;
    };
    if screen.watchers() < WATCHERS_MAX {
        tokio::spawn(async move { screen.show(heard, told).await });
    }
}

/// Ends when the running execution is cancelled.
async fn cancelled(
    orders: &mut UnboundedReceiver<Order>,
    outbox: &Outbox,
    screen: &Screen,
    running: ExecutionId,
) {
    loop {
        match orders.recv().await {
            Some(Order::Cancel(id)) if id == running => return,
            Some(Order::Cancel(_)) => {}
            Some(Order::Watch(wires)) => watch(screen.clone(), wires),
            // The API runs one at a time; a second one is its mistake and costs it nothing.
            Some(Order::Execute(job, _)) => {
                orders::refuse(outbox, job.execution, "other actions are running")
            }
            // Actions read no input.
            Some(Order::Input { .. }) => {}
            None => life::end(),
        }
    }
}

/// The actions of one execution.
struct Run<'a> {
    browser: &'a mut Browser,
    outbox: &'a Outbox,
    store: &'a Store,
    deadline: Instant,
    failure: Option<Failure>,
}

impl Run<'_> {
    /// One after the other until one fails, each reported as it ends.
    async fn actions(&mut self, actions: &[Action]) {
        for action in actions {
            let outcome = match self.failure {
                Some(_) => Outcome::NotSent,
                None => {
                    let outcomes = self.browser.run(std::slice::from_ref(action), self.deadline).await;
                    outcomes.into_iter().next().unwrap_or(Outcome::NotSent)
                }
            };
            let outcome = self.report(action, outcome);
            if let Outcome::Failed(why) | Outcome::Unknown(why) = outcome {
                self.failure = Some(why);
            }
        }
    }

    /// Says what became of an action; what cannot be said or stored, has failed.
    fn report(&self, action: &Action, outcome: Outcome) -> Outcome {
        let stored = match (&outcome, action.path()) {
            (Outcome::Done(reply), Some(path)) => {
                match reply.file().map(|bytes| self.store.write(path, bytes)) {
                    Some(Err(error)) => {
                        return self.report_failure(action, format!("{path}: {error}"));
                    }
                    Some(Ok(())) => Some(path),
                    None => None,
                }
            }
            _ => None,
        };
        let said = value(RESULT, report(action, &outcome, stored));
        if said.len() > VALUE_BYTES_MAX {
            let advice = if action.path().is_none() { "; give a path" } else { "" };
            return self
                .report_failure(action, format!("{} bytes are too many for an answer{advice}", said.len()));
        }
        self.outbox.value(said.as_bytes());
        outcome
    }

    fn report_failure(&self, action: &Action, why: String) -> Outcome {
        let outcome = Outcome::Failed(Failure::Limit(why));
        self.outbox.value(value(RESULT, report(action, &outcome, None)).as_bytes());
        outcome
    }

    fn outcome(self) -> Done {
        match self.failure {
            None => (How::Succeeded, None),
            Some(why) if why.is_lateness() => (How::TimedOut, None),
            Some(why) => (How::Failed, Some(("ACTION_FAILED", why.to_string()))),
        }
    }
}

/// A rich value of this kind.
fn value(kind: &str, content: serde_json::Value) -> String {
    serde_json::json!({"main": false, "mime": {kind: content}}).to_string()
}

/// The workspace, for what actions store.
struct Store(OwnedFd);

impl Store {
    fn open(files: &OwnedFd) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(files, WORKSPACE_DIR, flags, Mode::empty())?))
    }

    /// Writes a file; its directory must be there. Follows no link and never leaves the workspace.
    fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = Path::new(path.strip_prefix("/workspace/").unwrap_or(path));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mode = Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat2(&self.0, path, flags, mode, resolve).map_err(|error| match error {
            Errno::XDEV | Errno::LOOP => io::Error::other("not in the workspace"),
            error => error.into(),
        });
        File::from(file?).write_all(bytes)
    }
}
