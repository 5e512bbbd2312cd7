//! A program that a cell's pid 1 starts: the guest's user, no capabilities, behind Landlock and a filter of its own.
//!
//! pid 1 keeps the ends of two pipes, which the program finds as descriptors 3 (to read) and 4 (to write), and of its
//! output where it wants that. With pid 1 everything that the program started ends.

use crate::control::Class;
use crate::fault;
use crate::lock::{self, GUEST_UID, LockError};
use crate::root::{TERMINAL, WORKSPACE};
use crate::seccomp;
use crate::zygote::PROGRAM_DESCRIPTORS_MAX;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SIGCHLD, SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, Gid, Pid, Uid, pipe2, setresgid, setresuid};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What the program reads; it writes to the one above.
const PIPE_FD: RawFd = 3;
/// Above every descriptor that the program gets.
const ABOVE: RawFd = 16;
/// What is said by a program that did not become one.
const NOT_STARTED: i32 = 127;

/// A file of the cell's root, to be run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Program {
    /// Where it is.
    pub path: CString,
    /// Its arguments, the first of which is its name.
    pub arguments: Vec<CString>,
    /// All of its environment, `NAME=value`.
    pub environment: Vec<CString>,
    /// It reads and writes the cell's terminal, which [`crate::root::terminal`] made.
    pub at_terminal: bool,
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

impl Program {
    /// Starts it, from a pid 1 with one thread that is user 0 of its namespace. A program that cannot be started shows as
    /// the end of its pipe. A native program's output is piped, and pid 1 has to wait for its children; the children of
    /// other classes are reaped by the kernel from here on.
    pub fn start(&self, confinement: Confinement) -> Result<Pipes, LockError> {
        fault::step("program").map_err(LockError::User)?;
        fork(confinement.class, |ends| {
            detach(ends)?;
            self.sit_down()?;
            confine(confinement)?;
            self.execute()
        })
    }

    /// In the child: takes the terminal, if it has one, as input and output. Being the first of its session, it is
    /// controlled by it: tty_ioctl(4).
    #[expect(unsafe_code, reason = "gives descriptors numbers that the program expects")]
    fn sit_down(&self) -> Result<(), LockError> {
        if !self.at_terminal {
            return Ok(());
        }
        let terminal = rustix::fs::open(TERMINAL, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        let terminal = terminal.map_err(|e| LockError::Program(Errno::from_raw(e.raw_os_error())))?;
        for number in 0..3 {
            // SAFETY: this process is about to be another program and uses none of the numbers that are replaced.
            Errno::result(unsafe { libc::dup2(terminal.as_raw_fd(), number) }).map_err(LockError::Program)?;
        }
        Ok(())
    }

    fn execute(&self) -> Result<Infallible, LockError> {
        nix::unistd::execve(&self.path, &self.arguments, &self.environment).map_err(LockError::Program)
    }
}

/// A copy of a zygote beside a cell's pid 1, made before anybody knew its session. It waits to be told what for; what it
/// does then it does behind the walls that every program has.
#[derive(Debug)]
pub struct Spare(Pipes);

/// What a spare is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    require_landlock: bool,
    /// What it becomes. It goes on as what it is where there is nothing.
    program: Option<Program>,
}

/// What the copies of a zygote do.
pub trait Copies {
    /// Runs without walls, and is nothing that a session has to do with. Whether it went well.
    fn get_ready(&self) -> bool;
    /// Behind the walls; never comes back.
    fn go_on(&self);
}

impl Spare {
    /// In a cell's pid 1: makes a copy of it. The copy gets ready `early`, before it is asked for, or when it turns out to be
    /// wanted as what it is.
    pub fn copy(class: Class, early: bool, copies: &impl Copies) -> Result<Self, LockError> {
        fork(class, |ends| {
            detach(ends)?;
            let (input, output) = own_pipes();
            let not_ready = LockError::Program(Errno::ENOEXEC);
            if early && !copies.get_ready() || nix::unistd::write(output, &[0]).is_err() {
                return Err(not_ready);
            }
            let Order { require_landlock, program } = hear(input).map_err(LockError::Program)?;
            if !early && program.is_none() && !copies.get_ready() {
                return Err(not_ready);
            }
            // Landlock and the filter hold for one thread: one that getting ready has left behind would be outside of
            // them. Does nothing but fail when there is one: unshare(2), CLONE_THREAD.
            nix::sched::unshare(CloneFlags::CLONE_THREAD).map_err(LockError::Program)?;
            program.as_ref().map_or(Ok(()), Program::sit_down)?;
            confine(Confinement { class, descriptors: PROGRAM_DESCRIPTORS_MAX, require_landlock })?;
            if let Some(program) = program {
                program.execute()?;
            }
            // As an exec would: without it the program could not read what `/proc` says of itself.
            nix::sys::prctl::set_dumpable(true).map_err(LockError::Program)?;
            copies.go_on();
            Err(not_ready)
        })
        .map(Self)
    }

    /// Takes over our ends of a native one's pipes, in the order of [`Spare::descriptors`].
    pub(crate) fn adopt([from, to, stdout, stderr]: [OwnedFd; 4], pid: Pid) -> Self {
        Self(Pipes { from, to, output: Some([stdout, stderr]), pid })
    }

