//! Archives, packed and unpacked where the session pays for it and nothing but its workspace can be hurt.
//!
//! Of an archive only names, contents and whether a file is executable are taken. Links, special files and everything
//! that readers of archives are known to disagree about is refused, not repaired; so is what asks for more time than
//! its size is worth. Nothing is visible before all of it was read and found good: see `transaction`.

mod tar;
mod unpacking;
mod zip;

use super::Said;
use super::transfer::{self, CHUNK_BYTES, patiently, promised, unblock};
use super::tree::{Path, Tree};
use anchorhold_jail::hatch::{ArchiveFault, ArchiveFormat, ArchiveLimit, Entry, EntryKind, FileError};
use anchorhold_jail::id::ExecutionId;
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use rustix::event::PollFlags;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use unpacking::Unpacking;

/// The processor time of an archive without a byte.
const TIME: Duration = Duration::from_millis(1500);
/// What each byte that arrives or is stored adds to it. Not what is only decompressed: that is the attack.
const TIME_PER_BYTE: Duration = Duration::from_nanos(20);
/// Bytes between two looks at the clock.
const LOOK_BYTES: u64 = 64 * 1024;
/// What a step costs at least, whatever it moves.
const STEP_BYTES: u64 = 512;
/// Enough to tell the formats apart and to see a Zstandard frame's window.
const HEAD_BYTES: u64 = 6;
/// The largest window of Zstandard: 8 MiB, what its levels up to 19 use and every reader has to have.
const WINDOW_LOG_MAX: u32 = 23;
/// How much Zstandard tries: its own default.
const ZSTD_LEVEL: i32 = 3;
/// The most content of a packed archive. Files can say that they are larger than any workspace.
const PACKED_BYTES_MAX: u64 = 64 << 30;

/// Why an archive came to nothing. The libraries carry our errors as theirs and lose them on the way; what was noted
/// here first is the reason.
#[derive(Debug, Clone, Default)]
struct Failure(Rc<Cell<Option<FileError>>>);

impl Failure {
    /// Notes a reason, as an error to return.
    fn note(&self, why: FileError) -> io::Error {
        self.0.set(Some(self.0.get().unwrap_or(why)));
        io::Error::other(why)
    }

    /// What was noted. A library that fails by itself does so because of what it reads.
    fn reason(&self) -> FileError {
        self.0.get().unwrap_or(FileError::Archive(ArchiveFault::Unreadable))
    }
}

/// How long it may take.
#[derive(Debug)]
struct Work {
    begun: Duration,
    worth: Cell<u64>,
    unchecked: Cell<u64>,
}

impl Work {
    fn begin() -> Self {
        Self { begun: thread_time(), worth: Cell::new(0), unchecked: Cell::new(0) }
    }

    /// Bytes that arrived or were stored.
    fn earn(&self, bytes: usize) {
        self.worth.set(self.worth.get() + bytes as u64);
    }

    /// Bytes that something was done with; whether there is time left.
    fn spend(&self, bytes: usize) -> Result<(), FileError> {
        let unchecked = self.unchecked.get() + (bytes as u64).max(STEP_BYTES);
        self.unchecked.set(unchecked);
        if unchecked < LOOK_BYTES {
            return Ok(());
        }
        self.unchecked.set(0);
        let per_byte = u64::try_from(TIME_PER_BYTE.as_nanos()).unwrap_or(u64::MAX);
        let allowed = TIME + Duration::from_nanos(self.worth.get().saturating_mul(per_byte));
        if thread_time().saturating_sub(self.begun) > allowed {
            return Err(FileError::ArchiveLimit(ArchiveLimit::Work));
        }
        Ok(())
    }
}

/// The processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// An archive as it arrives. Its end is an error, unless it is the end that the sender promised.
pub struct Received<'a> {
    pipe: OwnedFd,
    length: Option<u64>,
    said: &'a Said,
    size: u64,
    failure: Failure,
    work: Rc<Work>,
}

