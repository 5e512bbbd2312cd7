//! What can be asked of a browser.

use crate::state::TabId;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A snapshot's length when the action does not say.
pub const DEFAULT_SNAPSHOT_BYTES: usize = 32 << 10;
/// One step of a person, or of a program in a person's place. In JSON, `{"type":"click","target":{"ref":"e12"}}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Goes to an http, https, data or about:blank URL.
    Navigate {
        /// Where to.
        url: String,
        /// How far the page must have come.
        #[serde(default)]
        wait_until: WaitUntil,
    },
    /// One page back in the tab's history.
    Back {},
    /// One page forward.
    Forward {},
    /// The same page again.
    Reload {},
    /// Moves the mouse to the target and presses a button.
    Click {
        /// Where.
        target: Target,
        /// Which button.
        #[serde(default)]
        button: Button,
        /// Keys that are held meanwhile.
        #[serde(default)]
        modifiers: Vec<Modifier>,
    },
    /// Two clicks in a row.
    DoubleClick {
        /// Where.
        target: Target,
        /// Which button.
        #[serde(default)]
        button: Button,
        /// Keys that are held meanwhile.
        #[serde(default)]
        modifiers: Vec<Modifier>,
    },
    /// Moves the mouse to the target.
    Hover {
        /// Where.
        target: Target,
        /// Keys that are held meanwhile.
        #[serde(default)]
        modifiers: Vec<Modifier>,
    },
    /// Presses the mouse on one place and lets go on another.
    Drag {
        /// What is dragged.
        from: Target,
        /// Where it is dropped.
        to: Target,
    },
    /// Presses the keys of a text, one by one.
    Type {
        /// What gets the focus first; otherwise, what has it.
        #[serde(default)]
        target: Option<Target>,
        /// The text; a line break is Enter.
        text: String,
        /// Milliseconds between keys.
        #[serde(default)]
        delay_ms: u32,
    },
    /// Replaces what is in a field.
    Fill {
        /// The field.
        target: Target,
        /// Text; for a checkbox or radio button true or false; for a select an option's value or label.
        value: FieldValue,
    },
    /// Fills several fields, in order; stops at the first that fails.
    FillForm {
        /// The fields.
        fields: Vec<Field>,
    },
    /// Empties a field.
    Clear {
        /// The field.
        target: Target,
    },
    /// Chooses options of a select element.
    Select(Selection),
    /// Makes a checkbox, radio button or switch be on.
    Check {
        /// Which.
        target: Target,
    },
    /// Makes a checkbox or switch be off.
    Uncheck {
        /// Which.
        target: Target,
    },
    /// Gives files to a file field.
    Upload {
        /// The field.
        target: Target,
        /// In the workspace; what is given replaces what the field had.
        paths: Vec<String>,
    },
    /// Presses one key, with others held: `Enter`, `Control+A`, `Shift+Tab`.
    Press {
        /// Names as in `KeyboardEvent.key`.
        key: Chord,
    },
    /// Scrolls a target into view, or turns the mouse's wheel in the middle of the page.
    Scroll(Scroll),
    /// Waits for one thing.
    WaitFor(Wait),
    /// What the page says and offers, one line per node.
    Snapshot {
        /// Where to cut the text.
        #[serde(default = "default_snapshot_bytes")]
        budget_bytes: usize,
        /// The id of an earlier snapshot: only what changed since.
        #[serde(default)]
        since: Option<u64>,
        /// When a dialog holds the page it is left out, and is no failure.
        #[serde(default)]
        optional: bool,
    },
    /// The page's content, or a target's.
    Extract {
        /// As what.
        format: Format,
        /// Of what; otherwise, of the whole page.
        #[serde(default)]
        target: Option<Target>,
    },
    /// A picture of what can be seen.
    Screenshot {
        /// PNG or JPEG.
        #[serde(default)]
        format: ImageFormat,
        /// The whole page instead of the viewport.
        #[serde(default)]
        full_page: bool,
        /// One element.
        #[serde(default)]
        target: Option<Target>,
        /// A part of the page, in CSS pixels from its upper left corner.
        #[serde(default)]
        clip: Option<Clip>,
        /// Where the caller stores the picture; not looked at here.
        #[serde(default)]
        path: Option<String>,
    },
    /// The page as it would be printed.
    Pdf {
        /// Where the caller stores it; not looked at here.
        #[serde(default)]
        path: Option<String>,
    },
    /// Runs JavaScript in the page; `await` works.
    Evaluate {
        /// The last expression's value is the result.
        expression: String,
    },
    /// Answers an open dialog.
    Dialog {
        /// OK or Cancel.
        accept: bool,
        /// What to write into a prompt.
        #[serde(default)]
        text: Option<String>,
    },
    /// Reads or changes the browser's cookies.
    Cookies(Cookies),
    /// Reads or changes what the page's site has stored.
    Storage(Storage),
    /// The size of the page's window.
    SetViewport {
        /// CSS pixels, 1 to 4,096.
        width: u32,
        /// CSS pixels, 1 to 4,096.
        height: u32,
    },
    /// Lists, opens, selects or closes tabs.
    Tabs(Tabs),
}

