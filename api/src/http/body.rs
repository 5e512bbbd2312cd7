//! Request bodies and queries: strict, bounded, and every mistake named.
//!
//! `null` stands for an omitted field (but for `stdin`). Unknown fields, repeated fields and wrong types are mistakes.

use super::error::{Code, FieldError, Problem};
use crate::config::micros;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, Uri, header};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The largest body that is read into memory.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bodies that are read at a time: as many times the largest one is what they may take.
static READING: Semaphore = Semaphore::const_new(256);
/// How long a whole body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// The deepest nesting.
const DEPTH_MAX: u8 = 64;
/// The most mistakes that one answer names.
const ERRORS_MAX: usize = 16;
/// The longest part of a client's text that an answer repeats.
const REPEATED_CHARS_MAX: usize = 64;
/// The largest page of a list.
pub(super) const LIMIT_MAX: u32 = 1000;
const LIMIT_DEFAULT: u32 = 100;

/// The JSON object of a request.
#[derive(Debug)]
pub(super) struct Object {
    fields: Map<String, Value>,
    hash: [u8; 32],
}

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let typed = media_type(&parts.headers)?;
        let bytes = whole(body).await?;
        if bytes.is_empty() {
            return Self::parse(b"{}");
        }
        if !typed {
            return Err(Problem::new(Code::UnsupportedMediaType, "the body must be application/json"));
        }
        Self::parse(&bytes)
    }
}

/// A body of bounded size, if it arrives in time.
pub(super) async fn whole(body: Body) -> Result<Bytes, Problem> {
    let read = async {
        // Never closed, so it only waits.
        let _turn = READING.acquire().await;
        axum::body::to_bytes(body, BODY_BYTES_MAX).await
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(unreadable(error)),
        Err(_) => Err(Problem::new(Code::Malformed, "the body did not arrive in time")),
    }
}

impl Object {
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        match parse(bytes)? {
            Value::Object(fields) => {
                // Of what was meant: neither white space nor the order of fields counts.
                let canonical = serde_json::to_vec(&fields).unwrap_or_default();
                Ok(Self { fields, hash: Sha256::digest(&canonical).into() })
            }
            _ => Err(Problem::new(Code::InvalidRequest, "the body must be a JSON object")),
        }
    }

    /// Of the parsed request.
    pub(super) fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Reads all fields; every mistake that `read` meets is in the problem.
    pub(super) fn read<T>(self, read: impl FnOnce(&mut Fields<'_>) -> Option<T>) -> Result<T, Problem> {
        let mut errors = Vec::new();
        let mut fields = Fields { fields: self.fields, prefix: String::new(), errors: &mut errors };
        let value = read(&mut fields);
        fields.finish();
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ if errors.is_empty() => Err(Problem::new(Code::Internal, "the request could not be read")),
            _ => Err(Problem::fields(errors)),
        }
    }
}

/// Whether there is a media type; only JSON in UTF-8, not compressed, is one.
fn media_type(headers: &HeaderMap) -> Result<bool, Problem> {
    let unsupported = |detail| Err(Problem::new(Code::UnsupportedMediaType, detail));
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return unsupported("compressed bodies are not taken");
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let mut parts = value.to_str().unwrap_or_default().split(';').map(str::trim);
    if !parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return unsupported("the body must be application/json");
    }
    for parameter in parts {
        let utf8 = parameter.split_once('=').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        });
        if !utf8 {
            return unsupported("the body must be in UTF-8");
        }
    }
    Ok(true)
}

/// The body ended badly: too long, or the connection broke.
fn unreadable(error: axum::Error) -> Problem {
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        // The only sign of the length limit that axum gives.
        if error.to_string().contains("length limit") {
            let detail = format!("a JSON body has at most {BODY_BYTES_MAX} bytes");
            return Problem::new(Code::PayloadTooLarge, detail);
        }
        source = error.source();
    }
    Problem::new(Code::Malformed, "the body could not be read")
}

fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut deserializer);
    value
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| Problem::new(Code::Malformed, format!("not JSON that is taken: {error}")))
}

/// JSON of bounded depth without repeated names.
#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(inside)?;
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name `{}` is repeated", repeated(&name))));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

/// A client's text as far as an answer repeats it.
fn repeated(text: &str) -> String {
    text.chars().take(REPEATED_CHARS_MAX).collect()
}

/// Fields of an object, taken one by one. What is missing or `null` is `None`, and so is what is wrong; that is noted.
pub(super) struct Fields<'e> {
    fields: Map<String, Value>,
    prefix: String,
    errors: &'e mut Vec<FieldError>,
}

