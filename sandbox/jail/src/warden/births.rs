//! Zygotes and the pools of prepared cells.

use super::cell::{Cell, State, User};
use super::session::{Estate, Home};
use super::taking::{Source, write_maps};
use super::uids::UidPair;
use super::watch::Source as Watched;
use super::zygotes::{Kind, Shelf, Unborn, Zygote};
use super::{RETRY_PAUSE_US, Timer, Waiting, Warden, WardenError, log, system};
use crate::control::{Boottime, Cause, Class, FromWarden, Interpreter, Refusal, Take};
use crate::fault;
use crate::hatch::ToCell;
use crate::id::{CellId, SessionId};
use crate::packet;
use crate::zygote::Report;
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// How long the making of the next native cell waits for those that were just taken: it takes milliseconds, and would take
/// the processor from their first program. Others are made too quickly to be worth it.
const COURTESY_US: u64 = 4_000;
/// A browser starts for longer, and whoever has just got one loads a page.
const BROWSER_COURTESY_US: u64 = 300_000;
/// Cells of one kind that are on their way at once.
const BIRTHS_MAX: usize = 16;
/// How long a cell may take to be prepared. A browser's own pid 1 gives up before.
const PREPARE_WAIT_US: u64 = 15_000_000;
/// When cells that run a program already are tried again, once one of them could not be prepared.
const UNFIT_PAUSE_US: u64 = 60_000_000;
/// A workspace's size before it is known for whom it is, in bytes.
const AHEAD_BYTES: u64 = 1 << 20;

impl Warden {
    pub(super) fn start_zygote(&mut self, kind: Kind) -> io::Result<()> {
        let image = kind.image.and_then(|digest| self.images.get(&digest)).map(|image| &image.file);
        let zygote = Zygote::start(&self.config, kind, image)?;
        if let Some(pid) = zygote.pid() {
            self.tree.attach_zygote(pid).map_err(io::Error::other)?;
        }
        self.next_number += 1;
        let id = self.next_number;
        self.watch.add(zygote.as_fd(), Watched::Zygote(id)).map_err(io::Error::other)?;
        self.zygotes.insert(id, (kind, zygote));
        Ok(())
    }

    pub(super) fn hear_zygote(&mut self, id: u64) -> Result<(), WardenError> {
        let Some((kind, zygote)) = self.zygotes.get_mut(&id) else { return Ok(()) };
        let kind = *kind;
        match packet::receive::<Report>(&*zygote) {
            Ok((Report::Warm, _)) => {
                zygote.warm = true;
                self.broken.remove(&kind);
                // The next generation serves from now on; the last one has done its work.
                if let Some(before) = self.serving.insert(kind, id) {
                    self.retire(before);
                }
            }
            Ok((Report::Born { tag }, descriptors)) => {
                let unborn = zygote.delivered(tag);
                self.failing.remove(&kind);
                if let (Some(unborn), Some(pidfd)) = (unborn, descriptors.into_iter().next()) {
                    self.born(kind, unborn, pidfd)?;
                }
            }
            Ok((Report::Failed { tag, errno }, _)) => {
                log(&format!("a {} cell could not be forked: {}", kind.class, Errno::from_raw(errno)));
                self.failing.insert(kind, Errno::from_raw(errno));
                if let Some(unborn) = zygote.delivered(tag) {
                    self.forget_unborn(&unborn);
                }
                self.pause_refill();
            }
            Err(error) => {
                log(&format!("the zygote of {} cells ended: {error}", kind.class));
                if !zygote.warm {
                    self.broken.insert(kind);
                }
                self.serving.retain(|_, serving| *serving != id);
                self.retire(id);
                self.pause_refill();
            }
        }
        Ok(())
    }

    pub(super) fn retire(&mut self, id: u64) {
        let Some((_, mut zygote)) = self.zygotes.remove(&id) else { return };
        let orphans = zygote.undelivered();
        // Its last orders may have been carried out: those cells end when their hatches close.
        zygote.end();
        for unborn in orphans {
            self.forget_unborn(&unborn);
        }
        self.watch.forget(Watched::Zygote(id));
    }

    pub(super) fn forget_unborn(&mut self, unborn: &Unborn) {
        self.refuse_reserved(unborn.reserved.as_deref());
        if self.tree.remove_cell(unborn.cell, None).is_err() {
            // A cell that was born all the same is still in it.
            self.timers.insert((Boottime::now().plus_us(RETRY_PAUSE_US), Timer::Removal(unborn.cell)));
        }
    }

    pub(super) fn pause_refill(&mut self) {
        self.timers.insert((Boottime::now().plus_us(RETRY_PAUSE_US), Timer::Refill));
    }

