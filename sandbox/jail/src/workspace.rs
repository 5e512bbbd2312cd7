//! The workspace of a session: a tmpfs of its own that has a quota and no path.
//!
//! What cells are given of it is attached nowhere: it lives by its descriptor and dies with the last copy of it. Its root
//! belongs to the host's root and holds directories of the session's user: `workspace`, `tmp` and `shm`, which therefore
//! share one quota.
//!
//! Kernels before Linux 6.15 make no further mounts of what is attached nowhere (open_tree(2)). There each workspace is also
//! mounted in a vault, a mount namespace that no process of a cell was ever in, and further mounts are made in there.

use crate::fault;
use crate::id::SessionId;
use crate::identity;
use crate::lock::{SHM_DIR, TMP_DIR, WORKSPACE_DIR};
use crate::root;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of workspace that pay for one inode: bounds the kernel memory of empty files.
const BYTES_PER_INODE: u64 = 8 * 1024;
const INODES_MIN: u64 = 1024;

const PARTS: [&str; 3] = [WORKSPACE_DIR, TMP_DIR, SHM_DIR];

/// How workspaces are made on this host.
#[derive(Debug)]
pub struct Workspaces {
    vault: Option<Vault>,
    lends: bool,
}

/// A session's workspace, as the warden holds it.
#[derive(Debug)]
pub struct Workspace {
    root: OwnedFd,
    /// The same, in the vault.
    kept: Option<OwnedFd>,
}

impl Workspaces {
    /// Looks what the kernel can. From a process with one thread.
    pub fn probe() -> io::Result<Self> {
        let sample = tmpfs(1 << 20, 0)?;
        let parts = fault::step("workspace_detached").map_err(io::Error::from);
        let parts = parts.and_then(|()| clone(&sample, WORKSPACE_DIR).map_err(io::Error::from));
        let vault = if parts.is_ok() { None } else { Some(Vault::build()?) };
        let mut this = Self { vault, lends: false };
        let nobody = SessionId::random();
        let sample = this.keep(nobody, sample)?;
        this.lends = fault::step("workspace_lending").is_ok() && this.lent(&sample, 0, 0).is_ok();
        this.discard(nobody)?;
        Ok(this)
    }

    /// Whether a cell may run as somebody else than its session. See [`Self::lend`].
    pub fn can_lend(&self) -> bool {
        self.lends
    }

    /// Whether a workspace can be made before it is known for whom: where there is no vault, in which they have names.
    pub fn can_create_ahead(&self) -> bool {
        self.vault.is_none()
    }

    /// A workspace that no session has yet, where [`Self::can_create_ahead`] says so.
    pub fn create_ahead(&self, bytes: u64, uid: u32) -> io::Result<Workspace> {
        Ok(Workspace { root: tmpfs(bytes, uid)?, kept: None })
    }

    /// Makes a workspace of `bytes` for the host's user `uid`.
    pub fn create(&self, session: SessionId, bytes: u64, uid: u32) -> io::Result<Workspace> {
        self.keep(session, tmpfs(bytes, uid)?)
    }

    fn keep(&self, session: SessionId, root: OwnedFd) -> io::Result<Workspace> {
        let Some(vault) = &self.vault else { return Ok(Workspace { root, kept: None }) };
        let first = vault.keep(session, &root)?;
        Ok(Workspace { root: first, kept: Some(root) })
    }

    /// A session has no workspace after all.
    pub fn discard(&self, session: SessionId) -> io::Result<()> {
        self.vault.as_ref().map_or(Ok(()), |vault| vault.within(|| take_down(session)))
    }

    /// New mounts of a workspace's parts, which a native cell may put into its root, and from which it may run programs.
    pub fn mounts(&self, workspace: &Workspace) -> io::Result<Vec<OwnedFd>> {
        self.clones(workspace, &PARTS, |mount| {
            Ok(change(mount, |attributes| attributes.attr_clr = libc::MOUNT_ATTR_NOEXEC)?)
        })
    }

    /// A new mount of a workspace's part [`WORKSPACE_DIR`].
    pub fn files(&self, workspace: &Workspace) -> io::Result<Vec<OwnedFd>> {
        self.clones(workspace, &[WORKSPACE_DIR], |_| Ok(()))
    }

    /// New mounts of a workspace's root and of its part [`WORKSPACE_DIR`] in which the files of the host's user `owner` are
    /// the user `borrower`'s, and what `borrower` makes is `owner`'s: for a cell that runs as somebody else than its
    /// session. Nobody else is anybody there. See mount_setattr(2), "ID-mapped mounts"; a tmpfs can be one since Linux 6.3.
    pub fn lend(&self, workspace: &Workspace, owner: u32, borrower: u32) -> io::Result<Vec<OwnedFd>> {
        fault::step("workspace_idmap")?;
        self.lent(workspace, owner, borrower)
    }

    fn lent(&self, workspace: &Workspace, owner: u32, borrower: u32) -> io::Result<Vec<OwnedFd>> {
        let users = identity::mapping(owner, borrower)?;
        self.clones(workspace, &["", WORKSPACE_DIR], |mount| {
            Ok(change(mount, |attributes| {
                attributes.attr_set = libc::MOUNT_ATTR_IDMAP;
                attributes.userns_fd = u64::from(users.as_raw_fd().cast_unsigned());
            })?)
        })
    }