impl Action {
    /// The action's `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Navigate { .. } => "navigate",
            Action::Back {} => "back",
            Action::Forward {} => "forward",
            Action::Reload {} => "reload",
            Action::Click { .. } => "click",
            Action::DoubleClick { .. } => "double_click",
            Action::Hover { .. } => "hover",
            Action::Drag { .. } => "drag",
            Action::Type { .. } => "type",
            Action::Fill { .. } => "fill",
            Action::FillForm { .. } => "fill_form",
            Action::Clear { .. } => "clear",
            Action::Select(_) => "select",
            Action::Check { .. } => "check",
            Action::Uncheck { .. } => "uncheck",
            Action::Upload { .. } => "upload",
            Action::Press { .. } => "press",
            Action::Scroll(_) => "scroll",
            Action::WaitFor(_) => "wait_for",
            Action::Snapshot { .. } => "snapshot",
            Action::Extract { .. } => "extract",
            Action::Screenshot { .. } => "screenshot",
            Action::Pdf { .. } => "pdf",
            Action::Evaluate { .. } => "evaluate",
            Action::Dialog { .. } => "dialog",
            Action::Cookies(_) => "cookies",
            Action::Storage(_) => "storage",
            Action::SetViewport { .. } => "set_viewport",
            Action::Tabs(_) => "tabs",
        }
    }

    /// Whether nothing is wrong when a dialog keeps it from being done.
    pub(crate) fn may_be_left_out(&self) -> bool {
        matches!(self, Action::Snapshot { optional: true, .. })
    }

    /// Where its file is to be stored.
    pub fn path(&self) -> Option<&str> {
        match self {
            Action::Screenshot { path, .. } | Action::Pdf { path } => path.as_deref(),
            _ => None,
        }
    }

    /// Whether it ends with a page that has been loaded.
    pub(crate) fn navigates(&self) -> bool {
        matches!(self, Action::Navigate { .. } | Action::Back {} | Action::Forward {} | Action::Reload {})
    }
}

fn default_snapshot_bytes() -> usize {
    DEFAULT_SNAPSHOT_BYTES
}

/// How far a navigation must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitUntil {
    /// The page and everything it names is there.
    #[default]
    Load,
    /// The page is parsed.
    DomContentLoaded,
    /// As `load`, and for half a second nothing more was fetched.
    NetworkIdle,
}

/// A mouse button.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
#[serde(rename_all = "lowercase")]
pub enum Button {
    #[default]
    Left,
    Middle,
    Right,
}

/// A key that changes what others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Modifier {
    Alt,
    Control,
    Meta,
    Shift,
}

/// A key with its modifiers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Chord {
    /// Held while the key is pressed.
    pub modifiers: Vec<Modifier>,
    /// As in `KeyboardEvent.key`, known to the keyboard.
    pub key: String,
}

