//! The last steps of a cell before it reads a guest's byte: become the session's user, give everything up, and read
//! back what stands.
//!
//! Two steps, because threads are made in between: [`restrict`] acts on the calling thread alone and must run while
//! there is only one; [`Restricted::seal`] covers all of them (TSYNC).

use crate::control::Class;
use crate::fault;
use crate::hatch::Commit;
use crate::loopback::PROXY;
use crate::root::{BROWSER_FILES, SHM, TMP, WORKSPACE};
use crate::seccomp::{self, FilterError};
use crate::walls::{Wall, Walls};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use rustix::fs::{Mode, OFlags};
use seccompiler::BpfProgram;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The user inside a cell's user namespace that guests run as: files in the workspace are theirs.
pub const GUEST_UID: u32 = 1000;
/// The workspace's part that the session sees as `/workspace`.
pub const WORKSPACE_DIR: &str = "workspace";
/// The workspace's part that the session sees as `/tmp`.
pub const TMP_DIR: &str = "tmp";
/// The workspace's part that programs see as `/dev/shm`.
pub const SHM_DIR: &str = "shm";

/// A step that failed. The cell ends: a wall that cannot be built is never left out.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another thread exists, so a step would not cover everything.
    #[error("the process has more than one thread")]
    Threads,
    /// Becoming the session's user.
    #[error("become the session's user: {0}")]
    User(Errno),
    /// Bounding the namespaces that programs may make.
    #[error("bound the namespaces: {0}")]
    Namespaces(std::io::Error),
    /// Putting the session's files into the root.
    #[error("mount the session's files: {0}")]
    Mounts(Errno),
    /// Starting the cell's program.
    #[error("start the program: {0}")]
    Program(Errno),
    /// Giving up capabilities.
    #[error("give up capabilities: {0}")]
    Capabilities(String),
    /// Promising to gain no privilege.
    #[error("no new privileges: {0}")]
    NoNewPrivileges(Errno),
    /// Opening the directories that Landlock names.
    #[error("open the workspace: {0}")]
    Workspace(rustix::io::Errno),
    /// Landlock.
    #[error("landlock: {0}")]
    Landlock(String),
    /// Seccomp.
    #[error("seccomp: {0}")]
    Filter(#[from] FilterError),
    /// Installing the filter.
    #[error("install seccomp: {0}")]
    Install(String),
    /// A wall did not hold when it was tried.
    #[error("the wall {0} does not hold")]
    Open(&'static str),
}

/// A cell that gave up its identity and privileges; its system calls are still open.
#[derive(Debug)]
pub struct Restricted {
    class: Class,
    filter: &'static BpfProgram,
    walls: Walls,
}

/// Becomes the session's user without capabilities, promises to gain none, and closes the file system but for the
/// workspace (whose root `workspace` is). Call it with one thread, after the warden wrote the user map.
pub fn restrict(class: Class, commit: &Commit, workspace: BorrowedFd<'_>) -> Result<Restricted, LockError> {
    let filter = seccomp::filter(class)?;
    let (uid, gid) = (Uid::from_raw(commit.uid), Gid::from_raw(commit.uid));
    fault::step("user").map_err(LockError::User)?;
    setresgid(gid, gid, gid).map_err(LockError::User)?;
    setresuid(uid, uid, uid).map_err(LockError::User)?;
    fault::step("capabilities").map_err(|e| LockError::Capabilities(e.to_string()))?;
    drop_bounding_set()?;
    drop_capabilities()?;
    fault::step("no_new_privileges").map_err(LockError::NoNewPrivileges)?;
    prctl::set_no_new_privs().map_err(LockError::NoNewPrivileges)?;
    // A process that can be read from outside its user namespace could be traced by a neighbour of the same user.
    prctl::set_dumpable(false).map_err(LockError::NoNewPrivileges)?;
    fault::step("landlock").map_err(|e| LockError::Landlock(e.to_string()))?;
    let mut walls = Walls::default();
    let root = if class.runs_programs() { "the image, read-only" } else { "empty, read-only" };
    walls.push("root", Wall::Standing(root.into()));
    walls.push("landlock", landlock(class, workspace, commit.require_landlock)?);
    Ok(Restricted { class, filter, walls })
}

impl Restricted {
    /// Installs the filter on every thread, tries the walls, and says which stand.
    pub fn seal(mut self) -> Result<Walls, LockError> {
        let pid_is_one = nix::unistd::getpid().as_raw() == 1;
        let no_new_privileges = prctl::get_no_new_privs().unwrap_or(false);
        let capabilities =
            caps::read(None, caps::CapSet::Effective).map(|set| set.is_empty()).unwrap_or(false);
        let user = nix::unistd::getresuid().is_ok_and(|ids| ids.real == ids.effective && !ids.real.is_root());
        fault::step("seccomp").map_err(|e| LockError::Install(e.to_string()))?;
        seccompiler::apply_filter_all_threads(self.filter).map_err(|e| LockError::Install(e.to_string()))?;
        // A wall that does not hold when it is tried counts as missing, whatever its installation said.
        self.stands("pid_namespace", pid_is_one && fault::step("readback").is_ok(), "pid 1")?;
        self.stands("no_new_privileges", no_new_privileges, "set")?;
        self.stands("capabilities", capabilities, "none")?;
        let own = if self.class == Class::Browser { "a user of its own" } else { "the session's user" };
        self.stands("user_namespace", user, own)?;
        self.stands("seccomp", refuses_sockets() && refuses_code(), "no sockets, no new code")?;
        self.stands("mount_namespace", root_is_closed(self.class), "nothing can be made in the root")?;
        Ok(self.walls)
    }

    fn stands(&mut self, name: &'static str, holds: bool, what: &str) -> Result<(), LockError> {
        if !holds {
            return Err(LockError::Open(name));
        }
        self.walls.push(name, Wall::Standing(what.to_owned()));
        Ok(())
    }
}

/// Empties the four sets that [`drop_bounding_set`] leaves. That a process has another user does not do it: it does where
/// it was user 0 of its namespace before, and not where it was one that the namespace does not know, as what waits in the
/// pool is.
pub(crate) fn drop_capabilities() -> Result<(), LockError> {
    let failed = |e: caps::errors::CapsError| LockError::Capabilities(e.to_string());
    caps::clear(None, caps::CapSet::Ambient).map_err(failed)?;
    caps::clear(None, caps::CapSet::Inheritable).map_err(failed)?;
    caps::clear(None, caps::CapSet::Effective).map_err(failed)?;
    caps::clear(None, caps::CapSet::Permitted).map_err(failed)
}

/// No program that is executed gets a capability.
pub(crate) fn drop_bounding_set() -> Result<(), LockError> {
    let failed = |e: caps::errors::CapsError| LockError::Capabilities(e.to_string());
    for capability in caps::all() {
        // A capability that this kernel does not know is not in the set either.
        match caps::drop(None, caps::CapSet::Bounding, capability) {
            Err(e) if caps::has_cap(None, caps::CapSet::Bounding, capability).unwrap_or(false) => {
                return Err(failed(e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Allows the two directories of the workspace, and neither running, devices, sockets, network nor (but to the programs
/// of a native cell) signals.
fn landlock(class: Class, workspace: BorrowedFd<'_>, required: bool) -> Result<Wall, LockError> {
    let failed = |e: landlock::RulesetError| LockError::Landlock(e.to_string());
    let allowed = AccessFs::from_all(NEWEST)
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::IoctlDev);
    // pid 1 of a native cell gives its programs their input by a FIFO, and interrupts them.
    let (allowed, scopes) = match class {
        Class::Native => (allowed | AccessFs::MakeFifo, Scope::AbstractUnixSocket.into()),
        _ => (allowed, Scope::from_all(NEWEST)),
    };
    let mut ruleset = everything(AccessNet::from_all(NEWEST), scopes)?;
    for name in [WORKSPACE_DIR, TMP_DIR] {
        let directory = open_directory(workspace, name)?;
        ruleset = ruleset.add_rule(PathBeneath::new(directory.as_fd(), allowed)).map_err(failed)?;
    }
    enforce(ruleset, required)
}

/// Allows a cell's program to read and run its image and to use its session's files. A browser may connect to the way out
/// alone; a native program, which has servers of its own on loopback, to whatever its network namespace has.
/// It can reach no socket and signal no process that was there before it.
pub(crate) fn landlock_program(class: Class, required: bool) -> Result<Wall, LockError> {
    let failed = |e: landlock::RulesetError| LockError::Landlock(e.to_string());
    let files = AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let net = if class == Class::Native { BitFlags::EMPTY } else { AccessNet::from_all(NEWEST) };
    let image = AccessFs::from_read(NEWEST);
    // Written to: devices, and what Chromium's sandbox tells the kernel of its own processes.
    let system = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile;
    // A terminal is nothing without them; the other devices know none.
    let devices = if class == Class::Native { system | AccessFs::IoctlDev } else { system };
    let mut ruleset = everything(net, Scope::from_all(NEWEST))?;
    let places = [("/", image), ("/dev", devices), ("/proc", system), (TMP, files)];
    let own = match class {
        Class::Browser => &[(BROWSER_FILES, files)][..],
        _ => &[(SHM, files), (WORKSPACE, files)],
    };
    for (path, allowed) in places.iter().chain(own).copied() {
        let directory = open_directory(rustix::fs::CWD, path)?;
        ruleset = ruleset.add_rule(PathBeneath::new(directory.as_fd(), allowed)).map_err(failed)?;
    }
    if !net.is_empty() {
        let way_out = NetPort::new(PROXY.port(), AccessNet::ConnectTcp);
        ruleset = ruleset.add_rule(way_out).map_err(failed)?;
    }
    enforce(ruleset, required)
}

/// ABI 6 (Linux 6.12) is the newest whose rights are named here; older kernels get what they have.
const NEWEST: ABI = ABI::V6;

/// A ruleset that allows nothing yet of files, of this of the network, and in these scopes.
fn everything(net: BitFlags<AccessNet>, scopes: BitFlags<Scope>) -> Result<RulesetCreated, LockError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|r| r.scope(scopes));
    // To handle nothing of the network counts as a mistake.
    let ruleset = if net.is_empty() { ruleset } else { ruleset.and_then(|r| r.handle_access(net)) };
    ruleset.and_then(|r| r.create()).map_err(|e| LockError::Landlock(e.to_string()))
}

fn enforce(ruleset: RulesetCreated, required: bool) -> Result<Wall, LockError> {
    let status = ruleset.restrict_self().map_err(|e| LockError::Landlock(e.to_string()))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(Wall::Standing("all rights of ABI 6".into())),
        RulesetStatus::PartiallyEnforced => Ok(Wall::Standing("the rights that this kernel knows".into())),
        RulesetStatus::NotEnforced if required => Err(LockError::Landlock("this kernel has none".into())),
        RulesetStatus::NotEnforced => Ok(Wall::Absent("this kernel has none".into())),
    }
}

fn open_directory(workspace: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, LockError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(workspace, name, flags, Mode::empty()).map_err(LockError::Workspace)
}

fn refuses_sockets() -> bool {
    use rustix::net::{AddressFamily, SocketType, socket};
    [AddressFamily::INET, AddressFamily::UNIX, AddressFamily::NETLINK]
        .into_iter()
        .all(|family| socket(family, SocketType::DGRAM, None).err() == Some(rustix::io::Errno::PERM))
}

#[expect(unsafe_code, reason = "the only way to try whether new code can be mapped is to try")]
fn refuses_code() -> bool {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let protection = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
    // SAFETY: asks for a fresh mapping at an address of the kernel's choice: no memory in use is touched. When the
    // wall stands nothing is mapped; when it does not, the caller ends the process.
    let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE) };
    mapped.err() == Some(rustix::io::Errno::PERM)
}

fn root_is_closed(class: Class) -> bool {
    let cwd = rustix::fs::CWD;
    let made = rustix::fs::mkdirat(cwd, "/anchorhold-probe", Mode::RWXU);
    let read = rustix::fs::openat(cwd, "/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    // Reading the (empty) root is denied where Landlock stands; making something in it is denied everywhere.
    made.is_err() && (class.runs_programs() || read.map_or(true, |root| is_empty(&root)))
}

fn is_empty(directory: &OwnedFd) -> bool {
    rustix::fs::Dir::read_from(directory).is_ok_and(|entries| {
        entries.flatten().all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
    })
}
