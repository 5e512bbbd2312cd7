//! What the warden waits for: descriptors by epoll, each with what it stands for.

use super::{WardenError, system};
use crate::control::Boottime;
use crate::id::CellId;
use rustix::event::{Timespec, epoll};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// What a descriptor stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody connects.
    Listener,
    /// A signal says stop.
    Signals,
    /// The API speaks or is gone.
    Controller,
    /// A zygote speaks or is gone.
    Zygote(u64),
    /// A cell that is not live yet speaks.
    Hatch(CellId),
    /// A cell's pid 1 ended.
    Ended(CellId),
    /// Egress speaks or is gone.
    Egress,
    /// A workspace is closed, or what closes them is gone.
    Closer,
}

/// See the module. A descriptor that is closed everywhere leaves by itself; [`Self::forget`] drops what it stood for.
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
}

impl Watch {
    /// Nothing is watched yet.
    pub fn new() -> Result<Self, WardenError> {
        let epoll = system("epoll", epoll::create(epoll::CreateFlags::CLOEXEC))?;
        Ok(Self { epoll, sources: HashMap::new(), next: 0 })
    }

    /// Watches a descriptor for reading.
    pub fn add(&mut self, descriptor: BorrowedFd<'_>, source: Source) -> Result<(), WardenError> {
        self.next += 1;
        let data = epoll::EventData::new_u64(self.next);
        system("watch", epoll::add(&self.epoll, descriptor, data, epoll::EventFlags::IN))?;
        self.sources.insert(self.next, source);
        Ok(())
    }

    /// Stops watching a descriptor that stays open.
    pub fn remove(&mut self, descriptor: BorrowedFd<'_>, source: Source) {
        self.forget(source);
        // Fails only when it was not watched any more.
        let _not_watched = epoll::delete(&self.epoll, descriptor);
    }

    /// The descriptors of this source were closed.
    pub fn forget(&mut self, source: Source) {
        self.sources.retain(|_, known| *known != source);
    }

    /// What a token stands for; an event may be about something that an earlier one of the same batch ended.
    pub fn source(&self, token: u64) -> Option<Source> {
        self.sources.get(&token).copied()
    }

    /// Waits until `until` at the latest; the tokens of what is readable.
    pub fn wait(&self, until: Option<Boottime>) -> Result<Vec<u64>, WardenError> {
        let pause = until.map(|until| Duration::from_micros(until.since(Boottime::now())));
        let timeout = pause.and_then(|pause| Timespec::try_from(pause).ok());
        let mut events: Vec<epoll::Event> = Vec::with_capacity(128);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(error) => Err(WardenError::System("epoll", error.into())),
        }
    }
}
