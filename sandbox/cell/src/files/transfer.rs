//! Uploads and downloads: between a regular file of the workspace and a pipe whose far end is not trusted to be quick.

use super::Said;
use super::tree::{self, Path, RESERVED, Tree, refusal};
use anchorhold_jail::hatch::{Entry, EntryKind, FileError};
use anchorhold_jail::id::ExecutionId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are moved at once.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Between two looks at whether the operation was cancelled.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// So many looks without a byte moved, and the far end counts as dead: five minutes.
const IDLE_LOOKS: u32 = 5 * 60 * 5;

/// Between two looks at whether the end of an upload was said: that and the end of its pipe are on their way together.
const PROMISE_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Ten seconds of such looks; then nobody is there to say it.
const PROMISE_LOOKS: u32 = 10_000;

/// A temporary file beside its target; gone when dropped, unless it became the target.
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: String,
    file: OwnedFd,
    renamed: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed now is removed when the next files cell starts.
            let _left = rustix::fs::unlinkat(self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl<'a> Temporary<'a> {
    fn create(directory: &'a OwnedFd, operation: ExecutionId) -> Result<Self, FileError> {
        let name = format!("{RESERVED}{operation}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name.as_str(), flags, Mode::from_raw_mode(0o644))
            .map_err(refusal)?;
        Ok(Self { directory, name, file, renamed: false })
    }

    fn become_target(mut self, target: &str) -> Result<(), FileError> {
        rustix::fs::renameat(self.directory, self.name.as_str(), self.directory, target).map_err(refusal)?;
        self.renamed = true;
        Ok(())
    }
}

/// Writes what comes through the pipe to a file that appears when it is complete; its size and SHA-256.
pub fn upload(
    tree: &Tree,
    path: &Path,
    operation: ExecutionId,
    pipe: &OwnedFd,
    length: Option<u64>,
    said: &Said,
) -> Result<(u64, [u8; 32]), FileError> {
    let (parent, name) = path.split().ok_or(FileError::NotRegular)?;
    let directory = tree.make_directory(parent)?;
    tree::replaceable(&directory, name)?;
    let temporary = Temporary::create(&directory, operation)?;
    unblock(pipe)?;
    let cancelled = &said.cancelled;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = patiently(pipe, PollFlags::IN, cancelled, || rustix::io::read(pipe, &mut chunk[..]))?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if length.is_some_and(|length| size > length) {
            return Err(FileError::Incomplete);
        }
        hash.update(&chunk[..read]);
        write_all(&temporary.file, &chunk[..read])?;
    }
    let all = length.map_or_else(|| promised(said), Ok)?;
    if size != all || cancelled.load(Ordering::Relaxed) {
        return Err(FileError::Incomplete);
    }
    temporary.become_target(name)?;
    Ok((size, hash.finalize().into()))
}

/// How much there was to send: who closed the pipe may have died in the middle.
pub fn promised(said: &Said) -> Result<u64, FileError> {
    for _ in 0..PROMISE_LOOKS {
        if let Some(bytes) = said.complete.get() {
            return Ok(*bytes);
        }
        if said.cancelled.load(Ordering::Relaxed) {
            break;
        }
        match poll(&mut [], Some(&PROMISE_LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(refusal(errno)),
        }
    }
    Err(FileError::Incomplete)
}

/// Writes all of it.
pub fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), FileError> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(refusal(errno)),
        }
    }
    Ok(())
}

/// Opens a regular file for reading.
pub fn open(tree: &Tree, path: &Path) -> Result<(OwnedFd, Entry), FileError> {
    let file = tree.open(path.as_str(), OFlags::RDONLY)?;
    let stat = rustix::fs::fstat(&file).map_err(refusal)?;
    let entry = tree::entry(path.as_str().to_owned(), &stat);
    if entry.kind == EntryKind::File { Ok((file, entry)) } else { Err(FileError::NotRegular) }
}

/// Sends exactly these bytes of a file; fewer, when it was cut short meanwhile, are an error. Closes the pipe.
pub fn download(
    file: &OwnedFd,
    range: Range<u64>,
    pipe: OwnedFd,
    cancelled: &AtomicBool,
) -> Result<(), FileError> {
    unblock(&pipe)?;
    rustix::fs::seek(file, SeekFrom::Start(range.start)).map_err(refusal)?;
    let mut left = range.end - range.start;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let read = match rustix::io::read(file, &mut chunk[..wanted]) {
            Ok(0) => return Err(FileError::Incomplete),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(refusal(errno)),
        };
        let mut bytes = &chunk[..read];
        while !bytes.is_empty() {
            let written = patiently(&pipe, PollFlags::OUT, cancelled, || rustix::io::write(&pipe, bytes))?;
            bytes = &bytes[written..];
        }
        left -= read as u64;
    }
    drop(pipe);
    Ok(())
}

/// Makes the pipe fit for [`patiently`]. The flag belongs to this end alone; the far end keeps its own.
pub fn unblock(pipe: &OwnedFd) -> Result<(), FileError> {
    let flags = rustix::fs::fcntl_getfl(pipe).map_err(refusal)?;
    rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK).map_err(refusal)
}

/// Repeats a call on the pipe until it does something; gives up when the operation is cancelled or the far end is dead.
pub fn patiently(
    pipe: &OwnedFd,
    direction: PollFlags,
    cancelled: &AtomicBool,
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> Result<usize, FileError> {
    for _ in 0..IDLE_LOOKS {
        match call() {
            Ok(moved) => return Ok(moved),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(refusal(errno)),
        }
        if cancelled.load(Ordering::Relaxed) {
            return Err(FileError::Incomplete);
        }
        match poll(&mut [PollFd::new(pipe, direction)], Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(refusal(errno)),
        }
    }
    Err(FileError::Incomplete)
}
