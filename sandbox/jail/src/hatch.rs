//! What is said through a cell's hatch.
//!
//! The hatch is a SEQPACKET pair. The warden speaks first (`Commit`), then hands its end to the API. What comes out
//! of a cell after `Ready` is hostile: a guest may have taken the process over. Readers bound it, check it and
//! believe nothing in it that the kernel's counters can tell instead.

use crate::control::{Interpreter, Window};
use crate::id::ExecutionId;
use crate::walls::Walls;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The longest rich value (a result or an error, JSON) that a cell sends on; longer ones it refuses.
pub const VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The most rich values that one execution sends.
pub const VALUES_MAX: usize = 256;
/// The longest piece of output in one message.
pub const OUTPUT_CHUNK_BYTES: usize = 16 * 1024;

/// The most standard input that may follow an execution, all of it together: a program need not read it.
pub const INPUT_BYTES_MAX: usize = 16 << 20;

/// What the warden or the API says to pid 1 of a cell.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToCell {
    /// From the warden, to a cell that nobody has taken: its user map stands, so it can start its program and answer
    /// [`FromCell::Prepared`]. A browser cell waits for this word; a native one that has said `Prepared` before becomes
    /// this interpreter, and only then gets descriptors, those of [`Self::Commit`]. Other cells need no such word.
    Prepare {
        /// What of the image the cell runs.
        interpreter: Interpreter,
        /// Landlock is required; without it the cell refuses.
        require_landlock: bool,
    },
    /// From the warden: take this session, lock yourself, answer [`FromCell::Ready`].
    /// Descriptors: the root of the workspace; in a browser cell also a mount of the workspace's part
    /// [`crate::lock::WORKSPACE_DIR`], in a native cell of that, of [`crate::lock::TMP_DIR`] and of
    /// [`crate::lock::SHM_DIR`]. None in a native cell that was given them with [`Self::Prepare`].
    Commit(Commit),
    /// A new listener reads from here on: say [`FromCell::Attached`], then repeat everything of every execution
    /// that was not acknowledged, from its beginning.
    Attach {
        /// Returned in the answer, so that the listener knows where its own reading begins.
        generation: u64,
    },
    /// Run code. In a browser cell two descriptors instead of code let a client speak the browser's protocol itself:
    /// ends of pipes, to read what it says and to write what it hears.
    Execute(Execute),
    /// End the running execution if it is this one; the interpreter's state survives where it can.
    Cancel {
        /// Which one.
        execution: ExecutionId,
    },
    /// More standard input for the running execution if it is this one and its input is open.
    Input {
        /// Which one.
        execution: ExecutionId,
        /// All of them together at most [`INPUT_BYTES_MAX`].
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// And no more.
        end: bool,
    },
    /// Everything of this execution was stored: forget it.
    Acknowledge {
        /// Which one.
        execution: ExecutionId,
    },
    /// Everything of an upload or an archive whose length was not known was sent: without this word it does not become
    /// visible, so that a sender that dies leaves nothing behind.
    Complete {
        /// Which operation.
        operation: ExecutionId,
        /// How much that is.
        bytes: u64,
    },
    /// A file operation (files cells). Transfers ([`FileAction::is_transfer`]) carry one descriptor: a pipe's end.
    File(FileRequest),
    /// Somebody watches (browser cells), also while something runs. Descriptors: ends of pipes, to read what the watcher
    /// says and to write what there is to see.
    Watch,
}

/// What a cell needs to know about the session that takes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    /// Cap of the guest's own memory, in bytes.
    pub memory_bytes: u64,
    /// The session's processors, in thousandths.
    pub cpu_millicores: u32,
    /// What of the image the cell runs.
    pub interpreter: Interpreter,
    /// The session's environment.
    pub env: Vec<(String, String)>,
    /// How large a browser's window is.
    pub window: Window,
    /// The user inside the cell's user namespace that the cell becomes.
    pub uid: u32,
    /// Landlock is required; without it the cell refuses.
    pub require_landlock: bool,
}

