//! How native cells are born: pid 1 is a small program of ours, and beside it is a copy of the zygote, which will be what
//! the session asked for.
//!
//! The zygote is large, and to copy its page tables is most of what a cell costs. So there is one copy and not two: pid 1
//! begins in the zygote's memory, as the child of a vfork(2) does, makes the copy, and becomes its program. Until then the
//! zygote waits. What runs in there leaves that memory as it found it: it keeps no value, and touches descriptors, whose
//! table is its own.

use crate::control::Class;
use crate::fault;
use crate::hatch::FromCell;
use crate::lock::LockError;
use crate::packet;
use crate::program::{Copies, Spare};
use crate::zygote::{Birth, Born, Hatch, Report, inherited, new_namespaces};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_void};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// As deep as the main thread of a program may go, and more than it is given on most machines.
const COPY_STACK_BYTES: usize = 64 << 20;
const GUIDE_STACK_BYTES: usize = 256 << 10;
const PAGE_BYTES: usize = 4096;
/// Where pid 1 finds its hatch, as every cell does, and behind it the four pipes of the copy.
const HATCH_FD: RawFd = 3;
/// Above every descriptor that pid 1 is given.
const ABOVE: RawFd = 16;
const NAME: &CStr = c"anchorhold-pid1";

/// What twins are made with.
#[derive(Debug)]
pub(crate) struct Nursery<'a> {
    class: Class,
    /// The program that pid 1 becomes.
    first: BorrowedFd<'a>,
    /// Where pid 1 begins, and its copy of the zygote goes on.
    copy_stack: Stack,
    guide_stack: Stack,
}

impl<'a> Nursery<'a> {
    pub(crate) fn new(class: Class, first: BorrowedFd<'a>) -> Result<Self, Errno> {
        let (copy_stack, guide_stack) = (Stack::new(COPY_STACK_BYTES)?, Stack::new(GUIDE_STACK_BYTES)?);
        Ok(Self { class, first, copy_stack, guide_stack })
    }

    /// A new cell. One that joins a session's is born by way of a process that goes to that session's namespaces, reports
    /// the cell and ends, so that the warden, as the next subreaper, becomes the cell's parent. This process could not come
    /// back: it would have left the namespace that it belongs to. It may go there because the namespace was made by its
    /// user: user_namespaces(7).
    pub(crate) fn bear(
        &mut self,
        birth: &Birth,
        control: BorrowedFd<'_>,
        copies: &impl Copies,
    ) -> Result<Born, Errno> {
        let Some((user, network)) = &birth.home else {
            let own = libc::CLONE_PARENT | libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
            return self.bear_twins(birth, own, copies).map(Born::Here);
        };
        let mut guide_stack = std::mem::replace(&mut self.guide_stack, Stack::none());
        let mut guide = || {
            let gone = nix::sched::setns(user, CloneFlags::CLONE_NEWUSER)
                .and_then(|()| nix::sched::setns(network, CloneFlags::CLONE_NEWNET))
                .and_then(|()| self.bear_twins(birth, 0, copies));
            match gone {
                Ok(pidfd) => packet::send(control, &Report::Born { tag: birth.tag }, &[pidfd.as_fd()])
                    .map_or(Errno::EPIPE as i32, |()| 0),
                Err(errno) => errno as i32,
            }
        };
        let child = Clone { flags: 0, exit_signal: libc::SIGCHLD, cgroup: None };
        let child = child.in_this_memory(&mut guide_stack, &mut guide);
        self.guide_stack = guide_stack;
        match nix::sys::wait::waitpid(child?.0, None)? {
            WaitStatus::Exited(_, 0) => Ok(Born::Reported),
            WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
            _ => Err(Errno::ECHILD),
        }
    }

