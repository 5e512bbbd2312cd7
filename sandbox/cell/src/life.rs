//! What all cells have in common: how they begin and how they end.

use anchorhold_jail::hatch::{Commit, FromCell, ToCell};
use anchorhold_jail::packet;
use anchorhold_jail::walls::Walls;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

/// The walls, as two steps that a cell takes. The program passes those of `anchorhold_jail::lock`; tests pass none.
/// An error is the step's name and the kernel's answer. Cells take them as an object, and are so compiled once, with the
/// library.
pub trait Walling {
    /// Becomes the session's user and closes the file system but for the workspace. Called with one thread.
    fn restrict(&mut self, commit: &Commit, workspace: BorrowedFd<'_>) -> Result<(), String>;
    /// Closes the system calls of every thread and says what stands.
    fn seal(&mut self) -> Result<Walls, String>;
}

/// The cell's process ends here: with its pid 1 everything in it goes, and no value needs dropping.
pub fn end() -> ! {
    anchorhold_jail::program::end()
}

/// A defect of ours must end the cell, not leave it without one of its threads.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|_| end()));
}

/// Waits until the warden has made this cell somebody; returns whether Landlock is required. Ends the cell when the warden
/// hangs up instead.
pub fn wait_for_identity(hatch: &OwnedFd) -> bool {
    match packet::receive(hatch) {
        Ok((ToCell::Prepare { require_landlock, .. }, _)) => require_landlock,
        _ => end(),
    }
}

/// Says `Prepared` and waits for the commit and its descriptors. Ends the cell when the warden hangs up instead.
pub fn wait_for_commit<const N: usize>(hatch: &OwnedFd) -> (Commit, [OwnedFd; N]) {
    say_prepared(hatch);
    receive_commit(hatch)
}

/// The first half of [`wait_for_commit`].
pub fn say_prepared(hatch: &OwnedFd) {
    if packet::send(hatch, &FromCell::Prepared, &[]).is_err() {
        end();
    }
}

/// The second half of [`wait_for_commit`].
pub fn receive_commit<const N: usize>(hatch: &OwnedFd) -> (Commit, [OwnedFd; N]) {
    match receive_order(hatch) {
        (ToCell::Commit(commit), descriptors) => (commit, descriptors),
        // Anything but a commit is a broken warden.
        _ => end(),
    }
}

/// What the warden says to a cell that is not committed yet. The warden shrinks its pool by hanging up, which ends the cell.
pub fn receive_order<const N: usize>(hatch: &OwnedFd) -> (ToCell, [OwnedFd; N]) {
    let Ok((order, descriptors)) = packet::receive(hatch) else { end() };
    descriptors.try_into().map_or_else(|_| end(), |descriptors| (order, descriptors))
}

/// The value of a step, or the end of the cell with the reason told.
pub fn require<T>(hatch: impl AsFd, outcome: Result<T, String>) -> T {
    match outcome {
        Ok(value) => value,
        Err(step) => {
            // Nobody is left to tell when this fails too.
            let _told = packet::send(hatch, &FromCell::Refused { step }, &[]);
            end()
        }
    }
}

/// A thread that is about to run.
#[derive(Debug)]
#[must_use = "the cell may be sealed only when its threads run"]
pub struct Starting(mpsc::Receiver<()>);

impl Starting {
    /// Waits until it runs: what a thread calls while it is set up is not on the list of what a sealed cell may call.
    pub fn wait(self) -> io::Result<()> {
        self.0.recv().map_err(io::Error::other)
    }
}

/// Starts a thread that lasts as long as the cell.
pub fn spawn(stack_bytes: usize, body: impl FnOnce() + Send + 'static) -> io::Result<Starting> {
    let (running, starts) = mpsc::channel();
    std::thread::Builder::new().stack_size(stack_bytes).spawn(move || {
        // The other side waits for it.
        let _waited_for = running.send(());
        body();
    })?;
    Ok(Starting(starts))
}

/// Locks. A panic ends the process (see [`end_on_panic`]), so what a poisoned lock protects is never seen.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