/// One run of code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execute {
    /// Names it.
    pub execution: ExecutionId,
    /// The program.
    pub code: String,
    /// What the program is written in.
    pub dialect: Dialect,
    /// Its standard input, or the beginning of it.
    #[serde(with = "serde_bytes")]
    pub stdin: Vec<u8>,
    /// More may follow.
    pub stdin_open: bool,
    /// Additions to the environment.
    pub env: Vec<(String, String)>,
    /// Working directory; the workspace where omitted.
    pub cwd: Option<String>,
    /// Wall time until it is interrupted, in microseconds. A grace later it is stopped and its state is lost.
    pub timeout_us: u64,
    /// Bytes of output (both streams together) that are kept; what exceeds them is counted and dropped, and at four
    /// times as much the execution is ended.
    pub output_bytes: u64,
}

/// What a program is written in, as far as its cell cares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// The language of the cell's guest.
    #[default]
    Own,
    /// TypeScript; the cell makes JavaScript of it, on the execution's time.
    TypeScript,
}

/// What pid 1 of a cell says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromCell {
    /// The cell stands and waits to be committed.
    Prepared,
    /// It is locked; these walls stand, as read back from the kernel.
    Ready(Walls),
    /// It could not be locked; the cell ends.
    Refused {
        /// Which step, and the kernel's answer.
        step: String,
    },
    /// Answer to [`ToCell::Attach`].
    Attached {
        /// As asked.
        generation: u64,
        /// What it ran or runs and was not told to forget. Everything it said of these is repeated after this.
        executions: Vec<ExecutionId>,
    },
    /// The program printed.
    Output {
        /// Whose.
        execution: ExecutionId,
        /// Where to.
        stream: Stream,
        /// At most [`OUTPUT_CHUNK_BYTES`].
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The program made a rich value.
    Value {
        /// Whose.
        execution: ExecutionId,
        /// JSON as the guest wrote it, at most [`VALUE_BYTES_MAX`]; unchecked.
        #[serde(with = "serde_bytes")]
        json: Vec<u8>,
    },
    /// The execution ended.
    Ended(Ended),
    /// A file operation ended, or (download, pack) begins.
    File {
        /// Which one.
        operation: ExecutionId,
        /// What became of it.
        answer: FileAnswer,
    },
}

/// One of a program's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How an execution ended, as the cell saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// Which one.
    pub execution: ExecutionId,
    /// What ended it.
    pub how: How,
    /// The error's JSON `{"name","message","traceback"}` as the guest wrote it; unchecked.
    #[serde(with = "serde_bytes")]
    pub error: Option<Vec<u8>>,
    /// The code that the program ended itself with.
    pub exit_code: Option<i32>,
    /// Wall time inside the cell, in microseconds.
    pub wall_us: u64,
    /// Bytes written to standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes written to standard error, kept or not.
    pub stderr_bytes: u64,
    /// The interpreter is gone; the cell ends after this message.
    pub state_lost: bool,
    /// The guest asked for more memory than its cap.
    pub memory_refused: bool,
}

/// What ended an execution inside the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// The program came to its end.
    Succeeded,
    /// The program failed by itself.
    Failed,
    /// Its time was over.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It wrote four times the output it may keep.
    OutputExceeded,
    /// The guest trapped (out of memory, stack overflow, a bug in the interpreter).
    Crashed,
}

/// A file operation on the workspace. Paths are relative, of UTF-8, and were only checked for shape by the sender;
/// the files cell resolves them beneath the workspace and follows no symbolic link.
#[derive(Debug, Serialize, Deserialize)]
pub struct FileRequest {
    /// Names it.
    pub operation: ExecutionId,
    /// Relative to the workspace; empty is the workspace itself.
    pub path: String,
    /// What to do.
    pub action: FileAction,
}

