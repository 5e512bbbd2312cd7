//! The file system of a cell that runs programs: its image, read-only, with the little around it that programs expect.
//!
//! Half of it is made once, by the zygote while it is still root, and inherited by every cell; the rest needs the
//! cell's own namespaces and its session's files, and is made when the cell is committed.

use crate::control::Class;
use crate::fault;
use crate::lock::{GUEST_UID, LockError, drop_bounding_set};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pty::OpenptFlags;
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

/// Where the session's files are.
pub const WORKSPACE: &str = "/workspace";
/// Where programs put what nobody keeps. Paid from the workspace.
pub const TMP: &str = "/tmp";
/// Where programs share memory. Paid from the workspace.
pub const SHM: &str = "/dev/shm";
/// Where a browser's image keeps the place of the workspace, to which [`WORKSPACE`] is a link there. What Landlock says of a
/// directory does not hold in what is mounted over it, but in what is mounted below it; and a browser starts, behind
/// Landlock, before there is a workspace.
pub(crate) const BROWSER_FILES: &str = "/session";
const BROWSER_WORKSPACE: &str = "/session/workspace";
/// A browser's `/tmp`, which holds its profile: bytes at most, as mount(8) says it.
const BROWSER_TMP: &str = "256m";

const NONE: Option<&str> = None;
/// Terminals that a native cell may have open.
const TERMINALS_MAX: u32 = 64;
/// Where they are …
const TERMINALS: &str = "/dev/pts";
/// … and the first of them.
pub(crate) const TERMINAL: &CStr = c"/dev/pts/0";
/// `/proc` and `/dev` as far as they allow it.
const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
/// Devices that hold nothing and lead nowhere: name, major, minor. See null(4), random(4).
const DEVICES: [(&str, u64, u64); 5] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)];
/// Namespaces that a browser's programs may make, of each kind. Chromium's sandbox makes the last three; with fewer than
/// 512 pid namespaces a page of many sites ruins the browser.
const NAMESPACES: [(&str, u32); 8] =
    [("mnt", 0), ("uts", 0), ("ipc", 0), ("cgroup", 0), ("time", 0), ("user", 16), ("net", 4), ("pid", 512)];
/// Where further cells of the session are born, the kinds that each of these has of its own. Its programs make none: all
/// need a capability in the namespace of the user, and of those there is no other.
const NAMESPACES_OF_CELLS: [&str; 5] = ["mnt", "uts", "ipc", "cgroup", "pid"];
const CELLS_MAX: u32 = 1024;
/// Those that are made only while Chromium starts.
const AT_START: [&str; 2] = ["user", "net"];

/// An image's tree, not mounted anywhere yet.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Takes the tree of a directory, whose mount must be in this process's mount namespace.
    pub fn of(directory: &File) -> Result<Self, Errno> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(directory, "", flags).map(Self).map_err(errno)
    }

    /// Makes it the root of a new mount namespace of this process, which is host's root. Also mounts the host's `/proc`:
    /// the kernel lets a cell have its own only where a whole one is. The cell's covers it, and nothing in a cell can
    /// take that away.
    ///
    /// `native`: this process gets a small `/tmp` of its own, which the cell's covers; and its cells may have terminals.
    pub fn enter(self, native: bool) -> Result<(), Errno> {
        move_into(&self.0)?;
        seal("/", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
        devices(native)?;
        if native {
            let limits = Some("size=4m,nr_inodes=256,mode=1777");
            mount(Some("tmp"), TMP, Some("tmpfs"), PLAIN | MsFlags::MS_NODEV, limits)?;
        }
        mount(Some("proc"), "/proc", Some("proc"), PLAIN | MsFlags::MS_NODEV, NONE)
    }
}

