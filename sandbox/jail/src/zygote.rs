//! Zygotes: warm processes that cells are forked from.
//!
//! The warden executes `anchorhold-cell zygote <class>` with a control socket as descriptor 3 and, if the class has images,
//! the image as descriptor 4: a compiled module, or the directory that is to be the root. The zygote confines itself, loads its image, says it is warm, and forks a cell per order.
//! It stays single-threaded, holds no secret and runs no guest code. A cell is born a child of the warden
//! (`CLONE_PARENT`), so a zygote's death takes no cell with it.

use crate::control::Class;
use crate::fault;
use crate::packet::{self, PacketError};
use crate::program::Copies;
use crate::root::Tree;
use crate::seccomp::{self, FilterError};
use crate::twin::Nursery;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Where the warden puts the control socket.
pub const CONTROL_FD: RawFd = 3;
/// Where the warden puts the image file.
pub const IMAGE_FD: RawFd = 4;
/// Variable that names the unprivileged user of zygotes.
pub const UID_VARIABLE: &str = "ANCHORHOLD_ZYGOTE_UID";
/// Descriptors that a zygote or a cell may hold at all: small, so that the check before each fork is cheap.
const DESCRIPTORS_MAX: u64 = 128;
/// Descriptors that a program in a cell may have.
pub const PROGRAM_DESCRIPTORS_MAX: u64 = 4_096;
/// From `linux/sched.h`: be born in the cgroup of `clone_args.cgroup`. The bindings type it too narrow.
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the warden orders.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Fork a cell. Descriptors: its end of the hatch, then (cgroup v2) the directory of the cgroup to be born in, then
    /// (`joined`) the user and the network namespace of another cell of its session, in which it is born.
    Spawn {
        /// Comes back in the report.
        tag: u64,
        /// There is a cgroup to be born in.
        grouped: bool,
        /// It does not get these namespaces of its own.
        joined: bool,
    },
}

/// What a zygote reports.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The image is loaded: orders are welcome.
    Warm,
    /// A cell exists. One descriptor: its pidfd.
    Born {
        /// Of the order.
        tag: u64,
    },
    /// No cell.
    Failed {
        /// Of the order.
        tag: u64,
        /// The kernel's answer.
        errno: i32,
    },
}

/// Why a zygote cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// It was not started by the warden.
    #[error("zygotes are started by anchorhold-warden")]
    NotOurs,
    /// A step of its own confinement.
    #[error("{0}: {1}")]
    Confine(&'static str, Errno),
    /// It holds a descriptor that it should not: forking would give it to a cell.
    #[error("descriptor {0} is not on the allow-list")]
    Descriptor(RawFd),
    /// It has more than one thread.
    #[error("more than one thread before a fork")]
    Threads,
    /// The filter of its cells.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The warden's socket.
    #[error(transparent)]
    Control(#[from] PacketError),
}

/// A cell's end of its hatch; a blocking SEQPACKET socket for [`crate::packet`].
#[derive(Debug)]
pub struct Hatch(pub OwnedFd);

/// An order of the warden's, with what came along.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) tag: u64,
    /// The cell's end of its hatch.
    pub(crate) hatch: OwnedFd,
    pub(crate) cgroup: Option<OwnedFd>,
    /// The user and the network namespace of another cell of its session, in which it is born.
    pub(crate) home: Option<(OwnedFd, OwnedFd)>,
}

/// A cell is there.
#[derive(Debug)]
pub(crate) enum Born {
    /// Its pidfd.
    Here(OwnedFd),
    /// Another process has told the warden of it.
    Reported,
}

/// What the warden gave this zygote.
#[derive(Debug)]
pub struct Station {
    /// What it forks.
    pub class: Class,
    /// The compiled module, or the directory of the root. Taken by whoever uses it.
    pub image: Option<File>,
    control: OwnedFd,
    uid: u32,
}