    /// The pidfd of the new cell's pid 1.
    fn bear_twins(&mut self, birth: &Birth, family: i32, copies: &impl Copies) -> Result<OwnedFd, Errno> {
        fault::step("fork")?;
        let (class, first, early) = (self.class, self.first, birth.home.is_none());
        let mut pid1 = || {
            let step = match Spare::copy(class, early, copies)
                .and_then(|spare| become_first(birth, first, &spare))
            {
                Ok(never) => match never {},
                Err(error) => error.to_string(),
            };
            // Nobody is left to tell when this fails too.
            let _told = packet::send(&birth.hatch, &FromCell::Refused { step }, &[]);
            1
        };
        let clone = Clone {
            flags: family | new_namespaces(),
            exit_signal: 0,
            cgroup: birth.cgroup.as_ref().map(AsFd::as_fd),
        };
        let (_, pidfd) = clone.in_this_memory(&mut self.copy_stack, &mut pid1)?;
        Ok(pidfd)
    }
}

/// In pid 1, which still is in the zygote's memory: leaves it for a program, with the hatch and the pipes of the copy open.
/// It keeps its capabilities, which an exec takes from a process whose user is nobody yet: capabilities(7).
fn become_first(birth: &Birth, first: BorrowedFd<'_>, spare: &Spare) -> Result<Infallible, LockError> {
    let failed = |e: caps::errors::CapsError| LockError::Capabilities(e.to_string());
    let all = caps::read(None, caps::CapSet::Permitted).map_err(failed)?;
    caps::set(None, caps::CapSet::Inheritable, &all).map_err(failed)?;
    caps::set(None, caps::CapSet::Ambient, &all).map_err(failed)?;
    drop(all);
    fault::step("first_program").map_err(LockError::Program)?;
    let mut number = [0; 16];
    write!(&mut number[..], "{}", spare.pid()).map_err(|_| LockError::Program(Errno::ERANGE))?;
    let mut given = [birth.hatch.as_raw_fd(); 5];
    for (place, pipe) in given[1..].iter_mut().zip(spare.descriptors()) {
        *place = pipe.as_raw_fd();
    }
    execute(first, given, &number).map_err(LockError::Program)
}

#[expect(
    unsafe_code,
    reason = "gives descriptors the numbers that the program expects, and executes it without a value that stays"
)]
fn execute(first: BorrowedFd<'_>, given: [RawFd; 5], number: &[u8; 16]) -> Result<Infallible, Errno> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let above = |descriptor: RawFd| {
        // SAFETY: duplicates a descriptor that is open; no memory is involved.
        Errno::result(unsafe { libc::fcntl(descriptor, libc::F_DUPFD, ABOVE) })
    };
    // Copies first, so that none is overwritten before it was copied.
    let program = above(first.as_raw_fd())?;
    for (number, descriptor) in (HATCH_FD..).zip(given.map(above)) {
        // SAFETY: this process, whose table of descriptors is its own, is about to be another program.
        Errno::result(unsafe { libc::dup2(descriptor?, number) })?;
    }
    // SAFETY: as above. 0 is `/dev/null` and 2 the warden's log, which a cell must not write to.
    Errno::result(unsafe { libc::dup2(0, 2) })?;
    let (behind, flags) = ((HATCH_FD + 5).cast_unsigned(), libc::CLOSE_RANGE_CLOEXEC.cast_signed());
    // SAFETY: as above.
    Errno::result(unsafe { libc::close_range(behind, libc::c_uint::MAX, flags) })?;
    let arguments = [NAME.as_ptr(), number.as_ptr().cast(), std::ptr::null()];
    // SAFETY: set by the C library; nothing in this process changes it any more.
    let environment = unsafe { environ };
    let (arguments, environment) = (arguments.as_ptr().cast(), environment.cast());
    // SAFETY: both lists end with a null, as does each text, and outlive the call, which comes back only when it fails.
    unsafe { libc::execveat(program, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH) };
    Err(Errno::last())
}

/// In the zygote: takes over the program of pid 1, which was opened for it before it was confined. Call it once.
pub fn program(number: RawFd) -> Option<File> {
    inherited(number).map(File::from)
}

/// In the program that pid 1 has become: its hatch, and the copy of the zygote beside it. Call it once, first thing in
/// `main`.
pub fn adopt() -> Option<(Hatch, Spare)> {
    SigSet::empty().thread_set_mask().ok()?;
    // Kernels before 6.14 name it after the descriptor that it was executed by.
    nix::sys::prctl::set_name(NAME).ok()?;
    let pid = std::env::args().nth(1)?.parse().ok()?;
    let hatch = Hatch(inherited(HATCH_FD)?);
    let mut pipes = (HATCH_FD + 1..).map(inherited);
    let mut pipe = || pipes.next().flatten();
    Some((hatch, Spare::adopt([pipe()?, pipe()?, pipe()?, pipe()?], Pid::from_raw(pid))))
}

