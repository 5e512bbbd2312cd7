//! Strings and bytes between JavaScript and Rust.

use rquickjs::prelude::{Func, Opt};
use rquickjs::{Ctx, Exception, FromJs, IntoJs, Object, Result, String as JsString, TypedArray, Value};

/// A string of JavaScript. The prelude hands over well-formed ones only (`toWellFormed`).
pub struct Text(pub String);

impl<'js> FromJs<'js> for Text {
    fn from_js(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Self> {
        Ok(Self(JsString::from_js(ctx, value)?.to_string()?))
    }
}

impl<'js> IntoJs<'js> for Text {
    fn into_js(self, ctx: &Ctx<'js>) -> Result<Value<'js>> {
        self.0.into_js(ctx)
    }
}

/// Bytes of a typed array, copied: the array may change or be detached while they are used.
pub struct Bytes(pub Vec<u8>);

impl<'js> FromJs<'js> for Bytes {
    fn from_js(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Self> {
        let array = TypedArray::<u8>::from_js(ctx, value)?;
        // SAFETY: nothing of JavaScript runs between the borrow and the copy.
        let bytes = unsafe { array.as_bytes() };
        match bytes {
            Some(bytes) => Ok(Self(bytes.to_vec())),
            None => Err(Exception::throw_type(ctx, "the buffer is detached")),
        }
    }
}

pub fn add(host: &Object<'_>) -> Result<()> {
    host.set("utf8Encode", Func::from(utf8_encode))?;
    host.set("utf8Decode", Func::from(utf8_decode))
}

fn utf8_encode<'js>(ctx: Ctx<'js>, text: Text) -> Result<TypedArray<'js, u8>> {
    TypedArray::new(ctx, text.0.into_bytes())
}

/// With `fatal`, bytes that are not UTF-8 are an error; else they become U+FFFD.
fn utf8_decode(ctx: Ctx<'_>, bytes: Bytes, fatal: Opt<bool>) -> Result<Text> {
    match String::from_utf8(bytes.0) {
        Ok(text) => Ok(Text(text)),
        Err(_) if fatal.0 == Some(true) => {
            Err(Exception::throw_type(&ctx, "The encoded data was not valid for encoding utf-8"))
        }
        Err(error) => Ok(Text(String::from_utf8_lossy(error.as_bytes()).into_owned())),
    }
}