    /// Our ends of its pipes: what it says, what it is told, and where there is that, what it prints to standard output and to
    /// standard error.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.0.from, &self.0.to].into_iter().chain(self.0.output.iter().flatten()).map(AsFd::as_fd)
    }

    /// Its number in the cell.
    pub(crate) fn pid(&self) -> Pid {
        self.0.pid
    }

    /// Waits until it can be told what for.
    pub fn wait(&self) -> Result<(), LockError> {
        match nix::unistd::read(&self.0.from, &mut [0]) {
            Ok(1) => Ok(()),
            Ok(_) => Err(LockError::Program(Errno::ENOEXEC)),
            Err(errno) => Err(LockError::Program(errno)),
        }
    }

    /// Lets it go on, in a cell that is furnished, or makes it a program. Like a program that cannot be started, a spare that
    /// cannot be confined shows as the end of its pipe.
    pub fn start(self, require_landlock: bool, program: Option<Program>) -> Result<Pipes, LockError> {
        fault::step("program").map_err(LockError::User)?;
        tell(&self.0.to, &Order { require_landlock, program }).map_err(LockError::Program)?;
        Ok(self.0)
    }
}

/// Writes an order behind its length.
fn tell(to: &OwnedFd, order: &Order) -> Result<(), Errno> {
    let body = postcard::to_stdvec(order).map_err(|_| Errno::EINVAL)?;
    let length = u32::try_from(body.len()).map_err(|_| Errno::E2BIG)?;
    let bytes = [&length.to_le_bytes()[..], &body].concat();
    let mut left = &bytes[..];
    while !left.is_empty() {
        left = &left[nix::unistd::write(to, left)?..];
    }
    Ok(())
}

/// Reads an order of our own pid 1's, and not a byte of what follows.
fn hear(from: BorrowedFd<'_>) -> Result<Order, Errno> {
    let fill = |buffer: &mut [u8]| {
        let mut read = 0;
        while read < buffer.len() {
            match nix::unistd::read(from, &mut buffer[read..])? {
                0 => return Err(Errno::EPIPE),
                some => read += some,
            }
        }
        Ok(())
    };
    let mut length = [0; 4];
    fill(&mut length)?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    fill(&mut body)?;
    postcard::from_bytes(&body).map_err(|_| Errno::EINVAL)
}

/// Forks a process with pipes, which ends when `body` comes back.
#[expect(unsafe_code, reason = "fork and signal dispositions are unsafe by nature")]
fn fork(class: Class, body: impl FnOnce(&Ends) -> Result<Infallible, LockError>) -> Result<Pipes, LockError> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(LockError::Program);
    let ((input, to), (from, output)) = (pipe()?, pipe()?);
    let (kept, printed) = if class == Class::Native {
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
            let _never = body(&Ends { input, output, printed });
            // SAFETY: ends this process without running what its parent left to be run at an exit.
            unsafe { libc::_exit(NOT_STARTED) }
        }
    }
}

/// In the child: a session of its own, the pipes under their numbers, no other descriptor, signals as they are at first.
fn detach(ends: &Ends) -> Result<(), LockError> {
    nix::unistd::setsid().map_err(LockError::Program)?;
    only(ends).map_err(LockError::Program)?;
    // Dispositions that are ignored outlive an exec.
    reset_signals().map_err(LockError::Program)
}

/// In the child of a furnished cell: the walls.
fn confine(confinement: Confinement) -> Result<(), LockError> {
    let Confinement { class, descriptors, require_landlock } = confinement;
    nix::unistd::chdir(WORKSPACE).map_err(LockError::Program)?;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).map_err(LockError::Program)?;
    let (uid, gid) = (Uid::from_raw(GUEST_UID), Gid::from_raw(GUEST_UID));
    setresgid(gid, gid, gid).map_err(LockError::User)?;
    // Whoever has another user may not be able to give it up any more.
    lock::drop_bounding_set()?;
    setresuid(uid, uid, uid).map_err(LockError::User)?;
    lock::drop_capabilities()?;
    lock::landlock_program(class, require_landlock)?;
    for filter in seccomp::program_filters(class)? {
        seccompiler::apply_filter(filter).map_err(|e| LockError::Install(e.to_string()))?;
    }
    Ok(())
}

/// Ends this process, and with a cell's pid 1 everything in the cell, without running what libraries left to be run at an
/// exit: a copy of a zygote has many of them, and nothing for them to do.
#[expect(unsafe_code, reason = "the standard library has only the exit that runs them")]
pub fn end() -> ! {
    // SAFETY: no value of this process needs dropping, and none is used after this.
    unsafe { libc::_exit(0) }
}

/// The pipes in a process that has [`detach`]ed.
#[expect(unsafe_code, reason = "they were put there by number")]
fn own_pipes() -> (BorrowedFd<'static>, BorrowedFd<'static>) {
    // SAFETY: it is open since `only`, and nothing of this process's closes it; so is the other one.
    let [input, output] = [PIPE_FD, PIPE_FD + 1].map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    (input, output)
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