impl TryFrom<String> for Chord {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The last plus of `Control++` is the key.
        let before_last = text.char_indices().next_back().map_or("", |(at, _)| &text[..at]);
        let (held, key) = match before_last.rfind('+') {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => ("", text.as_str()),
        };
        let modifiers = held.split('+').filter(|name| !name.is_empty()).map(|name| {
            Ok(match name {
                "Alt" => Modifier::Alt,
                "Control" => Modifier::Control,
                "Meta" => Modifier::Meta,
                "Shift" => Modifier::Shift,
                _ => return Err(format!("unknown modifier {name:?}")),
            })
        });
        let modifiers = modifiers.collect::<Result<_, String>>()?;
        if crate::keyboard::key(key).is_none() {
            return Err(format!("unknown key {key:?}"));
        }
        Ok(Chord { modifiers, key: key.to_owned() })
    }
}

/// What an action is about.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>")]
pub enum Target {
    /// A number from a snapshot: `{"ref":"e12"}`.
    Ref(u32),
    /// A CSS selector; it also finds what is in open shadow roots.
    Selector(String),
    /// An ARIA role and, if given, an accessible name.
    Role {
        /// Such as `button`.
        role: String,
        /// Equal first, else contained; letter case does not matter.
        name: Option<String>,
    },
    /// The smallest element with this text.
    Text(String),
    /// The field with this label, or else this placeholder.
    Label(String),
    /// A point of the viewport, in CSS pixels; nothing is checked or waited for.
    Point {
        /// From the left.
        x: f64,
        /// From the top.
        y: f64,
    },
}

/// By the keys that are there: an untagged enum would only say that nothing fits.
impl TryFrom<BTreeMap<String, Value>> for Target {
    type Error = String;

    fn try_from(raw: BTreeMap<String, Value>) -> Result<Self, String> {
        let text = |key: &str| match raw.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(format!("{key} is a text")),
        };
        let pixels = |key: &str| match raw.get(key).and_then(Value::as_f64) {
            Some(pixels) if (0.0..1e6).contains(&pixels) => Ok(pixels),
            _ => Err(format!("{key} is a number of pixels, not negative")),
        };
        let keys: Vec<&str> = raw.keys().map(String::as_str).collect();
        match keys[..] {
            ["ref"] => {
                let written = text("ref")?;
                let number = written.strip_prefix('e').and_then(|digits| digits.parse().ok());
                number.map(Target::Ref).ok_or_else(|| format!("{written:?} is no ref; refs look like e12"))
            }
            ["selector"] => text("selector").map(Target::Selector),
            ["role"] => Ok(Target::Role { role: text("role")?, name: None }),
            ["name", "role"] => Ok(Target::Role { role: text("role")?, name: Some(text("name")?) }),
            ["text"] => text("text").map(Target::Text),
            ["label"] => text("label").map(Target::Label),
            ["x", "y"] => Ok(Target::Point { x: pixels("x")?, y: pixels("y")? }),
            _ => Err("a target is one of ref, selector, role (and name), text, label, or x and y".to_owned()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Ref(number) => write!(f, "ref e{number}"),
            Target::Selector(selector) => write!(f, "selector {selector:?}"),
            Target::Role { role, name: Some(name) } => write!(f, "{role} {name:?}"),
            Target::Role { role, name: None } => write!(f, "role {role}"),
            Target::Text(text) => write!(f, "text {text:?}"),
            Target::Label(label) => write!(f, "label {label:?}"),
            Target::Point { x, y } => write!(f, "point {x}, {y}"),
        }
    }
}

/// What a field is filled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// Text, or an option's value or label.
    Text(String),
    /// For checkboxes, radio buttons and switches.
    On(bool),
}

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(FieldValue::Text(text)),
            Value::Bool(on) => Ok(FieldValue::On(on)),
            _ => Err(serde::de::Error::custom("a field's value is a text, true or false")),
        }
    }
}

/// One field of a form.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Which.
    pub target: Target,
    /// Its new content.
    pub value: FieldValue,
}

/// Options of a select element. In JSON `value` or `label`, each a text or a list of texts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawSelection")]
pub struct Selection {
    /// The select element.
    pub target: Target,
    /// What `wanted` is compared with.
    pub by: OptionKey,
    /// Exactly these are chosen afterwards.
    pub wanted: Vec<String>,
}

