//! Files for `fs.js`.

use anchorhold_javascript_shared::files::{self, Failure};
use rquickjs::prelude::Func;
use rquickjs::{Array, Ctx, Exception, Object, Result, TypedArray};

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
    let bytes = thrown(&ctx, files::read(&path.0))?;
    TypedArray::new(ctx, bytes)
}

fn read_stdin(ctx: Ctx<'_>) -> Result<TypedArray<'_, u8>> {
    let bytes = thrown(&ctx, files::read_stdin())?;
    TypedArray::new(ctx, bytes)
}

fn read_stdin_line(ctx: Ctx<'_>) -> Result<Option<Text>> {
    Ok(thrown(&ctx, files::read_stdin_line())?.map(Text))
}

fn write_file(ctx: Ctx<'_>, path: Text, bytes: Bytes, mode: Text) -> Result<()> {
    thrown(&ctx, files::write(&path.0, &bytes.0, &mode.0))
}

fn truncate(ctx: Ctx<'_>, path: Text, len: f64) -> Result<()> {
    thrown(&ctx, files::truncate(&path.0, len))
}

/// `[kind, bytes, modified in ms, accessed in ms]`.
fn stat<'js>(ctx: Ctx<'js>, path: Text, follow: bool) -> Result<Array<'js>> {
    let stat = thrown(&ctx, files::stat(&path.0, follow))?;
    let array = Array::new(ctx)?;
    array.set(0, stat.kind)?;
    array.set(1, stat.bytes as f64)?;
    array.set(2, stat.modified_ms)?;
    array.set(3, stat.accessed_ms)?;
    Ok(array)
}

fn read_directory<'js>(ctx: Ctx<'js>, path: Text) -> Result<Array<'js>> {
    let entries = thrown(&ctx, files::read_directory(&path.0))?;
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
    thrown(&ctx, files::make_directory(&path.0))
}

fn remove_file(ctx: Ctx<'_>, path: Text) -> Result<()> {
    thrown(&ctx, files::remove_file(&path.0))
}

fn remove_directory(ctx: Ctx<'_>, path: Text) -> Result<()> {
    thrown(&ctx, files::remove_directory(&path.0))
}

fn rename(ctx: Ctx<'_>, from: Text, to: Text) -> Result<()> {
    thrown(&ctx, files::rename(&from.0, &to.0))
}

fn copy_file(ctx: Ctx<'_>, from: Text, to: Text, exclusive: bool) -> Result<()> {
    thrown(&ctx, files::copy(&from.0, &to.0, exclusive))
}

/// Throws an error like Node's, with `code`, `syscall`, `path`.
fn thrown<T>(ctx: &Ctx<'_>, result: std::result::Result<T, Failure>) -> Result<T> {
    result.map_err(|failure| {
        let error = Exception::from_message(ctx.clone(), &failure.message()).and_then(|exception| {
            let object = exception.into_object();
            object.set("code", failure.code)?;
            object.set("syscall", failure.syscall)?;
            object.set("path", failure.path.as_str())?;
            Ok(object)
        });
        match error {
            Ok(object) => ctx.throw(object.into_value()),
            Err(error) => error,
        }
    })
}
