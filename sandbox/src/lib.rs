//! Sessions, executions and metering: runs untrusted work in cells and says what happened.
//!
//! Knows no tenants (a group is opaque), no prices and no HTTP. The walls are `anchorhold_jail`'s; the warden builds
//! and ends cells, this crate talks to it and, through their hatches, to the cells, which it believes nothing.
//!
//! | room | what is in it |
//! |---|---|
//! | [`Sandbox`] (`sandbox`) | the one connection to the warden, the table of sessions, the watch over deadlines |
//! | [`Session`] (`session`) | a session's handle, its cells and the tasks that read them |
//! | `session::state` | what may happen now: pure, drawn, property-tested |
//! | `execution`, `json` | what goes in and comes out of an execution; what a hostile cell may send of it |
//! | `feed` | what an execution says, in order, and those who follow it |
//! | `usage` | counters become usage: every microsecond once |
//! | `files` | file operations through the session's files cell |
//! | `limits`, `workspace` | requested limits become limits; text becomes a path below the workspace |
//! | `wires` | bytes to and from a cell that nobody on the way reads |
//! | `channel` | messages over SEQPACKET, without blocking |
//!
//! Two failures, two places: `Err` is our fault and never billed, the guest's misfortune is `Ok(Finished)`.

mod channel;
mod error;
mod execution;
mod feed;
mod files;
mod json;
mod limits;
mod quota;
mod sandbox;
mod session;
mod usage;
mod wires;
mod workspace;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use anchorhold_jail::control::{
    Boottime, BrowserTime, Cause, Class, Digest, DigestError, Image, Interpreter, Tombstone, Window,
};
pub use anchorhold_jail::egress::{Decision, HOSTS_MAX, Network, Traffic, Way};
pub use anchorhold_jail::hatch::{ArchiveFormat, Change, Dialect, Entry, EntryKind, FileError, Part};
pub use anchorhold_jail::id::{CellId, ExecutionId, GroupId, Id, IdError, SessionId};
pub use anchorhold_jail::walls::{Wall, Walls};
pub use error::Error;
pub use execution::{Capture, ContextKey, Execution, Finished, Limit, Outcome};
pub use feed::{BEGINNING, Follower, Piece, PieceKind, Said, Slice, cut, slices};
pub use files::{Download, FileBody, Unpacked, Written};
pub use limits::{LimitError, LimitField, Limits, RequestedLimits};
pub use quota::{Allowance, Count, Flow, Scarce};
pub use sandbox::{Event, Sandbox};
pub use session::{ContextStatus, Session, SessionSpec, SessionState, Watching};
pub use usage::{Accounted, Taking, Usage};
pub use wires::{Line, Wires, wires};
pub use workspace::{PathError, WorkspacePath};
