//! What the prelude can ask of Rust and WASI: one flat object of functions, never visible to programs.

mod arguments;
mod files;
mod urls;
mod values;

use anchorhold_javascript_shared::abi::{self, Kind};
use anchorhold_javascript_shared::{clock, output, random, stop};
use boa_engine::error::RuntimeLimitError;
use boa_engine::native_function::NativeFunctionPointer;
use boa_engine::object::JsObject;
use boa_engine::object::builtins::JsUint8Array;
use boa_engine::vm::interrupt;
use boa_engine::{Context, JsArgs, JsNativeError, JsResult, JsString, JsValue, NativeFunction};

use crate::kernel::{self, key};
use arguments::{bytes, text};

const FUNCTIONS: [(&str, NativeFunctionPointer); 9] = [
    ("writeStdout", write_stdout),
    ("writeStderr", write_stderr),
    ("emitResult", emit_result),
    ("exit", exit),
    ("compileFunction", compile_function),
    ("monotonicMs", monotonic_ms),
    ("random", random_number),
    ("randomBytes", random_bytes),
    ("utf8Encode", utf8_encode),
];

/// The object that every prelude module gets as `host`.
pub fn object(context: &mut Context) -> JsResult<JsObject> {
    let host = JsObject::with_object_proto(context.intrinsics());
    add(&host, &FUNCTIONS, context)?;
    add(&host, &[("utf8Decode", utf8_decode)], context)?;
    add(&host, &files::FUNCTIONS, context)?;
    add(&host, &urls::FUNCTIONS, context)?;
    add(&host, &values::FUNCTIONS, context)?;
    let engine = engine(context)?;
    host.set(key("engine"), engine, true, context)?;
    Ok(host)
}

fn add(host: &JsObject, functions: &[(&str, NativeFunctionPointer)], context: &mut Context) -> JsResult<()> {
    for (name, function) in functions {
        let function = NativeFunction::from_fn_ptr(*function).to_js_function(context.realm());
        host.set(key(name), function, true, context)?;
    }
    Ok(())
}

/// What `process` says of the engine.
fn engine(context: &mut Context) -> JsResult<JsObject> {
    let versions = JsObject::with_object_proto(context.intrinsics());
    versions.set(key("boa"), JsString::from("0.22.0"), true, context)?;
    let engine = JsObject::with_object_proto(context.intrinsics());
    engine.set(key("name"), JsString::from("boa"), true, context)?;
    engine.set(key("versions"), versions, true, context)?;
    Ok(engine)
}

fn write_stdout(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    output::write_stdout(&text(arguments, 0, context)?);
    Ok(JsValue::undefined())
}

fn write_stderr(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    output::write_stderr(&text(arguments, 0, context)?);
    Ok(JsValue::undefined())
}

fn emit_result(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    abi::emit(Kind::Result, &text(arguments, 0, context)?);
    Ok(JsValue::undefined())
}

/// Unwinds the program with an error that no `catch` sees.
fn exit(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    stop::request_exit(arguments.get_or_undefined(0).to_i32(context)?);
    interrupt::request();
    Err(RuntimeLimitError::Interrupted.into())
}

/// Evaluates a function expression under the name of the file that it comes from.
fn compile_function(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    kernel::evaluate(&text(arguments, 0, context)?, &text(arguments, 1, context)?, context)
}

fn monotonic_ms(_: &JsValue, _: &[JsValue], _: &mut Context) -> JsResult<JsValue> {
    Ok(clock::monotonic_ms().into())
}

fn random_number(_: &JsValue, _: &[JsValue], _: &mut Context) -> JsResult<JsValue> {
    Ok(random::number().into())
}

fn random_bytes(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let count = arguments.get_or_undefined(0).to_u32(context)?;
    array_of(random::bytes(count as usize), context)
}

fn utf8_encode(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let bytes = text(arguments, 0, context)?.into_bytes();
    array_of(bytes, context)
}

/// With `fatal`, bytes that are not UTF-8 are an error; else they become U+FFFD.
fn utf8_decode(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let text = match String::from_utf8(bytes(arguments, 0, context)?) {
        Ok(text) => text,
        Err(_) if arguments.get_or_undefined(1).to_boolean() => {
            let why = "The encoded data was not valid for encoding utf-8";
            return Err(JsNativeError::typ().with_message(why).into());
        }
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    Ok(JsString::from(text).into())
}

fn array_of(bytes: Vec<u8>, context: &mut Context) -> JsResult<JsValue> {
    Ok(JsUint8Array::from_iter(bytes, context)?.into())
}
