//! Strings and bytes between JavaScript and Rust.

use boa_engine::object::builtins::JsUint8Array;
use boa_engine::{Context, JsArgs, JsResult, JsString, JsValue};

use crate::kernel::object;

/// A string. The prelude hands over well-formed ones only (`toWellFormed`).
pub fn text(arguments: &[JsValue], index: usize, context: &mut Context) -> JsResult<String> {
    Ok(arguments.get_or_undefined(index).to_string(context)?.to_std_string_lossy())
}

/// A string, or nothing.
pub fn optional_text(arguments: &[JsValue], index: usize, context: &mut Context) -> JsResult<Option<String>> {
    if arguments.get_or_undefined(index).is_undefined() {
        return Ok(None);
    }
    text(arguments, index, context).map(Some)
}

/// Bytes of a typed array, copied: the array may change or be detached while they are used.
pub fn bytes(arguments: &[JsValue], index: usize, context: &mut Context) -> JsResult<Vec<u8>> {
    JsUint8Array::from_object(object(arguments.get_or_undefined(index))?)?.to_vec(context)
}

/// A string for JavaScript, or undefined.
pub fn text_or_undefined(text: Option<String>) -> JsValue {
    text.map_or_else(JsValue::undefined, |text| JsString::from(text).into())
}
