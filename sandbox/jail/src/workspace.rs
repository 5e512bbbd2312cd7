//! The workspace of a session: a tmpfs of its own that has a quota and no path.
//!
//! The mount is never attached anywhere: it lives by its descriptor and dies with the last copy of it. Its root
//! belongs to the host's root and holds two directories of the session's user: `workspace` and `tmp`, which therefore
//! share one quota.

use crate::lock::{TMP_DIR, WORKSPACE_DIR};
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};
use std::os::fd::OwnedFd;

/// Bytes of workspace that pay for one inode: bounds the kernel memory of empty files.
const BYTES_PER_INODE: u64 = 8 * 1024;
const INODES_MIN: u64 = 1024;

/// New mounts of a workspace's two parts, which a cell may put into its root. Before Linux 6.15 the kernel refuses them
/// for a workspace that is not attached (see open_tree(2)), and with them the cell.
pub fn mounts(root: &OwnedFd) -> Result<Vec<OwnedFd>, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    [WORKSPACE_DIR, TMP_DIR].into_iter().map(|part| open_tree(root, part, flags)).collect()
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
    for name in [WORKSPACE_DIR, TMP_DIR] {
        rustix::fs::mkdirat(&root, name, Mode::RWXU)?;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::fs::chownat(&root, name, Some(user), Some(group), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(root)
}
