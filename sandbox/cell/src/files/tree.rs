//! The workspace's files by name: resolved beneath its root by the kernel, through no symbolic link.

use anchorhold_jail::hatch::{Entry, EntryKind, FileError};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::iter::Peekable;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names that begin so are ours: not listed, and not to be asked for.
pub const RESERVED: &str = ".anchorhold-";
/// The deepest path.
pub const DEPTH_MAX: usize = 64;
/// The longest path and the longest part of one, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
pub const NAME_BYTES_MAX: usize = 255;
/// The most entries of a listing or an archive, and the most bytes of their paths together.
pub const ENTRIES_MAX: usize = 100_000;
pub const PATHS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// About this many bytes of entries go into one message.
const PORTION_BYTES: usize = 24 * 1024;
/// What an entry takes beside its path.
const ENTRY_BYTES: usize = 32;
/// The kernel answers `EAGAIN` when something was renamed while it resolved.
const RETRIES: usize = 16;

/// A path whose shape was checked: parts without `.` and `..`, joined by single slashes; empty is the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// Checks the shape.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let parts: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split('/').collect() };
        let usable = |part: &&str| {
            !matches!(*part, "" | "." | "..")
                && part.len() <= NAME_BYTES_MAX
                && !part.contains('\0')
                && !part.starts_with(RESERVED)
        };
        if text.len() > PATH_BYTES_MAX || parts.len() > DEPTH_MAX || !parts.iter().all(usable) {
            return Err(FileError::InvalidPath);
        }
        Ok(Self(text.to_owned()))
    }

    /// The path as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Everything but the last part, and the last part; `None` for the workspace itself.
    pub fn split(&self) -> Option<(&str, &str)> {
        match self.0.rsplit_once('/') {
            Some(split) => Some(split),
            None if self.0.is_empty() => None,
            None => Some(("", &self.0)),
        }
    }
}

/// A workspace.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Of the directory that a session sees as `/workspace`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Opens a path. Never waits for what is behind it, never follows a link.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
        open_beneath(&self.root, path, flags).map_err(refusal)
    }

    /// Opens a directory for reading and as a base.
    pub fn open_directory(&self, path: &str) -> Result<OwnedFd, FileError> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// As [`Self::open_directory`], for a path that was found and need not be UTF-8.
    pub fn open_bytes(&self, path: &[u8]) -> Result<OwnedFd, FileError> {
        open_beneath(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(refusal)
    }

    /// Opens a directory, making what is missing of it.
    pub fn make_directory(&self, path: &str) -> Result<OwnedFd, FileError> {
        let mut directory = self.open_directory("")?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            directory = step_into(&directory, part)?.0;
        }
        Ok(directory)
    }

    /// What is at the path.
    pub fn stat(&self, path: &Path) -> Result<Entry, FileError> {
        let file = self.open(path.as_str(), OFlags::PATH)?;
        let stat = rustix::fs::fstat(&file).map_err(refusal)?;
        Ok(entry(path.as_str().to_owned(), &stat))
    }

    /// The entries of a directory, or of everything below it, sorted by path.
    pub fn list(
        &self,
        path: &Path,
        recursive: bool,
        cancelled: &AtomicBool,
    ) -> Result<Vec<Entry>, FileError> {
        if self.stat(path)?.kind != EntryKind::Directory {
            return Err(FileError::Conflict);
        }
        let mut listing = Listing { entries: Vec::new(), bytes: 0 };
        // Paths instead of open directories: any depth needs one descriptor. They are bytes: names need not be UTF-8.
        let mut left = vec![path.as_str().as_bytes().to_vec()];
        while let Some(directory) = left.pop() {
            if cancelled.load(Ordering::Relaxed) {
                return Err(FileError::Other(Errno::CANCELED.raw_os_error()));
            }
            match self.list_one(&directory, &mut listing) {
                Ok(below) if recursive => left.extend(below),
                Ok(_) => {}
                // A directory below that is gone by now is not there to be listed.
                Err(FileError::NotFound | FileError::InvalidPath)
                    if directory != path.as_str().as_bytes() => {}
                Err(error) => return Err(error),
            }
        }
        listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listing.entries)
    }

    /// Adds a directory's entries; the directories among them.
    fn list_one(&self, path: &[u8], listing: &mut Listing) -> Result<Vec<Vec<u8>>, FileError> {
        if path.split(|byte| *byte == b'/').count() > DEPTH_MAX {
            return Err(FileError::TooMany);
        }
        let directory = self.open_bytes(path)?;
        let mut below = Vec::new();
        for found in Dir::read_from(&directory).map_err(refusal)? {
            let found = found.map_err(refusal)?;
            let name = found.file_name();
            if is_hidden(name) {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.map_err(refusal)?,
            };
            let full = join(path, name.to_bytes());
            let entry = entry(String::from_utf8_lossy(&full).into_owned(), &stat);
            if entry.kind == EntryKind::Directory {
                below.push(full);
            }
            listing.push(entry)?;
        }
        Ok(below)
    }
}

