//! How cells and sessions end.

use super::cell::{Cell, State, Taken, User};
use super::closer::Closer;
use super::session::{Estate, Holding, Session};
use super::watch::Source;
use super::{RETRY_PAUSE_US, Timer, Warden, WardenError, log, system};
use crate::control::{Boottime, Cause, FromWarden, Refusal, Tombstone};
use crate::counters::Reading;
use crate::egress::Traffic;
use crate::id::{CellId, ExecutionId, SessionId};
use crate::workspace::Workspace;
use std::os::fd::AsFd;

impl Warden {
    pub(super) fn arm(&mut self, id: CellId, deadline: Option<(Boottime, ExecutionId)>) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        if let Some((before, _)) = cell.deadline.take() {
            self.timers.remove(&(before, Timer::Deadline(id)));
        }
        if let Some((at, _)) = deadline {
            cell.deadline = deadline;
            self.timers.insert((at, Timer::Deadline(id)));
            self.watch_precedence();
        }
        self.weigh_all();
    }

    pub(super) fn kill(&mut self, id: CellId, cause: Cause) {
        if let Some(cell) = self.cells.get_mut(&id) {
            cell.kill(cause);
        }
    }

    /// Everything that is left to do for a cell whose pid 1 ended.
    pub(super) fn bury(&mut self, id: CellId) {
        self.arm(id, None);
        self.home_is(id, false);
        let Some(mut cell) = self.cells.remove(&id) else { return };
        cell.reap();
        self.watch.forget(Source::Hatch(id));
        self.watch.forget(Source::Ended(id));
        if let Some(pool) = self.pools.get_mut(&cell.shelf()) {
            pool.retain(|pooled| *pooled != id);
        }
        let reserved = cell.reserved.take();
        self.refuse_reserved(reserved.as_deref());
        if matches!(cell.state, State::Born | State::Pooled) && cell.cause.is_none() {
            log(&format!("a prepared {} cell ended by itself", cell.kind.class));
            self.pause_refill();
        }
        if let State::Committing { tag, until, .. } = cell.state {
            self.timers.remove(&(until, Timer::Commit(id)));
            if cell.cause.is_none() {
                let why = Refusal::Walls("the cell ended while it was locked".into());
                self.say(&FromWarden::Refused { tag, why }, vec![]);
            }
        }
        let traffic = cell.outlet.take().map(|outlet| self.outlets.close(outlet)).unwrap_or_default();
        if let Some(mut taken) = cell.taken.take() {
            if let Some((group, _)) = cell.place {
                self.precedence.add(group, taken.cpu_since_us());
            }
            let tombstone = inscription(&cell, &taken, traffic);
            self.tombstones.insert(id, tombstone.clone());
            self.say(&FromWarden::CellEnded(tombstone), vec![]);
        }
        let (place, user) = (cell.place, std::mem::replace(&mut cell.user, User::Nobody));
        drop(cell);
        match user {
            // It was the last process of theirs, and files they own none: see `Workspaces::lend`.
            User::Own(uids) => self.uids.give_back(uids),
            // Nobody has taken it over.
            User::Ready(Estate { uids, workspace }) => {
                drop(workspace);
                self.uids.give_back(uids);
            }
            User::Nobody | User::Session => {}
        }
        if let Err(error) = self.tree.remove_cell(id, place) {
            log(&format!("remove a cell's cgroup: {error}"));
            self.timers.insert((Boottime::now().plus_us(RETRY_PAUSE_US), Timer::Removal(id)));
        }
        if let Some((_, session)) = place {
            if let Some(session) = self.sessions.get_mut(&session) {
                session.cells.remove(&id);
            }
            self.settle_session(session);
        }
    }

    pub(super) fn renew(&mut self, id: SessionId, expires_at: Boottime) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.timers.remove(&(session.expires_at, Timer::Expiry(id)));
        session.expires_at = expires_at;
        self.timers.insert((expires_at, Timer::Expiry(id)));
    }

    /// Begins the end of a session; `SessionEnded` is said when everything of it is gone.
    pub(super) fn end_session(&mut self, id: SessionId, cause: Cause) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.ending.get_or_insert(cause);
        self.timers.remove(&(session.expires_at, Timer::Expiry(id)));
        for cell in session.cells.clone() {
            self.give_up_commit(cell, cause, Refusal::Session("it ended".into()));
            self.kill(cell, cause);
        }
        for request in self.waiting.take_out(|waiting| waiting.take.session == id) {
            let why = Refusal::Session("it ended".into());
            self.say(&FromWarden::Refused { tag: request.take.tag, why }, vec![]);
        }
        self.settle_session(id);
    }

    /// Gives back what an ending session owned, once its last cell is gone.
    pub(super) fn settle_session(&mut self, id: SessionId) {
        let over = |session: &&mut Session| session.ending.is_some() && session.cells.is_empty();
        let Some(session) = self.sessions.get_mut(&id).filter(over) else { return };
        match std::mem::replace(&mut session.holding, Holding::Nothing) {
            Holding::Nothing => self.session_is_gone(id),
            Holding::Held(Estate { uids, workspace }) => {
                session.holding = Holding::Closing(uids);
                // The last descriptors of the mount.
                self.give_back(id, Some(workspace));
            }
            closing @ Holding::Closing(_) => session.holding = closing,
        }
    }

    fn give_back(&mut self, id: SessionId, workspace: Option<Workspace>) {
        if let Err(error) = self.closer.close(id, workspace) {
            log(&format!("a workspace could not be given back by another process: {error}"));
            self.session_is_gone(id);
        }
    }

    /// Workspaces are gone.
    pub(super) fn hear_closer(&mut self) -> Result<(), WardenError> {
        match self.closer.closed() {
            Ok(session) => self.session_is_gone(session),
            Err(error) => {
                log(&format!("what closes workspaces has ended: {error}"));
                self.watch.forget(Source::Closer);
                self.closer = system("closer", Closer::start(&self.workspaces))?;
                self.watch.add(self.closer.as_fd(), Source::Closer)?;
                // The descriptors that it had to close were closed with it.
                let closing = |session: &&Session| matches!(session.holding, Holding::Closing(_));
                let left = self.sessions.values().filter(closing);
                for session in left.map(|session| session.id).collect::<Vec<_>>() {
                    self.give_back(session, None);
                }
            }
        }
        Ok(())
    }

    /// Its files are gone: only now may its ids be used again.
    fn session_is_gone(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Err(error) = self.tree.remove_session(session.group, id) {
            log(&format!("remove a session's cgroup: {error}"));
        }
        if let Holding::Closing(uids) = session.holding {
            self.uids.give_back(uids);
        }
        self.outlets.forget(id);
        self.say(&FromWarden::SessionEnded { session: id }, vec![]);
    }
}

/// What is written on the tombstone of a cell.
fn inscription(cell: &Cell, taken: &Taken, traffic: Traffic) -> Tombstone {
    let reading = taken.counters.read().unwrap_or_else(|error| {
        log(&format!("the counters of a cell cannot be read: {error}"));
        Reading::default()
    });
    let by_itself = if reading.oom_kills > 0 { Cause::OutOfMemory } else { Cause::Ended };
    Tombstone {
        cell: cell.id,
        session: taken.session,
        cause: cell.cause.unwrap_or(by_itself),
        cpu_us: reading.cpu_us.saturating_sub(taken.cpu_base_us),
        memory_peak_bytes: reading.memory_peak_bytes,
        oom_kills: reading.oom_kills,
        traffic,
        browser: cell.stopwatch.map(|watch| watch.read(Boottime::now())),
    }
}
