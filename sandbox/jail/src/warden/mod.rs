//! The warden: builds, watches and kills cells. Root, single-threaded, no network, parses nothing a guest wrote.
//!
//! One loop over epoll: the API's connection, the zygotes, the hatches of cells that are not live yet, and the pidfds
//! of all. It decides what became of a cell by what it did itself and by the kernel's counters.
//!
//! What a session owns is user ids, a workspace, cgroups and cells; `end_session` starts their end and
//! `settle_session` gives them back when the last cell is gone.

mod api;
mod births;
pub mod cell;
pub mod closer;
pub mod config;
mod controller;
pub mod doctor;
pub mod egress;
mod endings;
pub mod images;
pub mod keeper;
mod precedence;
mod queue;
mod session;
mod standby;
mod taking;
pub mod uids;
mod watch;
pub mod zygotes;

use crate::cgroup::{CgroupError, Layout, Remains, Tree};
use crate::control::{Boottime, Cause, Class, Digest, Take, Tombstone};
use crate::egress::Traffic;
use crate::id::{CellId, Id, SessionId};
use crate::workspace::Workspaces;
use cell::Cell;
use closer::Closer;
use config::Config;
use controller::Controller;
use egress::Outlets;
use nix::errno::Errno;
use precedence::Precedence;
use queue::Queue;
use session::Session;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use uids::Uids;
use watch::{Source, Watch};
use zygotes::{Kind, OpenImage, Shelf, Zygote};

/// Pause before something that failed is tried again.
const RETRY_PAUSE_US: u64 = 100_000;

/// Why the warden cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// The cgroup tree.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call of its own.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// A zygote cannot be started at all.
    #[error("start a zygote for {0} cells: {1}")]
    Zygote(Class, io::Error),
}

/// What happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Deadline(CellId),
    Prepare(CellId),
    Commit(CellId),
    Expiry(SessionId),
    Waiting,
    Orphans,
    Refill,
    Removal(CellId),
    Egress,
    Precedence,
}

struct Waiting {
    take: Take,
    /// What it waits for.
    kind: Kind,
    asked: Boottime,
    until: Boottime,
}

/// See the module.
pub struct Warden {
    config: Config,
    tree: Tree,
    uids: Uids,
    images: HashMap<Digest, OpenImage>,
    watch: Watch,
    listener: OwnedFd,
    signals: nix::sys::signalfd::SignalFd,
    next_number: u64,
    controller: Option<Controller>,
    zygotes: HashMap<u64, (Kind, Zygote)>,
    serving: HashMap<Kind, u64>,
    kinds: Vec<Kind>,
    /// Kinds whose last zygote ended before it had loaded its image.
    broken: HashSet<Kind>,
    /// Kinds whose last fork failed, and how.
    failing: HashMap<Kind, Errno>,
    cells: HashMap<CellId, Cell>,
    pools: HashMap<Shelf, VecDeque<CellId>>,
    sessions: HashMap<SessionId, Session>,
    tombstones: HashMap<CellId, Tombstone>,
    waiting: Queue<Waiting>,
    outlets: Outlets,
    timers: BTreeSet<(Boottime, Timer)>,
    /// Until when a class's pools are not filled, if that can wait.
    courtesy: HashMap<Class, Boottime>,
    /// Until when pools are not filled whose last cell could not be prepared.
    unfit: HashMap<Shelf, Boottime>,
    /// Browsers, and native cells, that start at once.
    starts_max: usize,
    precedence: Precedence,
    workspaces: Workspaces,
    closer: Closer,
    life: u64,
    stopping: bool,
}

impl std::fmt::Debug for Warden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warden")
            .field("cells", &self.cells.len())
            .field("sessions", &self.sessions.len())
            .finish()
    }
}

fn system<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Result<T, WardenError> {
    result.map_err(|e| WardenError::System(step, e.into()))
}

/// Says something to the operator. Nothing a guest wrote comes here.
fn log(text: &str) {
    eprintln!("anchorhold-warden: {text}");
}

impl Warden {
    /// A warden that listens on `listener`; `remains` are cells of a former life that the caller swept away.
    pub fn new(
        config: Config,
        images: Vec<OpenImage>,
        layout: Layout,
        listener: OwnedFd,
        remains: Vec<Remains>,
    ) -> Result<Self, WardenError> {
        let tree = Tree::create(layout, &config.cgroup(), config.memory_bytes(), config.warden.zygote_uid)?;
        let mut kinds = vec![Kind { class: Class::Files, image: None }];
        kinds.extend(images.iter().map(|i| Kind { class: i.image.class, image: Some(i.image.digest) }));
        let workspaces = system("workspaces", Workspaces::probe())?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut warden = Self {
            uids: Uids::new(config.warden.uid_base, config.warden.uid_count),
            images: images.into_iter().map(|i| (i.image.digest, i)).collect(),
            signals: system("signals", keeper::signals())?,
            life: u64::from_le_bytes(crate::id::random_bytes()),
            tombstones: remains.into_iter().map(tombstone_of).map(|t| (t.cell, t)).collect(),
            watch: Watch::new()?,
            next_number: 0,
            controller: None,
            zygotes: HashMap::new(),
            serving: HashMap::new(),
            broken: HashSet::new(),
            failing: HashMap::new(),
            cells: HashMap::new(),
            pools: HashMap::new(),
            sessions: HashMap::new(),
            waiting: Queue::default(),
            outlets: Outlets::new(config.arguments.egress.clone()),
            timers: BTreeSet::new(),
            courtesy: HashMap::new(),
            unfit: HashMap::new(),
            starts_max: 2 * processors,
            precedence: Precedence::new(processors),
            closer: system("closer", Closer::start(&workspaces))?,
            workspaces,
            stopping: false,
            config,
            tree,
            listener,
            kinds,
        };
        // Of cells that were forked by way of another process.
        system("subreaper", nix::sys::prctl::set_child_subreaper(true))?;
        warden.watch.add(warden.listener.as_fd(), Source::Listener)?;
        warden.watch.add(warden.signals.as_fd(), Source::Signals)?;
        warden.watch.add(warden.closer.as_fd(), Source::Closer)?;
        let early: Vec<Kind> = warden.kinds.iter().copied().filter(|kind| warden.keeps(*kind)).collect();
        for kind in early {
            warden.start_zygote(kind).map_err(|e| WardenError::Zygote(kind.class, e))?;
        }
        warden.orphans_begin();
        warden.tend_outlets()?;
        Ok(warden)
    }

