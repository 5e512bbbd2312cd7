//! Tar, in the forms that are in use: ustar, GNU long names, PAX.

use super::Contents;
use super::unpacking::Unpacking;
use crate::files::tree::PATH_BYTES_MAX;
use anchorhold_jail::hatch::{ArchiveFault, ArchiveLimit};
use std::io::{self, Read, Write};
use tar::{Archive, Builder, Entry, EntryType, Header};

/// The longest header that describes another one.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// Reads an archive to its end.
pub(super) fn unpack(source: &mut dyn Read, into: &mut Unpacking<'_>) -> io::Result<()> {
    let mut source = Watched { source, ended: false };
    read_entries(&mut Archive::new(&mut source), into)?;
    // The library takes the end of the file for the end of the archive; then it may have been cut there.
    if source.ended {
        return Err(into.fault(ArchiveFault::Unreadable));
    }
    let mut rest = [0; 4096];
    loop {
        match source.read(&mut rest)? {
            0 => return Ok(()),
            read if rest[..read].iter().all(|byte| *byte == 0) => {}
            _ => return Err(into.fault(ArchiveFault::Trailing)),
        }
    }
}

/// A reader that knows whether its end was seen.
struct Watched<'a> {
    source: &'a mut dyn Read,
    ended: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(into)?;
        self.ended |= read == 0 && !into.is_empty();
        Ok(read)
    }
}

/// The library reads headers one by one; what they mean for the next one is decided here, within bounds.
fn read_entries<R: Read>(archive: &mut Archive<R>, into: &mut Unpacking<'_>) -> io::Result<()> {
    let mut described = Described::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let mut name = extension(&mut entry, into)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                described.name(name, into)?;
            }
            // Of a link, which is refused when it comes.
            EntryType::GNULongLink => drop(extension(&mut entry, into)?),
            EntryType::XHeader => {
                let records = extension(&mut entry, into)?;
                described.read(&records, into)?;
            }
            EntryType::XGlobalHeader => {
                let records = extension(&mut entry, into)?;
                let mut global = Described::default();
                global.read(&records, into)?;
                // Names and sizes of all entries alike: nobody means that.
                if global.name.is_some() || global.size.is_some() {
                    return Err(into.fault(ArchiveFault::Name));
                }
            }
            kind => take(&mut entry, kind, std::mem::take(&mut described), into)?,
        }
    }
    if described.name.is_some() || described.size.is_some() {
        return Err(into.fault(ArchiveFault::Unreadable));
    }
    Ok(())
}

/// A file or a directory.
fn take<R: Read>(
    entry: &mut Entry<'_, R>,
    kind: EntryType,
    described: Described,
    into: &mut Unpacking<'_>,
) -> io::Result<()> {
    let size = entry.header().entry_size()?;
    // Some readers believe one, some the other.
    if described.size.is_some_and(|other| other != size) {
        return Err(into.fault(ArchiveFault::Sizes));
    }
    let name = described.name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
    match kind {
        EntryType::Link | EntryType::Symlink => Err(into.fault(ArchiveFault::Link)),
        EntryType::Directory if size != 0 => Err(into.fault(ArchiveFault::Sizes)),
        EntryType::Directory => into.directory(&name),
        // As before there was a kind for them.
        EntryType::Regular if name.ends_with(b"/") && size == 0 => into.directory(&name),
        EntryType::Regular => {
            let executable = entry.header().mode()? & 0o100 != 0;
            into.file(&name, executable, size, entry)
        }
        _ => Err(into.fault(ArchiveFault::Special)),
    }
}

/// The content of a header that describes another one.
fn extension<R: Read>(entry: &mut Entry<'_, R>, into: &mut Unpacking<'_>) -> io::Result<Vec<u8>> {
    let size = entry.header().entry_size()?;
    if size > EXTENSION_BYTES_MAX {
        return Err(into.limit(ArchiveLimit::Names));
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    if content.len() as u64 != size {
        return Err(into.fault(ArchiveFault::Unreadable));
    }
    Ok(content)
}

/// What earlier headers say of the next entry.
#[derive(Debug, Default)]
struct Described {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Described {
    fn name(&mut self, name: Vec<u8>, into: &Unpacking<'_>) -> io::Result<()> {
        if name.len() > PATH_BYTES_MAX {
            return Err(into.limit(ArchiveLimit::Names));
        }
        match self.name.replace(name) {
            None => Ok(()),
            Some(_) => Err(into.fault(ArchiveFault::Name)),
        }
    }

    /// PAX records.
    fn read(&mut self, mut records: &[u8], into: &Unpacking<'_>) -> io::Result<()> {
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or_else(|| into.fault(ArchiveFault::Unreadable))?;
            records = rest;
            match key {
                b"path" => self.name(value.to_vec(), into)?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| into.fault(ArchiveFault::Sizes))?;
                    if self.size.replace(size).is_some() {
                        return Err(into.fault(ArchiveFault::Sizes));
                    }
                }
                // A file with holes under a made-up name.
                _ if key.starts_with(b"GNU.sparse") => return Err(into.fault(ArchiveFault::Special)),
                // Times, owners, what other programs note.
                _ => {}
            }
        }
        Ok(())
    }
}

/// The first of PAX records, `length key=value\n` where the length is that of all of it; and the rest.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(&records[..space]).ok()?;
    let length: usize = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let text = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], &records[length..]))
}

/// Writes an archive; the writer, to be finished.
pub(super) fn pack<W: Write>(contents: &Contents<'_>, out: W) -> io::Result<W> {
    let mut builder = Builder::new(out);
    for packed in contents.each() {
        let packed = packed?;
        let mut header = Header::new_gnu();
        header.set_mode(packed.entry.mode & 0o777);
        header.set_mtime(u64::try_from(packed.entry.modified_us / 1_000_000).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        match packed.content {
            Some(content) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(packed.entry.size);
                builder.append_data(&mut header, packed.name, content)?;
            }
            None => {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                builder.append_data(&mut header, format!("{}/", packed.name), io::empty())?;
            }
        }
    }
    builder.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_long_as_they_say() {
        let whole = b"12 path=a\nb\n9 size=5\n";
        let (key, value, rest) = record(whole).unwrap();
        assert_eq!((key, value), (&b"path"[..], &b"a\nb"[..]));
        assert_eq!(record(rest).unwrap(), (&b"size"[..], &b"5"[..], &b""[..]));
        for broken in
            ["", "9", "9 ", "9 size=5", "11 size=5\n", "8 size=5\n", "9 size5x\n", "+9 size=5\n", "0 a=b\n"]
        {
            assert_eq!(record(broken.as_bytes()), None, "{broken:?}");
        }
    }
}
