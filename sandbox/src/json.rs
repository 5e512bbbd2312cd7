//! Whether bytes are JSON that `serde_json` reads, without building anything from them.
//!
//! Guests write JSON. One pass without recursion tells whether it parses and how deep it is, in time and memory that
//! do not depend on what it says; a tree of it would take up to thirty times its length.

/// The deepest nesting of arrays and objects.
const DEPTH_MAX: usize = 64;

/// Whether `bytes` is one JSON value, of a depth that everybody reads.
pub(crate) fn is_acceptable(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && Scanner { bytes, at: 0 }.document().is_some()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Each step returns `None` when the text is not JSON.
impl Scanner<'_> {
    fn document(mut self) -> Option<()> {
        // The closing brackets that are still to come.
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.next()? {
                bracket @ (b'{' | b'[') => {
                    if open.len() == DEPTH_MAX {
                        return None;
                    }
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    self.space();
                    if self.peek() != Some(close) {
                        open.push(close);
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b'"' => self.string()?,
                b't' => self.literal(b"rue")?,
                b'f' => self.literal(b"alse")?,
                b'n' => self.literal(b"ull")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return None,
            }
            if !self.after_value(&mut open)? {
                return Some(());
            }
        }
    }

    /// After a value: `true` when another must follow.
    fn after_value(&mut self, open: &mut Vec<u8>) -> Option<bool> {
        loop {
            self.space();
            match (self.peek(), open.last()) {
                (None, None) => return Some(false),
                (Some(b','), Some(close)) => {
                    self.at += 1;
                    if *close == b'}' {
                        self.key()?;
                    }
                    return Some(true);
                }
                (Some(byte), Some(close)) if byte == *close => {
                    self.at += 1;
                    open.pop();
                }
                _ => return None,
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.space();
        (self.next()? == b'"').then_some(())?;
        self.string()?;
        self.space();
        (self.next()? == b':').then_some(())
    }

    /// The rest of a string.
    fn string(&mut self) -> Option<()> {
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => self.escaped_unit()?,
                    _ => return None,
                },
                0..=0x1f => return None,
                _ => {}
            }
        }
    }

    /// `\u` was read. Surrogates must come in pairs: half of one is no character.
    fn escaped_unit(&mut self) -> Option<()> {
        match self.hex4()? {
            0xdc00..=0xdfff => None,
            0xd800..=0xdbff => {
                (self.next()? == b'\\' && self.next()? == b'u').then_some(())?;
                matches!(self.hex4()?, 0xdc00..=0xdfff).then_some(())
            }
            _ => Some(()),
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |value, _| Some(value << 4 | char::from(self.next()?).to_digit(16)?))
    }

    /// The first character of a number was read.
    fn number(&mut self) -> Option<()> {
        let start = self.at - 1;
        let first = if self.bytes[start] == b'-' { self.next()? } else { self.bytes[start] };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        // What is beyond the range of a double does not parse either.
        let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        text.parse::<f64>().ok()?.is_finite().then_some(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Option<()> {
        let start = self.at;
        self.digits();
        (self.at > start).then_some(())
    }

    fn literal(&mut self, rest: &[u8]) -> Option<()> {
        let end = self.at + rest.len();
        (self.bytes.get(self.at..end)? == rest).then_some(())?;
        self.at = end;
        Some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parses(bytes: &[u8]) -> bool {
        serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn agrees_with_the_parser(text in r#"([\[\]{},:"]|true|null|-?[01]{0,2}(\.5)?(e[+-]?[0-9]{1,3})?|\\u[dD][89abcC][0-9]{2}|\\[nu"x]|"a"|"k":| |\n){0,12}"#) {
            prop_assert_eq!(is_acceptable(text.as_bytes()), parses(text.as_bytes()), "{}", text);
        }

        #[test]
        fn never_panics_and_never_takes_what_does_not_parse(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(!is_acceptable(&bytes) || parses(&bytes));
        }
    }

    #[test]
    fn what_hostile_guests_send() {
        let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(is_acceptable(&deep(64)));
        assert!(!is_acceptable(&deep(65)));
        assert!(!is_acceptable(&vec![b'['; 2_000_000]));
        assert!(!is_acceptable(b"{\"a\":".repeat(500_000).as_slice()));
        for text in [
            "",
            " ",
            "1e999",
            "[1,]",
            "{\"a\"}",
            "\"\\ud800\"",
            "\"\\udc00\\ud800\"",
            "01",
            "nul",
            "1 2",
            "\"\n\"",
        ] {
            assert!(!is_acceptable(text.as_bytes()), "{text}");
        }
        for text in [
            "1",
            " [1, 2.5e3, {\"a\": [], \"b\": {}}] ",
            "\"\\ud83d\\ude00\"",
            "-0",
            "123456789012345678901234567890",
        ] {
            assert!(is_acceptable(text.as_bytes()) && parses(text.as_bytes()), "{text}");
        }
    }
}
