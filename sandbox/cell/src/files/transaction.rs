//! Several changes of the workspace as one: all of them, or none.
//!
//! What is to be written is complete in a staging directory of ours before anything changes; then each change is one
//! rename, and what it takes away is renamed into the staging directory. Undoing is the same renames backwards, which
//! need no room. Dropping a transaction undoes it, unless it was committed.
//!
//! Others see a change when it is made, not all at once; and what a guest moves away meanwhile cannot be undone. A cell
//! that is killed between two renames leaves what it had done.

use super::remove;
use super::tree::{self, Path, RESERVED, Tree, refusal};
use anchorhold_jail::hatch::{EntryKind, FileError};
use anchorhold_jail::id::ExecutionId;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use std::ffi::CString;
use std::os::fd::OwnedFd;

/// A name in the staging directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged(u32);

impl Staged {
    fn name(self) -> String {
        self.0.to_string()
    }
}

/// What takes a change back.
#[derive(Debug)]
enum Undo {
    /// The file becomes staged again.
    Unplace(Path, Staged),
    /// The two change places again.
    Exchange(Path, Staged),
    /// It comes back.
    PutBack(Path, Staged),
    /// It goes back from the second path to the first.
    MoveBack(Path, Path),
    /// The directory goes.
    Unmake(String),
}

/// Changes that were made and can be taken back.
#[derive(Debug)]
pub struct Transaction<'a> {
    tree: &'a Tree,
    root: OwnedFd,
    name: CString,
    staging: OwnedFd,
    staged: u32,
    undo: Vec<Undo>,
}

impl<'a> Transaction<'a> {
    /// One without changes.
    pub fn begin(tree: &'a Tree, operation: ExecutionId) -> Result<Self, FileError> {
        let root = tree.open_directory("")?;
        let name = CString::new(format!("{RESERVED}{operation}")).map_err(|_| FileError::InvalidPath)?;
        rustix::fs::mkdirat(&root, &name, Mode::RWXU).map_err(refusal)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match tree::open_beneath(&root, name.to_bytes(), flags) {
            Ok(staging) => Ok(Self { tree, root, name, staging, staged: 0, undo: Vec::new() }),
            Err(errno) => {
                remove::discard(&root, &name);
                Err(refusal(errno))
            }
        }
    }

    fn next(&mut self) -> Staged {
        self.staged += 1;
        Staged(self.staged)
    }

    /// An empty file that can be filled now and placed later.
    pub fn stage(&mut self, mode: Mode) -> Result<(Staged, OwnedFd), FileError> {
        let staged = self.next();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.staging, staged.name(), flags, mode).map_err(refusal)?;
        Ok((staged, file))
    }

    /// Makes a staged file the one of this name. Only a regular file makes way for it.
    pub fn place(&mut self, path: &Path, staged: Staged) -> Result<(), FileError> {
        let (parent, name) = path.split().ok_or(FileError::NotRegular)?;
        let parent = self.open_or_make(parent)?;
        let replaced = tree::replaceable(&parent, name)?;
        let flags = if replaced { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        rename(&self.staging, &staged.name(), &parent, name, flags)?;
        let undo = if replaced { Undo::Exchange } else { Undo::Unplace };
        self.undo.push(undo(path.clone(), staged));
        Ok(())
    }

    /// Removes a file or a directory, with all it holds only when `recursive`.
    pub fn remove(&mut self, path: &Path, recursive: bool) -> Result<(), FileError> {
        let (parent, name) = path.split().ok_or(FileError::InvalidPath)?;
        let parent = self.tree.open_directory(parent)?;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refusal)?;
        if tree::kind(&stat) == EntryKind::Directory && !recursive {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = tree::open_beneath(&parent, name, flags).map_err(refusal)?;
            if holds_something(&directory)? {
                return Err(FileError::Conflict);
            }
        }
        let staged = self.next();
        rename(&parent, name, &self.staging, &staged.name(), RenameFlags::NOREPLACE)?;
        self.undo.push(Undo::PutBack(path.clone(), staged));
        Ok(())
    }

    /// Gives a file or a directory another path, at which nothing may be.
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), FileError> {
        let (above, old) = from.split().ok_or(FileError::InvalidPath)?;
        let (parent, new) = to.split().ok_or(FileError::InvalidPath)?;
        let above = self.tree.open_directory(above)?;
        // Before parents are made for it.
        rustix::fs::statat(&above, old, AtFlags::SYMLINK_NOFOLLOW).map_err(refusal)?;
        let parent = self.open_or_make(parent)?;
        rename(&above, old, &parent, new, RenameFlags::NOREPLACE)?;
        self.undo.push(Undo::MoveBack(from.clone(), to.clone()));
        Ok(())
    }

    /// Makes a directory and its parents, as far as they are missing.
    pub fn make_directory(&mut self, path: &Path) -> Result<(), FileError> {
        self.open_or_make(path.as_str()).map(drop)
    }

    fn open_or_make(&mut self, path: &str) -> Result<OwnedFd, FileError> {
        match self.tree.open_directory(path) {
            Err(FileError::NotFound) => {}
            opened => return opened,
        }
        let mut directory = self.tree.open_directory("")?;
        let mut end = 0;
        for part in path.split('/') {
            let (next, made) = tree::step_into(&directory, part)?;
            end += part.len() + usize::from(end > 0);
            if made {
                self.undo.push(Undo::Unmake(path[..end].to_owned()));
            }
            directory = next;
        }
        Ok(directory)
    }

    /// From here on the changes stay.
    pub fn commit(mut self) {
        self.undo.clear();
    }

    fn take_back(&self, change: &Undo) -> Result<(), FileError> {
        let parent_of = |path: &'_ Path| {
            let (parent, name) = path.split().ok_or(FileError::InvalidPath)?;
            Ok::<_, FileError>((self.tree.open_directory(parent)?, name.to_owned()))
        };
        match change {
            Undo::Unplace(path, staged) => {
                let (parent, name) = parent_of(path)?;
                rename(&parent, &name, &self.staging, &staged.name(), RenameFlags::NOREPLACE)
            }
            Undo::Exchange(path, staged) => {
                let (parent, name) = parent_of(path)?;
                rename(&self.staging, &staged.name(), &parent, &name, RenameFlags::EXCHANGE)
            }
            Undo::PutBack(path, staged) => {
                let (parent, name) = parent_of(path)?;
                rename(&self.staging, &staged.name(), &parent, &name, RenameFlags::NOREPLACE)
            }
            Undo::MoveBack(from, to) => {
                let ((above, old), (parent, new)) = (parent_of(from)?, parent_of(to)?);
                rename(&parent, &new, &above, &old, RenameFlags::NOREPLACE)
            }
            Undo::Unmake(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                let parent = self.tree.open_directory(parent)?;
                rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(refusal)
            }
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        while let Some(change) = self.undo.pop() {
            // Only a guest that changed the same files meanwhile makes this fail, and the files are its own.
            let _changed_again = self.take_back(&change);
        }
        remove::discard(&self.root, &self.name);
    }
}

fn rename(from: &OwnedFd, old: &str, to: &OwnedFd, new: &str, flags: RenameFlags) -> Result<(), FileError> {
    rustix::fs::renameat_with(from, old, to, new, flags).map_err(refusal)
}

fn holds_something(directory: &OwnedFd) -> Result<bool, FileError> {
    for found in Dir::read_from(directory).map_err(refusal)? {
        if !matches!(found.map_err(refusal)?.file_name().to_bytes(), b"." | b"..") {
            return Ok(true);
        }
    }
    Ok(false)
}
