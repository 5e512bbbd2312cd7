//! A US keyboard: what `press` and `type` know, and what Chromium wants to be told about it.

use crate::action::Modifier;

/// A key as `Input.dispatchKeyEvent` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    /// `KeyboardEvent.key`.
    pub key: &'a str,
    /// `KeyboardEvent.code`: the place on the keyboard. For letters and digits it is made of the number.
    code: &'static str,
    /// `KeyboardEvent.keyCode`.
    pub number: u8,
    /// What the key writes, if anything.
    pub text: &'a str,
}

impl Key<'_> {
    /// The left one of its pair.
    pub(crate) fn of(modifier: Modifier) -> Key<'static> {
        let (key, code, number) = match modifier {
            Modifier::Alt => ("Alt", "AltLeft", 18),
            Modifier::Control => ("Control", "ControlLeft", 17),
            Modifier::Meta => ("Meta", "MetaLeft", 91),
            Modifier::Shift => ("Shift", "ShiftLeft", 16),
        };
        Key { key, code, number, text: "" }
    }

    /// `KeyboardEvent.code`.
    pub(crate) fn code(&self) -> String {
        match self.number {
            _ if !self.code.is_empty() => self.code.to_owned(),
            letter @ b'A'..=b'Z' => format!("Key{}", char::from(letter)),
            digit => format!("Digit{}", char::from(digit)),
        }
    }
}

/// `(key, code, number, text)` of the keys with names.
const NAMED: &[(&str, &str, u8, &str)] = &[
    ("Enter", "Enter", 13, "\r"),
    ("Tab", "Tab", 9, ""),
    ("Backspace", "Backspace", 8, ""),
    ("Delete", "Delete", 46, ""),
    ("Insert", "Insert", 45, ""),
    ("Escape", "Escape", 27, ""),
    ("ArrowLeft", "ArrowLeft", 37, ""),
    ("ArrowUp", "ArrowUp", 38, ""),
    ("ArrowRight", "ArrowRight", 39, ""),
    ("ArrowDown", "ArrowDown", 40, ""),
    ("PageUp", "PageUp", 33, ""),
    ("PageDown", "PageDown", 34, ""),
    ("End", "End", 35, ""),
    ("Home", "Home", 36, ""),
    ("Space", "Space", 32, " "),
    ("Alt", "AltLeft", 18, ""),
    ("Control", "ControlLeft", 17, ""),
    ("Meta", "MetaLeft", 91, ""),
    ("Shift", "ShiftLeft", 16, ""),
    ("F1", "F1", 112, ""),
    ("F2", "F2", 113, ""),
    ("F3", "F3", 114, ""),
    ("F4", "F4", 115, ""),
    ("F5", "F5", 116, ""),
    ("F6", "F6", 117, ""),
    ("F7", "F7", 118, ""),
    ("F8", "F8", 119, ""),
    ("F9", "F9", 120, ""),
    ("F10", "F10", 121, ""),
    ("F11", "F11", 122, ""),
    ("F12", "F12", 123, ""),
];

/// `(character, with shift, code, number)` of the keys that are neither letters nor digits.
const SIGNS: &[(char, char, &str, u8)] = &[
    (' ', ' ', "Space", 32),
    (';', ':', "Semicolon", 186),
    ('=', '+', "Equal", 187),
    (',', '<', "Comma", 188),
    ('-', '_', "Minus", 189),
    ('.', '>', "Period", 190),
    ('/', '?', "Slash", 191),
    ('`', '~', "Backquote", 192),
    ('[', '{', "BracketLeft", 219),
    ('\\', '|', "Backslash", 220),
    (']', '}', "BracketRight", 221),
    ('\'', '"', "Quote", 222),
];

const SHIFTED_DIGITS: &str = ")!@#$%^&*(";

/// A key by its name or its one character; `None` when the keyboard does not have it.
pub(crate) fn key(name: &str) -> Option<Key<'_>> {
    if let Some((_, code, number, text)) = NAMED.iter().find(|(known, ..)| *known == name) {
        let key = if *code == "Space" { " " } else { name };
        return Some(Key { key, code, number: *number, text });
    }
    let mut characters = name.chars();
    let (character, None) = (characters.next()?, characters.next()) else { return None };
    if let Some((.., code, number)) = SIGNS.iter().find(|(a, b, ..)| *a == character || *b == character) {
        return Some(Key { key: name, code, number: *number, text: name });
    }
    let digit = SHIFTED_DIGITS.chars().zip(b'0'..).find(|(shifted, _)| *shifted == character);
    let number = match (digit, u8::try_from(character)) {
        (Some((_, digit)), _) => digit,
        (None, Ok(ascii)) if ascii.is_ascii_alphanumeric() => ascii.to_ascii_uppercase(),
        _ => return None,
    };
    Some(Key { key: name, code: "", number, text: name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_a_us_keyboard_is_known() {
        for character in ' '..='~' {
            let name = character.to_string();
            let found = key(&name).unwrap_or_else(|| panic!("{character}"));
            assert_eq!((found.key, found.text), (name.as_str(), name.as_str()));
        }
        let described = |name| key(name).map(|key| (key.code(), key.number));
        assert_eq!(described("a"), Some(("KeyA".into(), 65)));
        assert_eq!(described("A"), Some(("KeyA".into(), 65)));
        assert_eq!(described("%"), Some(("Digit5".into(), 53)));
        assert_eq!(described("5"), Some(("Digit5".into(), 53)));
        assert_eq!(described("Enter"), Some(("Enter".into(), 13)));
        assert_eq!(described("("), Some(("Digit9".into(), 57)));
        assert_eq!(described("日"), None);
        assert_eq!(described("ab"), None);
    }
}