/// How an option is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptionKey {
    /// By what a form would send.
    Value,
    /// By what a person reads.
    Label,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelection {
    target: Target,
    value: Option<Value>,
    label: Option<Value>,
}

impl TryFrom<RawSelection> for Selection {
    type Error = String;

    fn try_from(raw: RawSelection) -> Result<Self, String> {
        let (by, wanted) = match (raw.value, raw.label) {
            (Some(value), None) => (OptionKey::Value, value),
            (None, Some(label)) => (OptionKey::Label, label),
            _ => return Err("select takes either value or label".to_owned()),
        };
        let list = if wanted.is_array() { wanted } else { Value::Array(vec![wanted]) };
        let wanted = serde_json::from_value(list).map_err(|_| "options are texts".to_owned())?;
        Ok(Selection { target: raw.target, by, wanted })
    }
}

/// Where to scroll.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawScroll")]
pub enum Scroll {
    /// Until the target can be seen.
    To(Target),
    /// So many CSS pixels to the right and down.
    By {
        /// To the right.
        dx: f64,
        /// Down.
        dy: f64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScroll {
    target: Option<Target>,
    dx: Option<f64>,
    dy: Option<f64>,
}

impl TryFrom<RawScroll> for Scroll {
    type Error = String;

    fn try_from(raw: RawScroll) -> Result<Self, String> {
        match (raw.target, raw.dx, raw.dy) {
            (Some(target), None, None) => Ok(Scroll::To(target)),
            (None, None, None) | (Some(_), _, _) => {
                Err("scroll takes either a target, or dx and dy".to_owned())
            }
            (None, dx, dy) => Ok(Scroll::By { dx: dx.unwrap_or(0.0), dy: dy.unwrap_or(0.0) }),
        }
    }
}

/// What to wait for, one of them: `{"type":"wait_for","text":"Saved"}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Text that can be seen.
    Text(String),
    /// An element that can be seen.
    Target(Target),
    /// A part of the page's URL.
    Url(String),
    /// The page's progress.
    Load(WaitUntil),
    /// Time.
    Seconds(f64),
}

/// What `extract` makes of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// What a person reads.
    Text,
    /// The same with headings, lists, links and tables. Frames are left out.
    Markdown,
    /// The document's source, as it is now.
    Html,
    /// The visible links.
    Links,
}

/// A picture's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Exact.
    #[default]
    Png,
    /// Quality 80: a third of the bytes on pages with pictures.
    Jpeg,
}

/// A part of a page in CSS pixels, from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Clip {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// What to do with cookies.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Cookies {
    /// Lists all of them.
    Get {},
    /// Adds or replaces some.
    Set {
        /// Each with a `url` or a `domain`.
        cookies: Vec<Cookie>,
    },
    /// Removes those of this name, on the current page's URL or on a domain.
    Delete {
        /// The name.
        name: String,
        /// Otherwise, what the current page sees.
        #[serde(default)]
        domain: Option<String>,
    },
    /// Removes all of them.
    Clear {},
}

/// What to do with what a site has stored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Storage {
    /// All of it, as an object.
    Get {
        /// Where.
        #[serde(default)]
        area: Area,
    },
    /// Adds or replaces some.
    Set {
        /// Where.
        #[serde(default)]
        area: Area,
        /// Names and values.
        items: BTreeMap<String, String>,
    },
    /// Removes one.
    Delete {
        /// Where.
        #[serde(default)]
        area: Area,
        /// Its name.
        name: String,
    },
    /// Removes all of it.
    Clear {
        /// Where.
        #[serde(default)]
        area: Area,
    },
}

/// Where a site stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// `localStorage`
    #[default]
    Local,
    /// `sessionStorage`
    Session,
}