struct Listing {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Listing {
    fn push(&mut self, entry: Entry) -> Result<(), FileError> {
        self.bytes += entry.path.len();
        if self.entries.len() >= ENTRIES_MAX || self.bytes > PATHS_BYTES_MAX {
            return Err(FileError::TooMany);
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// As many entries as fit one message.
pub fn portion(entries: &mut Peekable<impl Iterator<Item = Entry>>) -> Vec<Entry> {
    let mut bytes = 0;
    let mut portion = Vec::new();
    while let Some(entry) = entries.next_if(|entry| {
        bytes += entry.path.len() + ENTRY_BYTES;
        portion.is_empty() || bytes <= PORTION_BYTES
    }) {
        portion.push(entry);
    }
    portion
}

/// A path below a directory's.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}

/// Not to be shown: the directory itself, its parent, and what is ours.
pub fn is_hidden(name: &CStr) -> bool {
    let name = name.to_bytes();
    matches!(name, b"." | b"..") || name.starts_with(RESERVED.as_bytes())
}

/// Opens or makes a directory in a directory. Whether it was made.
pub fn step_into(directory: &OwnedFd, name: &str) -> Result<(OwnedFd, bool), FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    match open_beneath(directory, name, flags) {
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR) => {
            let link = kind_of(directory, name)? == EntryKind::Symlink;
            return Err(if link { FileError::InvalidPath } else { FileError::Conflict });
        }
        opened => return opened.map(|opened| (opened, false)).map_err(refusal),
    }
    let made = match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(refusal(errno)),
    };
    Ok((open_beneath(directory, name, flags).map_err(refusal)?, made))
}

/// Whether there is a regular file to be replaced. Only that, or nothing, makes way for a file.
pub fn replaceable(directory: &OwnedFd, name: &str) -> Result<bool, FileError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(refusal(errno)),
        Ok(stat) => match kind(&stat) {
            EntryKind::File => Ok(true),
            EntryKind::Directory => Err(FileError::Conflict),
            EntryKind::Symlink | EntryKind::Other => Err(FileError::NotRegular),
        },
    }
}

fn kind_of(directory: &OwnedFd, name: &str) -> Result<EntryKind, FileError> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refusal)?;
    Ok(kind(&stat))
}

/// `openat2` beneath a directory. Opening never waits (a FIFO without a writer) and makes no terminal ours.
pub fn open_beneath(base: impl AsFd, path: impl AsRef<[u8]>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_ref().is_empty() { b"." } else { path.as_ref() };
    // The kernel refuses the two flags together with O_PATH, where they mean nothing.
    let always = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let passive =
        if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut outcome = Err(Errno::AGAIN);
    for _ in 0..RETRIES {
        outcome = rustix::fs::openat2(base.as_fd(), path, flags | always | passive, Mode::empty(), resolve);
        if !matches!(outcome, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    outcome
}

/// What a descriptor or a name is.
pub fn kind(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

/// An entry as it is shown.
pub fn entry(path: String, stat: &Stat) -> Entry {
    Entry {
        path,
        kind: kind(stat),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        modified_us: modified_us(stat),
    }
}

fn modified_us(stat: &Stat) -> i64 {
    let us = i64::try_from(stat.st_mtime_nsec / 1000).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000).saturating_add(us)
}

/// The kernel's answer in the protocol's words.
pub fn refusal(errno: Errno) -> FileError {
    match errno {
        Errno::NOENT | Errno::NOTDIR => FileError::NotFound,
        Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::INVAL => FileError::InvalidPath,
        Errno::NOSPC | Errno::DQUOT => FileError::NoSpace,
        Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR => FileError::Conflict,
        // A socket or a device without a driver behind its name.
        Errno::NXIO | Errno::NODEV => FileError::NotRegular,
        other => FileError::Other(other.raw_os_error()),
    }
}