    /// Serves until it is told to stop and everything is gone.
    pub fn run(&mut self) -> Result<(), WardenError> {
        while !(self.stopping && self.sessions.is_empty()) {
            let next = self.timers.first().map(|(at, _)| *at);
            for token in self.watch.wait(next)? {
                self.handle(token)?;
            }
            self.fire_timers()?;
            self.serve_waiting();
            self.refill();
        }
        self.end_everything();
        Ok(())
    }

    /// What a request wants.
    fn kind(&self, take: &Take) -> Option<Kind> {
        let class =
            take.image.map_or(Some(Class::Files), |digest| Some(self.images.get(&digest)?.image.class));
        Some(Kind { class: class?, image: take.image })
    }

    fn handle(&mut self, token: u64) -> Result<(), WardenError> {
        match self.watch.source(token) {
            None => Ok(()),
            Some(Source::Listener) => self.accept(),
            Some(Source::Signals) => {
                let _which = self.signals.read_signal();
                self.shut_down();
                Ok(())
            }
            Some(Source::Controller) => {
                self.hear_controller();
                Ok(())
            }
            Some(Source::Zygote(zygote)) => self.hear_zygote(zygote),
            Some(Source::Hatch(cell)) => {
                self.hear_cell(cell);
                Ok(())
            }
            Some(Source::Ended(cell)) => {
                self.bury(cell);
                Ok(())
            }
            Some(Source::Egress) => self.hear_egress(),
            Some(Source::Closer) => self.hear_closer(),
        }
    }

    fn fire_timers(&mut self) -> Result<(), WardenError> {
        let now = Boottime::now();
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Deadline(id) => {
                    let execution = self.cells.get_mut(&id).and_then(|cell| cell.deadline.take());
                    if let Some((_, execution)) = execution {
                        self.kill(id, Cause::Deadline(execution));
                    }
                }
                Timer::Prepare(id) => self.prepare_is_due(id),
                Timer::Commit(id) => self.commit_is_due(id),
                Timer::Expiry(session) => self.end_session(session, Cause::Expired),
                Timer::Waiting | Timer::Refill => {}
                Timer::Removal(id) => {
                    if self.tree.remove_cell(id, None).is_err() {
                        self.timers.insert((now.plus_us(RETRY_PAUSE_US), Timer::Removal(id)));
                    }
                }
                Timer::Egress => self.tend_outlets()?,
                Timer::Precedence => self.look(now),
                Timer::Orphans => {
                    for session in self.sessions.keys().copied().collect::<Vec<_>>() {
                        self.end_session(session, Cause::Orphaned);
                    }
                }
            }
        }
        if let Some(controller) = &mut self.controller {
            let behind = controller.is_behind();
            if let Err(error) = controller.flush() {
                self.lose_controller(&error);
            } else if behind {
                // Look again soon: the socket is not watched for writing, since it is hardly ever full.
                self.timers.insert((now.plus_us(1_000), Timer::Waiting));
            }
        }
        Ok(())
    }

    /// The end: pooled cells, zygotes, the tree.
    fn end_everything(&mut self) {
        self.outlets.farewell();
        for (_, (_, zygote)) in self.zygotes.drain() {
            zygote.end();
        }
        for (_, mut cell) in self.cells.drain() {
            cell.kill(Cause::Killed);
            // Blocks until it has ended: it was just killed.
            let id = rustix::process::WaitId::PidFd(cell.pidfd().as_fd());
            let _status = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
        }
        if let Err(error) = self.tree.remove() {
            log(&format!("remove the control groups: {error}"));
        }
    }
}

fn tombstone_of(remains: Remains) -> Tombstone {
    Tombstone {
        cell: remains.cell,
        session: remains.session,
        cause: Cause::WardenDied,
        cpu_us: remains.reading.cpu_us,
        memory_peak_bytes: remains.reading.memory_peak_bytes,
        oom_kills: remains.reading.oom_kills,
        traffic: Traffic::default(),
        browser: None,
    }
}

/// A path-safe short name for an instance, from where its data is.
pub fn instance_name(data_dir: &std::path::Path) -> String {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Id::from_bytes(bytes).to_string().split_off(18)
}
