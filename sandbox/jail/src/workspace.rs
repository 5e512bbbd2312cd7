//! The workspace of a session: a tmpfs of its own that has a quota and no path.
//!
//! The mount is never attached anywhere: it lives by its descriptor and dies with the last copy of it. Its root
//! belongs to the host's root and holds directories of the session's user: `workspace`, `tmp` and `shm`, which therefore
//! share one quota.

use crate::fault;
use crate::identity;
use crate::lock::{SHM_DIR, TMP_DIR, WORKSPACE_DIR};
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of workspace that pay for one inode: bounds the kernel memory of empty files.
const BYTES_PER_INODE: u64 = 8 * 1024;
const INODES_MIN: u64 = 1024;

const PARTS: [&str; 3] = [WORKSPACE_DIR, TMP_DIR, SHM_DIR];

/// New mounts of a workspace's parts, which a native cell may put into its root, and from which it may run programs. Before
/// Linux 6.15 the kernel refuses them for a workspace that is not attached (see open_tree(2)), and with them the cell.
pub fn mounts(root: &OwnedFd) -> Result<Vec<OwnedFd>, Errno> {
    let mount = |part| {
        let mount = clone(root, part)?;
        change(&mount, |attributes| attributes.attr_clr = libc::MOUNT_ATTR_NOEXEC)?;
        Ok(mount)
    };
    PARTS.into_iter().map(mount).collect()
}

/// New mounts of a workspace's root and of its part [`WORKSPACE_DIR`] in which the files of the host's user `owner` are the
/// user `borrower`'s, and what `borrower` makes is `owner`'s: for a cell that runs as somebody else than its session.
/// Nobody else is anybody there. See mount_setattr(2), "ID-mapped mounts"; a tmpfs can be one since Linux 6.3.
pub fn lend(root: &OwnedFd, owner: u32, borrower: u32) -> io::Result<[OwnedFd; 2]> {
    fault::step("workspace_idmap")?;
    let users = identity::mapping(owner, borrower)?;
    let lent = clone(root, "")?;
    change(&lent, |attributes| {
        attributes.attr_set = libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::from(users.as_raw_fd().cast_unsigned());
    })?;
    let part = clone(&lent, WORKSPACE_DIR)?;
    Ok([lent, part])
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

/// Makes a workspace of `bytes` for the host's user `uid`.
pub fn create(bytes: u64, uid: u32) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let inodes = (bytes / BYTES_PER_INODE).max(INODES_MIN);
    fsconfig_set_string(&context, "size", bytes.to_string())?;
    fsconfig_set_string(&context, "nr_inodes", inodes.to_string())?;
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
