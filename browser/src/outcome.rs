//! What comes of an action.

use crate::action::Cookie;
use crate::connection::CallError;
use crate::state::TabId;
use serde::Deserialize;
use serde_json::Value;

/// Texts and pages that an action returns have at most this many characters.
pub const MAX_TEXT_CHARS: usize = 1 << 20;
/// The JSON that `evaluate` returns.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Links that `extract` lists.
pub const MAX_LINKS: usize = 2000;
/// A picture's size. 1,280 × 30,000 pixels fit.
pub const MAX_PIXELS: f64 = 64.0e6;

/// What became of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was done.
    Done(Reply),
    /// It was not done.
    Failed(Failure),
    /// It was not begun, because one before it failed.
    NotSent,
    /// It may have been done: the page was told, and did not answer. Doing it again may do it twice.
    Unknown(Failure),
}

/// What an action returns.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing.
    Nothing,
    /// Where a navigation ended.
    Navigated(Navigated),
    /// What the page says.
    Snapshot(Snapshot),
    /// Text or HTML.
    Text {
        /// At most [`MAX_TEXT_CHARS`] characters.
        text: String,
        /// There was more.
        truncated: bool,
    },
    /// Links.
    Links {
        /// At most [`MAX_LINKS`].
        items: Vec<Link>,
        /// There were more.
        truncated: bool,
    },
    /// A picture.
    Image {
        /// The file.
        bytes: Vec<u8>,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// A PDF file.
    Pdf(Vec<u8>),
    /// A value of the page's JavaScript. What JSON cannot say (`undefined`, functions) is `null`.
    Value(Value),
    /// The open tabs.
    Tabs(Vec<TabInfo>),
    /// The browser's cookies.
    Cookies(Vec<Cookie>),
}

impl Reply {
    /// The file that it is.
    pub fn file(&self) -> Option<&[u8]> {
        match self {
            Reply::Image { bytes, .. } | Reply::Pdf(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Where a navigation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Navigated {
    /// After all redirections.
    pub url: String,
    /// The document's HTTP status, if it came by HTTP.
    pub status: Option<u16>,
    /// The document's title.
    pub title: String,
}

/// A page as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What `since` takes.
    pub id: u64,
    /// `- button "Save" [ref=e12]`, children two spaces deeper. What the page wrote stands in quotes. With `since`, lines
    /// that are gone begin with `-` and new ones with `+`.
    pub text: String,
    /// Lines were left out.
    pub truncated: bool,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Link {
    /// What a person reads.
    pub text: String,
    /// Absolute.
    pub url: String,
}

/// An open tab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TabInfo {
    /// Its number.
    pub id: TabId,
    /// Where it is.
    pub url: String,
    /// The page's title.
    pub title: String,
    /// Actions go there.
    pub selected: bool,
    /// Its page has crashed; `navigate` and `reload` revive it.
    pub crashed: bool,
}

/// Why an action was not done, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The target cannot be acted on, and the time was over.
    #[error("{target}: {obstacle}")]
    Target {
        /// As asked for.
        target: String,
        /// What was in the way when the time was over.
        obstacle: Obstacle,
    },
    /// What was asked for cannot be done to this element.
    #[error("{target} {why}")]
    Unfit {
        /// As asked for.
        target: String,
        /// Such as "takes numbers only".
        why: String,
    },
    /// The page could not be loaded.
    #[error("navigation failed: {0}")]
    Navigation(String),
    /// The URL is not one that a session may go to.
    #[error("{0}")]
    Url(String),
    /// There is no page in this direction, no such tab, no dialog, no such snapshot.
    #[error("{0}")]
    Absent(&'static str),
    /// The expression threw.
    #[error("{0}")]
    Script(String),
    /// An open dialog holds the page.
    #[error("a dialog ({kind}) is open: {message:?}; answer it first")]
    Dialog {
        /// Its kind.
        kind: String,
        /// What it says.
        message: String,
    },
    /// A person has taken over.
    #[error("paused: a person has taken over the browser")]
    Paused,
    /// What was asked for lies outside of what is allowed.
    #[error("{0}")]
    Limit(String),
    /// The conversation with the browser failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Failure {
    /// Nothing is known but that the time was over. A target that was looked for in vain until then is more than that.
    pub fn is_lateness(&self) -> bool {
        matches!(
            self,
            Failure::Call(CallError::Deadline) | Failure::Target { obstacle: Obstacle::Silent, .. }
        )
    }
}

/// Why a target cannot be acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Nothing matches.
    #[error("no such element")]
    Missing,
    /// A ref's element is no longer in the page.
    #[error("not in the page (any more); take a new snapshot")]
    Stale,
    /// Several visible elements match.
    #[error("{count} elements match: {examples}")]
    Ambiguous {
        /// How many.
        count: u32,
        /// The first of them.
        examples: String,
    },
    /// The selector is not CSS.
    #[error("{0}")]
    Invalid(String),
    /// It takes no space, or is hidden.
    #[error("not visible")]
    Hidden,
    /// It does not stand still.
    #[error("moving")]
    Moving,
    /// It, or what it is in, is disabled.
    #[error("disabled")]
    Disabled,
    /// Its content cannot be changed.
    #[error("read-only")]
    ReadOnly,
    /// Scrolling does not bring it into the window.
    #[error("outside of the window")]
    Outside,
    /// Something else would get the click.
    #[error("covered by {0}")]
    Covered(String),
    /// The page did not answer.
    #[error("the page does not answer")]
    Silent,
}
