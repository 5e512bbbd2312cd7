//! What tools answer, in the protocol's form: the same JSON as structured content and as text, then what is not text.

use crate::http::error::{Code, Problem};
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The longest text of an answer, in bytes: what a model can make use of.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The longest account of what is wrong with arguments, in characters.
const MISTAKE_CHARS_MAX: usize = 400;

/// What a tool did.
#[derive(Debug)]
pub(super) struct Done {
    /// By the tool's output schema.
    pub(super) structured: Value,
    /// Images, files and links.
    pub(super) blocks: Vec<ContentBlock>,
    /// The model should do something about it, though the call itself was in order.
    pub(super) failed: bool,
    /// The id of what it is about; for the audit log.
    pub(super) subject: String,
}

impl Done {
    /// Something that needs no more than its JSON.
    pub(super) fn new(subject: String, structured: &impl Serialize) -> Result<Self, Problem> {
        let structured = serde_json::to_value(structured).map_err(|error| {
            tracing::error!(%error, "an answer could not be written");
            Problem::new(Code::Internal, "internal error")
        })?;
        Ok(Self { structured, blocks: Vec::new(), failed: false, subject })
    }

    pub(super) fn into_result(self) -> CallToolResult {
        let mut content = vec![ContentBlock::text(self.structured.to_string())];
        content.extend(self.blocks);
        let mut result =
            if self.failed { CallToolResult::error(content) } else { CallToolResult::success(content) };
        result.structured_content = Some(self.structured);
        result
    }
}

/// Told to the model, which can do something about it: code and cause.
pub(super) fn refused(problem: &Problem) -> CallToolResult {
    let text = format!("{}: {}", problem.code, problem.detail);
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// A tool's arguments.
pub(super) fn arguments<T: DeserializeOwned>(object: JsonObject) -> Result<T, Problem> {
    serde_json::from_value(Value::Object(object)).map_err(|error| {
        // It repeats what was sent.
        let told: String = error.to_string().chars().take(MISTAKE_CHARS_MAX).collect();
        invalid(format!("arguments: {told}"))
    })
}

/// Something in the arguments cannot be granted.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// A text of bounded length: where it is longer, its middle gives way to a line that says so. What programs write first
/// and last tells most. `true`: something was left out.
pub(super) fn bounded(text: &str, bytes_max: usize) -> (String, bool) {
    if text.len() <= bytes_max {
        return (text.to_owned(), false);
    }
    let head = text.floor_char_boundary(bytes_max / 2);
    let tail = text.ceil_char_boundary(text.len() - bytes_max / 2);
    let (first, last) = (&text[..head], &text[tail..]);
    (format!("{first}\n[… {} bytes left out …]\n{last}", tail - head), true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_texts_keep_both_ends() {
        assert_eq!(bounded("short", 5), ("short".to_owned(), false));
        let (text, cut) = bounded("0123456789", 4);
        assert_eq!((text.as_str(), cut), ("01\n[… 6 bytes left out …]\n89", true));
    }

    proptest! {
        #[test]
        fn no_text_is_cut_within_a_character(text: String, most in 0usize..64) {
            let (kept, cut) = bounded(&text, most);
            prop_assert_eq!(cut, text.len() > most);
            prop_assert!(kept.len() <= most + 64);
        }
    }
}