    fn clones(
        &self,
        workspace: &Workspace,
        parts: &[&str],
        adapt: impl Fn(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<Vec<OwnedFd>> {
        let from = workspace.kept.as_ref().unwrap_or(&workspace.root);
        let clones = || parts.iter().map(|part| clone(from, part)).collect::<Result<Vec<_>, _>>();
        let clones = match &self.vault {
            None => clones(),
            Some(vault) => vault.within(clones)?,
        }?;
        clones.iter().try_for_each(adapt)?;
        Ok(clones)
    }

    /// Where workspaces are kept, for who closes them: [`enter_vault`], [`take_down`].
    pub fn vault(&self) -> Option<BorrowedFd<'_>> {
        self.vault.as_ref().map(|vault| vault.inside.as_fd())
    }
}

impl Workspace {
    /// What cells are given.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Changes its quota. See "fspick" in the kernel's own documentation of its mount API.
    pub fn resize(&self, bytes: u64) -> io::Result<()> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&self.root, "", flags)?;
        set_quota(&context, bytes)?;
        Ok(fsconfig_reconfigure(&context)?)
    }

    /// All that holds it, but for what is mounted in a vault.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        [Some(self.root), self.kept].into_iter().flatten().collect()
    }
}

/// A mount namespace with workspaces and nothing else in it.
#[derive(Debug)]
struct Vault {
    inside: OwnedFd,
    outside: Outside,
}

/// Where this process is otherwise. Who enters a mount namespace is at its root, also who was somewhere else in it.
#[derive(Debug)]
struct Outside {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Outside {
    fn here() -> io::Result<Self> {
        let directory = |path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        Ok(Self { namespace: own_mounts()?, root: directory("/")?, directory: directory(".")? })
    }

    fn go_back(&self) -> io::Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        Ok(rustix::process::fchdir(&self.directory)?)
    }
}

/// The mount namespace of this process.
fn own_mounts() -> io::Result<OwnedFd> {
    File::open("/proc/self/ns/mnt").map(OwnedFd::from)
}

impl Vault {
    /// Makes one; this process goes there and comes back.
    fn build() -> io::Result<Self> {
        let outside = Outside::here()?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let inside = own_mounts()?;
        let cleared = Self::clear();
        outside.go_back()?;
        cleared.map(|()| Self { inside, outside })
    }

    /// In there: nothing of the host is left, and nothing of it comes.
    fn clear() -> io::Result<()> {
        const NONE: Option<&str> = None;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "mode", "0700")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let floor = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(root::move_into(&floor)?)
    }

    /// Does something in there. A process that does not come back must not go on.
    fn within<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        setns(&self.inside, CloneFlags::CLONE_NEWNS)?;
        let done = act();
        if self.outside.go_back().is_err() {
            std::process::abort();
        }
        Ok(done)
    }

    /// Mounts a workspace; a mount of it that is attached nowhere.
    fn keep(&self, session: SessionId, root: &OwnedFd) -> io::Result<OwnedFd> {
        let name = session.to_string();
        self.within(|| {
            rustix::fs::mkdirat(rustix::fs::CWD, &name, Mode::RWXU)?;
            let place = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            let attached = move_mount(root, "", rustix::fs::CWD, &name, place);
            attached.and_then(|()| clone(root, "")).inspect_err(|_| take_down(session))
        })?
        .map_err(Into::into)
    }
}

/// Goes into a vault for good: then [`take_down`] works. From a process with one thread.
pub fn enter_vault(inside: &OwnedFd) -> io::Result<()> {
    Ok(setns(inside, CloneFlags::CLONE_NEWNS)?)
}

/// In a vault, which one comes to at its root: takes a session's workspace down, if it is there. Then it is gone with its
/// last descriptor.
pub fn take_down(session: SessionId) {
    let name = session.to_string();
    // Both fail when it is not there.
    let _gone = umount2(name.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    let _gone = rustix::fs::unlinkat(rustix::fs::CWD, name, rustix::fs::AtFlags::REMOVEDIR);
}

/// A mount of a directory below `root`, or of `root` itself, that is not attached anywhere.
fn clone(root: &OwnedFd, part: &str) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if part.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(root, part, flags)
}

/// See mount_setattr(2).
#[expect(unsafe_code, reason = "no library has this call")]
fn change(mount: &OwnedFd, say: impl FnOnce(&mut libc::mount_attr)) -> Result<(), Errno> {
    // SAFETY: a C struct of integers, for which zero is a valid value.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    say(&mut change);
    let (fd, size) = (mount.as_raw_fd(), size_of::<libc::mount_attr>());
    // SAFETY: the kernel reads an empty path and one `mount_attr`; both outlive the call, and nothing is written.
    let outcome = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, &raw const change, size)
    };
    if outcome == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) }
}

fn set_quota(context: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    let inodes = (bytes / BYTES_PER_INODE).max(INODES_MIN);
    fsconfig_set_string(context, "size", bytes.to_string())?;
    fsconfig_set_string(context, "nr_inodes", inodes.to_string())
}

/// The file system of a workspace.
fn tmpfs(bytes: u64, uid: u32) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    set_quota(&context, bytes)?;
    fsconfig_set_string(&context, "mode", "0711")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    for name in PARTS {
        rustix::fs::mkdirat(&root, name, Mode::RWXU)?;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::fs::chownat(&root, name, Some(user), Some(group), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(root)
}
