//! What an archive holds, on its way into the workspace.

use super::{Failure, Work};
use crate::files::transaction::{Staged, Transaction};
use crate::files::transfer::{CHUNK_BYTES, write_all};
use crate::files::tree::{
    DEPTH_MAX, ENTRIES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PATHS_BYTES_MAX, Path, Tree,
};
use anchorhold_jail::hatch::{ArchiveFault, ArchiveLimit, FileError};
use anchorhold_jail::id::ExecutionId;
use rustix::fs::Mode;
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Entries that were read and found good, ready to be placed.
pub(super) struct Unpacking<'a> {
    transaction: Transaction<'a>,
    base: &'a Path,
    names: Names,
    /// Files with their content, and directories.
    entries: Vec<(Path, Option<Staged>)>,
    bytes: u64,
    failure: Failure,
    work: Rc<Work>,
}

impl<'a> Unpacking<'a> {
    pub(super) fn begin(
        tree: &'a Tree,
        base: &'a Path,
        operation: ExecutionId,
        failure: Failure,
        work: Rc<Work>,
    ) -> Result<Self, FileError> {
        let transaction = Transaction::begin(tree, operation).map_err(no_room)?;
        let (names, entries) = (Names::default(), Vec::new());
        Ok(Self { transaction, base, names, entries, bytes: 0, failure, work })
    }

    /// Notes what is wrong with the archive.
    pub(super) fn fault(&self, fault: ArchiveFault) -> io::Error {
        self.failure.note(FileError::Archive(fault))
    }

    /// Notes which limit it reached.
    pub(super) fn limit(&self, limit: ArchiveLimit) -> io::Error {
        self.failure.note(FileError::ArchiveLimit(limit))
    }

    /// A directory of that name.
    pub(super) fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        if let Some(path) = self.enter(name, Kind::Directory)? {
            self.entries.push((path, None));
        }
        Ok(())
    }

    /// A file of that name, with exactly so much content.
    pub(super) fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let path = self.enter(name, Kind::File)?.ok_or_else(|| self.fault(ArchiveFault::Name))?;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let (staged, file) = self.stage(mode)?;
        let stored = self.store(&file, size, content)?;
        if stored != size {
            return Err(self.fault(ArchiveFault::Unreadable));
        }
        self.bytes += size;
        self.entries.push((path, Some(staged)));
        Ok(())
    }

    /// An archive that cannot be read as it comes.
    pub(super) fn spool(&mut self, content: &mut dyn Read) -> io::Result<(OwnedFd, u64)> {
        let (_, file) = self.stage(Mode::from_raw_mode(0o600))?;
        let size = self.store(&file, u64::MAX, content)?;
        Ok((file, size))
    }

    fn stage(&mut self, mode: Mode) -> io::Result<(Staged, OwnedFd)> {
        self.transaction.stage(mode).map_err(|why| self.failure.note(no_room(why)))
    }

    /// Copies to the end of the content, which is an error when it has more than `most`.
    fn store(&self, file: &OwnedFd, most: u64, content: &mut dyn Read) -> io::Result<u64> {
        // One byte more, to see the end of small files at once.
        let wanted = usize::try_from(most.saturating_add(1)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; wanted.min(CHUNK_BYTES)];
        let mut stored = 0;
        loop {
            let read = content.read(&mut chunk)?;
            self.work.spend(read).map_err(|why| self.failure.note(why))?;
            if read == 0 {
                return Ok(stored);
            }
            stored += read as u64;
            if stored > most {
                return Err(self.fault(ArchiveFault::Sizes));
            }
            write_all(file, &chunk[..read]).map_err(|why| self.failure.note(no_room(why)))?;
            self.work.earn(read);
        }
    }

    /// Notes a name; where it leads. `None` is the top itself.
    fn enter(&mut self, name: &[u8], kind: Kind) -> io::Result<Option<Path>> {
        self.work.spend(name.len()).map_err(|why| self.failure.note(why))?;
        let name = std::str::from_utf8(name).map_err(|_| self.fault(ArchiveFault::Name))?;
        // As archives of `.` have it.
        let mut name = name;
        while let Some(rest) = name.strip_prefix("./") {
            name = rest;
        }
        if kind == Kind::Directory {
            name = name.strip_suffix('/').unwrap_or(name);
        }
        if matches!(name, "" | ".") {
            return Ok(None);
        }
        let base = self.base.as_str();
        let path = if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") };
        let long = path.len() > PATH_BYTES_MAX || path.split('/').any(|part| part.len() > NAME_BYTES_MAX);
        if long || path.split('/').count() > DEPTH_MAX {
            return Err(self.limit(ArchiveLimit::Names));
        }
        let path = Path::parse(&path).map_err(|_| self.fault(ArchiveFault::Name))?;
        if self.entries.len() >= ENTRIES_MAX {
            return Err(self.limit(ArchiveLimit::Entries));
        }
        self.names.enter(name, kind).map_err(|why| self.failure.note(why))?;
        Ok(Some(path))
    }

    /// All of the archive was read: makes it visible.
    pub(super) fn finish(self) -> Result<(u32, u64), FileError> {
        let Self { mut transaction, base, entries, bytes, .. } = self;
        transaction.make_directory(base).map_err(no_room)?;
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        for (path, content) in entries {
            match content {
                Some(staged) => transaction.place(&path, staged),
                None => transaction.make_directory(&path),
            }
            .map_err(no_room)?;
        }
        transaction.commit();
        Ok((count, bytes))
    }
}

