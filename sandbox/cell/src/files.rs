//! The files cell: the API's file operations on a session's workspace, done inside the session's walls.
//!
//! The main thread receives; a few workers do. Transfers wait for the other end of their pipe, so one worker is always
//! left for what answers at once. Nothing here follows a symbolic link or leaves the workspace (`tree`); the paths, the
//! names and the files themselves are hostile, and may change under every step.

mod archive;
mod batch;
mod remove;
mod transaction;
mod transfer;
mod tree;

use crate::life::{self, Walling, lock};
use anchorhold_jail::hatch::{FileAction, FileAnswer, FileError, FileRequest, FromCell, ToCell};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::lock::WORKSPACE_DIR;
use anchorhold_jail::packet;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use tree::Tree;

/// Threads that work on operations.
const WORKERS: usize = 4;
/// How many of them may be held up by the far end of a pipe at a time.
const TRANSFERS_MAX: usize = WORKERS - 1;
/// Operations that wait; more are refused.
const QUEUED_MAX: usize = 256;
/// The deepest calls are those of decompressors, which keep their tables elsewhere. What is not touched costs nothing.
const WORKER_STACK_BYTES: usize = 1024 * 1024;

/// An operation on its way.
struct Job {
    operation: ExecutionId,
    path: String,
    action: FileAction,
    pipe: Option<OwnedFd>,
    said: Arc<Said>,
}

/// What is said of an operation on its way.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// It is not wanted any more.
    pub(crate) cancelled: AtomicBool,
    /// All of an upload was sent; this much.
    pub(crate) complete: OnceLock<u64>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// What was taken and has not ended, with what is said of it.
    running: Vec<(ExecutionId, Arc<Said>)>,
    transfers: usize,
}

struct Cell {
    hatch: OwnedFd,
    sending: Mutex<()>,
    queue: Mutex<Queue>,
    work: Condvar,
    tree: Tree,
}

/// Runs a cell in this process, from `Prepared` to its end.
pub fn run(hatch: OwnedFd, walls: &mut dyn Walling) -> ! {
    life::end_on_panic();
    let (commit, [root]) = life::wait_for_commit(&hatch);
    life::require(&hatch, walls.restrict(&commit, root.as_fd()));
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let workspace = rustix::fs::openat(&root, WORKSPACE_DIR, flags, Mode::empty());
    let workspace = life::require(&hatch, workspace.map_err(|e| format!("open the workspace: {e}")));
    let cell = Arc::new(Cell {
        hatch,
        sending: Mutex::default(),
        queue: Mutex::default(),
        work: Condvar::new(),
        tree: Tree::new(workspace),
    });
    for starting in [(); WORKERS].map(|()| {
        let worker = Arc::clone(&cell);
        life::spawn(WORKER_STACK_BYTES, move || worker.work())
    }) {
        let running = starting.and_then(life::Starting::wait);
        life::require(&cell.hatch, running.map_err(|e| format!("start a thread: {e}")));
    }
    let stands = life::require(&cell.hatch, walls.seal());
    // A files cell that died in the middle of an upload left its temporary file.
    remove::leftovers(&cell.tree);
    cell.say(&FromCell::Ready(stands));
    loop {
        match packet::receive(&cell.hatch) {
            Ok((message, descriptors)) => cell.handle(message, descriptors),
            // Both the warden and the API are gone, or something that is neither speaks.
            Err(_) => life::end(),
        }
    }
}

impl Cell {
    fn say(&self, message: &FromCell) {
        let _sending = lock(&self.sending);
        if packet::send(&self.hatch, message, &[]).is_err() {
            life::end();
        }
    }

    fn answer(&self, operation: ExecutionId, answer: FileAnswer) {
        self.say(&FromCell::File { operation, answer });
    }

    fn handle(&self, message: ToCell, descriptors: Vec<OwnedFd>) {
        match message {
            ToCell::File(request) => self.accept(request, descriptors),
            ToCell::Cancel { execution } => self.cancel(Some(execution)),
            ToCell::Attach { generation } => {
                // Whoever asked before is gone, and with it the far ends of the pipes: nothing can be repeated.
                self.cancel(None);
                self.say(&FromCell::Attached { generation, executions: Vec::new() });
            }
            ToCell::Complete { operation, bytes } => self.each(Some(operation), |said| {
                // Said once; what is said again does not count.
                let _first = said.complete.set(bytes);
            }),
            ToCell::Acknowledge { .. } => {}
            // Of another kind of cell.
            ToCell::Prepare { .. }
            | ToCell::Commit(_)
            | ToCell::Execute(_)
            | ToCell::Input { .. }
            | ToCell::Watch => life::end(),
        }
    }