impl Fields<'_> {
    /// Notes a mistake.
    pub(super) fn wrong(&mut self, name: &str, detail: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let field = format!("{}{}", self.prefix, repeated(name));
            self.errors.push(FieldError { field, detail: detail.into() });
        }
    }

    /// Whether it is there and `null`.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Value::is_null)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// A text of at most so many bytes, without NUL.
    pub(super) fn text(&mut self, name: &str, bytes_max: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if text.len() > bytes_max => {
                self.wrong(name, format!("must have at most {bytes_max} bytes"));
                None
            }
            Value::String(text) if text.contains('\0') => {
                self.wrong(name, "must not contain NUL");
                None
            }
            Value::String(text) => Some(text),
            other => self.not(name, "a string", &other),
        }
    }

    /// Any text; it is no longer than the body.
    pub(super) fn any_text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => self.not(name, "a string", &other),
        }
    }

    /// Notes that a field is needed, unless it was there and wrong.
    pub(super) fn missing(&mut self, name: &str) {
        let field = format!("{}{name}", self.prefix);
        if !self.errors.iter().any(|error| error.field == field) {
            self.wrong(name, "is needed");
        }
    }

    /// One of fixed names.
    pub(super) fn word<T: FromStr + fmt::Display>(&mut self, name: &str, all: &[T]) -> Option<T> {
        let text = self.text(name, 64)?;
        let word = text.parse().ok();
        if word.is_none() {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            self.wrong(name, format!("must be one of: {}", names.join(", ")));
        }
        word
    }

    /// Parsed from a text.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
        bytes_max: usize,
    ) -> Option<T> {
        match self.text(name, bytes_max)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(name, error.to_string());
                None
            }
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(flag) => Some(flag),
            other => self.not(name, "true or false", &other),
        }
    }

    /// A span of time, as microseconds.
    pub(super) fn seconds(&mut self, name: &str) -> Option<u64> {
        let seconds = self.number(name)?;
        let span = micros(seconds).filter(|_| seconds >= 0.001);
        if span.is_none() {
            self.wrong(name, "must be a number of seconds from 0.001 to a year");
        }
        span
    }

    /// A number.
    pub(super) fn number(&mut self, name: &str) -> Option<f64> {
        match self.take(name)? {
            Value::Number(number) => number.as_f64(),
            other => self.not(name, "a number", &other),
        }
    }

    /// A whole number that is not negative; a negative one becomes 0, which every limit refuses.
    pub(super) fn count(&mut self, name: &str) -> Option<u64> {
        match self.take(name)? {
            Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.as_u64().unwrap_or(0)),
            other => self.not(name, "a whole number", &other),
        }
    }

    /// Texts by name.
    pub(super) fn texts(
        &mut self,
        name: &str,
        count_max: usize,
        mut check: impl FnMut(&str, &str) -> Result<(), &'static str>,
    ) -> Option<BTreeMap<String, String>> {
        let entries = match self.take(name)? {
            Value::Object(entries) => entries,
            other => return self.not(name, "an object of strings", &other),
        };
        if entries.len() > count_max {
            self.wrong(name, format!("must have at most {count_max} entries"));
            return None;
        }
        let mut texts = BTreeMap::new();
        for (key, value) in entries {
            let Value::String(text) = value else {
                self.wrong(&format!("{name}.{}", repeated(&key)), "must be a string");
                continue;
            };
            match check(&key, &text) {
                Ok(()) => drop(texts.insert(key, text)),
                Err(why) => self.wrong(&format!("{name}.{}", repeated(&key)), why),
            }
        }
        Some(texts)
    }

    /// A list, item by item.
    pub(super) fn list(&mut self, name: &str, count_max: usize) -> Option<Vec<Value>> {
        match self.take(name)? {
            Value::Array(items) if items.len() > count_max => {
                self.wrong(name, format!("must have at most {count_max} items"));
                None
            }
            Value::Array(items) => Some(items),
            other => self.not(name, "a list", &other),
        }
    }

    /// An object within this one. Its fields are read, and the rest of them noted, by `read`.
    pub(super) fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Fields<'_>) -> T) -> Option<T> {
        let value = self.take(name)?;
        self.within(name, value, read)
    }

    /// As [`Fields::object`], of a value that was taken already.
    pub(super) fn within<T>(
        &mut self,
        name: &str,
        value: Value,
        read: impl FnOnce(&mut Fields<'_>) -> T,
    ) -> Option<T> {
        match value {
            Value::Object(fields) => {
                let prefix = format!("{}{name}.", self.prefix);
                let mut inner = Fields { fields, prefix, errors: self.errors };
                let value = read(&mut inner);
                inner.finish();
                Some(value)
            }
            other => self.not(name, "an object", &other),
        }
    }

    /// Whether a field is there; it is taken.
    pub(super) fn has(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }

    fn not<T>(&mut self, name: &str, what: &str, value: &Value) -> Option<T> {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number of another kind",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.wrong(name, format!("must be {what}, not {found}"));
        None
    }

    fn finish(&mut self) {
        for name in std::mem::take(&mut self.fields).keys() {
            self.wrong(name, "unknown field");
        }
    }
}

