//! How answers are shown.

use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Lines of columns.
#[derive(Debug)]
pub(super) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { lines: vec![head.iter().map(|title| (*title).to_owned()).collect()] }
    }

    pub(super) fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().map(|cell| inert(&cell)).collect());
    }

    fn text(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            self.lines
                .iter()
                .filter_map(|line| line.get(at))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let _infallible = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        text
    }
}

/// As JSON, or as the table.
pub(super) fn show(json: bool, value: &Value, table: impl FnOnce() -> Table) -> anyhow::Result<()> {
    if json { print(&format!("{value:#}\n")) } else { print(&table().text()) }
}

/// To standard output, which may be closed by whoever has read enough.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Text that does nothing to a terminal: what is not to be seen is written as its code.
pub(super) fn inert(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Of what is not ASCII, `escape_debug` knows what has a shape: not marks that turn the line around.
        if c.is_ascii_control() || (!c.is_ascii() && c.escape_debug().len() > 1) {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A field as text; what is missing is a dash.
pub(super) fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Pico-dollars as dollars, exactly.
pub(super) fn dollars(picos: &str) -> String {
    let Ok(picos) = picos.parse::<i128>() else { return "-".to_owned() };
    let sign = if picos < 0 { "-" } else { "" };
    let (whole, part) = (picos.unsigned_abs() / 1_000_000_000_000, picos.unsigned_abs() % 1_000_000_000_000);
    let part = format!("{part:012}");
    let part = part.trim_end_matches('0');
    format!("{sign}${whole}.{part:0<2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_reaches_the_terminal() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.line(["ä\u{1b}[2J".to_owned(), "active".to_owned()]);
        table.line(["a\u{202e}b\n".to_owned(), "x".to_owned()]);
        let text = table.text();
        assert_eq!(text, "NAME          STATE\nä\\u{1b}[2J    active\na\\u{202e}b\\n  x\n");
    }

    #[test]
    fn money_is_exact() {
        for (picos, text) in [
            ("0", "$0.00"),
            ("1", "$0.000000000001"),
            ("1500000000000", "$1.50"),
            ("-89500000000", "-$0.0895"),
            ("170141183460469231731687303715884105727", "$170141183460469231731687303.715884105727"),
        ] {
            assert_eq!(dollars(picos), text);
        }
    }
}