/// Makes a mount that is attached nowhere the root of this process's mount namespace, which the old root leaves with all
/// that is below it.
pub(crate) fn move_into(mount: &OwnedFd) -> Result<(), Errno> {
    // Any directory that exists everywhere serves as the place; the old root is gone a moment later.
    let place = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", rustix::fs::CWD, "/proc", place).map_err(errno)?;
    nix::unistd::chdir("/proc")?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

/// Makes a mount read-only.
fn seal(path: &str, flags: MsFlags) -> Result<(), Errno> {
    mount(NONE, path, NONE, flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, NONE)
}

fn devices(terminals: bool) -> Result<(), Errno> {
    mount(Some("dev"), "/dev", Some("tmpfs"), PLAIN, Some("size=4k,nr_inodes=16,mode=755"))?;
    let everybody = Mode::from_bits_truncate(0o666);
    let mask = nix::sys::stat::umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        mknod(format!("/dev/{name}").as_str(), SFlag::S_IFCHR, everybody, makedev(major, minor))?;
    }
    if terminals {
        // The terminal of whoever opens it.
        mknod("/dev/tty", SFlag::S_IFCHR, everybody, makedev(5, 0))?;
        nix::unistd::mkdir(TERMINALS, Mode::from_bits_truncate(0o755))?;
        nix::unistd::symlinkat("pts/ptmx", nix::fcntl::AT_FDCWD, "/dev/ptmx")?;
    }
    nix::sys::stat::umask(mask);
    let links = [("/proc/self/fd", "/dev/fd"), ("/proc/self/fd/0", "/dev/stdin")];
    let links =
        links.into_iter().chain([("/proc/self/fd/1", "/dev/stdout"), ("/proc/self/fd/2", "/dev/stderr")]);
    for (target, link) in links {
        nix::unistd::symlinkat(target, nix::fcntl::AT_FDCWD, link)?;
    }
    nix::unistd::mkdir(SHM, Mode::from_bits_truncate(0o755))?;
    seal("/dev", PLAIN)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// How many namespaces a committed cell's programs may still make.
#[derive(Debug)]
pub struct Namespaces {
    at_start: Vec<File>,
}

impl Namespaces {
    /// Bounds them. Needs the whole `/proc` and the cell's own capabilities. See namespaces(7).
    fn bound(class: Class) -> io::Result<Self> {
        let mut at_start = Vec::new();
        for (kind, most) in NAMESPACES {
            let most = match class {
                Class::Browser => most,
                _ if NAMESPACES_OF_CELLS.contains(&kind) => CELLS_MAX,
                _ => 0,
            };
            let mut file =
                OpenOptions::new().write(true).open(format!("/proc/sys/user/max_{kind}_namespaces"))?;
            file.write_all(most.to_string().as_bytes())?;
            if AT_START.contains(&kind) {
                at_start.push(file);
            }
        }
        Ok(Self { at_start })
    }

    /// No more of those that a start needs.
    pub fn close(self) -> Result<(), LockError> {
        let close = |mut file: File| file.rewind().and_then(|()| file.write_all(b"0"));
        self.at_start.into_iter().try_for_each(close).map_err(LockError::Namespaces)
    }
}

/// In a committed cell whose user map stands: becomes user 0 of its namespace, bounds the namespaces that programs may
/// make, puts the session's files into the root, and hides every process that is not the cell's.
pub fn furnish(parts: &[OwnedFd; 3]) -> Result<(), LockError> {
    let namespaces = begin(Class::Native)?;
    let mounted = fault::step("mounts").and_then(|()| {
        parts.iter().zip([WORKSPACE, TMP, SHM]).try_for_each(|(tree, place)| put(tree, place))?;
        terminals()?;
        own_processes()
    });
    mounted.map_err(LockError::Mounts)?;
    namespaces.close()?;
    // Whoever is not user 0 any more could not give it up.
    drop_bounding_set()
}

/// The same in a browser cell that nobody has taken: there is a `/tmp` of its own, and the session's files come later. As
/// many namespaces as a start needs may be made until that is closed.
pub fn furnish_alone() -> Result<Namespaces, LockError> {
    let namespaces = begin(Class::Browser)?;
    let mounted = fault::step("mounts").and_then(|()| {
        let options = format!("size={BROWSER_TMP},nr_inodes=65536,mode=700,uid={GUEST_UID},gid={GUEST_UID}");
        mount(Some("tmp"), TMP, Some("tmpfs"), PLAIN | MsFlags::MS_NODEV, Some(options.as_str()))?;
        own_processes()
    });
    mounted.map_err(LockError::Mounts)?;
    drop_bounding_set()?;
    Ok(namespaces)
}

/// Puts the session's files into the root of a browser cell, beside its browser.
pub fn put_workspace(tree: &OwnedFd) -> Result<(), LockError> {
    fault::step("workspace_mount").and_then(|()| put(tree, BROWSER_WORKSPACE)).map_err(LockError::Mounts)
}

fn begin(class: Class) -> Result<Namespaces, LockError> {
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root.1, root.1, root.1).map_err(LockError::User)?;
    setresuid(root.0, root.0, root.0).map_err(LockError::User)?;
    fault::step("namespaces").map_err(|e| LockError::Namespaces(e.into()))?;
    Namespaces::bound(class).map_err(LockError::Namespaces)
}

/// Opens a terminal in a cell that is furnished and not restricted yet. This is pid 1's end; the other one is [`TERMINAL`],
/// the guest's.
pub fn terminal() -> Result<OwnedFd, LockError> {
    let opened = || {
        fault::step("terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = rustix::pty::openpt(flags).map_err(errno)?;
        rustix::pty::unlockpt(&terminal).map_err(errno)?;
        Ok(terminal)
    };
    opened().map_err(LockError::Mounts)
}

/// Terminals of the cell's own, for programs that drive others by them.
fn terminals() -> Result<(), Errno> {
    let options =
        format!("newinstance,ptmxmode=0666,mode=0600,uid={GUEST_UID},gid={GUEST_UID},max={TERMINALS_MAX}");
    mount(Some("devpts"), TERMINALS, Some("devpts"), PLAIN, Some(options.as_str()))
}

fn put(tree: &OwnedFd, place: &str) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree.as_fd(), "", rustix::fs::CWD, place, flags).map_err(errno)
}

fn own_processes() -> Result<(), Errno> {
    let options = Some("subset=pid,hidepid=invisible");
    mount(Some("proc"), "/proc", Some("proc"), PLAIN | MsFlags::MS_NODEV, options)
}
