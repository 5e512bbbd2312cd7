//! What the actions promise, shown with a real Chromium on pages of a server on loopback.
//!
//! Chromium runs as an unprivileged user with its own sandbox on; nothing but loopback is ever contacted.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod actions;
mod chromium;
mod clients;
mod content;
mod dialogs;
mod ends;
mod frames;
mod looks;
mod navigation;
mod site;
mod snapshots;
