//! Cells' ways out, kept by the warden and served by the egress process.
//!
//! The warden holds everything that an outlet is made of, so that neither a restart of egress nor a broken connection
//! loses more than the connections under way: what is here is handed over again, and counters go on where they were.
//! It never waits for egress: what the socket does not take now is sent later.
//!
//! A session that may reach nothing has an outlet, too, since that may change; egress does not hear of it, and the
//! kernel refuses whoever connects in the cell. A browser's is served all the same: by it the browser reaches what the
//! session's own programs serve.

use super::watch::Source;
use super::{Timer, Warden, WardenError, log};
use crate::control::{Boottime, FromWarden};
use crate::egress::{Decision, FromEgress, Network, OutletId, SharedCounters, ToEgress, Traffic, VERSION};
use crate::id::SessionId;
use crate::loopback;
use crate::packet::{Assembler, PacketError, Packets};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How often an absent egress is tried, in microseconds.
const RECONNECT_US: u64 = 50_000;
/// How soon something that was not sent is tried again, in microseconds.
const RESEND_US: u64 = 1_000;
/// Messages that are read in one go, before the rest of the warden gets its turn.
const HEARD_MAX: usize = 64;
/// Messages that wait because egress does not read. One that falls this far behind is given up, and tried anew.
const OUTBOX_MAX: usize = 16_384;

/// A cell's outlet, as long as it is open. Closed by [`Outlets::close`].
#[derive(Debug)]
pub struct Outlet(OutletId);

/// All outlets, and the connection to who serves them.
#[derive(Debug, Default)]
pub struct Outlets {
    /// Where egress listens; `None`: there is none.
    socket: Option<PathBuf>,
    link: Option<Link>,
    kept: BTreeMap<OutletId, Kept>,
    /// Of live sessions, what their closed outlets used.
    spent_bytes: HashMap<SessionId, u64>,
    last: u64,
    /// Said once, not at every try.
    absent: bool,
}

/// What an outlet is made of.
#[derive(Debug)]
struct Kept {
    session: SessionId,
    network: Network,
    listener: OwnedFd,
    pidfd: OwnedFd,
    counters: SharedCounters,
    home: bool,
}

/// What egress said that is of interest.
#[derive(Debug)]
pub enum Heard {
    /// It decided on a connection of the session.
    Decided(SessionId, Decision),
    /// It wants sockets that lead to the session's native cells, for the answer with this tag.
    Wanted(SessionId, u64),
}

/// Whose descriptors go with a message.
#[derive(Debug)]
enum Along {
    Nothing,
    Outlet(OutletId),
    These(Vec<OwnedFd>),
}

impl Kept {
    /// Egress serves it: it leads somewhere.
    fn is_served(&self) -> bool {
        self.home || self.network != Network::None
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.listener.as_fd(), self.pidfd.as_fd(), self.counters.as_fd()]
    }
}

impl Outlets {
    /// None yet; `socket` is where egress listens.
    pub fn new(socket: Option<PathBuf>) -> Self {
        Self { socket, ..Self::default() }
    }