/// The query of a request, taken name by name.
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl Query {
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut query = Self { pairs: Vec::new(), errors: Vec::new() };
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| percent_decode(&text.replace('+', " "));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(Problem::new(Code::Malformed, "the query is not percent-encoded UTF-8"));
            };
            if query.pairs.iter().any(|(known, _)| *known == name) {
                query.wrong(&name, "is repeated");
            }
            query.pairs.push((name, value));
        }
        Ok(query)
    }

    pub(crate) fn wrong(&mut self, name: &str, detail: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError { field: repeated(name), detail: detail.into() });
        }
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// Names that begin with this, without it.
    pub(super) fn with_prefix(&mut self, prefix: &str) -> Vec<(String, String)> {
        let (found, rest): (Vec<_>, _) =
            std::mem::take(&mut self.pairs).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.pairs = rest;
        found.into_iter().map(|(name, value)| (name[prefix.len()..].to_owned(), value)).collect()
    }

    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.wrong(name, format!("must be {expected}"));
        }
        value
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.parsed(name, "true or false").unwrap_or(false)
    }

    /// How many items at most.
    pub(super) fn limit(&mut self) -> u32 {
        match self.parsed("limit", "a whole number") {
            Some(limit @ 1..=LIMIT_MAX) => limit,
            None => LIMIT_DEFAULT,
            Some(_) => {
                self.wrong("limit", format!("must be from 1 to {LIMIT_MAX}"));
                LIMIT_DEFAULT
            }
        }
    }

    /// Where the page begins, as an earlier answer said.
    pub(super) fn cursor(&mut self) -> Option<i64> {
        self.parsed("cursor", "the next_cursor of an earlier answer")
    }

    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.wrong(&name, "unknown parameter");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}

/// Strictly: every `%` is followed by two hexadecimal digits, and the result is UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit =
            |at: usize| char::from(digits[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(0)? << 4 | digit(1)?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
    }

    fn code(text: &str) -> Code {
        Object::parse(text.as_bytes()).unwrap_err().code
    }

    #[test]
    fn only_json_objects_of_bounded_depth_without_repeated_names() {
        assert!(Object::parse(nested(64).as_bytes()).is_ok());
        assert_eq!(code(&nested(65)), Code::Malformed);
        assert_eq!(code(&nested(100_000)), Code::Malformed);
        for text in [
            "{",
            "{\"a\":1,\"a\":2}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{} x",
            "{\"a\":{\"b\":1,\"b\":1}}",
            "\u{feff}{}",
        ] {
            assert_eq!(code(text), Code::Malformed, "{text}");
        }
        for text in ["[]", "1", "null", "\"x\""] {
            assert_eq!(code(text), Code::InvalidRequest, "{text}");
        }
    }

    #[test]
    fn the_hash_is_of_what_was_meant() {
        let hash = |text: &str| Object::parse(text.as_bytes()).unwrap().hash();
        assert_eq!(hash("{\"a\":1,\"b\":[2]}"), hash(" { \"b\" : [ 2 ] , \"a\":1}"));
        assert_ne!(hash("{\"a\":1}"), hash("{\"a\":2}"));
    }

    #[test]
    fn every_mistake_is_named() {
        let text = r#"{"t":"5","n":null,"f":1,"limits":{"x":1,"m":"big"},"env":{"A":1},"more":true}"#;
        let problem = Object::parse(text.as_bytes())
            .unwrap()
            .read(|fields| {
                assert_eq!(fields.seconds("t"), None);
                assert_eq!(fields.text("n", 10), None);
                assert_eq!(fields.flag("f"), None);
                fields.object("limits", |limits| limits.count("m"));
                fields.texts("env", 10, |_, _| Ok(()));
                Some(())
            })
            .unwrap_err();
        let response = format!("{problem:?}");
        for field in ["\"t\"", "\"f\"", "\"limits.x\"", "\"limits.m\"", "\"env.A\"", "\"more\""] {
            assert!(response.contains(field), "{field} in {response}");
        }
        assert!(!response.contains("\"n\""));
    }

    #[test]
    fn spans_of_time_make_sense_or_are_refused() {
        let seconds = |text: &str| {
            let object = Object::parse(format!("{{\"t\":{text}}}").as_bytes()).unwrap();
            object.read(|fields| Some(fields.seconds("t"))).map_err(|problem| problem.code)
        };
        assert_eq!(seconds("30").unwrap(), Some(30_000_000));
        assert_eq!(seconds("0.5").unwrap(), Some(500_000));
        assert_eq!(seconds("0.001").unwrap(), Some(1000));
        assert_eq!(seconds("null").unwrap(), None);
        for text in
            ["0", "-1", "1e18", "\"5\"", "0.0001", "1e-300", "[]", "{}", "true", "18446744073709551616"]
        {
            assert_eq!(seconds(text), Err(Code::InvalidRequest), "{text}");
        }
    }

    #[test]
    fn percent_decoding_is_strict() {
        assert_eq!(percent_decode("a%2Fb%20c%C3%A4"), Some("a/b cä".into()));
        assert_eq!(percent_decode("%2e%2E"), Some("..".into()));
        for text in ["%", "%2", "%zz", "%ff", "a%c3", "%+1", "%\u{e4}"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, text: String) {
            let _parsed = Object::parse(&bytes);
            let _parsed = Object::parse(text.as_bytes());
            let _decoded = percent_decode(&text);
        }
    }
}