impl Station {
    /// Takes over what the warden left on the command line, in the environment and in descriptors. Call it once,
    /// first thing in `main`.
    pub fn from_env() -> Result<Self, ZygoteError> {
        let mut words = std::env::args().skip(1);
        let class = match (words.next().as_deref(), words.next().as_deref()) {
            (Some("zygote"), Some("wasm")) => Class::Wasm,
            (Some("zygote"), Some("files")) => Class::Files,
            (Some("zygote"), Some("browser")) => Class::Browser,
            (Some("zygote"), Some("native")) => Class::Native,
            _ => return Err(ZygoteError::NotOurs),
        };
        let uid =
            std::env::var(UID_VARIABLE).ok().and_then(|uid| uid.parse().ok()).ok_or(ZygoteError::NotOurs)?;
        let control = inherited(CONTROL_FD).ok_or(ZygoteError::NotOurs)?;
        let image = match class {
            Class::Wasm | Class::Browser | Class::Native => {
                Some(inherited(IMAGE_FD).ok_or(ZygoteError::NotOurs)?.into())
            }
            Class::Files => None,
        };
        Ok(Self { class, image, control, uid })
    }

    /// Goes on in the program that a confined zygote of native cells has become, in a library that was loaded into it.
    /// Call it once.
    pub fn resume() -> Result<Self, ZygoteError> {
        let control = inherited(CONTROL_FD).ok_or(ZygoteError::NotOurs)?;
        Ok(Self { class: Class::Native, image: None, control, uid: nix::unistd::getuid().as_raw() })
    }

    /// Becomes a program of the image, which keeps the control socket and `kept` open. Returns only when that fails.
    pub fn become_program(
        self,
        path: &CStr,
        arguments: &[CString],
        environment: &[CString],
        kept: &[File],
    ) -> Result<Infallible, ZygoteError> {
        let step = |errno| ZygoteError::Confine("become the image's program", errno);
        // They are found by their numbers.
        for kept in kept.iter().map(AsFd::as_fd).chain([self.control.as_fd()]) {
            nix::fcntl::fcntl(kept, FcntlArg::F_SETFD(FdFlag::empty())).map_err(step)?;
        }
        nix::unistd::execve(path, arguments, environment).map_err(step)
    }

    /// Own mount, network, ipc and uts namespaces; an empty read-only root, or the image's; the unprivileged user; no
    /// capabilities; no new privileges. Cells inherit all of it. Call it before a module is loaded.
    pub fn confine(&mut self) -> Result<(), ZygoteError> {
        let step = |name| move |errno| ZygoteError::Confine(name, errno);
        let tree = match (self.class, self.image.take()) {
            (class, Some(directory)) if class.runs_programs() => {
                Some(Tree::of(&directory).map_err(step("clone the image's mount"))?)
            }
            (_, module) => {
                self.image = module;
                None
            }
        };
        fault::step("zygote_namespaces").map_err(step("unshare"))?;
        nix::sched::unshare(
            CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS,
        )
        .map_err(step("unshare"))?;
        fault::step("zygote_root").map_err(step("root"))?;
        let none: Option<&str> = None;
        nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(step("private mounts"))?;
        match tree {
            Some(tree) => tree.enter(self.class == Class::Native).map_err(step("the image as root"))?,
            None => empty_root()?,
        }
        nix::unistd::sethostname("cell").map_err(step("sethostname"))?;
        let descriptors = if self.class.runs_programs() { PROGRAM_DESCRIPTORS_MAX } else { DESCRIPTORS_MAX };
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX, descriptors).map_err(step("setrlimit"))?;
        for resource in [
            Resource::RLIMIT_CORE,
            Resource::RLIMIT_MSGQUEUE,
            Resource::RLIMIT_RTPRIO,
            Resource::RLIMIT_MEMLOCK,
        ] {
            setrlimit(resource, 0, 0).map_err(step("setrlimit"))?;
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        fault::step("zygote_user").map_err(step("user"))?;
        nix::unistd::setgroups(&[]).map_err(step("setgroups"))?;
        nix::unistd::setresgid(gid, gid, gid).map_err(step("setresgid"))?;
        // Leaving user 0 for good also empties the capability sets.
        nix::unistd::setresuid(uid, uid, uid).map_err(step("setresuid"))?;
        prctl::set_no_new_privs().map_err(step("no_new_privs"))
    }

