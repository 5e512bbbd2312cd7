//! What the warden and the egress process say to each other, and the memory that they share.
//!
//! The warden connects to egress' socket and hands over an *outlet* for each cell with a network: the listening socket
//! that was made inside of the cell, what the session asked for, the cell's pidfd, and counters. It keeps all of them,
//! and hands them over again when either side was started anew: egress has nothing that is only its own.
//!
//! The listening socket must be made before the first guest byte, and the cell must not keep a copy of it: who holds
//! one can make it blocking, and with it a thread of egress.

use crate::id::SessionId;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Both sides must speak the same one.
pub const VERSION: u32 = 3;
/// The most hosts that a session lists.
pub const HOSTS_MAX: usize = 256;
/// The longest text of a host in a list: a name of 253 bytes, a wildcard and a port.
pub const HOST_BYTES_MAX: usize = 264;
/// The longest name of a rule.
const RULE_BYTES_MAX: usize = 32;

/// Which part of the network a session asked for. What of it is granted is egress' business, under the operator's
/// ceiling. Only cells of a class with a network have a use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Nothing.
    #[default]
    None,
    /// These hosts: `api.example.org`, `*.example.com`, `10.0.0.5:8443`.
    Allow(Vec<String>),
    /// Every global address.
    Public,
}

impl Network {
    /// Whether it is small enough to be kept and sent. What the texts mean is not looked at.
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::None | Self::Public => true,
            Self::Allow(hosts) => {
                hosts.len() <= HOSTS_MAX && hosts.iter().all(|host| host.len() <= HOST_BYTES_MAX)
            }
        }
    }
}

/// Names an outlet; used once in the life of a warden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutletId(pub u64);

/// What the warden says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToEgress {
    /// First message of a connection.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Serve a cell. Descriptors: the listening socket, the pidfd of its pid 1, the counters. An outlet of this name
    /// that is served already is closed first.
    Attach {
        /// Which outlet.
        outlet: OutletId,
        /// Whose it is.
        session: SessionId,
        /// What the session asked for.
        network: Network,
        /// Bytes that other cells of the session have used: they count towards the operator's cap.
        spent_bytes: u64,
        /// Its `localhost` leads to the session's native cells; see [`FromEgress::Reach`].
        home: bool,
    },
    /// The session may reach something else from now on: what is open and not allowed any more is cut.
    Change {
        /// Which outlet.
        outlet: OutletId,
        /// What the session asks for now.
        network: Network,
    },
    /// Descriptors: as with [`crate::control::FromWarden::Socket`].
    Sockets {
        /// Of the request.
        tag: u64,
    },
    /// The cell is gone, or its session may reach nothing.
    Detach {
        /// Which outlet.
        outlet: OutletId,
    },
    /// The warden ends in order. Egress that was started to serve it alone ends, too.
    Farewell,
}

/// What egress says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromEgress {
    /// Answer to [`ToEgress::Hello`].
    Welcome {
        /// [`VERSION`].
        version: u32,
    },
    /// An outlet cannot be served: its socket or its list is not what it should be.
    Refused {
        /// Which outlet.
        outlet: OutletId,
        /// Why, for the operator.
        why: String,
    },
    /// Sockets are wanted that lead to the session's native cells. Answered by [`ToEgress::Sockets`].
    Reach {
        /// For which outlet, one with a `home`.
        outlet: OutletId,
        /// Comes back in the answer.
        tag: u64,
    },
    /// Something was decided about a session.
    Decided {
        /// Of which outlet.
        outlet: OutletId,
        /// What.
        decision: Decision,
    },
    /// The outlet was closed because its cell ended.
    Closed {
        /// Which outlet.
        outlet: OutletId,
    },
}

/// How something was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// `CONNECT host:port`.
    Tunnel,
    /// `GET http://host/` and its like.
    Http,
}

/// A decision about a connection, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// How it was asked for; `None`: by something that is no request.
    pub way: Option<Way>,
    /// What was asked for, in canonical form (host and port); `None` where nothing could be made of it.
    pub target: Option<String>,
    /// The address that was dialled.
    pub address: Option<SocketAddr>,
    /// The rule that refused or ended it; `None`: it was allowed.
    pub rule: Option<String>,
    /// Decisions before this one that are not told.
    pub missed: u64,
}

impl Decision {
    /// Whether it is small enough to be passed on.
    pub fn is_bounded(&self) -> bool {
        self.target.as_ref().is_none_or(|target| target.len() <= HOST_BYTES_MAX)
            && self.rule.as_ref().is_none_or(|rule| rule.len() <= RULE_BYTES_MAX)
    }
}

/// Bytes to and from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// That left.
    pub sent_bytes: u64,
    /// That came in.
    pub received_bytes: u64,
}

impl Traffic {
    /// Both directions.
    pub fn sum_bytes(self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }
}

/// A page of counters that the warden makes and egress adds to. It outlives either.
#[derive(Debug)]
pub struct SharedCounters {
    file: OwnedFd,
    page: Mapping,
}

/// The same page for whoever bills what is counted: it can be read and not written.
#[derive(Debug)]
pub struct TrafficReader(Mapping);

#[derive(Debug)]
#[repr(C)]
struct Page {
    sent: AtomicU64,
    received: AtomicU64,
}

