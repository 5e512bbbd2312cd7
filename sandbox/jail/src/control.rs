//! What the API and the warden say to each other.
//!
//! One connection, one controller at a time. The API names images by digest and cells by id, never by path; what it
//! may ask for is capped by ceilings that the warden reads itself. Answers to `Take` come in any order, by tag.

use crate::egress::{Decision, Network, Traffic};
use crate::id::{CellId, ExecutionId, GroupId, SessionId};
use crate::walls::Walls;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Both sides must speak the same one: they are built together.
pub const VERSION: u32 = 4;

/// The kinds of cells that exist so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// A WASI guest in wasmtime, in a locked process.
    Wasm,
    /// File operations on a workspace.
    Files,
    /// A Chromium, and beside it the process that drives it.
    Browser,
    /// An interpreter or a program in a root of its own, and beside it the process that starts it.
    Native,
}

impl Class {
    /// Whether its cells run programs of an image: then they have a root and a network of their own.
    pub fn runs_programs(self) -> bool {
        matches!(self, Self::Browser | Self::Native)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wasm => "wasm",
            Self::Files => "files",
            Self::Browser => "browser",
            Self::Native => "native",
        })
    }
}

/// What of an image a cell runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Interpreter {
    /// The only thing that there is in it.
    #[default]
    Own,
    /// CPython.
    Python,
    /// Node.
    Node,
    /// A shell.
    Bash,
    /// One program, then nothing more.
    Command,
    /// A shell at a terminal.
    Terminal,
}

/// SHA-256 of an image's compiled module, or of the list of its files: how an image is named everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(DigestError);
        }
        for (slot, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| DigestError)?;
            *slot = u8::from_str_radix(pair, 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

/// An image that the warden has a zygote for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// For people: `python-wasm`.
    pub name: String,
    /// The class of its cells.
    pub class: Class,
    /// What it runs: `python`, `javascript`, `browser`; `native` where it is several languages' interpreters.
    pub language: String,
    /// Its name to the warden.
    pub digest: Digest,
}

/// Limits of a session that the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellLimits {
    /// Processors, in thousandths.
    pub cpu_millicores: u32,
    /// Memory of all cells together, in bytes.
    pub memory_bytes: u64,
    /// Size of the workspace, in bytes.
    pub disk_bytes: u64,
    /// Tasks of all cells together.
    pub processes: u32,
}

/// Microseconds of `CLOCK_BOOTTIME`: runs on through sleep, the same for every process until the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Boottime(pub u64);

impl Boottime {
    /// Now.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000)
    }

    /// What passed since an earlier moment.
    pub fn since_us(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to this; 0 when it was not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How large a browser's window is, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From 1 to [`Window::SIDE_MAX`].
    pub width: u16,
    /// As well.
    pub height: u16,
}

impl Window {
    /// The largest side.
    pub const SIDE_MAX: u16 = 4096;
}

impl Default for Window {
    fn default() -> Self {
        Self { width: 1280, height: 720 }
    }
}

/// A session takes a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Take {
    /// Comes back in the answer.
    pub tag: u64,
    /// The session; its first cell makes its workspace, user ids and cgroup.
    pub session: SessionId,
    /// The group that the session belongs to.
    pub group: GroupId,
    /// Which image, and thereby what kind of cell; a files cell has none.
    pub image: Option<Digest>,
    /// What of the image.
    pub interpreter: Interpreter,
    /// The session's limits: its first cell sets them, later ones must repeat them.
    pub limits: CellLimits,
    /// The session's environment.
    pub env: Vec<(String, String)>,
    /// What the session asked for of the network; for cells of classes that have one.
    pub network: Network,
    /// How large its browser's window is.
    pub window: Window,
    /// When the warden ends the session by itself.
    pub expires_at: Boottime,
}

/// What the API says. Only `Take`, `Socket`, `EndSession` and `Hello` are answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToWarden {
    /// First message of a connection.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Give a session a cell.
    Take(Take),
    /// Kill this cell at that moment unless told otherwise; replaces an earlier deadline of the cell.
    Arm {
        /// Which cell.
        cell: CellId,
        /// On whose account; comes back in [`Cause::Deadline`].
        execution: ExecutionId,
        /// When.
        at: Boottime,
    },
    /// The execution ended in time.
    Disarm {
        /// Which cell.
        cell: CellId,
    },
    /// Kill this cell now.
    Kill {
        /// Which cell.
        cell: CellId,
    },
    /// Stop the processes of a browser cell that nobody uses, or let them go on. What it is told meanwhile waits. It goes on
    /// by itself when this connection ends.
    Freeze {
        /// Which cell.
        cell: CellId,
        /// Whether they stop.
        frozen: bool,
    },
    /// The session's life was changed.
    Renew {
        /// Which session.
        session: SessionId,
        /// When it ends now.
        expires_at: Boottime,
    },
    /// The session may reach something else from now on, in all of its cells that have a network.
    Reroute {
        /// Which session.
        session: SessionId,
        /// What it asks for now.
        network: Network,
    },
    /// Make sockets in the network that the session's native cells share. Answered by [`FromWarden::Socket`].
    Socket {
        /// Comes back in the answer.
        tag: u64,
        /// Which session.
        session: SessionId,
    },
    /// Kill every cell of the session and give everything back. Answered by [`FromWarden::SessionEnded`], also when
    /// there is no such session.
    EndSession {
        /// Which session.
        session: SessionId,
    },
    /// The final counters of this cell are stored: forget its tombstone.
    Acknowledge {
        /// Which cell.
        cell: CellId,
    },
    /// End every session and then the warden itself.
    Shutdown,
}