/// A cookie.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The host, with a leading dot for hosts below it, too.
    #[serde(default)]
    pub domain: Option<String>,
    /// Where domain and path come from when they are not given.
    #[serde(default)]
    pub url: Option<String>,
    /// `/` unless given.
    #[serde(default)]
    pub path: Option<String>,
    /// Seconds since 1970; without it, until the browser ends.
    #[serde(default)]
    pub expires: Option<f64>,
    /// Hidden from scripts.
    #[serde(default)]
    pub http_only: bool,
    /// For https only.
    #[serde(default)]
    pub secure: bool,
}

/// What to do with tabs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tabs {
    /// Lists them.
    List {},
    /// Opens one and selects it.
    New {
        /// As in `navigate`; otherwise an empty page.
        #[serde(default)]
        url: Option<String>,
    },
    /// Makes later actions go there.
    Select {
        /// From the list.
        id: TabId,
    },
    /// Closes one; its neighbour is selected.
    Close {
        /// From the list.
        id: TabId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(text: &str) -> Result<Action, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn actions_are_read_as_the_contract_writes_them() {
        let target = |t| Ok(Action::Hover { target: t, modifiers: vec![] });
        let hover = |t: &str| action(&format!(r#"{{"type":"hover","target":{t}}}"#));
        assert_eq!(hover(r#"{"ref":"e12"}"#), target(Target::Ref(12)));
        assert_eq!(hover(r#"{"selector":"a > b"}"#), target(Target::Selector("a > b".into())));
        let role = Target::Role { role: "button".into(), name: Some("Save".into()) };
        assert_eq!(hover(r#"{"role":"button","name":"Save"}"#), target(role));
        assert_eq!(hover(r#"{"x":10,"y":20.5}"#), target(Target::Point { x: 10.0, y: 20.5 }));
        assert_eq!(action(r#"{"type":"wait_for","text":"x"}"#), Ok(Action::WaitFor(Wait::Text("x".into()))));
        assert_eq!(
            action(r#"{"type":"wait_for","load":"networkidle"}"#),
            Ok(Action::WaitFor(Wait::Load(WaitUntil::NetworkIdle)))
        );
        assert_eq!(
            action(r#"{"type":"tabs","op":"close","id":3}"#),
            Ok(Action::Tabs(Tabs::Close { id: TabId(3) }))
        );
        assert_eq!(
            action(r#"{"type":"scroll","dy":100}"#),
            Ok(Action::Scroll(Scroll::By { dx: 0.0, dy: 100.0 }))
        );
        let press = action(r#"{"type":"press","key":"Control++"}"#);
        assert_eq!(
            press,
            Ok(Action::Press { key: Chord { modifiers: vec![Modifier::Control], key: "+".into() } })
        );
        let select = action(r#"{"type":"select","target":{"label":"Size"},"label":["S","M"]}"#).unwrap();
        assert!(
            matches!(select, Action::Select(Selection { by: OptionKey::Label, wanted, .. }) if wanted == ["S", "M"])
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        for (text, reason) in [
            (r#"{"type":"back","far":1}"#, "unknown field `far`"),
            (r#"{"type":"navigate","url":"x","wait":1}"#, "unknown field `wait`"),
            (r#"{"type":"fly"}"#, "unknown variant `fly`"),
            (r#"{"type":"hover","target":{"ref":"12"}}"#, "refs look like e12"),
            (r#"{"type":"hover","target":{"ref":"e1","x":1}}"#, "a target is one of"),
            (r#"{"type":"hover","target":{"x":-1,"y":1}}"#, "x is a number of pixels"),
            (r#"{"type":"press","key":"Hyper+A"}"#, "unknown modifier"),
            (r#"{"type":"press","key":""}"#, "unknown key"),
            (r#"{"type":"press","key":"é"}"#, "unknown key"),
            (r#"{"type":"select","target":{"ref":"e1"}}"#, "either value or label"),
            (r#"{"type":"scroll"}"#, "either a target"),
            (r#"{"type":"wait_for","text":"a","url":"b"}"#, "expected map with a single key"),
            (r#"{"type":"fill","target":{"ref":"e1"},"value":3}"#, "a field's value is"),
            (r#"{"type":"tabs","op":"list","id":1}"#, "unknown field `id`"),
        ] {
            let error = action(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