/// Memory for a process that begins in ours. Never given back.
#[derive(Debug)]
struct Stack {
    lowest: *mut c_void,
    bytes: usize,
}

impl Stack {
    fn none() -> Self {
        Self { lowest: std::ptr::null_mut(), bytes: 0 }
    }

    #[expect(unsafe_code, reason = "mappings have no safe form")]
    fn new(bytes: usize) -> Result<Self, Errno> {
        let failed = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: fresh memory at an address of the kernel's choice.
        let lowest = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes + PAGE_BYTES, protection, flags) };
        let lowest = lowest.map_err(failed)?;
        // SAFETY: the first page of what was just mapped, which nothing uses: who goes too deep ends there.
        unsafe { mprotect(lowest, PAGE_BYTES, MprotectFlags::empty()) }.map_err(failed)?;
        Ok(Self { lowest, bytes: bytes + PAGE_BYTES })
    }
}

struct Clone<'a> {
    flags: i32,
    exit_signal: i32,
    cgroup: Option<BorrowedFd<'a>>,
}

impl Clone<'_> {
    /// Runs `body` in a child that shares this process's memory, on another stack, while this process waits until the child
    /// has executed a program or ended, with what `body` returned. A signal would be handled in memory that is not its own,
    /// so they wait, too.
    #[expect(
        unsafe_code,
        reason = "clone3 has no wrapper in any library, and none could run a function on another stack"
    )]
    fn in_this_memory(
        &self,
        stack: &mut Stack,
        mut body: &mut dyn FnMut() -> i32,
    ) -> Result<(Pid, OwnedFd), Errno> {
        unsafe extern "C" fn begin(body: *mut &mut dyn FnMut() -> i32) -> ! {
            // SAFETY: it is on the stack of the parent, which waits.
            let code = unsafe { (*body)() };
            // SAFETY: ends this process without running what its parent left to be run at an exit.
            unsafe { libc::_exit(code) }
        }
        let mut pidfd: RawFd = -1;
        // SAFETY: `clone_args` is a C struct of integers, for which zero is a valid value of every field.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        let flags = self.flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
        arguments.flags = u64::from(flags.cast_unsigned());
        if let Some(cgroup) = self.cgroup {
            arguments.flags |= crate::zygote::CLONE_INTO_CGROUP;
            arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
        }
        arguments.exit_signal = u64::from(self.exit_signal.cast_unsigned());
        arguments.pidfd = (&raw mut pidfd) as u64;
        arguments.stack = stack.lowest as u64;
        arguments.stack_size = stack.bytes as u64;
        let mut before = SigSet::empty();
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        let answer: i64;
        // SAFETY: the child begins behind the `syscall` on the stack of its own, whose end is aligned as the call of a
        // function wants it, calls `begin`, which never returns, and so never uses this stack but through the references
        // of `body`, all of which outlive its stay: the parent comes back only when the child has left this memory. The
        // parent's registers and stack are as the constraints say. The kernel writes one descriptor's number to `pidfd`.
        unsafe {
            std::arch::asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, r12",
                "call r13",
                "ud2",
                "2:",
                inlateout("rax") libc::SYS_clone3 => answer,
                in("rdi") &raw const arguments,
                in("rsi") size_of::<libc::clone_args>(),
                in("r12") &raw mut body,
                in("r13") begin as unsafe extern "C" fn(*mut &mut dyn FnMut() -> i32) -> !,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        let unblocked = before.thread_set_mask();
        match i32::try_from(answer) {
            Ok(pid @ 1..) => {
                // SAFETY: the call succeeded, so it is a new descriptor that nothing else owns.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                unblocked.map(|()| (Pid::from_raw(pid), pidfd))
            }
            Ok(errno) => Err(Errno::from_raw(-errno)),
            Err(_) => Err(Errno::EOVERFLOW),
        }
    }
}