/// What to do with a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileAction {
    /// Write what comes through the pipe; parents are made; visible only when complete.
    /// `length` is what the sender promised; a different length changes nothing. Where it is not known,
    /// [`ToCell::Complete`] says it at the end.
    Upload {
        /// Bytes, where known.
        length: Option<u64>,
    },
    /// Send the file through the pipe, after [`FileAnswer::Found`].
    Download {
        /// How much of it; resolved against the size that [`FileAnswer::Found`] says.
        part: Part,
    },
    /// Say what it is.
    Stat,
    /// List a directory.
    List {
        /// Also everything below.
        recursive: bool,
    },
    /// Remove it.
    Delete {
        /// A directory with all it holds.
        recursive: bool,
    },
    /// Make all of these changes, in this order, or none. The request's path is the workspace.
    Batch(Vec<Change>),
    /// Put all that the archive in the pipe holds below the directory, which is made if need be; or nothing.
    Unpack {
        /// What it is; seen by its first bytes where not known.
        format: Option<ArchiveFormat>,
        /// As for an upload.
        length: Option<u64>,
    },
    /// Send what is below the directory as an archive through the pipe, after [`FileAnswer::Begun`]: files and
    /// directories. Links, special files and names that are no UTF-8 are left out.
    Pack {
        /// As what.
        format: ArchiveFormat,
    },
}

impl FileAction {
    /// Whether content goes through a pipe, at the pace of its far end.
    pub fn is_transfer(&self) -> bool {
        matches!(self, Self::Upload { .. } | Self::Download { .. } | Self::Unpack { .. } | Self::Pack { .. })
    }
}

/// How much of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// All of it.
    Whole,
    /// From the first byte to the last, which belongs to it; the file may end before.
    Span {
        /// Counted from 0.
        first: u64,
        /// Not before `first`.
        last: u64,
    },
    /// So many bytes at its end, or all that there are.
    Suffix(u64),
}

impl Part {
    /// Which bytes of a file of this size; `None` when it has none of them. An empty file is always whole.
    pub fn of(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Span { first, last } if size > 0 => first..last.saturating_add(1).min(size),
            Self::Suffix(bytes) if size > 0 => size.saturating_sub(bytes)..size,
            _ => return Some(0..size),
        };
        (range.start < range.end).then_some(range)
    }
}

/// One of the changes of a batch. Paths are as in a [`FileRequest`], and none is the workspace itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Write a file; parents are made, and a regular file of that name is replaced.
    Write {
        /// Which one.
        path: String,
        /// All of it.
        #[serde(with = "serde_bytes")]
        content: Vec<u8>,
    },
    /// Remove it.
    Delete {
        /// Which one.
        path: String,
        /// A directory with all it holds.
        recursive: bool,
    },
    /// Give a file or a directory another path; parents are made, and nothing may be there.
    Move {
        /// Where it is.
        from: String,
        /// Where it is to be.
        to: String,
    },
    /// Make a directory and its parents; one that is there stays.
    MakeDirectory {
        /// Which one.
        path: String,
    },
}

/// The kinds of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveFormat {
    /// ustar with the extensions of PAX and GNU for long names.
    Tar,
    /// The same in gzip.
    TarGz,
    /// The same in Zstandard.
    TarZst,
    /// Stored or deflated.
    Zip,
}

/// What became of a file operation.
#[derive(Debug, Serialize, Deserialize)]
pub enum FileAnswer {
    /// Uploaded.
    Written {
        /// Bytes.
        size: u64,
        /// Of the content.
        sha256: [u8; 32],
    },
    /// Stat, or the start of a download.
    Found(Entry),
    /// Part of a listing.
    Entries(Vec<Entry>),
    /// Done; ends a listing, a download, a removal and a batch.
    Done,
    /// An archive was unpacked.
    Unpacked {
        /// Files and directories that it named.
        entries: u32,
        /// Bytes of the files.
        bytes: u64,
    },
    /// An archive begins to come through the pipe.
    Begun,
    /// The archive was sent.
    Packed {
        /// This long: what the reader has otherwise was cut.
        bytes: u64,
    },
    /// A change of a batch was refused, and none was made.
    Failed {
        /// Which one, counted from 0.
        index: u32,
        /// Why.
        why: FileError,
    },
    /// Refused.
    Refused(FileError),
}

