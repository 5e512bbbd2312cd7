//! What a person does who has taken over, as the live view sends it, and as Chromium wants to be told. Pure.

use crate::action::Button;
use crate::navigate::allowed;
use crate::state::TabId;
use chromiumoxide_cdp::cdp::browser_protocol::input::{
    DispatchKeyEventParams, DispatchKeyEventType, DispatchMouseEventParams, DispatchMouseEventType,
    MouseButton,
};
use serde::Deserialize;

/// Control, Alt and Meta, as Chromium counts modifiers: with them a key is a command and writes nothing.
const COMMAND: i64 = 1 | 2 | 4;

/// Something that a watcher says. Whether it may is decided elsewhere.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Word {
    /// Takes over.
    Take,
    /// Gives back.
    Release,
    Mouse(Mouse),
    Key(Key),
    /// Pasted, or made by an input method.
    Text {
        text: String,
    },
    /// Typed where browsers show where they are.
    Go {
        url: String,
    },
    Back,
    Forward,
    Reload,
    /// Selects a tab.
    Tab {
        id: TabId,
    },
    /// Answers a dialog.
    Dialog {
        accept: bool,
        #[serde(default)]
        text: Option<String>,
    },
}

/// In CSS pixels of the viewport.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Mouse {
    event: MouseEvent,
    x: f64,
    y: f64,
    #[serde(default)]
    button: Option<Button>,
    /// As `MouseEvent.buttons`.
    #[serde(default)]
    buttons: i64,
    #[serde(default)]
    clicks: i64,
    #[serde(default)]
    dx: f64,
    #[serde(default)]
    dy: f64,
    #[serde(default)]
    modifiers: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MouseEvent {
    Move,
    Down,
    Up,
    Wheel,
}

/// As `KeyboardEvent` has it.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Key {
    event: KeyEvent,
    key: String,
    code: String,
    /// `keyCode`: nothing else names the key as Chromium's commands want it.
    number: i64,
    #[serde(default)]
    modifiers: i64,
    #[serde(default)]
    repeat: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeyEvent {
    Down,
    Up,
}

impl Mouse {
    pub(crate) fn command(self) -> DispatchMouseEventParams {
        let kind = match self.event {
            MouseEvent::Move => DispatchMouseEventType::MouseMoved,
            MouseEvent::Down => DispatchMouseEventType::MousePressed,
            MouseEvent::Up => DispatchMouseEventType::MouseReleased,
            MouseEvent::Wheel => DispatchMouseEventType::MouseWheel,
        };
        let wheel = self.event == MouseEvent::Wheel;
        let button = match self.button {
            None => MouseButton::None,
            Some(Button::Left) => MouseButton::Left,
            Some(Button::Middle) => MouseButton::Middle,
            Some(Button::Right) => MouseButton::Right,
        };
        DispatchMouseEventParams {
            button: Some(button),
            buttons: Some(self.buttons),
            click_count: Some(self.clicks),
            modifiers: Some(self.modifiers),
            delta_x: wheel.then_some(self.dx),
            delta_y: wheel.then_some(self.dy),
            ..DispatchMouseEventParams::new(kind, self.x, self.y)
        }
    }
}

impl Key {
    pub(crate) fn command(self) -> DispatchKeyEventParams {
        let single = self.key.chars().count() == 1;
        let text = match (self.event, &*self.key) {
            (KeyEvent::Down, "Enter") => Some("\r".to_owned()),
            (KeyEvent::Down, key) if single && self.modifiers & COMMAND == 0 => Some(key.to_owned()),
            _ => None,
        };
        let kind = match (self.event, &text) {
            (KeyEvent::Up, _) => DispatchKeyEventType::KeyUp,
            (KeyEvent::Down, Some(_)) => DispatchKeyEventType::KeyDown,
            (KeyEvent::Down, None) => DispatchKeyEventType::RawKeyDown,
        };
        DispatchKeyEventParams {
            modifiers: Some(self.modifiers),
            unmodified_text: text.clone(),
            text,
            code: Some(self.code),
            key: Some(self.key),
            windows_virtual_key_code: Some(self.number),
            auto_repeat: Some(self.repeat),
            ..DispatchKeyEventParams::new(kind)
        }
    }
}

/// What a person typed to go somewhere, if a session may go there: `example.com` is meant as the web's.
pub(crate) fn destination(typed: &str) -> Option<String> {
    let typed = typed.trim();
    let known = ["http:", "https:", "data:", "about:"].iter().any(|scheme| typed.starts_with(scheme));
    allowed(&if known { typed.to_owned() } else { format!("https://{typed}") }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_write_unless_they_command() {
        let key = |key: &str, event: &str, modifiers: i64| {
            let said = json!({"type": "key", "event": event, "key": key, "code": "", "number": 65, "modifiers": modifiers});
            match serde_json::from_value(said).unwrap() {
                Word::Key(key) => key.command(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(key("a", "down", 0).text.as_deref(), Some("a"));
        assert_eq!(key("A", "down", 8).text.as_deref(), Some("A"));
        assert_eq!(key("Enter", "down", 0).text.as_deref(), Some("\r"));
        for (name, event, modifiers) in [("a", "up", 0), ("a", "down", 2), ("ArrowLeft", "down", 0)] {
            assert_eq!(key(name, event, modifiers).text, None, "{name} {event} {modifiers}");
        }
    }

    #[test]
    fn people_go_to_the_web() {
        for (typed, url) in [
            ("example.com/a b", Some("https://example.com/a%20b")),
            (" http://a.example ", Some("http://a.example/")),
            ("about:blank", Some("about:blank")),
            ("localhost:3000", Some("https://localhost:3000/")),
            ("", None),
        ] {
            assert_eq!(destination(typed).as_deref(), url, "{typed}");
        }
        // Taken for a name, which is not found, and never for a file.
        for typed in ["file:///etc/passwd", "chrome://version", "javascript:1", "view-source:x"] {
            assert!(destination(typed).is_none_or(|url| url.starts_with("https://")), "{typed}");
        }
    }
}
