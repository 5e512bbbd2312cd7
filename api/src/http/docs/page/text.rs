//! The little of Markdown that descriptions use: paragraphs, `##` headings, lists, fenced blocks, code in backticks.

use maud::{Markup, html};

/// Paragraphs, headings, lists and fenced blocks.
pub(super) fn block(text: &str) -> Markup {
    html! { @for part in text.split("\n\n").filter(|part| !part.trim().is_empty()) { (paragraph(part.trim())) } }
}

fn paragraph(part: &str) -> Markup {
    if let Some(title) = part.strip_prefix("## ") {
        return html! { h2 { (title) } };
    }
    if let Some(code) = part.strip_prefix("```\n").and_then(|rest| rest.strip_suffix("\n```")) {
        return html! { pre { code { (code) } } };
    }
    if let Some(items) = part.strip_prefix("- ") {
        return html! { ul { @for item in items.split("\n- ") { li { (line(item)) } } } };
    }
    html! { p { (line(part)) } }
}

/// A text with code in backticks.
pub(super) fn line(text: &str) -> Markup {
    html! {
        @for (at, piece) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_descriptions_use_becomes_html() {
        for (text, html) in [
            ("a `b` c", "<p>a <code>b</code> c</p>"),
            ("## A\n\nb", "<h2>A</h2><p>b</p>"),
            ("a:\n\n- `b`: c\n- d", "<p>a:</p><ul><li><code>b</code>: c</li><li>d</li></ul>"),
            ("```\na=$(b)\n```", "<pre><code>a=$(b)</code></pre>"),
            ("<script>", "<p>&lt;script&gt;</p>"),
            ("", ""),
        ] {
            assert_eq!(block(text).into_string(), html, "{text}");
        }
    }
}