impl<'a> Received<'a> {
    /// What comes through the pipe: so much, or as much as is said at the end.
    pub fn new(pipe: OwnedFd, length: Option<u64>, said: &'a Said) -> Result<Self, FileError> {
        unblock(&pipe)?;
        let work = Rc::new(Work::begin());
        Ok(Self { pipe, length, said, size: 0, failure: Failure::default(), work })
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, FileError> {
        let read = patiently(&self.pipe, PollFlags::IN, &self.said.cancelled, || {
            rustix::io::read(&self.pipe, &mut *into)
        })?;
        self.size += read as u64;
        self.work.earn(read);
        let ended = read == 0 && !into.is_empty();
        let length = match self.length {
            None if ended => Some(promised(self.said)?),
            length => length,
        };
        let complete = length.is_none_or(|length| self.size == length || self.size < length && !ended);
        if complete { Ok(read) } else { Err(FileError::Incomplete) }
    }
}

impl Read for Received<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.take(into).map_err(|why| self.failure.note(why))
    }
}

/// What was decompressed, as long as there is time for it.
struct Spending<R> {
    from: R,
    failure: Failure,
    work: Rc<Work>,
}

impl<R: Read> Read for Spending<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.work.spend(read).map_err(|why| self.failure.note(why))?;
        Ok(read)
    }
}

/// Puts all that the archive holds below a directory, or nothing. How many files and directories it names, and how many
/// bytes the files have.
pub fn unpack(
    tree: &Tree,
    base: &Path,
    operation: ExecutionId,
    format: Option<ArchiveFormat>,
    mut received: Received<'_>,
) -> Result<(u32, u64), FileError> {
    let (failure, work) = (received.failure.clone(), Rc::clone(&received.work));
    let mut unpacking = Unpacking::begin(tree, base, operation, failure.clone(), work)?;
    read(&mut received, format, &mut unpacking).map_err(|_| failure.reason())?;
    unpacking.finish()
}

fn read(
    received: &mut Received<'_>,
    format: Option<ArchiveFormat>,
    into: &mut Unpacking<'_>,
) -> io::Result<()> {
    let (failure, work) = (received.failure.clone(), Rc::clone(&received.work));
    let mut source = BufReader::with_capacity(CHUNK_BYTES, received);
    let mut head = Vec::new();
    source.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    let format = format.unwrap_or_else(|| format_of(&head));
    let large_window = format == ArchiveFormat::TarZst && has_large_window(&head);
    let source = Cursor::new(head).chain(source);
    let mut decompressed: Box<dyn Read + '_> = match format {
        ArchiveFormat::Zip => return zip::unpack(source, into),
        ArchiveFormat::Tar => Box::new(source),
        ArchiveFormat::TarGz => Box::new(MultiGzDecoder::new(source)),
        ArchiveFormat::TarZst if large_window => {
            return Err(failure.note(FileError::ArchiveLimit(ArchiveLimit::Window)));
        }
        ArchiveFormat::TarZst => Box::new(zst_decoder(source)?),
    };
    tar::unpack(&mut Spending { from: &mut decompressed, failure, work }, into)
}

fn zst_decoder<'a, R: BufRead>(source: R) -> io::Result<::zstd::Decoder<'a, R>> {
    let mut decoder = ::zstd::Decoder::with_buffer(source)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// What begins so. A tar has no beginning of its own; its checksums tell whether it is one.
fn format_of(head: &[u8]) -> ArchiveFormat {
    match head {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => ArchiveFormat::Zip,
        [0x1f, 0x8b, ..] => ArchiveFormat::TarGz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ArchiveFormat::TarZst,
        _ => ArchiveFormat::Tar,
    }
}

/// Whether a Zstandard frame asks for more window than is given (RFC 8878, 3.1.1.1.2). The decoder refuses it too, but
/// does not say why.
fn has_large_window(head: &[u8]) -> bool {
    match head {
        [_, _, _, _, descriptor, window, ..] if descriptor & 0x20 == 0 => {
            let base = 1_u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7) > 1 << WINDOW_LOG_MAX
        }
        _ => false,
    }
}

/// What is to be packed.
pub struct Contents<'a> {
    tree: &'a Tree,
    base: &'a Path,
    entries: Vec<Entry>,
    failure: Failure,
}

/// A file or a directory to be packed.
struct Packed<'a> {
    /// Relative to the archive's top.
    name: &'a str,
    /// As it was when it was opened.
    entry: Entry,
    /// Of a file.
    content: Option<Exactly>,
}

