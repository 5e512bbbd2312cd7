//! Answers with long texts, which are written bit by bit, as their reader takes them.
//!
//! A guest wrote them: sixteen million NULs are a hundred megabytes of JSON. So no more of that than a bit is made at a
//! time, and by a thread that gives way to all others.

use crate::aside;
use crate::aside::LONG_BYTES;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use std::iter::once;

/// How much of a text is made into JSON at a time, in bytes; that is at most six times as long.
const PIECE_BYTES: usize = LONG_BYTES;
/// How much is written at a time.
const BIT_BYTES: usize = 32 << 10;

/// A JSON object of the fields of `rest`, of which there is one at least, and of the texts behind them, by their names.
pub(super) fn ok<const N: usize>(
    rest: &impl Serialize,
    texts: [(&'static str, impl AsRef<str> + Send + 'static); N],
) -> Response {
    super::json_with(StatusCode::OK, rest, |rest| Body::from_stream(aside::bits(bits(rest, texts))))
}

fn bits<const N: usize>(
    mut rest: Vec<u8>,
    texts: [(&'static str, impl AsRef<str>); N],
) -> impl Iterator<Item = Bytes> {
    let brace = rest.pop().into_iter().map(|brace| Bytes::from(vec![brace]));
    let texts = texts.into_iter().flat_map(|(name, text)| {
        let key = Bytes::from(format!(",\"{name}\":\""));
        once(key).chain(escaped(text)).chain(once(Bytes::from_static(b"\"")))
    });
    once(Bytes::from(rest)).chain(texts).chain(brace).flat_map(|part| {
        let starts = (0..part.len()).step_by(BIT_BYTES);
        starts.map(move |start| part.slice(start..part.len().min(start + BIT_BYTES)))
    })
}

/// What is between the quotes.
fn escaped(text: impl AsRef<str>) -> impl Iterator<Item = Bytes> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let text = text.as_ref();
        let end = text.ceil_char_boundary(at + PIECE_BYTES);
        let piece = text.get(at..end).filter(|piece| !piece.is_empty())?;
        at = end;
        // A text can always be written.
        let quoted = Bytes::from(serde_json::to_vec(piece).ok()?);
        Some(quoted.slice(1..quoted.len() - 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    proptest! {
        #[test]
        fn bits_are_the_whole(text in "\\PC{0,40}[\\x00-\\x1f\"\\\\]{0,9}", times in 0usize..3000, short in ".{0,20}") {
            let long = text.repeat(times);
            let rest = serde_json::to_vec(&json!({"id": 1})).unwrap();
            let bits: Vec<Bytes> = bits(rest, [("a", long.clone()), ("b", short.clone())]).collect();
            prop_assert!(bits.iter().all(|bit| bit.len() <= BIT_BYTES));
            let whole: serde_json::Value = serde_json::from_slice(&bits.concat()).unwrap();
            prop_assert_eq!(whole, json!({"id": 1, "a": long, "b": short}));
        }
    }
}