    /// Says warm, then forks a cell for each order until the warden hangs up. In the child `cell` runs as pid 1 of its own
    /// namespaces, with nothing open but its hatch and `/dev/null` as descriptors 0 to 2.
    pub fn serve(self, mut cell: impl FnMut(Hatch) -> Infallible) -> Result<(), ZygoteError> {
        let class = self.class;
        self.attend(|birth, _| match fork_cell(class, birth.cgroup.as_ref().map(AsFd::as_fd))? {
            Some(pidfd) => Ok(Born::Here(pidfd)),
            None => match cell(only(birth.hatch)) {},
        })
    }

    /// The same for a zygote whose copies are not what cells consist of, but are beside a pid 1 that becomes `first`, a
    /// program of ours: see [`crate::twin`].
    pub fn serve_copies(self, first: File, copies: &impl Copies) -> Result<(), ZygoteError> {
        if let Err(error) = crate::snapshot::settle_memory() {
            eprintln!("a zygote's memory stays where it is, which makes cells slower: {error}");
        }
        let mut nursery = Nursery::new(self.class, first.as_fd())
            .map_err(|errno| ZygoteError::Confine("stacks for what is born here", errno))?;
        self.attend(|birth, control| nursery.bear(&birth, control, copies))
    }

    /// Says warm, then has a cell born for each order. What is open now is the allow-list for every birth.
    fn attend(
        self,
        mut bear: impl FnMut(Birth, BorrowedFd<'_>) -> Result<Born, Errno>,
    ) -> Result<(), ZygoteError> {
        seccomp::filter(self.class)?;
        if self.class.runs_programs() {
            seccomp::program_filters(self.class)?;
        }
        let allowed = open_descriptors();
        packet::send(&self.control, &Report::Warm, &[])?;
        loop {
            let (Order::Spawn { tag, grouped, joined }, given) = match packet::receive(&self.control) {
                Err(PacketError::Closed) => return Ok(()),
                order => order?,
            };
            check_descriptors(&allowed, &given)?;
            let mut given = given.into_iter();
            let hatch = given.next().ok_or(PacketError::Malformed("an order without a hatch"))?;
            let cgroup = if grouped { given.next() } else { None };
            let home = if joined { given.next().zip(given.next()) } else { None };
            // Does nothing but fail when there is a second thread: unshare(2), CLONE_THREAD.
            nix::sched::unshare(CloneFlags::CLONE_THREAD).map_err(|_| ZygoteError::Threads)?;
            match bear(Birth { tag, hatch, cgroup, home }, self.control.as_fd()) {
                Ok(Born::Here(pidfd)) => {
                    packet::send(&self.control, &Report::Born { tag }, &[pidfd.as_fd()])?;
                }
                Ok(Born::Reported) => {}
                Err(errno) => packet::send(&self.control, &Report::Failed { tag, errno: errno as i32 }, &[])?,
            }
        }
    }
}

/// Takes over a descriptor that the warden left for this process under this number. Called once for each, before anything
/// else could have opened or taken it.
#[expect(unsafe_code, reason = "inherited descriptors have no owner yet")]
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it is open, the warden put it there for this process, and nothing else has taken it (see above).
    is_open(number).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Replaces the root by an empty, read-only tmpfs.
fn empty_root() -> Result<(), ZygoteError> {
    let step = |name| move |errno| ZygoteError::Confine(name, errno);
    let none: Option<&str> = None;
    // Any directory that exists everywhere serves as the place; the old root is gone a moment later.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(
        Some("anchorhold"),
        "/proc",
        Some("tmpfs"),
        flags,
        Some("size=4k,nr_inodes=8,mode=555"),
    )
    .map_err(step("mount root"))?;
    nix::unistd::chdir("/proc").map_err(step("enter root"))?;
    nix::unistd::pivot_root(".", ".").map_err(step("pivot_root"))?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).map_err(step("detach the old root"))?;
    nix::unistd::chdir("/").map_err(step("enter root"))?;
    nix::mount::mount(
        none,
        "/",
        none,
        flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
        none,
    )
    .map_err(step("read-only root"))
}