/// A file as the files cell saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the workspace. Bytes that are no UTF-8 are shown as U+FFFD.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Microseconds since 1970.
    pub modified_us: i64,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; never followed.
    Symlink,
    /// Anything else.
    Other,
}

/// Why a file operation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FileError {
    /// Nothing is there (or a part of the path is no directory).
    #[error("no such file")]
    NotFound,
    /// The path leads through or to something that is not followed, or is too long.
    #[error("the path is not usable")]
    InvalidPath,
    /// Only regular files can be read and replaced.
    #[error("not a regular file")]
    NotRegular,
    /// A directory that is not empty, without `recursive`; or a file where a directory is needed.
    #[error("in the way: a directory that is not empty, or a file where a directory is needed")]
    Conflict,
    /// The workspace is full.
    #[error("the workspace is full")]
    NoSpace,
    /// What arrived has not the promised length.
    #[error("what arrived has not the promised length")]
    Incomplete,
    /// More entries than a listing holds.
    #[error("too many entries")]
    TooMany,
    /// The file, of this size, has nothing of the part that was asked for.
    #[error("the file has {0} bytes: none of them is in the range")]
    OutOfRange(u64),
    /// What arrived is no archive that is unpacked.
    #[error("the archive is refused: {0}")]
    Archive(ArchiveFault),
    /// An archive that needs more than an archive may.
    #[error("the archive goes beyond a limit: {0}")]
    ArchiveLimit(ArchiveLimit),
    /// The kernel said no, with this error number.
    #[error("the kernel refused (errno {0})")]
    Other(i32),
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ArchiveFault {
    /// Cut, damaged, of another format, encrypted, or made in a way that is not taken.
    #[error("it cannot be read to its end")]
    Unreadable,
    /// Bytes behind the end: readers would disagree about what it holds.
    #[error("something follows its end")]
    Trailing,
    /// Absolute, with `..`, reserved, or no UTF-8.
    #[error("a name in it is not usable")]
    Name,
    /// The same name twice, or a file where it has a directory.
    #[error("a name in it is repeated")]
    Repeated,
    /// A symbolic or a hard link.
    #[error("it has a link")]
    Link,
    /// A device, a FIFO, a sparse file, or what else is neither file nor directory.
    #[error("it has something that is neither file nor directory")]
    Special,
    /// It says two different things about a size, or bytes belong to two entries.
    #[error("its sizes contradict each other")]
    Sizes,
}

/// Which of an archive's limits was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ArchiveLimit {
    /// Files and directories.
    #[error("too many entries")]
    Entries,
    /// Length or depth of a path, or all paths together.
    #[error("names too long, too deep or too many")]
    Names,
    /// What is unpacked has no room in the workspace, or what is packed is larger than any.
    #[error("too large")]
    Space,
    /// It takes more processor time than its size allows.
    #[error("too much work for its size")]
    Work,
    /// The compressor's window.
    #[error("a window of more than 8 MiB")]
    Window,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_to_the_file() {
        let span = |first, last| Part::Span { first, last };
        assert_eq!(Part::Whole.of(10), Some(0..10));
        assert_eq!(span(0, 0).of(10), Some(0..1));
        assert_eq!(span(5, u64::MAX).of(10), Some(5..10));
        assert_eq!(Part::Suffix(3).of(10), Some(7..10));
        assert_eq!(Part::Suffix(30).of(10), Some(0..10));
        for outside in [span(10, 12), Part::Suffix(0)] {
            assert_eq!(outside.of(10), None, "{outside:?}");
            assert_eq!(outside.of(0), Some(0..0), "{outside:?}");
        }
    }
}
