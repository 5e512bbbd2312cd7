//! Files for `fs.js`.

use anchorhold_javascript_shared::files::{self, Failure};
use boa_engine::native_function::NativeFunctionPointer;
use boa_engine::object::builtins::JsArray;
use boa_engine::{Context, JsArgs, JsError, JsNativeError, JsResult, JsString, JsValue};

use super::arguments::{bytes, text, text_or_undefined};
use super::array_of;
use crate::kernel::key;

pub const FUNCTIONS: [(&str, NativeFunctionPointer); 12] = [
    ("readFile", read_file),
    ("readStdin", read_stdin),
    ("readStdinLine", read_stdin_line),
    ("writeFile", write_file),
    ("truncate", truncate),
    ("stat", stat),
    ("readDirectory", read_directory),
    ("makeDirectory", make_directory),
    ("removeFile", remove_file),
    ("removeDirectory", remove_directory),
    ("rename", rename),
    ("copyFile", copy_file),
];

type Arguments<'a> = &'a [JsValue];

fn read_file(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    let read = files::read(&text(arguments, 0, context)?);
    array_of(thrown(read, context)?, context)
}

fn read_stdin(_: &JsValue, _: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    array_of(thrown(files::read_stdin(), context)?, context)
}

fn read_stdin_line(_: &JsValue, _: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    Ok(text_or_undefined(thrown(files::read_stdin_line(), context)?))
}

fn write_file(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    let (path, bytes, mode) =
        (text(arguments, 0, context)?, bytes(arguments, 1, context)?, text(arguments, 2, context)?);
    done(files::write(&path, &bytes, &mode), context)
}

fn truncate(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    let len = arguments.get_or_undefined(1).to_number(context)?;
    done(files::truncate(&text(arguments, 0, context)?, len), context)
}

/// `[kind, bytes, modified in ms, accessed in ms]`.
fn stat(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    let follow = arguments.get_or_undefined(1).to_boolean();
    let stat = files::stat(&text(arguments, 0, context)?, follow);
    let stat = thrown(stat, context)?;
    let numbers = [stat.bytes as f64, stat.modified_ms, stat.accessed_ms].map(JsValue::from);
    let kind = JsValue::from(JsString::from(stat.kind));
    Ok(JsArray::from_iter([kind].into_iter().chain(numbers), context).into())
}

/// Pairs of a name and its kind, sorted by name.
fn read_directory(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    let entries = files::read_directory(&text(arguments, 0, context)?);
    let array = JsArray::new(context)?;
    for (name, kind) in thrown(entries, context)? {
        let pair = [JsString::from(name), JsString::from(kind)].map(JsValue::from);
        array.push(JsArray::from_iter(pair, context), context)?;
    }
    Ok(array.into())
}

fn make_directory(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    done(files::make_directory(&text(arguments, 0, context)?), context)
}

fn remove_file(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    done(files::remove_file(&text(arguments, 0, context)?), context)
}

fn remove_directory(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    done(files::remove_directory(&text(arguments, 0, context)?), context)
}

fn rename(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    done(files::rename(&text(arguments, 0, context)?, &text(arguments, 1, context)?), context)
}

fn copy_file(_: &JsValue, arguments: Arguments<'_>, context: &mut Context) -> JsResult<JsValue> {
    let exclusive = arguments.get_or_undefined(2).to_boolean();
    done(files::copy(&text(arguments, 0, context)?, &text(arguments, 1, context)?, exclusive), context)
}

fn done(result: Result<(), Failure>, context: &mut Context) -> JsResult<JsValue> {
    thrown(result, context).map(|()| JsValue::undefined())
}

/// Throws an error like Node's, with `code`, `syscall`, `path`.
fn thrown<T>(result: Result<T, Failure>, context: &mut Context) -> JsResult<T> {
    result.map_err(|failure| {
        error(&failure, context).map_or_else(|error| error, |error| JsError::from_opaque(error))
    })
}

fn error(failure: &Failure, context: &mut Context) -> JsResult<JsValue> {
    let error = JsNativeError::error().with_message(failure.message()).into_opaque(context);
    error.set(key("code"), JsString::from(failure.code), true, context)?;
    error.set(key("syscall"), JsString::from(failure.syscall), true, context)?;
    error.set(key("path"), JsString::from(failure.path.as_str()), true, context)?;
    Ok(error.into())
}