/// Which descriptors are open.
fn open_descriptors() -> Vec<RawFd> {
    #[expect(clippy::cast_possible_truncation, reason = "the limit is 128")]
    let numbers = 0..DESCRIPTORS_MAX as RawFd;
    numbers.filter(|&number| is_open(number)).collect()
}

#[expect(
    unsafe_code,
    reason = "asking about a number that may not be open is outside what owned types express"
)]
fn is_open(number: RawFd) -> bool {
    // SAFETY: `fcntl(F_GETFD)` only asks; it neither uses nor closes the descriptor, whoever owns it.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

fn check_descriptors(allowed: &[RawFd], given: &[OwnedFd]) -> Result<(), ZygoteError> {
    let ordered = |number: RawFd| given.iter().any(|one| one.as_raw_fd() == number);
    match open_descriptors().into_iter().find(|&number| !allowed.contains(&number) && !ordered(number)) {
        None => Ok(()),
        Some(number) => Err(ZygoteError::Descriptor(number)),
    }
}

/// The namespaces that each cell has of its own, whatever its class and its session.
pub(crate) fn new_namespaces() -> i32 {
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP
}

/// `clone3` with everything a cell is born with, as the warden's child: see clone(2). The cell's pidfd; nothing in the cell.
#[expect(unsafe_code, reason = "clone3 has no wrapper in any library")]
fn fork_cell(class: Class, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<OwnedFd>, Errno> {
    fault::step("fork")?;
    let mut pidfd: RawFd = -1;
    // Where nothing can make a socket, all share the zygote's empty network.
    let network = if class.runs_programs() { libc::CLONE_NEWNET } else { 0 };
    let namespaces = libc::CLONE_PARENT | libc::CLONE_NEWUSER | network | new_namespaces();
    let mut flags = u64::from((namespaces | libc::CLONE_PIDFD).cast_unsigned());
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: `clone_args` is a C struct of integers, for which zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.cgroup = cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().cast_unsigned()));
    // SAFETY: no CLONE_VM: the child has its own copy of this single-threaded process, so no lock is held by a
    // thread that does not exist there, and it returns here on its own copy of this stack. The kernel writes one
    // descriptor number to `pidfd`, which outlives the call. (glibc's cached thread id stays the parent's in the
    // child; nothing in a cell sends signals by it.)
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(None),
        1.. => {
            // SAFETY: the call succeeded in the parent, so `pidfd` is a new descriptor that nothing else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        _ => Err(Errno::last()),
    }
}

/// In the new cell: closes everything but the hatch, which becomes descriptor 3.
#[expect(unsafe_code, reason = "closes descriptors whose owners are left-overs of the zygote's memory")]
fn only(hatch: OwnedFd) -> Hatch {
    let number = hatch.as_raw_fd();
    std::mem::forget(hatch);
    // SAFETY: in this process nothing uses descriptor 3 (the zygote's control socket, whose owner `Station` is never
    // dropped here: `serve` does not return in a cell), so replacing it with the hatch surprises nobody.
    unsafe { libc::dup3(number, CONTROL_FD, libc::O_CLOEXEC) };
    // SAFETY: 0 is `/dev/null` and 2 the warden's log, which a cell must not write to; no owned type holds either.
    unsafe { libc::dup2(0, 2) };
    let first = (CONTROL_FD + 1).cast_unsigned();
    // SAFETY: owners of numbers above 3 are values of the zygote's that this process never drops or uses: the engine
    // maps its image once, before the fork.
    unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
    // SAFETY: descriptor 3 is the hatch since the first call, and this is its only owner in this process.
    Hatch(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) })
}