    /// Opens a cell's way out: `listener` was made inside of the cell, before the first guest byte, and nobody in the
    /// cell holds it any more; `pidfd` is its pid 1. `home`: its `localhost` leads to the session's native cells.
    /// [`Self::tend`] must follow.
    ///
    /// # Errors
    /// When there is no egress at all, the list is too long, or the system has no memory for counters.
    pub fn open(
        &mut self,
        session: SessionId,
        network: Network,
        listener: OwnedFd,
        pidfd: OwnedFd,
        home: bool,
    ) -> io::Result<Outlet> {
        let home = home && self.socket.is_some();
        if self.socket.is_none() && network != Network::None {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "there is no egress"));
        }
        if !network.is_bounded() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the list of hosts is too long"));
        }
        if network == Network::None && !home {
            loopback::silence(&listener)?;
        }
        let counters = SharedCounters::create()?;
        self.last += 1;
        let outlet = OutletId(self.last);
        self.kept.insert(outlet, Kept { session, network, listener, pidfd, counters, home });
        self.tell_of(outlet);
        Ok(Outlet(outlet))
    }

    /// Another policy for a session. Connections under way that it does not allow are cut.
    pub fn change(&mut self, session: SessionId, network: &Network) {
        let its: Vec<_> =
            self.kept.iter().filter(|(_, kept)| kept.session == session).map(|(id, _)| *id).collect();
        for outlet in its {
            if let Err(error) = self.change_one(outlet, network) {
                // What is closed stays closed; what was to be closed is not served any more.
                log(&format!("a cell of session {session} has no way out: {error}"));
            }
        }
    }

    fn change_one(&mut self, outlet: OutletId, network: &Network) -> io::Result<()> {
        let Some(kept) = self.kept.get_mut(&outlet) else { return Ok(()) };
        let before = std::mem::replace(&mut kept.network, network.clone());
        match (before, network) {
            (before, network) if before == *network => Ok(()),
            _ if kept.home => {
                self.send(&ToEgress::Change { outlet, network: network.clone() });
                Ok(())
            }
            (Network::None, _) => {
                let woken = loopback::wake(&kept.listener).inspect_err(|_| kept.network = Network::None);
                self.tell_of(outlet);
                woken
            }
            (_, Network::None) => {
                let silenced = loopback::silence(&kept.listener);
                self.send(&ToEgress::Detach { outlet });
                silenced
            }
            _ => {
                self.send(&ToEgress::Change { outlet, network: network.clone() });
                Ok(())
            }
        }
    }

    /// What an outlet has carried so far.
    pub fn traffic(&self, outlet: &Outlet) -> Traffic {
        self.kept.get(&outlet.0).map(|kept| kept.counters.read()).unwrap_or_default()
    }

    /// A descriptor for a [`crate::egress::TrafficReader`] of what an outlet carries.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn reader(&self, outlet: &Outlet) -> io::Result<OwnedFd> {
        let kept = self.kept.get(&outlet.0).ok_or(io::ErrorKind::NotFound)?;
        kept.counters.reader()
    }

    /// The cell is gone. What its outlet carried.
    pub fn close(&mut self, outlet: Outlet) -> Traffic {
        let Some(kept) = self.kept.remove(&outlet.0) else { return Traffic::default() };
        self.send(&ToEgress::Detach { outlet: outlet.0 });
        let traffic = kept.counters.read();
        *self.spent_bytes.entry(kept.session).or_default() += traffic.sum_bytes();
        traffic
    }

    /// The session is gone, and its outlets were closed.
    pub fn forget(&mut self, session: SessionId) {
        self.spent_bytes.remove(&session);
    }

    /// The warden ends in order.
    pub fn farewell(&mut self) {
        self.send(&ToEgress::Farewell);
    }

    /// The connection, to be watched for reading; `None` while there is none.
    pub fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.socket.as_fd())
    }

    /// Connects and hands everything over, if that is to be done, and sends what waits. Says after how many
    /// microseconds it should be called again, if at all.
    pub fn tend(&mut self) -> Option<u64> {
        if self.link.is_none()
            && let Some(socket) = &self.socket
        {
            match Link::connect(socket) {
                Ok(link) => self.greet(link),
                Err(error) if !self.absent => {
                    log(&format!("egress does not answer at {}: {error}", socket.display()));
                    self.absent = true;
                }
                Err(_known) => {}
            }
        }
        match &mut self.link {
            None => self.socket.is_some().then_some(RECONNECT_US),
            Some(link) => match link.flush(&self.kept) {
                Ok(done) => (!done).then_some(RESEND_US),
                Err(error) => {
                    self.lose(&error);
                    Some(RECONNECT_US)
                }
            },
        }
    }

    fn greet(&mut self, link: Link) {
        self.link = Some(link);
        self.absent = false;
        self.send(&ToEgress::Hello { version: VERSION });
        for outlet in self.kept.keys().copied().collect::<Vec<_>>() {
            self.tell_of(outlet);
        }
    }

    /// What egress says. An end of the connection is noticed here.
    pub fn hear(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for _ in 0..HEARD_MAX {
            let Some(link) = &mut self.link else { break };
            match link.receive() {
                Ok(None) => break,
                Ok(Some(message)) => heard.extend(self.understand(message)),
                Err(error) => self.lose(&error),
            }
        }
        heard
    }

    fn understand(&self, message: FromEgress) -> Option<Heard> {
        match message {
            FromEgress::Decided { outlet, decision } if decision.is_bounded() => {
                // One that was closed meanwhile has no session to tell.
                Some(Heard::Decided(self.kept.get(&outlet)?.session, decision))
            }
            FromEgress::Reach { outlet, tag } => {
                let kept = self.kept.get(&outlet).filter(|kept| kept.home)?;
                Some(Heard::Wanted(kept.session, tag))
            }
            FromEgress::Refused { outlet, why } => {
                let session = self.kept.get(&outlet)?.session;
                log(&format!("egress does not serve a cell of session {session}: {}", why.escape_debug()));
                None
            }
            // The cell's end is known by its pidfd here, too.
            FromEgress::Decided { .. } | FromEgress::Closed { .. } | FromEgress::Welcome { .. } => None,
        }
    }

    fn tell_of(&mut self, outlet: OutletId) {
        let Some(kept) = self.kept.get(&outlet).filter(|kept| kept.is_served()) else { return };
        let session = kept.session;
        let others = self.kept.iter().filter(|(id, kept)| **id != outlet && kept.session == session);
        let live: u64 = others.map(|(_, kept)| kept.counters.read().sum_bytes()).sum();
        let spent_bytes = self.spent_bytes.get(&session).copied().unwrap_or_default() + live;
        let (network, home) = (kept.network.clone(), kept.home);
        let message = ToEgress::Attach { outlet, session, network, spent_bytes, home };
        self.send_along(&message, Along::Outlet(outlet));
    }

    /// Hands over sockets that were wanted.
    pub fn give(&mut self, tag: u64, sockets: Vec<OwnedFd>) {
        self.send_along(&ToEgress::Sockets { tag }, Along::These(sockets));
    }

    /// Sends, if there is somebody; otherwise all is told when there is.
    fn send(&mut self, message: &ToEgress) {
        self.send_along(message, Along::Nothing);
    }

    fn send_along(&mut self, message: &ToEgress, along: Along) {
        let Some(link) = &mut self.link else { return };
        if let Err(error) = link.queue(message, along).and_then(|()| link.flush(&self.kept)) {
            self.lose(&error);
        }
    }

    fn lose(&mut self, error: &PacketError) {
        if self.link.take().is_some() {
            log(&format!("egress is gone: {error}"));
        }
    }
}