impl<'a> Contents<'a> {
    /// Everything below a directory that goes into archives.
    pub fn of(tree: &'a Tree, base: &'a Path, cancelled: &AtomicBool) -> Result<Self, FileError> {
        let mut entries = tree.list(base, true, cancelled).map_err(|why| match why {
            FileError::TooMany => FileError::ArchiveLimit(ArchiveLimit::Entries),
            why => why,
        })?;
        entries.retain(|entry| matches!(entry.kind, EntryKind::File | EntryKind::Directory));
        // Names that are no UTF-8 are shown alike, and found under none of them.
        entries.dedup_by(|a, b| a.path == b.path);
        let files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
        let bytes = files.fold(0_u64, |bytes, entry| bytes.saturating_add(entry.size));
        if bytes > PACKED_BYTES_MAX {
            return Err(FileError::ArchiveLimit(ArchiveLimit::Space));
        }
        Ok(Self { tree, base, entries, failure: Failure::default() })
    }

    /// One after the other, as they are now. What is not there any more is left out.
    fn each(&self) -> impl Iterator<Item = io::Result<Packed<'_>>> {
        self.entries.iter().filter_map(|listed| match self.open(listed) {
            Err(FileError::NotFound | FileError::InvalidPath | FileError::NotRegular) => None,
            opened => Some(opened.map_err(|why| self.failure.note(why))),
        })
    }

    fn open<'e>(&self, listed: &'e Entry) -> Result<Packed<'e>, FileError> {
        let above = self.base.as_str();
        let name = listed.path.strip_prefix(above).unwrap_or(&listed.path).trim_start_matches('/');
        if listed.kind == EntryKind::Directory {
            return Ok(Packed { name, entry: listed.clone(), content: None });
        }
        let (file, entry) = transfer::open(self.tree, &Path::parse(&listed.path)?)?;
        let content = Exactly { file, left: entry.size, failure: self.failure.clone() };
        Ok(Packed { name, entry, content: Some(content) })
    }
}

/// The content of a file that may change: as many bytes as it had, or an error.
struct Exactly {
    file: OwnedFd,
    left: u64,
    failure: Failure,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.file, &mut into[..wanted]))?;
        if read == 0 {
            return Err(self.failure.note(FileError::Incomplete));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The way out of an archive. After a failure nothing more goes out: what the libraries write when they are dropped
/// would make half an archive look whole.
struct Sender<'a> {
    pipe: OwnedFd,
    cancelled: &'a AtomicBool,
    sent: u64,
    failure: Failure,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(why) = self.failure.0.get() {
            return Err(io::Error::other(why));
        }
        let written =
            patiently(&self.pipe, PollFlags::OUT, self.cancelled, || rustix::io::write(&self.pipe, bytes));
        let cancelled = self.cancelled.load(Ordering::Relaxed);
        let written = if cancelled { Err(FileError::Incomplete) } else { written };
        let written = written.map_err(|why| self.failure.note(why))?;
        self.sent += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends an archive through the pipe and closes it; how many bytes it has.
pub fn pack(
    contents: &Contents<'_>,
    format: ArchiveFormat,
    pipe: OwnedFd,
    cancelled: &AtomicBool,
) -> Result<u64, FileError> {
    unblock(&pipe)?;
    let sender = Sender { pipe, cancelled, sent: 0, failure: contents.failure.clone() };
    write(contents, format, BufWriter::with_capacity(CHUNK_BYTES, sender))
        .map_err(|_| contents.failure.reason())
}

fn write(contents: &Contents<'_>, format: ArchiveFormat, out: BufWriter<Sender<'_>>) -> io::Result<u64> {
    let out = match format {
        ArchiveFormat::Tar => tar::pack(contents, out)?,
        ArchiveFormat::TarGz => tar::pack(contents, GzEncoder::new(out, Compression::default()))?.finish()?,
        ArchiveFormat::TarZst => tar::pack(contents, ::zstd::Encoder::new(out, ZSTD_LEVEL)?)?.finish()?,
        ArchiveFormat::Zip => zip::pack(contents, out)?,
    };
    let sender = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(sender.sent)
}
