//! Files of the workspace and of `/tmp`, as WASI shows them. Paths arrive absolute (see `fs.js`).

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::time::SystemTime;

/// A call that failed, in Node's words.
#[derive(Debug)]
pub struct Failure {
    /// Such as `ENOENT`.
    pub code: &'static str,
    /// What was tried, such as `open`.
    pub syscall: &'static str,
    /// On which file.
    pub path: String,
    meaning: &'static str,
}

type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn of(syscall: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let (code, meaning) = explain(&error);
            Self { code, syscall, path: path.to_owned(), meaning }
        }
    }

    /// `ENOENT: no such file or directory, open 'x'`.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{}: {}, {} '{}'", self.code, self.meaning, self.syscall, self.path)
    }
}

/// What `stat` says of a file.
#[derive(Debug)]
pub struct Stat {
    /// `file`, `directory` or `link`.
    pub kind: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// Since 1970.
    pub modified_ms: f64,
    /// Since 1970.
    pub accessed_ms: f64,
}

/// The whole of a file.
pub fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(Failure::of("open", path))
}

/// What is left of the standard input.
pub fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(Failure::of("read", "stdin"))?;
    Ok(bytes)
}

/// One line without its end; `None` at the end of the input.
pub fn read_stdin_line() -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = io::BufRead::read_until(&mut io::stdin().lock(), b'\n', &mut line)
        .map_err(Failure::of("read", "stdin"))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok((read > 0).then(|| String::from_utf8_lossy(line).into_owned()))
}

/// `mode` is one of Node's flags: `w`, `a`, `wx`, `ax` or `r+`.
pub fn write(path: &str, bytes: &[u8], mode: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    match mode {
        "a" => options.append(true).create(true),
        "wx" => options.write(true).create_new(true),
        "ax" => options.append(true).create_new(true),
        "r+" => options.write(true),
        _ => options.write(true).create(true).truncate(true),
    };
    let written = options.open(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(Failure::of("open", path))
}

/// Makes a file as long as this, in bytes.
pub fn truncate(path: &str, len: f64) -> Result<()> {
    let truncated = File::options().write(true).open(path).and_then(|file| file.set_len(len as u64));
    truncated.map_err(Failure::of("ftruncate", path))
}

/// Of the file, or of what a link points to.
pub fn stat(path: &str, follow: bool) -> Result<Stat> {
    let (metadata, call) =
        if follow { (fs::metadata(path), "stat") } else { (fs::symlink_metadata(path), "lstat") };
    let metadata: Metadata = metadata.map_err(Failure::of(call, path))?;
    Ok(Stat {
        kind: kind(metadata.file_type()),
        bytes: metadata.len(),
        modified_ms: milliseconds(metadata.modified()),
        accessed_ms: milliseconds(metadata.accessed()),
    })
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "directory"
    } else if file_type.is_symlink() {
        "link"
    } else {
        "file"
    }
}

fn milliseconds(time: io::Result<SystemTime>) -> f64 {
    let since_epoch = time.ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since_epoch.map_or(0.0, |duration| duration.as_secs_f64() * 1000.0)
}

/// Pairs of a name and its kind, sorted by name.
pub fn read_directory(path: &str) -> Result<Vec<(String, &'static str)>> {
    let listed = fs::read_dir(path).and_then(|entries| {
        let named = entries.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), kind(entry.file_type()?)))
        });
        named.collect::<io::Result<Vec<_>>>()
    });
    let mut entries = listed.map_err(Failure::of("scandir", path))?;
    entries.sort();
    Ok(entries)
}

/// Its parent must be there.
pub fn make_directory(path: &str) -> Result<()> {
    fs::create_dir(path).map_err(Failure::of("mkdir", path))
}

/// Or a link.
pub fn remove_file(path: &str) -> Result<()> {
    fs::remove_file(path).map_err(Failure::of("unlink", path))
}

/// It must be empty.
pub fn remove_directory(path: &str) -> Result<()> {
    fs::remove_dir(path).map_err(Failure::of("rmdir", path))
}

/// What was there is replaced.
pub fn rename(from: &str, to: &str) -> Result<()> {
    fs::rename(from, to).map_err(Failure::of("rename", from))
}

/// Copies bytes by hand: `fs::copy` also sets permissions, which WASI has none of.
pub fn copy(from: &str, to: &str, exclusive: bool) -> Result<()> {
    let copied = File::open(from).and_then(|mut source| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).create_new(exclusive).truncate(!exclusive);
        io::copy(&mut source, &mut options.open(to)?)
    });
    copied.map(drop).map_err(Failure::of("copyfile", from))
}

/// By WASI's numbers, some of which `ErrorKind` does not tell apart.
fn explain(error: &io::Error) -> (&'static str, &'static str) {
    match error.raw_os_error() {
        Some(2 | 63) => ("EACCES", "permission denied"),
        Some(19) => ("EDQUOT", "disk quota exceeded"),
        Some(20) => ("EEXIST", "file already exists"),
        Some(22) => ("EFBIG", "file too large"),
        Some(28) => ("EINVAL", "invalid argument"),
        Some(31) => ("EISDIR", "illegal operation on a directory"),
        Some(32) => ("ELOOP", "too many symbolic links encountered"),
        Some(33) => ("EMFILE", "too many open files"),
        Some(37) => ("ENAMETOOLONG", "name too long"),
        Some(44) => ("ENOENT", "no such file or directory"),
        Some(51) => ("ENOSPC", "no space left on device"),
        Some(54) => ("ENOTDIR", "not a directory"),
        Some(55) => ("ENOTEMPTY", "directory not empty"),
        Some(69) => ("EROFS", "read-only file system"),
        Some(75) => ("EXDEV", "cross-device link not permitted"),
        // No number, or 76: outside of the directories that the host opened.
        None | Some(76) => ("EACCES", "permission denied"),
        Some(_) => ("EIO", "i/o error"),
    }
}
