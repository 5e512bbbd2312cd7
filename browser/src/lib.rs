//! The conversation with one jailed Chromium: the Chrome DevTools Protocol over a pipe, typed actions that wait properly,
//! and what a page looks like to somebody who reads.
//!
//! This crate takes the two ends of a pipe and knows nothing else: who starts Chromium, behind which walls, with which
//! network, for whom and at what price is decided elsewhere. It trusts neither Chromium nor the pages: whatever they say is
//! measured before it is read, cut before it is kept, and never decides anything but the outcome of an action.
//!
//! ```text
//!   Browser::run ─► one action at a time ─► Step: navigate, input, locate, view, capture
//!                                             │ calls                     ▲ until (state)
//!                                             ▼                           │
//!                                          Connection ─── events ───► State
//!                                             │  ▲
//!                                             ▼  │ NUL-ended JSON
//!                                           Chromium ─── agent.js in every document, in a world of its own
//! ```
//!
//! - `connection`: frames, calls and answers, deadlines. `event` and `state`: what the events say; pure.
//! - `screen`: what persons see; `hand`: what they do who have taken over.
//! - `client`: a program outside that speaks the protocol itself, beside ours; `gate`: what it may say.
//! - `locate`: from a target to a point, through frames and shadow roots. `agent.js` asks and answers inside the documents.
//! - `store`: files for a page, what its site stores, downloads.
//! - `script`: JavaScript in documents. `input`, `navigate`, `view`, `capture`: the actions.
//! - `window`: how large windows are.
//!
//! # How much of chromiumoxide is used
//!
//! Its typed protocol, for the commands and most answers. Its connection is not: it speaks WebSocket only, so that Chromium
//! would have to listen on a port that its own pages can reach; it parses every event into one enum of all events and drops
//! with a warning what does not fit; its pages do not follow frames into other processes; and a call whose renderer has
//! died is never answered there. Events, and answers whose types have moved on since, are read here field by field
//! (`event.rs` says why).

#![forbid(unsafe_code)]

mod action;
mod capture;
mod client;
mod connection;
mod event;
mod gate;
mod hand;
mod input;
mod keyboard;
mod link;
mod locate;
mod navigate;
mod outcome;
mod report;
mod run;
mod screen;
mod script;
mod state;
mod store;
mod view;
mod window;

pub use action::{
    Action, Area, Button, Chord, Clip, Cookie, Cookies, DEFAULT_SNAPSHOT_BYTES, Field, FieldValue, Format,
    ImageFormat, Modifier, OptionKey, Scroll, Selection, Storage, Tabs, Target, Wait, WaitUntil,
};
pub use client::{Departure, MAX_CLIENT_MESSAGE_BYTES};
pub use connection::{CallError, MAX_MESSAGE_BYTES};
pub use outcome::{
    Failure, Link, MAX_LINKS, MAX_PIXELS, MAX_TEXT_CHARS, MAX_VALUE_BYTES, Navigated, Obstacle, Outcome,
    Reply, Snapshot, TabInfo,
};
pub use report::{page, report};
pub use run::{Browser, Summary};
pub use screen::Screen;
pub use state::{Dialog, MAX_TABS, TabId};
