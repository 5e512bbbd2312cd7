//! How a session takes a cell: checked, committed, locked, handed over.

use super::births::no_uids;
use super::cell::{State, Stopwatch, Taken, User};
use super::session::{Estate, Holding, Home, Namespaces, Session};
use super::uids::UidPair;
use super::watch::Source as Watched;
use super::zygotes::{Kind, Shelf};
use super::{Timer, Waiting, Warden, log};
use crate::control::{Boottime, Cause, Class, FromWarden, Refusal, Take};
use crate::fault;
use crate::hatch::{Commit, FromCell, ToCell};
use crate::id::{CellId, SessionId};
use crate::identity;
use crate::lock::GUEST_UID;
use crate::loopback;
use crate::packet;
use crate::walls::{Wall, Walls};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// How long a request may wait for a cell.
const TAKE_WAIT_US: u64 = 2_000_000;
/// How long where there is no zygote yet that could fork one: a Python with all its packages comes from a disk that may be
/// slow, or busy.
const WARMING_WAIT_US: u64 = 30_000_000;
/// How long pid 1 may take to lock itself …
const COMMIT_WAIT_US: u64 = 2_000_000;
/// … and a native one to start its program before; and how long a request may wait for a browser, which takes as long to
/// start.
const START_WAIT_US: u64 = 10_000_000;
/// How many requests may wait.
const WAITING_MAX: usize = 4_096;
/// How many of one group: the rest is left to others.
const WAITING_OF_GROUP_MAX: usize = 512;
/// Memory that must be free below the cap for another session, in bytes.
const HEADROOM_BYTES: u64 = 64 << 20;

impl Warden {
    pub(super) fn take(&mut self, take: Take) {
        let tag = take.tag;
        let prepared = self.kind(&take).ok_or(Refusal::NoImage);
        let kind = match prepared.and_then(|kind| self.prepare_take(&take).map(|()| kind)) {
            Ok(kind) => kind,
            Err(why) => return self.say(&FromWarden::Refused { tag, why }, vec![]),
        };
        let wait_us = match kind.class {
            Class::Browser => START_WAIT_US,
            _ if self.serving.contains_key(&kind) => TAKE_WAIT_US,
            _ => WARMING_WAIT_US,
        };
        let asked = Boottime::now();
        let until = asked.plus_us(wait_us);
        self.waiting.push(take.group, Waiting { take, kind, asked, until });
        self.serve_waiting();
        if !self.waiting.is_empty() {
            self.timers.insert((until, Timer::Waiting));
        }
    }

    /// Checks a request against the ceilings and gives its session what it owns, if this is its first cell.
    pub(super) fn prepare_take(&mut self, take: &Take) -> Result<(), Refusal> {
        let ceiling = &self.config.warden;
        let limits = &take.limits;
        if limits.memory_bytes > ceiling.session_memory_bytes_max
            || limits.disk_bytes > ceiling.session_disk_bytes_max
            || limits.cpu_millicores > ceiling.session_cpu_millicores_max
            || limits.processes > ceiling.session_processes_max
        {
            return Err(Refusal::Session("the limits exceed the warden's ceilings".into()));
        }
        let crowded =
            self.waiting.len() >= WAITING_MAX || self.waiting.len_of(take.group) >= WAITING_OF_GROUP_MAX;
        if self.stopping || crowded {
            return Err(Refusal::Capacity("too many requests wait".into()));
        }
        match self.sessions.get_mut(&take.session) {
            Some(session) if session.ending.is_some() => Err(Refusal::Session("it is ending".into())),
            Some(session) if session.limits != *limits || session.group != take.group => {
                Err(Refusal::Session("its limits were others before".into()))
            }
            Some(session) => {
                // Here and not at the commit: in between the session's network may change, and that holds.
                session.network.clone_from(&take.network);
                Ok(())
            }
            None => self.open_session(take),
        }
    }