    fn accept(&self, request: FileRequest, mut descriptors: Vec<OwnedFd>) {
        let FileRequest { operation, path, action } = request;
        let job = Job { operation, path, action, pipe: descriptors.pop(), said: Arc::default() };
        if job.action.is_transfer() && job.pipe.is_none() {
            return self.refuse(operation, Errno::BADF);
        }
        let mut queue = lock(&self.queue);
        if queue.waiting.len() >= QUEUED_MAX {
            drop(queue);
            return self.refuse(operation, Errno::AGAIN);
        }
        queue.waiting.push_back(job);
        drop(queue);
        self.work.notify_one();
    }

    fn refuse(&self, operation: ExecutionId, errno: Errno) {
        self.answer(operation, FileAnswer::Refused(FileError::Other(errno.raw_os_error())));
    }

    /// Cancels one operation, or all.
    fn cancel(&self, operation: Option<ExecutionId>) {
        self.each(operation, |said| said.cancelled.store(true, Ordering::Relaxed));
    }

    /// Says something of one operation, or of all.
    fn each(&self, operation: Option<ExecutionId>, say: impl Fn(&Said)) {
        let queue = lock(&self.queue);
        let matches = |id: ExecutionId| operation.is_none_or(|operation| operation == id);
        let waiting = queue.waiting.iter().map(|job| (job.operation, &job.said));
        let running = queue.running.iter().map(|(id, said)| (*id, said));
        waiting.chain(running).filter(|(id, _)| matches(*id)).for_each(|(_, said)| say(said));
    }

    fn work(&self) {
        loop {
            let job = self.take();
            let (operation, transfer) = (job.operation, job.action.is_transfer());
            let answer = self.perform(job).unwrap_or_else(FileAnswer::Refused);
            let mut queue = lock(&self.queue);
            queue.running.retain(|(id, _)| *id != operation);
            queue.transfers -= usize::from(transfer);
            drop(queue);
            self.answer(operation, answer);
            // A transfer that waited for this one may go.
            self.work.notify_one();
        }
    }

    /// The first operation that may be worked on; waits for one.
    fn take(&self) -> Job {
        let mut queue = lock(&self.queue);
        loop {
            let free = queue.transfers < TRANSFERS_MAX;
            let next = queue.waiting.iter().position(|job| free || !job.action.is_transfer());
            if let Some(job) = next.and_then(|index| queue.waiting.remove(index)) {
                queue.transfers += usize::from(job.action.is_transfer());
                queue.running.push((job.operation, Arc::clone(&job.said)));
                return job;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does an operation; its last answer.
    fn perform(&self, job: Job) -> Result<FileAnswer, FileError> {
        let Job { operation, path, action, pipe, said } = job;
        let cancelled = &said.cancelled;
        let path = tree::Path::parse(&path)?;
        let pipe = || pipe.ok_or(FileError::Other(Errno::BADF.raw_os_error()));
        match action {
            FileAction::Upload { length } => {
                let (size, sha256) = transfer::upload(&self.tree, &path, operation, &pipe()?, length, &said)?;
                Ok(FileAnswer::Written { size, sha256 })
            }
            FileAction::Download { part } => {
                let pipe = pipe()?;
                let (file, entry) = transfer::open(&self.tree, &path)?;
                let range = part.of(entry.size).ok_or(FileError::OutOfRange(entry.size))?;
                self.answer(operation, FileAnswer::Found(entry));
                transfer::download(&file, range, pipe, cancelled)?;
                Ok(FileAnswer::Done)
            }
            FileAction::Stat => Ok(FileAnswer::Found(self.tree.stat(&path)?)),
            FileAction::List { recursive } => {
                let mut entries = self.tree.list(&path, recursive, cancelled)?.into_iter().peekable();
                while entries.peek().is_some() {
                    self.answer(operation, FileAnswer::Entries(tree::portion(&mut entries)));
                }
                Ok(FileAnswer::Done)
            }
            FileAction::Delete { recursive } => {
                remove::remove(&self.tree, &path, recursive, cancelled)?;
                Ok(FileAnswer::Done)
            }
            FileAction::Batch(changes) => {
                let outcome = batch::apply(&self.tree, operation, &changes, cancelled);
                Ok(match outcome {
                    Ok(()) => FileAnswer::Done,
                    Err((index, why)) => {
                        FileAnswer::Failed { index: u32::try_from(index).unwrap_or(u32::MAX), why }
                    }
                })
            }
            FileAction::Unpack { format, length } => {
                let received = archive::Received::new(pipe()?, length, &said)?;
                let (entries, bytes) = archive::unpack(&self.tree, &path, operation, format, received)?;
                Ok(FileAnswer::Unpacked { entries, bytes })
            }
            FileAction::Pack { format } => {
                let pipe = pipe()?;
                let contents = archive::Contents::of(&self.tree, &path, cancelled)?;
                self.answer(operation, FileAnswer::Begun);
                Ok(FileAnswer::Packed { bytes: archive::pack(&contents, format, pipe, cancelled)? })
            }
        }
    }
}
