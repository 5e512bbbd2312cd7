//! Promises of the way out, in networks that the tests make themselves: no packet leaves them.
//!
//! Needs root (for namespaces) and Debian's iproute2.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod bench;
mod caps;
mod changes;
mod names;
mod requests;
mod tls;
mod world;
