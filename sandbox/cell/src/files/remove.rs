//! Removal of files and of whole directories, however deep and however they change meanwhile.

use super::tree::{self, DEPTH_MAX, Path, RESERVED, Tree, refusal};
use anchorhold_jail::hatch::{EntryKind, FileError};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Steps of one removal: something else is filling what this empties.
const STEPS_MAX: usize = 4_000_000;
/// Entries that the search for left-over uploads looks at.
const SEARCHED_MAX: usize = 200_000;

/// Removes a file, an empty directory, or with `recursive` a directory and all it holds. The workspace itself stays.
pub fn remove(tree: &Tree, path: &Path, recursive: bool, cancelled: &AtomicBool) -> Result<(), FileError> {
    let Some((parent, name)) = path.split() else {
        return if recursive { empty(tree.open_directory("")?, cancelled) } else { Err(FileError::Conflict) };
    };
    let parent = tree.open_directory(parent)?;
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refusal)?;
    if tree::kind(&stat) != EntryKind::Directory {
        return rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(refusal);
    }
    match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => {}
        outcome => return outcome.map_err(refusal),
    }
    let directory = tree::open_beneath(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)?;
    empty(directory, cancelled)?;
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(refusal)
}

/// A directory, told from others after coming back to it through `..`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

fn identity(directory: &OwnedFd) -> Result<Identity, FileError> {
    let stat = rustix::fs::fstat(directory).map_err(refusal)?;
    Ok(Identity(stat.st_dev, stat.st_ino))
}

/// What is left to do when a directory is empty: remove this name from the directory above.
struct Above {
    identity: Identity,
    name: CString,
}

/// Empties a directory and removes it from the one above, as far as that can be done.
pub fn discard(parent: &OwnedFd, name: &CStr) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    if let Ok(directory) = tree::open_beneath(parent, name.to_bytes(), flags) {
        // What stays is hidden, and removed when the next files cell starts.
        let _stays = empty(directory, &AtomicBool::new(false));
    }
    let _stays = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
}

/// Empties a directory. Holds one descriptor and no stack of calls, so depth costs nothing but names. A directory that
/// was moved meanwhile is noticed: the way back up must lead to where it came from.
fn empty(top: OwnedFd, cancelled: &AtomicBool) -> Result<(), FileError> {
    let mut here = top;
    let mut above: Vec<Above> = Vec::new();
    for _ in 0..STEPS_MAX {
        if cancelled.load(Ordering::Relaxed) {
            return Err(FileError::Other(Errno::CANCELED.raw_os_error()));
        }
        if let Some(name) = clear_until_directory(&here)? {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let below = match tree::open_beneath(&here, name.to_bytes(), flags) {
                // Replaced or removed meanwhile: look again.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                below => below.map_err(refusal)?,
            };
            above.push(Above { identity: identity(&here)?, name });
            here = below;
            continue;
        }
        let Some(Above { identity: expected, name }) = above.pop() else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, "..", flags, Mode::empty()).map_err(refusal)?;
        if identity(&here)? != expected {
            return Err(FileError::Conflict);
        }
        match rustix::fs::unlinkat(&here, name.as_c_str(), AtFlags::REMOVEDIR) {
            // Filled again meanwhile: it is found once more.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(refusal(errno)),
        }
    }
    Err(FileError::TooMany)
}

/// Removes what is not a full directory; the first that is.
fn clear_until_directory(directory: &OwnedFd) -> Result<Option<CString>, FileError> {
    for found in Dir::read_from(directory).map_err(refusal)? {
        let found = found.map_err(refusal)?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if !remove_simple(directory, name)? {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Removes a file or an empty directory. Whether it is gone.
fn remove_simple(directory: &OwnedFd, name: &CStr) -> Result<bool, FileError> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(refusal(errno)),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(refusal(errno)),
    }
}

/// Removes the temporary files of uploads and the staging directories of transactions that nobody finishes any more.
/// What it does not find stays hidden and counts towards the session's quota; it is not worth refusing the session.
pub fn leftovers(tree: &Tree) {
    let mut left = vec![Vec::new()];
    let mut searched = 0;
    while let Some(path) = left.pop() {
        let Ok(directory) = tree.open_bytes(&path) else { continue };
        let Ok(entries) = Dir::read_from(&directory) else { continue };
        for found in entries.flatten() {
            searched += 1;
            if searched > SEARCHED_MAX {
                return;
            }
            let name = found.file_name().to_bytes();
            let deep = path.iter().filter(|byte| **byte == b'/').count() + 1 >= DEPTH_MAX;
            if name.starts_with(RESERVED.as_bytes()) {
                if rustix::fs::unlinkat(&directory, found.file_name(), AtFlags::empty()).is_err() {
                    discard(&directory, found.file_name());
                }
            } else if found.file_type().is_dir() && !tree::is_hidden(found.file_name()) && !deep {
                left.push(tree::join(&path, name));
            }
        }
    }
}