    pub(super) fn born(&mut self, kind: Kind, unborn: Unborn, pidfd: OwnedFd) -> Result<(), WardenError> {
        let id = unborn.cell;
        let reserved = unborn.reserved.clone();
        let cell = match Cell::new(unborn, kind, pidfd) {
            Ok(cell) => cell,
            Err(_ended_at_once) => {
                self.refuse_reserved(reserved.as_deref());
                self.timers.insert((Boottime::now(), Timer::Removal(id)));
                self.pause_refill();
                return Ok(());
            }
        };
        self.watch.add(cell.pidfd().as_fd(), Watched::Ended(id))?;
        self.watch.add(cell.hatch.as_fd(), Watched::Hatch(id))?;
        self.cells.insert(id, cell);
        self.timers.insert((Boottime::now().plus_us(PREPARE_WAIT_US), Timer::Prepare(id)));
        let assigned = reserved.map(|take| self.assign(id, take.session)).transpose();
        let fit = match assigned {
            Ok(uids) if kind.class == Class::Browser => self.identify(id, uids),
            Ok(_) => Ok(()),
            Err(why) => Err(why),
        };
        if let Err(why) = fit {
            self.is_unfit(id, why);
        }
        Ok(())
    }

    /// A cell that was made for a session is its from now on: the session is not over, and its user ids are not given to
    /// others, before the cell is gone.
    fn assign(&mut self, id: CellId, session: SessionId) -> Result<UidPair, Refusal> {
        self.endow(session)?;
        let session = self.sessions.get_mut(&session);
        let session = session.ok_or_else(|| Refusal::Session("it ended".into()))?;
        if let Some(cell) = self.cells.get_mut(&id) {
            cell.place = Some((session.group, session.id));
            session.cells.insert(id);
        }
        session.holding.held().map(|estate| estate.uids).ok_or_else(|| Refusal::Session("it ended".into()))
    }

    /// Makes a browser cell somebody, so that its browser can start before a session takes it: its session's user, where it
    /// was made for one.
    fn identify(&mut self, id: CellId, of_session: Option<UidPair>) -> Result<(), Refusal> {
        let Some(cell) = self.cells.get_mut(&id) else { return Ok(()) };
        let uids = of_session.or_else(|| self.uids.take()).ok_or_else(no_uids)?;
        if of_session.is_none() {
            cell.user = User::Own(uids);
        }
        write_maps(cell.pid(), uids).map_err(|e| Refusal::Walls(format!("user map: {e}")))?;
        let require_landlock = self.config.warden.require_landlock;
        let prepare = ToCell::Prepare { interpreter: Interpreter::Own, require_landlock };
        packet::send(&cell.hatch, &prepare, &[]).map_err(|e| Refusal::Walls(format!("hatch: {e}")))
    }

    /// Makes a prepared native cell somebody with files, and has it start its program. What Landlock says of a directory does
    /// not hold in what is mounted over it later, so the files come before the program, and a session that takes the cell
    /// takes them over.
    pub(super) fn start_ahead(&mut self, id: CellId) -> Result<(), Refusal> {
        let Some(cell) = self.cells.get_mut(&id) else { return Ok(()) };
        let Some(interpreter) = cell.program else { return Ok(()) };
        let failed = |step: &str, error: &dyn std::fmt::Display| Refusal::Walls(format!("{step}: {error}"));
        fault::step("node_ahead").map_err(|e| failed("a Node", &e))?;
        let uids = self.uids.take().ok_or_else(no_uids)?;
        let made = fault::step("workspace").map_err(io::Error::from);
        let made = made.and_then(|()| self.workspaces.create_ahead(AHEAD_BYTES, uids.guest()));
        let workspace = made.map_err(|e| {
            self.uids.give_back(uids);
            failed("workspace", &e)
        })?;
        let mounts = self.workspaces.mounts(&workspace).map_err(|e| failed("mounts of the workspace", &e));
        let root = workspace.root().try_clone().map_err(|e| failed("workspace", &e));
        cell.user = User::Ready(Estate { uids, workspace });
        let (root, mounts) = (root?, mounts?);
        write_maps(cell.pid(), uids).map_err(|e| failed("user map", &e))?;
        let prepare = ToCell::Prepare { interpreter, require_landlock: self.config.warden.require_landlock };
        let descriptors: Vec<_> = [&root].into_iter().chain(&mounts).map(AsFd::as_fd).collect();
        packet::send(&cell.hatch, &prepare, &descriptors).map_err(|e| failed("hatch", &e))
    }