/// A page in this process' memory, until it is dropped.
#[derive(Debug)]
struct Mapping(NonNull<Page>);

#[expect(unsafe_code, reason = "a pointer into shared memory says nothing by itself about threads")]
// SAFETY: the page is only reached through atomics, and is unmapped by `drop` alone, on whatever thread that runs.
unsafe impl Send for Mapping {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above: shared references give out nothing but `&AtomicU64`.
unsafe impl Sync for Mapping {}

impl SharedCounters {
    /// New ones, at zero. Nobody can shrink them any more.
    pub fn create() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("anchorhold-egress-counters", flags)?;
        // Whoever has a descriptor to read can open no other one to write.
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::ftruncate(&file, size_of::<Page>() as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(file)
    }

    /// Those that the other side made.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        check(&file)?;
        Self::map(file)
    }

    fn map(file: OwnedFd) -> io::Result<Self> {
        let page = Mapping::new(&file, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self { file, page })
    }

    /// A descriptor for a [`TrafficReader`]. Needs `/proc`.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Bytes that left.
    pub fn sent(&self) -> &AtomicU64 {
        &self.page.get().sent
    }

    /// Bytes that came in.
    pub fn received(&self) -> &AtomicU64 {
        &self.page.get().received
    }

    /// Both now.
    pub fn read(&self) -> Traffic {
        self.page.read()
    }
}

impl AsFd for SharedCounters {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TrafficReader {
    /// Of a descriptor that [`SharedCounters::reader`] made.
    pub fn open(file: &OwnedFd) -> io::Result<Self> {
        check(file)?;
        Mapping::new(file, ProtFlags::READ).map(Self)
    }

    /// Both counters now.
    pub fn read(&self) -> Traffic {
        self.0.read()
    }
}

/// Refuses what could be shrunk, since reading beyond the end would be a fault.
fn check(file: &OwnedFd) -> io::Result<()> {
    let sealed = rustix::fs::fcntl_get_seals(file)?.contains(SealFlags::SHRINK);
    if !sealed || rustix::fs::fstat(file)?.st_size.unsigned_abs() < size_of::<Page>() as u64 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

impl Mapping {
    #[expect(unsafe_code, reason = "mmap")]
    fn new(file: &OwnedFd, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice, so that no memory in use is touched. The file
        // is sealed against shrinking, so that the mapping stays backed as long as it exists.
        let page = unsafe {
            let length = size_of::<Page>();
            rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0)?
        };
        NonNull::new(page.cast()).map(Self).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    #[expect(unsafe_code, reason = "the page is a pointer")]
    fn get(&self) -> &Page {
        // SAFETY: mapped and page-aligned from `new` to `drop`; any bytes are two atomics, and other processes reach it
        // as atomics, too. Where it is mapped to be read only (`TrafficReader`), nothing but relaxed loads of 8 bytes
        // happen, which read-only memory takes.
        unsafe { self.0.as_ref() }
    }

    fn read(&self) -> Traffic {
        let page = self.get();
        Traffic {
            sent_bytes: page.sent.load(Ordering::Relaxed),
            received_bytes: page.received.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, with its length; every reference into it borrowed from `self`.
        let _unmapped = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), size_of::<Page>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_one_memory_that_outlives_a_side() {
        let ours = SharedCounters::create().unwrap();
        for _ in 0..2 {
            let theirs = SharedCounters::open(ours.as_fd().try_clone_to_owned().unwrap()).unwrap();
            theirs.sent().fetch_add(7, Ordering::Relaxed);
            theirs.received().fetch_add(11, Ordering::Relaxed);
        }
        assert_eq!(ours.read(), Traffic { sent_bytes: 14, received_bytes: 22 });
        assert_eq!(ours.read().sum_bytes(), 36);
        rustix::fs::ftruncate(&ours, 0).unwrap_err();
    }

    #[test]
    fn a_reader_sees_and_cannot_write() {
        let ours = SharedCounters::create().unwrap();
        let file = ours.reader().unwrap();
        let reader = TrafficReader::open(&file).unwrap();
        ours.sent().fetch_add(5, Ordering::Relaxed);
        assert_eq!(reader.read(), Traffic { sent_bytes: 5, received_bytes: 0 });
        rustix::io::write(&file, &[0; 16]).unwrap_err();
        SharedCounters::open(file).unwrap_err();
        TrafficReader::open(&tempfile::tempfile().unwrap().into()).unwrap_err();
    }

    #[test]
    fn what_could_be_shrunk_is_refused() {
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        SharedCounters::open(file.try_clone().unwrap()).unwrap_err();
        rustix::fs::ftruncate(&file, 0).unwrap();
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        // Sealed, and too short all the same.
        SharedCounters::open(file).unwrap_err();
        let file = tempfile::tempfile().unwrap();
        SharedCounters::open(file.into()).unwrap_err();
    }

    #[test]
    fn lists_are_bounded() {
        assert!(Network::Allow(vec!["a.example".into(); HOSTS_MAX]).is_bounded());
        assert!(!Network::Allow(vec!["a.example".into(); HOSTS_MAX + 1]).is_bounded());
        assert!(!Network::Allow(vec!["a".repeat(HOST_BYTES_MAX + 1)]).is_bounded());
    }
}
