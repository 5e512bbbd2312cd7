//! URLs for `url.js`.

use anchorhold_javascript_shared::urls;
use boa_engine::native_function::NativeFunctionPointer;
use boa_engine::object::builtins::JsArray;
use boa_engine::{Context, JsResult, JsString, JsValue};

use super::arguments::{optional_text, text, text_or_undefined};

pub const FUNCTIONS: [(&str, NativeFunctionPointer); 3] =
    [("urlParse", parse), ("urlParts", parts), ("urlSet", set)];

fn parse(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let (input, base) = (text(arguments, 0, context)?, optional_text(arguments, 1, context)?);
    Ok(text_or_undefined(urls::parse(&input, base.as_deref())))
}

fn parts(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let Some(parts) = urls::parts(&text(arguments, 0, context)?) else {
        return Ok(JsValue::undefined());
    };
    let parts = parts.map(|part| JsValue::from(JsString::from(part)));
    Ok(JsArray::from_iter(parts, context).into())
}

fn set(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let (href, part, value) =
        (text(arguments, 0, context)?, text(arguments, 1, context)?, text(arguments, 2, context)?);
    Ok(text_or_undefined(urls::set(href, &part, &value)))
}