    /// A cell for the pool cannot be prepared. One of those who wait is told, since the next may end in the same way.
    pub(super) fn is_unfit(&mut self, id: CellId, why: Refusal) {
        let Some(shelf) = self.cells.get(&id).map(Cell::shelf) else { return };
        log(&format!("a {} cell could not be prepared: {why}", shelf.kind.class));
        self.unwatch(id);
        self.kill(id, Cause::Killed);
        if shelf.program.is_some() {
            // Nobody waits for one of these.
            self.unfit.insert(shelf, Boottime::now().plus_us(UNFIT_PAUSE_US));
            return;
        }
        self.pause_refill();
        if let Some(cell) = self.cells.get_mut(&id).filter(|cell| cell.is_ordered()) {
            if let Some(take) = cell.reserved.take() {
                self.say(&FromWarden::Refused { tag: take.tag, why }, vec![]);
            }
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        let next = waiting.next(|waiting| self.source(waiting) == Source::Pool(shelf));
        self.waiting = waiting;
        if let Some(next) = next {
            self.say(&FromWarden::Refused { tag: next.take.tag, why }, vec![]);
        }
    }

    /// The time is over in which a cell had to be prepared.
    pub(super) fn prepare_is_due(&mut self, id: CellId) {
        if self.cells.get(&id).is_some_and(|cell| cell.state == State::Born && cell.cause.is_none()) {
            self.is_unfit(id, Refusal::Capacity("a cell was not prepared in time".into()));
        }
    }

    /// Keeps the pools full, and the zygotes young.
    pub(super) fn refill(&mut self) {
        if self.stopping || self.timers.iter().any(|(_, timer)| *timer == Timer::Refill) {
            return;
        }
        for kind in self.kinds.clone() {
            let serving = self.serving.get(&kind).copied();
            let old = serving.is_none_or(|id| self.zygotes.get(&id).is_none_or(|(_, z)| z.is_old()));
            let warming = self.zygotes.values().any(|(k, z)| *k == kind && !z.warm);
            let wanted = self.keeps(kind) || self.waiting.iter().any(|waiting| waiting.kind == kind);
            if old
                && wanted
                && !warming
                && let Err(error) = self.start_zygote(kind)
            {
                log(&format!("start a zygote: {error}"));
                self.pause_refill();
            }
            if let Some(id) = serving {
                for shelf in shelves(kind) {
                    self.order_cells(shelf, id);
                }
            }
        }
    }

    /// A cell was taken, or has just begun to work.
    pub(super) fn be_courteous(&mut self, class: Class) {
        let pause = if class == Class::Browser { BROWSER_COURTESY_US } else { COURTESY_US };
        self.courtesy.insert(class, Boottime::now().plus_us(pause));
    }

    /// Whether cells of this kind shall wait at all.
    pub(super) fn keeps(&self, kind: Kind) -> bool {
        shelves(kind).any(|shelf| self.target(shelf) > 0)
    }

    /// How many prepared cells shall wait. One at least, but where that is dear.
    fn target(&self, shelf: Shelf) -> usize {
        let pool = &self.config.pool;
        match (shelf.kind.class, shelf.program) {
            (Class::Wasm, _) => pool.wasm.max(1),
            (Class::Files, _) => pool.files.max(1),
            // It would be nobody that a session can be.
            (Class::Browser, _) if !self.workspaces.can_lend() => 0,
            (Class::Browser, _) => pool.browser,
            (Class::Native, None) => pool.native,
            (Class::Native, Some(_)) if pool.native == 0 || !self.workspaces.can_create_ahead() => 0,
            (Class::Native, Some(_)) => pool.node,
        }
    }

    /// Until when cells that wait in a pool are not made anew, if nobody waits for them.
    fn patience(&self, shelf: Shelf) -> Option<Boottime> {
        let courtesy = self.courtesy.get(&shelf.kind.class).copied();
        match (shelf.kind.class, shelf.program) {
            (Class::Browser, _) => courtesy,
            (Class::Native, Some(_)) => courtesy.max(self.unfit.get(&shelf).copied()),
            // Enough for those who come meanwhile.
            (Class::Native, None) => courtesy.filter(|_| {
                self.pools.get(&shelf).is_some_and(|pool| pool.len() * 2 >= self.target(shelf).max(2))
            }),
            (Class::Wasm | Class::Files, _) => None,
        }
    }

    fn order_cells(&mut self, shelf: Shelf, id: u64) {
        let kind = shelf.kind;
        let from_pool = |waiting: &&Waiting| self.source(waiting) == Source::Pool(shelf);
        let wanted = self.waiting.iter().filter(from_pool).count();
        let born = self
            .cells
            .values()
            .filter(|c| c.shelf() == shelf && matches!(c.state, State::Born | State::Pooled))
            .filter(|c| c.cause.is_none() && !c.is_ordered())
            .count();
        let Some((_, zygote)) = self.zygotes.get(&id) else { return };
        let expected = zygote.expected().filter(|unborn| unborn.shelf(kind) == shelf).count();
        let missing = (self.target(shelf) + wanted).saturating_sub(born + expected);
        let now = Boottime::now();
        if let Some(until) = self.patience(shelf).filter(|until| *until > now && wanted == 0 && missing > 0) {
            self.timers.insert((until, Timer::Waiting));
            return;
        }
        let all = zygote.expected().count();
        let is_slow = kind.class == Class::Browser || shelf.program.is_some();
        let most = match kind.class {
            // Nobody waits for them, and those who have got some work.
            _ if is_slow && wanted == 0 => 1_usize.saturating_sub(self.starting(kind)),
            // More that start at once only keep each other waiting, and everybody else.
            Class::Browser | Class::Native => self.starts_max(kind).saturating_sub(self.starting(kind)),
            Class::Wasm | Class::Files => BIRTHS_MAX.saturating_sub(all),
        };
        for _ in 0..missing.min(self.room()).min(most) {
            if let Err(error) = self.order_cell(id, shelf.program, None) {
                log(&format!("order a cell: {error}"));
                return self.pause_refill();
            }
        }
    }

    /// How many more cells there may be.
    pub(super) fn room(&self) -> usize {
        let expected: usize = self.zygotes.values().map(|(_, zygote)| zygote.expected().count()).sum();
        self.config.warden.cells_max.saturating_sub(self.cells.len() + expected)
    }

    /// How many cells of a kind are on their way.
    pub(super) fn starting(&self, kind: Kind) -> usize {
        let ordered = self.serving.get(&kind).and_then(|id| self.zygotes.get(id));
        let born = self.cells.values().filter(|cell| cell.kind == kind && cell.state == State::Born);
        ordered.map_or(0, |(_, zygote)| zygote.expected().count()) + born.count()
    }

    /// How many cells of a kind may start at once. One, if all that wait for it come last: others have the processors
    /// meanwhile.
    pub(super) fn starts_max(&self, kind: Kind) -> usize {
        let for_others =
            |waiting: &Waiting| waiting.kind == kind && !self.precedence.is_last(waiting.take.group);
        if self.precedence.is_contended() && !self.waiting.iter().any(for_others) {
            1
        } else {
            self.starts_max
        }
    }

    /// `program`: what it shall run before it is taken; `take`: not for the pool, but for a session, a native one to be born
    /// at its home.
    pub(super) fn order_cell(
        &mut self,
        id: u64,
        program: Option<Interpreter>,
        take: Option<Box<Take>>,
    ) -> Result<(), WardenError> {
        let cell = CellId::random();
        let (ours, theirs) = system("hatch", packet::pair())?;
        let flags = rustix::fs::fcntl_getfl(&ours).map(|flags| flags | rustix::fs::OFlags::NONBLOCK);
        system("hatch", flags.and_then(|flags| rustix::fs::fcntl_setfl(&ours, flags)))?;
        let birth = self.tree.birth(cell, self.config.warden.zygote_uid)?;
        let Some((kind, zygote)) = self.zygotes.get_mut(&id) else { return Ok(()) };
        let session = take.as_ref().and_then(|take| self.sessions.get(&take.session));
        let home = match session.map(|session| &session.home) {
            Some(Home::Made(namespaces)) if kind.class == Class::Native => Some(namespaces),
            _ => None,
        };
        self.next_number += 1;
        let unborn = Unborn { cell, hatch: ours, reserved: take, program };
        zygote
            .order(self.next_number, unborn, &theirs, birth.as_ref(), home)
            .map_err(|e| WardenError::System("order", io::Error::other(e)))
    }

    /// A cell that somebody waits for will not be.
    pub(super) fn refuse_reserved(&mut self, take: Option<&Take>) {
        if let Some(take) = take {
            let why = Refusal::Walls("a cell for this session could not be born".into());
            self.say(&FromWarden::Refused { tag: take.tag, why }, vec![]);
        }
    }
}

/// The pools of cells of a kind.
fn shelves(kind: Kind) -> impl Iterator<Item = Shelf> {
    let program = (kind.class == Class::Native).then_some(Some(Interpreter::Node));
    [None].into_iter().chain(program).map(move |program| Shelf { kind, program })
}

/// Every user id that sessions may have is somebody's.
pub(super) fn no_uids() -> Refusal {
    Refusal::Capacity("user ids".into())
}
