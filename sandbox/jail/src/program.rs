//! A program that a cell's pid 1 starts: the guest's user, no capabilities, behind Landlock and a filter of its own.
//!
//! pid 1 keeps the ends of two pipes, which the program finds as descriptors 3 (to read) and 4 (to write). With pid 1
//! everything that the program started ends.

use crate::fault;
use crate::lock::{self, GUEST_UID, LockError};
use crate::seccomp;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{ForkResult, Gid, Uid, setresgid, setresuid};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What the program reads; it writes to the one above.
const PIPE_FD: RawFd = 3;
/// Above every descriptor that the program gets.
const ABOVE: RawFd = 16;
/// What is said by a program that did not become one.
const NOT_STARTED: i32 = 127;

/// What to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// In the cell's root.
    pub path: &'a CStr,
    /// Its arguments, the first of which is its name.
    pub arguments: Vec<CString>,
    /// All of its environment, `NAME=value`.
    pub environment: Vec<CString>,
    /// How many descriptors it may have.
    pub descriptors: u64,
    /// Landlock is required; without it the program does not start.
    pub require_landlock: bool,
}

/// Our ends of a program's pipes. It sees their end when they are dropped.
#[derive(Debug)]
pub struct Pipes {
    /// What it says.
    pub from: OwnedFd,
    /// What it is told.
    pub to: OwnedFd,
}

impl Program<'_> {
    /// Starts it, from a pid 1 with one thread that is user 0 of its namespace. A program that cannot be started shows as
    /// the end of its pipe. Ended children are reaped by the kernel from here on.
    pub fn start(&self) -> Result<Pipes, LockError> {
        start_confined(self.descriptors, self.require_landlock, || {
            nix::unistd::execve(self.path, &self.arguments, &self.environment).map_err(LockError::Program)
        })
    }
}

/// Starts a child as [`Program::start`] does, which then does what `body` says; when that returns, it ends.
#[expect(unsafe_code, reason = "fork and signal dispositions are unsafe by nature")]
pub fn start_confined(
    descriptors: u64,
    require_landlock: bool,
    body: impl FnOnce() -> Result<Infallible, LockError>,
) -> Result<Pipes, LockError> {
    fault::step("program").map_err(LockError::User)?;
    let (theirs_in, to) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(LockError::Program)?;
    let (from, theirs_out) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(LockError::Program)?;
    // SAFETY: ignoring installs no code that could run at a bad time.
    unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn) }
        .map_err(LockError::Program)?;
    // SAFETY: this process has one thread, so the child may use everything as if it had made it itself.
    match unsafe { nix::unistd::fork() }.map_err(LockError::Program)? {
        ForkResult::Parent { .. } => Ok(Pipes { from, to }),
        ForkResult::Child => {
            let confined = confine(&theirs_in, &theirs_out, descriptors, require_landlock);
            let _never = confined.and_then(|()| body());
            // SAFETY: ends this process without running what its parent left to be run at an exit.
            unsafe { libc::_exit(NOT_STARTED) }
        }
    }
}

fn confine(
    input: &OwnedFd,
    output: &OwnedFd,
    descriptors: u64,
    require_landlock: bool,
) -> Result<(), LockError> {
    nix::unistd::setsid().map_err(LockError::Program)?;
    only(input, output).map_err(LockError::Program)?;
    // Dispositions that are ignored outlive an exec.
    reset_signals().map_err(LockError::Program)?;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).map_err(LockError::Program)?;
    let (uid, gid) = (Uid::from_raw(GUEST_UID), Gid::from_raw(GUEST_UID));
    setresgid(gid, gid, gid).map_err(LockError::User)?;
    // Leaving user 0 for good also empties the capability sets.
    setresuid(uid, uid, uid).map_err(LockError::User)?;
    lock::landlock_program(require_landlock)?;
    for filter in seccomp::program_filters()? {
        seccompiler::apply_filter(filter).map_err(|e| LockError::Install(e.to_string()))?;
    }
    Ok(())
}

/// Leaves the two pipes as descriptors 3 and 4, and nothing else above 2.
#[expect(unsafe_code, reason = "gives descriptors numbers that the program expects")]
fn only(input: &OwnedFd, output: &OwnedFd) -> Result<(), Errno> {
    // Copies first, so that neither is overwritten before it was copied.
    let mut copies = [0; 2];
    for (copy, descriptor) in copies.iter_mut().zip([input, output]) {
        // SAFETY: duplicates a descriptor that is open; no memory is involved.
        *copy = Errno::result(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD, ABOVE) })?;
    }
    for (number, copy) in (PIPE_FD..).zip(copies) {
        // SAFETY: this process is about to be another program and uses none of the numbers that are replaced.
        Errno::result(unsafe { libc::dup2(copy, number) })?;
    }
    let first = (PIPE_FD + 2).cast_unsigned();
    // SAFETY: as above.
    Errno::result(unsafe { libc::close_range(first, libc::c_uint::MAX, 0) }).map(drop)
}

#[expect(unsafe_code, reason = "signal dispositions are unsafe by nature")]
fn reset_signals() -> Result<(), Errno> {
    use nix::sys::signal::{SIGCHLD, SIGPIPE, SigHandler, signal};
    for which in [SIGCHLD, SIGPIPE] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(which, SigHandler::SigDfl) }?;
    }
    Ok(())
}