    pub(super) fn open_session(&mut self, take: &Take) -> Result<(), Refusal> {
        let walls = |error: String| Refusal::Walls(error);
        let cap = self.config.memory_bytes();
        if self.tree.memory_in_use().map_err(|e| walls(e.to_string()))?.saturating_add(HEADROOM_BYTES) > cap {
            return Err(Refusal::Capacity("memory".into()));
        }
        let opened = fault::step("session_cgroup").map_err(|e| e.to_string());
        let opened = opened.and_then(|()| {
            self.tree.open_session(take.group, take.session, &take.limits).map_err(|e| e.to_string())
        });
        match opened {
            Err(error) => {
                if let Err(error) = self.tree.remove_session(take.group, take.session) {
                    log(&format!("remove a session's cgroup: {error}"));
                }
                Err(walls(error))
            }
            Ok(()) => {
                if self.precedence.is_last(take.group) {
                    // Its group may be a new one.
                    self.tree.put_last(take.group, true);
                }
                let session = Session {
                    id: take.session,
                    group: take.group,
                    limits: take.limits,
                    network: take.network.clone(),
                    home: Home::None,
                    holding: Holding::Nothing,
                    cells: HashSet::new(),
                    expires_at: take.expires_at,
                    ending: None,
                };
                self.timers.insert((take.expires_at, Timer::Expiry(take.session)));
                self.sessions.insert(take.session, session);
                Ok(())
            }
        }
    }