/// A connection to egress.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    assembler: Assembler,
    /// What was not sent yet, and whose descriptors go with it.
    outbox: VecDeque<(Packets, Along)>,
}

impl Link {
    fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, assembler: Assembler::default(), outbox: VecDeque::new() })
    }

    fn queue(&mut self, message: &ToEgress, along: Along) -> Result<(), PacketError> {
        if self.outbox.len() >= OUTBOX_MAX {
            return Err(PacketError::Malformed("egress does not read"));
        }
        self.outbox.push_back((Packets::new(message)?, along));
        Ok(())
    }

    /// Whether everything was sent.
    fn flush(&mut self, kept: &BTreeMap<OutletId, Kept>) -> Result<bool, PacketError> {
        while let Some((packets, along)) = self.outbox.front_mut() {
            let descriptors = match along {
                Along::Nothing => Vec::new(),
                // One that was closed before it was told of goes without: it is refused, then detached.
                Along::Outlet(outlet) => {
                    kept.get(outlet).map_or_else(Vec::new, |kept| kept.descriptors().into())
                }
                Along::These(descriptors) => descriptors.iter().map(AsFd::as_fd).collect(),
            };
            match packets.send_next(self.socket.as_fd(), &descriptors) {
                Ok(()) if packets.done() => drop(self.outbox.pop_front()),
                Ok(()) => {}
                Err(error) if error.would_block() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn receive(&mut self) -> Result<Option<FromEgress>, PacketError> {
        loop {
            match self.assembler.receive_next(self.socket.as_fd()) {
                Ok(None) => {}
                Ok(Some((FromEgress::Welcome { version }, _))) if version != VERSION => {
                    return Err(PacketError::Malformed("egress speaks another version"));
                }
                Ok(Some((message, _))) => return Ok(Some(message)),
                Err(error) if error.would_block() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Warden {
    /// Opens a cell's way out, to be kept in [`super::cell::Cell::outlet`]; see [`Outlets::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open_outlet(
        &mut self,
        session: SessionId,
        network: Network,
        listener: OwnedFd,
        pidfd: OwnedFd,
        home: bool,
    ) -> io::Result<Outlet> {
        let outlet = self.outlets.open(session, network, listener, pidfd, home)?;
        self.tend_outlets().map_err(io::Error::other)?;
        Ok(outlet)
    }

    /// A session may reach something else from now on.
    pub(super) fn reroute(&mut self, session: SessionId, network: Network) -> Result<(), WardenError> {
        if !network.is_bounded() {
            log("a list of hosts that is too long is not heeded");
            return Ok(());
        }
        let Some(its) = self.sessions.get_mut(&session) else { return Ok(()) };
        its.network = network;
        self.outlets.change(session, &its.network);
        self.tend_outlets()
    }

    /// See [`Outlets::tend`].
    pub(super) fn tend_outlets(&mut self) -> Result<(), WardenError> {
        let connected = self.outlets.connection().is_some();
        let again_us = self.outlets.tend();
        match self.outlets.connection() {
            Some(connection) if !connected => self.watch.add(connection, Source::Egress)?,
            None if connected => self.watch.forget(Source::Egress),
            _ => {}
        }
        if let Some(us) = again_us {
            self.timers.retain(|(_, timer)| *timer != Timer::Egress);
            self.timers.insert((Boottime::now().plus_us(us), Timer::Egress));
        }
        Ok(())
    }

    /// Egress spoke or is gone.
    pub(super) fn hear_egress(&mut self) -> Result<(), WardenError> {
        for heard in self.outlets.hear() {
            match heard {
                Heard::Decided(session, decision) => {
                    self.say(&FromWarden::Decided { session, decision }, vec![]);
                }
                Heard::Wanted(session, tag) => {
                    let sockets = self.sockets_of(session);
                    self.outlets.give(tag, sockets);
                }
            }
        }
        if self.outlets.connection().is_none() {
            self.watch.forget(Source::Egress);
            self.tend_outlets()?;
        }
        Ok(())
    }
}
