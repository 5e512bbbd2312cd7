//! Zip: stored and deflated entries. Its directory is at its end, so it is kept aside before it is read.

use super::unpacking::Unpacking;
use super::{CHUNK_BYTES, Contents};
use crate::files::tree::ENTRIES_MAX;
use anchorhold_jail::hatch::{ArchiveFault, ArchiveLimit};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use zip::read::{ArchiveOffset, Config, ZipFile};
use zip::unstable::read::ZipIterable;
use zip::write::SimpleFileOptions;
use zip::{ZipReadOptions, ZipWriter};

/// What comes before a name in a local header.
const LOCAL_HEADER_BYTES: u64 = 30;
/// Sizes that need the longer form; a little less, so that what compresses badly fits, too.
const LARGE_BYTES: u64 = 0xf000_0000;
/// The kind in a Unix mode, and the kinds.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

/// A file that is read at a position of its own, so that several can read one.
#[derive(Clone)]
struct At<'a> {
    file: &'a OwnedFd,
    size: u64,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(self.file, &mut *into, self.at))?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for At<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Reads an archive to its end.
pub(super) fn unpack(mut source: impl Read, into: &mut Unpacking<'_>) -> io::Result<()> {
    let (file, size) = into.spool(&mut source)?;
    let reader = || BufReader::new(At { file: &file, size, at: 0 });
    let archive = ZipIterable::try_new(reader(), Config { archive_offset: ArchiveOffset::Known(0) })?;
    if archive.len() > ENTRIES_MAX {
        return Err(into.limit(ArchiveLimit::Entries));
    }
    // The directory and the headers before the entries say the same, or it is refused.
    let mut archive = archive.enforce_header_consistency(true);
    let mut entries = archive.files_with_reader(reader(), ZipReadOptions::new())?;
    let mut spans = Vec::new();
    while let Some(entry) = entries.next() {
        let mut entry = entry?;
        let begin = entry.header_start();
        let header = LOCAL_HEADER_BYTES + entry.name_raw().len() as u64;
        spans.push((begin, begin.saturating_add(header).saturating_add(entry.compressed_size())));
        take(&mut entry, into)?;
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(into.fault(ArchiveFault::Sizes));
    }
    Ok(())
}

/// A file or a directory.
fn take<R: Read>(entry: &mut ZipFile<'_, R>, into: &mut Unpacking<'_>) -> io::Result<()> {
    let name = entry.name()?.into_owned().into_bytes();
    let mode = entry.unix_mode().unwrap_or(0);
    match mode & KIND {
        SYMLINK => Err(into.fault(ArchiveFault::Link)),
        0 | DIRECTORY if entry.is_dir() && entry.size() == 0 => into.directory(&name),
        0 | REGULAR if !entry.is_dir() => into.file(&name, mode & 0o100 != 0, entry.size(), entry),
        0 | DIRECTORY | REGULAR => Err(into.fault(ArchiveFault::Sizes)),
        _ => Err(into.fault(ArchiveFault::Special)),
    }
}

/// Writes an archive; the writer, to be finished.
pub(super) fn pack<W: Write>(contents: &Contents<'_>, out: W) -> io::Result<W> {
    let mut archive = ZipWriter::new_stream(out);
    let mut chunk = vec![0; CHUNK_BYTES];
    for packed in contents.each() {
        let packed = packed?;
        let modified = u32::try_from(packed.entry.modified_us / 1_000_000).ok();
        let options = SimpleFileOptions::default()
            .unix_permissions(packed.entry.mode & 0o777)
            .large_file(packed.entry.size >= LARGE_BYTES)
            .with_extended_timestamp(modified, None, None)?;
        let Some(mut content) = packed.content else {
            archive.add_directory(packed.name, options)?;
            continue;
        };
        archive.start_file(packed.name, options)?;
        loop {
            match content.read(&mut chunk)? {
                0 => break,
                read => archive.write_all(&chunk[..read])?,
            }
        }
    }
    Ok(archive.finish()?.into_inner())
}