    /// Gives a session user ids and files of its own, if it has none.
    pub(super) fn endow(&mut self, id: SessionId) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&id).filter(|session| session.ending.is_none());
        let session = session.ok_or_else(|| Refusal::Session("it ended".into()))?;
        if session.holding.held().is_some() {
            return Ok(());
        }
        let uids = self.uids.take().ok_or_else(no_uids)?;
        let bytes = session.limits.disk_bytes;
        let made = fault::step("workspace").map_err(std::io::Error::from);
        match made.and_then(|()| self.workspaces.create(id, bytes, uids.guest())) {
            Ok(workspace) => {
                session.holding = Holding::Held(Estate { uids, workspace });
                Ok(())
            }
            Err(error) => {
                if let Err(error) = self.workspaces.discard(id) {
                    log(&format!("remove a session's workspace: {error}"));
                }
                self.uids.give_back(uids);
                Err(Refusal::Walls(format!("workspace: {error}")))
            }
        }
    }

    /// Gives pooled cells to those who wait for them, one to each group in turn, and refuses who waited for too long.
    pub(super) fn serve_waiting(&mut self) {
        loop {
            let mut waiting = std::mem::take(&mut self.waiting);
            let next = waiting.next(|waiting| match self.source(waiting) {
                Source::Pool(shelf) => self.has_ready(shelf),
                Source::Order => self.serving.contains_key(&waiting.kind),
                Source::Later => false,
            });
            self.waiting = waiting;
            let Some(next) = next else { break };
            match self.source(&next) {
                Source::Pool(shelf) => {
                    if let Some(cell) = self.pools.get_mut(&shelf).and_then(VecDeque::pop_front) {
                        self.commit(cell, &next.take);
                    }
                }
                Source::Order => self.order_for(next),
                Source::Later => {}
            }
        }
        let now = Boottime::now();
        // A zygote that does not stay up is not worth as much patience as one that is slow.
        let hopeless = |kind: &Kind| self.broken.contains(kind) && !self.serving.contains_key(kind);
        let over = |waiting: &Waiting| {
            let until = waiting.asked.plus_us(TAKE_WAIT_US);
            now >= if hopeless(&waiting.kind) { until.min(waiting.until) } else { waiting.until }
        };
        for waiting in self.waiting.take_out(over) {
            let kind = waiting.kind;
            let why = match (self.serving.get(&kind), self.failing.get(&kind)) {
                (Some(_), None) => Refusal::Capacity("no cell came free in time".into()),
                (Some(_), Some(errno)) => Refusal::Walls(format!("fork: {errno}")),
                (None, _) if !self.broken.contains(&kind) => {
                    Refusal::Capacity("what its cells are forked from is still being loaded".into())
                }
                (None, _) => Refusal::Walls(format!("no zygote of {} cells stays up", kind.class)),
            };
            self.say(&FromWarden::Refused { tag: waiting.take.tag, why }, vec![]);
        }
    }

    /// Where the cell that somebody waits for comes from.
    pub(super) fn source(&self, waiting: &Waiting) -> Source {
        let (kind, session) = (waiting.kind, self.sessions.get(&waiting.take.session));
        match (kind.class, session.map(|session| &session.home)) {
            (Class::Native, Some(Home::Making(_))) => Source::Later,
            (Class::Native, Some(Home::Made(_))) if self.room() > 0 => Source::Order,
            (Class::Native, Some(Home::Made(_))) => Source::Later,
            (Class::Native, _) => {
                // What runs already has its environment, and brings files, which a session has no place for beside its own.
                let program = Some(waiting.take.interpreter).filter(|_| waiting.take.env.is_empty());
                let fresh = session.is_some_and(|session| session.holding.held().is_none());
                let ready = Shelf { kind, program };
                let plain = Shelf { kind, program: None };
                Source::Pool(if fresh && self.has_ready(ready) { ready } else { plain })
            }
            // It has to run as its session's user.
            (Class::Browser, _) if !self.workspaces.can_lend() => {
                let may_start = self.room() > 0 && self.starting(kind) < self.starts_max(kind);
                if may_start { Source::Order } else { Source::Later }
            }
            (Class::Wasm | Class::Files | Class::Browser, _) => Source::Pool(Shelf { kind, program: None }),
        }
    }

    fn has_ready(&self, shelf: Shelf) -> bool {
        self.pools.get(&shelf).is_some_and(|pool| !pool.is_empty())
    }

    fn order_for(&mut self, waiting: Waiting) {
        let Waiting { take, kind, .. } = waiting;
        let Some(zygote) = self.serving.get(&kind).copied() else { return };
        let tag = take.tag;
        if let Err(error) = self.order_cell(zygote, None, Some(Box::new(take))) {
            log(&format!("order a cell: {error}"));
            self.say(&FromWarden::Refused { tag, why: Refusal::Capacity(error.to_string()) }, vec![]);
        }
    }

    /// The cell that a session's namespaces were made with is complete, or will never be.
    pub(super) fn home_is(&mut self, id: CellId, complete: bool) {
        let Some(cell) = self.cells.get(&id) else { return };
        let Some(taken) = &cell.taken else { return };
        let Some(session) = self.sessions.get_mut(&taken.session) else { return };
        if matches!(session.home, Home::Making(making) if making == id) {
            let namespaces = if complete { namespaces(cell.pid()) } else { None };
            session.home = namespaces.map_or(Home::None, Home::Made);
        }
    }

    /// Sockets in the network of a session's native cells, where it has any.
    pub(super) fn sockets_of(&self, session: SessionId) -> Vec<OwnedFd> {
        let Some(Home::Made(home)) = self.sessions.get(&session).map(|session| &session.home) else {
            return Vec::new();
        };
        loopback::sockets_in(&home.network).unwrap_or_else(|error| {
            log(&format!("no socket in a cell's network: {error}"));
            Vec::new()
        })
    }

    pub(super) fn commit(&mut self, id: CellId, take: &Take) {
        if let Some(cell) = self.cells.get(&id) {
            self.be_courteous(cell.kind.class);
        }
        let outcome = self.try_commit(id, take);
        if let Err(why) = outcome {
            log(&format!("a cell could not be committed: {why}"));
            self.kill(id, Cause::Killed);
            self.say(&FromWarden::Refused { tag: take.tag, why }, vec![]);
        }
    }

    pub(super) fn try_commit(&mut self, id: CellId, take: &Take) -> Result<(), Refusal> {
        let since = Boottime::now();
        let refuse = |step: &str, error: &dyn std::fmt::Display| Refusal::Walls(format!("{step}: {error}"));
        self.adopt(id, take.session)?;
        self.endow(take.session)?;
        let session = self.sessions.get_mut(&take.session);
        let session = session.ok_or_else(|| Refusal::Session("it ended".into()))?;
        let estate = session.holding.held().ok_or_else(|| Refusal::Session("it ended".into()))?;
        let cell = self.cells.get_mut(&id).ok_or_else(|| Refusal::Capacity("the cell ended".into()))?;
        // From here on the cell is the session's, so that its end cleans up whatever was made for it, and the session's user ids
        // are not given back before the cell is gone.
        cell.place = Some((session.group, session.id));
        session.cells.insert(id);
        fault::step("cell_cgroup").map_err(|e| refuse("cgroup", &e))?;
        let group =
            self.tree.admit(session.group, session.id, id, cell.pid()).map_err(|e| refuse("cgroup", &e))?;
        let counters = self.tree.counters(&group).map_err(|e| refuse("counters", &e))?;
        let cpu_base_us = counters.cpu_us().map_err(|e| refuse("counters", &e))?;
        let (session_id, seen_cpu_us) = (session.id, cpu_base_us);
        cell.taken = Some(Taken { session: session_id, counters, cpu_base_us, seen_cpu_us, was_busy: true });
        if cell.kind.class == Class::Native && matches!(session.home, Home::None) {
            session.home = Home::Making(id);
        }
        if matches!(cell.user, User::Nobody) {
            write_maps(cell.pid(), estate.uids).map_err(|e| refuse("user map", &e))?;
        }
        let commit = Commit {
            memory_bytes: session.limits.memory_bytes,
            cpu_millicores: session.limits.cpu_millicores,
            interpreter: take.interpreter,
            env: take.env.clone(),
            window: take.window,
            uid: GUEST_UID,
            require_landlock: self.config.warden.require_landlock,
        };
        let class = cell.kind.class;
        let until = since.plus_us(if class == Class::Native { START_WAIT_US } else { COMMIT_WAIT_US });
        let Estate { uids, workspace } = estate;
        let mounts = match (class, &cell.user) {
            // It has them.
            (Class::Native, _) if cell.program.is_some() => Ok(Vec::new()),
            (Class::Native, _) => self.workspaces.mounts(workspace),
            (Class::Browser, User::Own(own)) => self.workspaces.lend(workspace, uids.guest(), own.guest()),
            (Class::Browser, _) => self.workspaces.files(workspace),
            (Class::Wasm | Class::Files, _) => Ok(Vec::new()),
        };
        let mounts = mounts.map_err(|e| refuse("mounts of the workspace", &e))?;
        // What is lent is another root, too.
        let has_root = cell.program.is_some() || matches!(cell.user, User::Own(_));
        let root = if has_root { None } else { Some(workspace.root()) };
        let descriptors: Vec<_> = root.into_iter().chain(&mounts).map(AsFd::as_fd).collect();
        cell.state = State::Committing { tag: take.tag, since, until };
        self.timers.insert((until, Timer::Commit(id)));
        packet::send(&cell.hatch, &ToCell::Commit(commit), &descriptors).map_err(|e| refuse("hatch", &e))
    }

    /// A session that has nothing yet takes over whose a cell's processes are and the files that it came with.
    fn adopt(&mut self, id: CellId, session: SessionId) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&session).filter(|session| session.ending.is_none());
        let session = session.ok_or_else(|| Refusal::Session("it ended".into()))?;
        let cell = self.cells.get_mut(&id).ok_or_else(|| Refusal::Capacity("the cell ended".into()))?;
        let estate = match std::mem::replace(&mut cell.user, User::Session) {
            User::Ready(estate) => estate,
            user => {
                cell.user = user;
                return Ok(());
            }
        };
        if !matches!(session.holding, Holding::Nothing) {
            cell.user = User::Ready(estate);
            return Err(Refusal::Session("it has files already".into()));
        }
        let resized = estate.workspace.resize(session.limits.disk_bytes);
        session.holding = Holding::Held(estate);
        resized.map_err(|e| Refusal::Walls(format!("size of the workspace: {e}")))
    }

    /// The time is over in which a cell had to lock itself. What it said in time and nobody heard yet still counts: on a
    /// busy machine that is us, and not the cell.
    pub(super) fn commit_is_due(&mut self, id: CellId) {
        self.hear_cell(id);
        let why = Refusal::Capacity("a cell was not locked in time".into());
        self.give_up_commit(id, Cause::Killed, why);
    }

    /// Ends a cell that is being locked, and tells who waits for it why. Any other stays as it is.
    pub(super) fn give_up_commit(&mut self, id: CellId, cause: Cause, why: Refusal) {
        let Some(cell) = self.cells.get(&id).filter(|cell| cell.cause.is_none()) else { return };
        let State::Committing { tag, until, .. } = cell.state else { return };
        self.timers.remove(&(until, Timer::Commit(id)));
        self.unwatch(id);
        self.kill(id, cause);
        self.say(&FromWarden::Refused { tag, why }, vec![]);
    }

    /// What a cell says before it is live. The warden reads no hatch after that, and none of a cell that it killed: its
    /// last words must not pass for those of a cell that can be given to somebody.
    pub(super) fn hear_cell(&mut self, id: CellId) {
        if self.cells.get(&id).is_some_and(|cell| cell.cause.is_some()) {
            return self.unwatch(id);
        }
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let said = loop {
            match cell.assembler.receive_next::<FromCell>(cell.hatch.as_fd()) {
                Ok(None) => {}
                Err(error) if error.would_block() => return,
                said => break said,
            }
        };
        match (said, cell.state) {
            (Ok(Some((FromCell::Prepared, _))), State::Born) => {
                let shelf = cell.shelf();
                match (cell.reserved.take(), &cell.user) {
                    (Some(take), _) => self.commit(id, &take),
                    (None, User::Nobody) if shelf.program.is_some() => {
                        if let Err(why) = self.start_ahead(id) {
                            self.is_unfit(id, why);
                        }
                    }
                    (None, _) => {
                        cell.state = State::Pooled;
                        self.pools.entry(shelf).or_default().push_back(id);
                        self.serve_waiting();
                    }
                }
            }
            (Ok(Some((FromCell::Refused { step }, _))), State::Born) => {
                self.is_unfit(id, Refusal::Walls(step))
            }
            (Ok(Some((FromCell::Ready(walls), given))), State::Committing { tag, since, until }) => {
                self.unwatch(id);
                self.timers.remove(&(until, Timer::Commit(id)));
                match self.open_way_out(id, given) {
                    Ok(()) => self.hand_over(id, tag, walls, Boottime::now().since_us(since)),
                    Err(why) => {
                        self.kill(id, Cause::Killed);
                        self.say(&FromWarden::Refused { tag, why }, vec![]);
                    }
                }
            }
            (Ok(Some((FromCell::Refused { step }, _))), State::Committing { tag, .. }) => {
                self.unwatch(id);
                self.kill(id, Cause::Killed);
                self.say(&FromWarden::Refused { tag, why: Refusal::Walls(step) }, vec![]);
            }
            // It ended, or speaks out of turn.
            (_, state) => {
                self.unwatch(id);
                self.kill(id, Cause::Ended);
                if matches!(state, State::Born | State::Pooled) {
                    // The next one may end in the same way.
                    self.pause_refill();
                }
                if let State::Committing { tag, .. } = state {
                    let why = Refusal::Walls("the cell ended while it was locked".into());
                    self.say(&FromWarden::Refused { tag, why }, vec![]);
                }
            }
        }
    }

    pub(super) fn unwatch(&mut self, id: CellId) {
        if let Some(cell) = self.cells.get(&id) {
            self.watch.remove(cell.hatch.as_fd(), Watched::Hatch(id));
        }
    }

    /// Makes the way out of a cell with a network of its own out of what listens in it.
    fn open_way_out(&mut self, id: CellId, given: Vec<OwnedFd>) -> Result<(), Refusal> {
        let Some(cell) = self.cells.get(&id).filter(|cell| cell.kind.class.runs_programs()) else {
            return Ok(());
        };
        let session = cell.taken.as_ref().and_then(|taken| self.sessions.get(&taken.session));
        let session = session.ok_or_else(|| Refusal::Session("it ended".into()))?;
        let mut given = given.into_iter();
        let (Some(listener), None) = (given.next(), given.next()) else {
            return Err(Refusal::Walls("a cell without its listening socket".into()));
        };
        let (name, network) = (session.id, session.network.clone());
        // Native programs share their loopback; a browser's is its own.
        let home = cell.kind.class == Class::Browser;
        let failed = |e: io::Error| Refusal::Walls(format!("way out: {e}"));
        let pidfd = cell.pidfd().try_clone().map_err(failed)?;
        let outlet = self.open_outlet(name, network, listener, pidfd, home).map_err(failed)?;
        if let Some(cell) = self.cells.get_mut(&id) {
            cell.outlet = Some(outlet);
        }
        Ok(())
    }

    pub(super) fn hand_over(&mut self, id: CellId, tag: u64, mut walls: Walls, commit_us: u64) {
        self.home_is(id, true);
        let Some(class) = self.cells.get(&id).map(|cell| cell.kind.class) else { return };
        self.be_courteous(class);
        let Some(cell) = self.cells.get_mut(&id) else { return };
        cell.state = State::Live;
        cell.stopwatch = (class == Class::Browser).then(|| Stopwatch::start(Boottime::now()));
        let network = match class {
            Class::Browser => "own, only loopback; out by egress, where the session may",
            Class::Native => "the session's, only loopback; out by egress, where the session may",
            Class::Wasm | Class::Files => "empty",
        };
        for (name, what) in [
            ("network_namespace", network),
            ("ipc_namespace", "own"),
            ("uts_namespace", "own"),
            ("cgroup_namespace", "own"),
            ("cgroup", "memory, pids, cpu"),
        ] {
            walls.push(name, Wall::Standing(what.to_owned()));
        }
        match (cell.info(), cell.descriptors(&self.outlets)) {
            (Some(info), Ok(descriptors)) => {
                self.say(&FromWarden::Taken { tag, info, walls, commit_us }, descriptors)
            }
            (_, outcome) => {
                let error = outcome.err().map_or_else(|| "not taken".to_owned(), |e| e.to_string());
                self.kill(id, Cause::Killed);
                self.say(&FromWarden::Refused { tag, why: Refusal::Capacity(error) }, vec![]);
            }
        }
    }
}

/// Where a cell comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// One of those that wait there.
    Pool(Shelf),
    /// Made for it, in its session's namespaces or as its user.
    Order,
    /// That is decided when the session's first one is complete, or there are fewer.
    Later,
}

/// The namespaces that others of its session are born in. `None` when it has ended.
fn namespaces(pid: rustix::process::Pid) -> Option<Namespaces> {
    let open = |kind| std::fs::File::open(format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero())).ok();
    Some(Namespaces { user: open("user")?.into(), network: open("net")?.into() })
}

/// A cell's users: 0 and the guest's, nobody else.
pub(super) fn write_maps(pid: rustix::process::Pid, uids: UidPair) -> io::Result<()> {
    fault::step("user_map").map_err(io::Error::from)?;
    let lines = format!("0 {} 1\n{GUEST_UID} {} 1\n", uids.init(), uids.guest());
    identity::write_table(pid.as_raw_nonzero().get(), &lines)
}