/// A full workspace is a limit of the archive's.
fn no_room(why: FileError) -> FileError {
    match why {
        FileError::NoSpace => FileError::ArchiveLimit(ArchiveLimit::Space),
        why => why,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    /// A directory that is only part of other names so far.
    Implied,
}

/// The names of an archive: none twice, and none below a file.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<String, Kind>,
    bytes: usize,
}

impl Names {
    fn enter(&mut self, name: &str, kind: Kind) -> Result<(), FileError> {
        let repeated = FileError::Archive(ArchiveFault::Repeated);
        match self.known.get(name) {
            None => {}
            Some(Kind::Implied) if kind == Kind::Directory => {}
            Some(_) => return Err(repeated),
        }
        self.note(name, kind)?;
        let mut above = name;
        while let Some((parent, _)) = above.rsplit_once('/') {
            match self.known.get(parent) {
                None => self.note(parent, Kind::Implied)?,
                Some(Kind::File) => return Err(repeated),
                // So are those above it.
                Some(Kind::Directory | Kind::Implied) => break,
            }
            above = parent;
        }
        Ok(())
    }

    fn note(&mut self, name: &str, kind: Kind) -> Result<(), FileError> {
        self.bytes += name.len();
        if self.bytes > PATHS_BYTES_MAX {
            return Err(FileError::ArchiveLimit(ArchiveLimit::Names));
        }
        self.known.insert(name.to_owned(), kind);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_thing_only() {
        let mut names = Names::default();
        let repeated = Err(FileError::Archive(ArchiveFault::Repeated));
        for (name, kind, outcome) in [
            ("a/b/c", Kind::File, Ok(())),
            ("a/b/c", Kind::File, repeated),
            ("a/b/c", Kind::Directory, repeated),
            ("a/b", Kind::Directory, Ok(())),
            ("a/b", Kind::Directory, repeated),
            ("a", Kind::File, repeated),
            ("a/b/c/d", Kind::File, repeated),
            ("a/b/d", Kind::File, Ok(())),
            ("f", Kind::File, Ok(())),
            ("f/g/h", Kind::Directory, repeated),
        ] {
            assert_eq!(names.enter(name, kind), outcome, "{name} {kind:?}");
        }
    }

    #[test]
    fn all_names_together_are_bounded() {
        let mut names = Names::default();
        let long = "x/".repeat(2000);
        let entered = (0..).take_while(|n| names.enter(&format!("{long}{n}"), Kind::File).is_ok()).count();
        assert!((7_000..9_000).contains(&entered), "{entered}");
    }
}
