//! Files of the workspace and of `/tmp`, as WASI shows them. Paths arrive absolute (see `fs.js`).

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::time::SystemTime;

use rquickjs::prelude::Func;
use rquickjs::{Array, Ctx, Error, Exception, Object, Result, TypedArray};

use super::Text;
use super::text::Bytes;

pub fn add(host: &Object<'_>) -> Result<()> {
    host.set("readFile", Func::from(read_file))?;
    host.set("readStdin", Func::from(read_stdin))?;
    host.set("readStdinLine", Func::from(read_stdin_line))?;
    host.set("writeFile", Func::from(write_file))?;
    host.set("truncate", Func::from(truncate))?;
    host.set("stat", Func::from(stat))?;
    host.set("readDirectory", Func::from(read_directory))?;
    host.set("makeDirectory", Func::from(make_directory))?;
    host.set("removeFile", Func::from(remove_file))?;
    host.set("removeDirectory", Func::from(remove_directory))?;
    host.set("rename", Func::from(rename))?;
    host.set("copyFile", Func::from(copy_file))
}

fn read_file<'js>(ctx: Ctx<'js>, path: Text) -> Result<TypedArray<'js, u8>> {
    let bytes = fs::read(&path.0).map_err(|error| failure(&ctx, &error, "open", &path))?;
    TypedArray::new(ctx, bytes)
}

fn read_stdin(ctx: Ctx<'_>) -> Result<TypedArray<'_, u8>> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| failure(&ctx, &error, "read", &Text("stdin".into())))?;
    TypedArray::new(ctx, bytes)
}

/// One line without its end; undefined at the end of the input.
fn read_stdin_line(ctx: Ctx<'_>) -> Result<Option<Text>> {
    let mut line = Vec::new();
    let read = io::BufRead::read_until(&mut io::stdin().lock(), b'\n', &mut line)
        .map_err(|error| failure(&ctx, &error, "read", &Text("stdin".into())))?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok((read > 0).then(|| Text(String::from_utf8_lossy(line).into_owned())))
}

/// `mode` is one of Node's flags: `w`, `a`, `wx`, `ax` or `r+`.
fn write_file(ctx: Ctx<'_>, path: Text, bytes: Bytes, mode: Text) -> Result<()> {
    let mut options = OpenOptions::new();
    match mode.0.as_str() {
        "a" => options.append(true).create(true),
        "wx" => options.write(true).create_new(true),
        "ax" => options.append(true).create_new(true),
        "r+" => options.write(true),
        _ => options.write(true).create(true).truncate(true),
    };
    let written = options.open(&path.0).and_then(|mut file| file.write_all(&bytes.0));
    written.map_err(|error| failure(&ctx, &error, "open", &path))
}

fn truncate(ctx: Ctx<'_>, path: Text, len: f64) -> Result<()> {
    let truncated = File::options().write(true).open(&path.0).and_then(|file| file.set_len(len as u64));
    truncated.map_err(|error| failure(&ctx, &error, "ftruncate", &path))
}

/// `[kind, bytes, modified in ms, accessed in ms]`.
fn stat<'js>(ctx: Ctx<'js>, path: Text, follow: bool) -> Result<Array<'js>> {
    let (metadata, call) =
        if follow { (fs::metadata(&path.0), "stat") } else { (fs::symlink_metadata(&path.0), "lstat") };
    let metadata: Metadata = metadata.map_err(|error| failure(&ctx, &error, call, &path))?;
    let array = Array::new(ctx)?;
    array.set(0, kind(metadata.file_type()))?;
    array.set(1, metadata.len() as f64)?;
    array.set(2, milliseconds(metadata.modified()))?;
    array.set(3, milliseconds(metadata.accessed()))?;
    Ok(array)
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
fn read_directory<'js>(ctx: Ctx<'js>, path: Text) -> Result<Array<'js>> {
    let listed = fs::read_dir(&path.0).and_then(|entries| {
        let named = entries.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), kind(entry.file_type()?)))
        });
        named.collect::<io::Result<Vec<_>>>()
    });
    let mut entries = listed.map_err(|error| failure(&ctx, &error, "scandir", &path))?;
    entries.sort();
    let array = Array::new(ctx.clone())?;
    for (index, (name, kind)) in entries.into_iter().enumerate() {
        let pair = Array::new(ctx.clone())?;
        pair.set(0, name)?;
        pair.set(1, kind)?;
        array.set(index, pair)?;
    }
    Ok(array)
}

fn make_directory(ctx: Ctx<'_>, path: Text) -> Result<()> {
    fs::create_dir(&path.0).map_err(|error| failure(&ctx, &error, "mkdir", &path))
}

fn remove_file(ctx: Ctx<'_>, path: Text) -> Result<()> {
    fs::remove_file(&path.0).map_err(|error| failure(&ctx, &error, "unlink", &path))
}

fn remove_directory(ctx: Ctx<'_>, path: Text) -> Result<()> {
    fs::remove_dir(&path.0).map_err(|error| failure(&ctx, &error, "rmdir", &path))
}

fn rename(ctx: Ctx<'_>, from: Text, to: Text) -> Result<()> {
    fs::rename(&from.0, &to.0).map_err(|error| failure(&ctx, &error, "rename", &from))
}

/// Copies bytes by hand: `fs::copy` also sets permissions, which WASI has none of.
fn copy_file(ctx: Ctx<'_>, from: Text, to: Text, exclusive: bool) -> Result<()> {
    let copied = File::open(&from.0).and_then(|mut source| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).create_new(exclusive).truncate(!exclusive);
        io::copy(&mut source, &mut options.open(&to.0)?)
    });
    copied.map(drop).map_err(|error| failure(&ctx, &error, "copyfile", &from))
}

/// Throws an error like Node's: `ENOENT: no such file or directory, open 'x'`, with `code`, `syscall`, `path`.
fn failure(ctx: &Ctx<'_>, error: &io::Error, syscall: &str, path: &Text) -> Error {
    let (code, meaning) = explain(error);
    let message = format!("{code}: {meaning}, {syscall} '{}'", path.0);
    let thrown = Exception::from_message(ctx.clone(), &message).and_then(|exception| {
        let object = exception.into_object();
        object.set("code", code)?;
        object.set("syscall", syscall)?;
        object.set("path", path.0.as_str())?;
        Ok(object)
    });
    match thrown {
        Ok(object) => ctx.throw(object.into_value()),
        Err(error) => error,
    }
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
