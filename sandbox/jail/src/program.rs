//! A program that a cell's pid 1 starts: the guest's user, no capabilities, behind Landlock and a filter of its own.
//!
//! pid 1 keeps the ends of two pipes, which the program finds as descriptors 3 (to read) and 4 (to write), and of its
//! output where it wants that. With pid 1 everything that the program started ends.

use crate::control::Class;
use crate::fault;
use crate::lock::{self, GUEST_UID, LockError};
use crate::root::WORKSPACE;
use crate::seccomp;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SIGCHLD, SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, Gid, Pid, Uid, pipe2, setresgid, setresuid};
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
pub enum Program<'a> {
    /// A file of the cell's root.
    File {
        /// Where it is.
        path: &'a CStr,
        /// Its arguments, the first of which is its name.
        arguments: Vec<CString>,
        /// All of its environment, `NAME=value`.
        environment: Vec<CString>,
    },
    /// What this process holds already: it goes on in the copy that is forked, and never comes back.
    Here(&'a dyn Fn()),
}

impl std::fmt::Debug for Program<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, arguments, .. } => f.debug_list().entry(path).entries(arguments).finish(),
            Self::Here(_) => f.write_str("Here"),
        }
    }
}

/// How it is confined.
#[derive(Debug, Clone, Copy)]
pub struct Confinement {
    /// By the rules of this class.
    pub class: Class,
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
    /// What it and its children print, to standard output and to standard error; where they are children that pid 1
    /// waits for.
    pub output: Option<[OwnedFd; 2]>,
    /// Its number in the cell, which leads a process group of the same number.
    pub pid: Pid,
}

/// The program's ends.
struct Ends {
    input: OwnedFd,
    output: OwnedFd,
    printed: Option<[OwnedFd; 2]>,
}

impl Program<'_> {
    /// Starts it, from a pid 1 with one thread that is user 0 of its namespace. A program that cannot be started shows as
    /// the end of its pipe. A native program's output is piped, and pid 1 has to wait for its children; the children of
    /// other classes are reaped by the kernel from here on.
    #[expect(unsafe_code, reason = "fork and signal dispositions are unsafe by nature")]
    pub fn start(&self, confinement: Confinement) -> Result<Pipes, LockError> {
        fault::step("program").map_err(LockError::User)?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(LockError::Program);
        let ((input, to), (from, output)) = (pipe()?, pipe()?);
        let (kept, printed) = if confinement.class == Class::Native {
            let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
            (Some([stdout, stderr]), Some([stdout_end, stderr_end]))
        } else {
            (None, None)
        };
        let reaping = if kept.is_some() { SigHandler::SigDfl } else { SigHandler::SigIgn };
        // SAFETY: neither disposition runs code of ours.
        unsafe { signal(SIGCHLD, reaping) }.map_err(LockError::Program)?;
        // SAFETY: this process has one thread, so the child may use everything as if it had made it itself.
        match unsafe { nix::unistd::fork() }.map_err(LockError::Program)? {
            ForkResult::Parent { child } => Ok(Pipes { from, to, output: kept, pid: child }),
            ForkResult::Child => {
                let _never = self.become_it(confinement, &Ends { input, output, printed });
                // SAFETY: ends this process without running what its parent left to be run at an exit.
                unsafe { libc::_exit(NOT_STARTED) }
            }
        }
    }

    fn become_it(&self, confinement: Confinement, ends: &Ends) -> Result<Infallible, LockError> {
        let Confinement { class, descriptors, require_landlock } = confinement;
        nix::unistd::setsid().map_err(LockError::Program)?;
        nix::unistd::chdir(WORKSPACE).map_err(LockError::Program)?;
        only(ends).map_err(LockError::Program)?;
        // Dispositions that are ignored outlive an exec.
        reset_signals().map_err(LockError::Program)?;
        setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).map_err(LockError::Program)?;
        let (uid, gid) = (Uid::from_raw(GUEST_UID), Gid::from_raw(GUEST_UID));
        setresgid(gid, gid, gid).map_err(LockError::User)?;
        // Leaving user 0 for good also empties the capability sets.
        setresuid(uid, uid, uid).map_err(LockError::User)?;
        lock::landlock_program(class, require_landlock)?;
        for filter in seccomp::program_filters(class)? {
            seccompiler::apply_filter(filter).map_err(|e| LockError::Install(e.to_string()))?;
        }
        match self {
            Self::File { path, arguments, environment } => {
                nix::unistd::execve(path, arguments, environment).map_err(LockError::Program)
            }
            Self::Here(go_on) => {
                // As an exec would: without it the program could not read what `/proc` says of itself.
                nix::sys::prctl::set_dumpable(true).map_err(LockError::Program)?;
                go_on();
                Err(LockError::Program(Errno::ENOEXEC))
            }
        }
    }
}

/// Leaves the pipes as descriptors 1 to 4, and nothing else above 2.
#[expect(unsafe_code, reason = "gives descriptors numbers that the program expects")]
fn only(ends: &Ends) -> Result<(), Errno> {
    let printed = ends.printed.iter().flatten().zip(1..);
    let wanted: Vec<_> =
        [(&ends.input, PIPE_FD), (&ends.output, PIPE_FD + 1)].into_iter().chain(printed).collect();
    // Copies first, so that none is overwritten before it was copied.
    let mut copies = [(0, 0); 4];
    for (copy, (descriptor, number)) in copies.iter_mut().zip(&wanted) {
        // SAFETY: duplicates a descriptor that is open; no memory is involved.
        let above = Errno::result(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD, ABOVE) })?;
        *copy = (above, *number);
    }
    for (copy, number) in copies.into_iter().take(wanted.len()) {
        // SAFETY: this process is about to be another program and uses none of the numbers that are replaced.
        Errno::result(unsafe { libc::dup2(copy, number) })?;
    }
    let first = (PIPE_FD + 2).cast_unsigned();
    // SAFETY: as above.
    Errno::result(unsafe { libc::close_range(first, libc::c_uint::MAX, 0) }).map(drop)
}

/// Nothing is ignored, and nothing held back: the warden waits for its signals in a way that its children inherit.
#[expect(unsafe_code, reason = "signal dispositions are unsafe by nature")]
fn reset_signals() -> Result<(), Errno> {
    for which in Signal::iterator().filter(|which| ![Signal::SIGKILL, Signal::SIGSTOP].contains(which)) {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(which, SigHandler::SigDfl) }?;
    }
    SigSet::empty().thread_set_mask()
}