/// What the warden says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromWarden {
    /// Answer to `Hello`. `cells` messages of [`FromWarden::Cell`] and `tombstones` of [`FromWarden::CellEnded`]
    /// follow.
    Welcome(Welcome),
    /// The API cannot have the warden: it has a controller, or another version.
    Rejected {
        /// Why.
        reason: String,
    },
    /// A live cell; descriptors as with `Taken`.
    Cell(CellInfo),
    /// A cell for the session. Descriptors: the hatch, then the counters' files in the order of
    /// [`crate::counters::Counters::FILES`], then, where it has a way out, one for a [`crate::egress::TrafficReader`].
    Taken {
        /// Of the request.
        tag: u64,
        /// The cell.
        info: CellInfo,
        /// What stands around it.
        walls: Walls,
        /// How long it was given its session's limits and files and locked itself, in microseconds.
        commit_us: u64,
    },
    /// No cell for the session.
    Refused {
        /// Of the request.
        tag: u64,
        /// Why.
        why: Refusal,
    },
    /// Descriptors: TCP sockets in the session's network that are not connected, one of IPv4 and, where the kernel has
    /// it, one of IPv6. None where the session has no native cell, or no socket is to be had.
    Socket {
        /// Of the request.
        tag: u64,
    },
    /// A cell is gone: its processes, its cgroup and its descriptors. Kept until acknowledged.
    CellEnded(Tombstone),
    /// Egress decided on a connection of the session.
    Decided {
        /// Which session.
        session: SessionId,
        /// What.
        decision: Decision,
    },
    /// The session is gone with everything it owned.
    SessionEnded {
        /// Which one.
        session: SessionId,
    },
}

/// Answer to `Hello`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// Changes with every start of the warden: cells of another life are gone.
    pub life: u64,
    /// What there are zygotes for.
    pub images: Vec<Image>,
    /// How many live cells follow.
    pub cells: u32,
    /// How many tombstones follow.
    pub tombstones: u32,
}

/// A live cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CellInfo {
    /// Its name.
    pub cell: CellId,
    /// Whose it is.
    pub session: SessionId,
    /// Its kind.
    pub class: Class,
    /// Its image; a files cell has none.
    pub image: Option<Digest>,
    /// CPU that it had used before the session took it, in microseconds: not the session's.
    pub cpu_base_us: u64,
}

/// What is left of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The cell.
    pub cell: CellId,
    /// Whose it was.
    pub session: SessionId,
    /// What ended it.
    pub cause: Cause,
    /// CPU since the session took it, in microseconds.
    pub cpu_us: u64,
    /// Most memory it had, in bytes.
    pub memory_peak_bytes: u64,
    /// How many of its processes the kernel killed for memory.
    pub oom_kills: u64,
    /// What it sent to the network and got from it.
    pub traffic: Traffic,
    /// How long a browser was its session's; of other cells, and where that is not known any more, nothing.
    pub browser: Option<BrowserTime>,
}

/// The time in which a browser was its session's, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserTime {
    /// It could run.
    pub active_us: u64,
    /// It was frozen.
    pub standby_us: u64,
}

/// What ended a cell. Decided by what the warden did and what the kernel counted, never by what the cell said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its pid 1 ended, by itself or by a fault in it.
    Ended,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// The hard deadline of this execution.
    Deadline(ExecutionId),
    /// The API said so.
    Killed,
    /// The session's time was over.
    Expired,
    /// No API for too long.
    Orphaned,
    /// The warden ended, badly or because it was told to, and took it along.
    WardenDied,
}

/// Why there is no cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No room: cells, memory or ids are used up. Try again later.
    #[error("no room: {0}")]
    Capacity(String),
    /// A wall could not be built.
    #[error("a wall could not be built: {0}")]
    Walls(String),
    /// No such image.
    #[error("no such image")]
    NoImage,
    /// The session is ending or its limits differ from those of its first cell.
    #[error("the session cannot take a cell: {0}")]
    Session(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_and_refuse_the_rest() {
        let digest = Digest([0xa5; 32]);
        assert_eq!(format!("sha256:{digest}").parse::<Digest>(), Ok(digest));
        for text in ["", "sha256:", "zz", &"é".repeat(32), &"0".repeat(63)] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text}");
        }
    }
}
