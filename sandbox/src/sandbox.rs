//! The way in: one connection to the warden, and the sessions that use it.
//!
//! One task owns the connection: it reads what the warden says, hands it to the session that it concerns, and makes a
//! new connection when there is none. Sessions send through [`Hub::tell`], which never waits.

use crate::channel::{Channel, More, PACKETS_AT_ONCE, Received, locked};
use crate::error::Error;
use crate::execution::ContextKey;
use crate::quota::Counted;
use crate::session::{Given, Inner, Session, SessionSpec};
use crate::usage::{Accounted, Taking, us_between};
use anchorhold_jail::control::{
    Cause, Class, Digest, FromWarden, Image, Take, ToWarden, Tombstone, VERSION, Welcome,
};
use anchorhold_jail::egress::Decision;
use anchorhold_jail::id::{CellId, ExecutionId, SessionId};
use anchorhold_jail::packet::{PacketError, Packets};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often deadlines are looked at that nobody else keeps.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(100);
/// How often a connection to an absent warden is tried.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
/// How long [`Sandbox::connect`] tries, and how long a greeting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long the warden may take to give a cell or refuse it, which it does itself after 30 s; also to end a stray session.
const TAKE_WAIT: Duration = Duration::from_secs(40);
/// How long a warden that died may take to be back, when all that is wanted of it is that it ends.
const BACK_WAIT: Duration = Duration::from_secs(3);

/// What happens without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A cell is gone; also for tombstones that were found when the connection was made (then perhaps again: go by
    /// the cell's id). To be recorded, then [`Sandbox::acknowledge`]d.
    CellEnded {
        /// Its final counters.
        tombstone: Tombstone,
        /// CPU of it that no [`crate::Finished`] accounts for, in microseconds: the session's standing use. `None`
        /// when nobody opened or adopted its session in this process: then it is `tombstone.cpu_us` less what was
        /// recorded.
        standing_cpu_us: Option<u64>,
    },
    /// Egress decided on a connection of a session: for the audit log.
    Decided {
        /// Which session.
        session: SessionId,
        /// What.
        decision: Decision,
    },
    /// The connection to the warden broke. Sessions that had cells are [`crate::SessionState::Lost`].
    WardenLost,
}

/// Runs untrusted work; cheap to clone. Its tasks end with its last clone.
#[derive(Debug, Clone)]
pub struct Sandbox {
    hub: Arc<Hub>,
    _tasks: Arc<DropGuard>,
}

/// What a cell is wanted for.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    Context(ContextKey),
    Files,
}

/// The connection and the table of sessions. Whoever holds a session's lock may call it; it calls sessions only
/// while it holds none of its own.
#[derive(Debug)]
pub(crate) struct Hub {
    socket: PathBuf,
    runtime: Handle,
    /// Ends the tasks of [`Hub::spawn`].
    stop: CancellationToken,
    link: Mutex<Option<Link>>,
    sessions: Mutex<HashMap<SessionId, Arc<Inner>>>,
    survivors: Mutex<HashMap<SessionId, Vec<Given>>>,
    /// Found at the last connection and not acknowledged.
    tombstones: Mutex<HashMap<CellId, Tombstone>>,
    /// Who waits for the end of a stray session.
    strays: Mutex<HashMap<SessionId, oneshot::Sender<()>>>,
    events: mpsc::UnboundedSender<Event>,
    next_tag: AtomicU64,
    /// The warden was asked to end: its end is no loss.
    leaving: AtomicBool,
}

/// A connection.
#[derive(Debug)]
struct Link {
    channel: Arc<Channel>,
    broken: Arc<Notify>,
    images: Vec<Image>,
    takes: HashMap<u64, Pending>,
    /// Who waits for sockets.
    sockets: HashMap<u64, oneshot::Sender<Vec<OwnedFd>>>,
}

/// A cell that was asked for.
#[derive(Debug)]
struct Pending {
    session: Arc<Inner>,
    wanted: Wanted,
    counted: Vec<Counted>,
    asked: Instant,
    until: Instant,
}

/// A connection after its greeting.
struct Greeted {
    channel: Arc<Channel>,
    welcome: Welcome,
    cells: Vec<Given>,
    tombstones: Vec<Tombstone>,
}

impl Sandbox {
    /// Connects to the warden at a SEQPACKET socket; tries for 5 seconds. Needs a tokio runtime. From then on it
    /// reconnects by itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn connect(socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), Error> {
        // Unbounded, and bounded all the same: one event for each end of a cell, and decisions at egress' pace.
        let (events, receiver) = mpsc::unbounded_channel();
        let hub = Arc::new(Hub {
            socket: socket.to_owned(),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
            link: Mutex::default(),
            sessions: Mutex::default(),
            survivors: Mutex::default(),
            tombstones: Mutex::default(),
            strays: Mutex::default(),
            events,
            next_tag: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        });
        let greeted = tokio::time::timeout(CONNECT_WAIT, hub.greet_until_it_works()).await;
        let greeted = greeted.map_err(|_| Error::Unavailable)?;
        hub.spawn(Arc::clone(&hub).watch());
        let broken = hub.install(greeted, &HashSet::new());
        hub.spawn(Arc::clone(&hub).serve(broken));
        let tasks = Arc::new(hub.stop.clone().drop_guard());
        Ok((Self { hub, _tasks: tasks }, receiver))
    }

    /// What the warden has zygotes for; empty while it is away.
    pub fn images(&self) -> Vec<Image> {
        locked(&self.hub.link).as_ref().map(|link| link.images.clone()).unwrap_or_default()
    }

    /// Whether the warden is there.
    pub fn is_ready(&self) -> bool {
        locked(&self.hub.link).is_some()
    }

    /// A new session. Takes nothing yet.
    pub fn open(&self, spec: SessionSpec) -> Session {
        self.enter(spec, false)
    }

    /// A session that another process of the API opened. Its surviving cells are attached: to the contexts that are
    /// named here, or to the one that [`Session::recover`] names. Cells that nobody can name any more are ended.
    /// `accounted` says what was recorded of a cell so far.
    pub async fn adopt(
        &self,
        spec: SessionSpec,
        contexts: Vec<(CellId, ContextKey)>,
        accounted: impl Fn(CellId) -> Accounted,
    ) -> Session {
        let session = self.enter(spec, true);
        let survivors = locked(&self.hub.survivors).remove(&session.id()).unwrap_or_default();
        session.inner.adopt(survivors, contexts, accounted).await;
        session
    }

    fn enter(&self, spec: SessionSpec, adopted: bool) -> Session {
        let session = Session::new(spec, Arc::clone(&self.hub), adopted);
        locked(&self.hub.sessions).insert(session.id(), Arc::clone(&session.inner));
        session
    }

    /// Sessions that the warden has cells of and nobody adopted.
    pub fn survivors(&self) -> Vec<SessionId> {
        locked(&self.hub.survivors).keys().copied().collect()
    }

    /// Ends a session that nobody adopts; returns when it is gone, or after 10 seconds.
    pub async fn end_stray(&self, session: SessionId) {
        let (sender, ended) = oneshot::channel();
        locked(&self.hub.strays).insert(session, sender);
        if self.hub.tell(&ToWarden::EndSession { session })
            && tokio::time::timeout(TAKE_WAIT, ended).await.is_err()
        {
            tracing::error!(%session, "the warden does not end a stray session");
        }
        locked(&self.hub.strays).remove(&session);
        locked(&self.hub.survivors).remove(&session);
    }

    /// Asks the warden to end, with every session that it has; returns when it is gone, or after 10 seconds.
    pub async fn shut_down_warden(&self) {
        let told = async {
            loop {
                self.hub.leaving.store(true, Ordering::Relaxed);
                if self.hub.tell(&ToWarden::Shutdown) {
                    return;
                }
                // It died and is being started again: then the next one has to be told.
                self.hub.leaving.store(false, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(BACK_WAIT, told).await.is_err() {
            return;
        }
        let gone = async {
            while self.is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(TAKE_WAIT, gone).await.is_err() {
            tracing::error!("the warden does not end");
        }
    }

    /// A cell's final counters are recorded: the warden may forget it.
    pub fn acknowledge(&self, cell: CellId) {
        locked(&self.hub.tombstones).remove(&cell);
        self.hub.tell(&ToWarden::Acknowledge { cell });
    }
}

impl Hub {
    /// Starts a task that ends with the sandbox: what a cell says to whoever comes next must not be read by one that
    /// is gone.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Says something to the warden. `false`: there is none.
    pub(crate) fn tell(&self, message: &ToWarden) -> bool {
        let link =
            locked(&self.link).as_ref().map(|link| (Arc::clone(&link.channel), Arc::clone(&link.broken)));
        let Some((channel, broken)) = link else { return false };
        let sent = Packets::new(message).and_then(|packets| channel.send(packets, Vec::new()));
        if let Err(error) = &sent {
            tracing::warn!(%error, "the warden cannot be reached");
            broken.notify_one();
        }
        sent.is_ok()
    }

    /// Asks for a cell; [`Inner::taken`] or [`Inner::refused`] follows when this succeeds (and the session is not lost
    /// before).
    pub(crate) fn take(&self, mut take: Take, wanted: Wanted, session: &Arc<Inner>) -> Result<(), Error> {
        let browser = take.image.is_some_and(|image| self.class(image) == Some(Class::Browser));
        let counted =
            session.spec.allowance.take(browser).map_err(|(what, most)| Error::Quota(what, most))?;
        take.tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let tag = take.tag;
        match locked(&self.link).as_mut() {
            Some(link) => {
                let asked = Instant::now();
                let (session, until) = (Arc::clone(session), asked + TAKE_WAIT);
                let pending = Pending { session, wanted, counted, asked, until };
                link.takes.insert(tag, pending);
            }
            None => return Err(Error::Unavailable),
        }
        if self.tell(&ToWarden::Take(take)) {
            return Ok(());
        }
        self.pending(tag);
        Err(Error::Unavailable)
    }

    /// What cells of this image are.
    fn class(&self, image: Digest) -> Option<Class> {
        let link = locked(&self.link);
        link.as_ref()?.images.iter().find(|known| known.digest == image).map(|known| known.class)
    }

    /// Sockets in the network of a session's native cells; none where it has no such cell.
    pub(crate) async fn sockets(&self, session: SessionId) -> Result<Vec<OwnedFd>, Error> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let (sender, sockets) = oneshot::channel();
        locked(&self.link).as_mut().ok_or(Error::Unavailable)?.sockets.insert(tag, sender);
        let answered = self.tell(&ToWarden::Socket { tag, session });
        let sockets = match answered {
            true => tokio::time::timeout(TAKE_WAIT, sockets).await.ok().and_then(Result::ok),
            false => None,
        };
        if let Some(link) = locked(&self.link).as_mut() {
            link.sockets.remove(&tag);
        }
        sockets.ok_or(Error::Unavailable)
    }

    /// Whoever asked with this tag; nobody after it was answered.
    fn pending(&self, tag: u64) -> Option<Pending> {
        locked(&self.link).as_mut()?.takes.remove(&tag)
    }

    fn session(&self, id: SessionId) -> Option<Arc<Inner>> {
        locked(&self.sessions).get(&id).cloned()
    }

    pub(crate) fn forget(&self, session: SessionId) {
        locked(&self.sessions).remove(&session);
    }

    /// The tombstone, found at the connection, of a cell that this execution's deadline ended.
    pub(crate) fn tombstone_of(&self, session: SessionId, execution: ExecutionId) -> Option<Tombstone> {
        let tombstones = locked(&self.tombstones);
        let mut its = tombstones.values().filter(|tombstone| tombstone.session == session);
        its.find(|tombstone| tombstone.cause == Cause::Deadline(execution)).cloned()
    }

    /// Reads the warden for ever.
    async fn serve(self: Arc<Self>, mut broken: Arc<Notify>) {
        loop {
            let why = self.attend(&broken).await;
            if self.leaving.load(Ordering::Relaxed) {
                locked(&self.link).take();
                return;
            }
            tracing::error!(%why, "the warden is lost");
            let lost = self.lose();
            let greeted = self.greet_until_it_works().await;
            broken = self.install(greeted, &lost);
            tracing::info!("the warden is back");
        }
    }

    async fn attend(&self, broken: &Notify) -> PacketError {
        let channel = locked(&self.link).as_ref().map(|link| Arc::clone(&link.channel));
        let Some(channel) = channel else { return PacketError::Closed };
        tokio::select! {
            error = channel.read_with(|| self.read(&channel)) => error,
            Err(error) = channel.flush() => error,
            () = broken.notified() => PacketError::Closed,
        }
    }

    fn read(&self, channel: &Channel) -> Result<More, PacketError> {
        for _ in 0..PACKETS_AT_ONCE {
            match channel.look()? {
                Received::Message(message, descriptors) => self.heard(message, descriptors)?,
                Received::Part => {}
                Received::Nothing => return Ok(More::Nothing),
            }
        }
        Ok(More::Now)
    }

    fn heard(&self, message: FromWarden, descriptors: Vec<OwnedFd>) -> Result<(), PacketError> {
        match message {
            FromWarden::Taken { tag, info, walls, commit_us } => match self.pending(tag) {
                Some(Pending { session, wanted, counted, asked, .. }) => {
                    let taking = Taking { take_us: us_between(asked, Instant::now()), commit_us };
                    let given = Given { info, walls: Some(walls), descriptors };
                    session.taken(&wanted, taking, given, counted);
                }
                // Given up, or its session was lost.
                None => drop(self.tell(&ToWarden::Kill { cell: info.cell })),
            },
            FromWarden::Refused { tag, why } => {
                if let Some(Pending { session, wanted, .. }) = self.pending(tag) {
                    tracing::warn!(session = %session.spec.id, %why, "no cell");
                    session.refused(&wanted, why.into());
                }
            }
            FromWarden::Socket { tag } => {
                let waiting = locked(&self.link).as_mut().and_then(|link| link.sockets.remove(&tag));
                // Who does not wait any more needs none.
                let _unclaimed = waiting.map(|waiting| waiting.send(descriptors));
            }
            FromWarden::CellEnded(tombstone) => self.cell_ended(tombstone),
            FromWarden::SessionEnded { session } => {
                if let Some(waiting) = locked(&self.strays).remove(&session) {
                    // Who does not wait any more need not know.
                    let _unclaimed = waiting.send(());
                }
                locked(&self.survivors).remove(&session);
                let ended = locked(&self.sessions).remove(&session);
                if let Some(session) = ended {
                    session.session_ended();
                }
            }
            FromWarden::Decided { session, decision } => self.emit(Event::Decided { session, decision }),
            FromWarden::Welcome(_) | FromWarden::Rejected { .. } | FromWarden::Cell(_) => {
                return Err(PacketError::Malformed("a greeting out of turn"));
            }
        }
        Ok(())
    }

    fn cell_ended(&self, tombstone: Tombstone) {
        self.forget_survivor(&tombstone);
        let session = self.session(tombstone.session);
        let standing_cpu_us = session.and_then(|session| session.cell_ended(&tombstone));
        self.emit(Event::CellEnded { tombstone, standing_cpu_us });
    }

    /// A surviving cell that ended before anybody adopted it is none.
    fn forget_survivor(&self, ended: &Tombstone) {
        let mut survivors = locked(&self.survivors);
        if let Some(cells) = survivors.get_mut(&ended.session) {
            cells.retain(|given| given.info.cell != ended.cell);
            if cells.is_empty() {
                survivors.remove(&ended.session);
            }
        }
    }

    fn emit(&self, event: Event) {
        // Nobody listens when the service is going down; the warden keeps its tombstones.
        let _unheard = self.events.send(event);
    }

    /// There is no warden any more: every session that had cells is lost. Which ones.
    fn lose(&self) -> HashSet<SessionId> {
        // First, so that nobody sends to it and nothing that is asked for from here on is lost by what follows.
        let link = locked(&self.link).take();
        let sessions: Vec<_> = locked(&self.sessions).values().cloned().collect();
        let lost: HashSet<_> = sessions.iter().filter(|s| s.warden_lost()).map(|s| s.spec.id).collect();
        drop(link);
        locked(&self.sessions).retain(|id, _| !lost.contains(id));
        locked(&self.survivors).clear();
        locked(&self.strays).clear();
        self.emit(Event::WardenLost);
        lost
    }

    /// Takes a connection into use. `lost` sessions are ended where the warden still has them.
    fn install(&self, greeted: Greeted, lost: &HashSet<SessionId>) -> Arc<Notify> {
        let Greeted { channel, welcome, cells, tombstones } = greeted;
        let broken = Arc::new(Notify::new());
        let (strays, survivors): (Vec<_>, Vec<_>) =
            cells.into_iter().partition(|given| lost.contains(&given.info.session));
        for given in survivors {
            locked(&self.survivors).entry(given.info.session).or_default().push(given);
        }
        *locked(&self.tombstones) = tombstones.iter().map(|found| (found.cell, found.clone())).collect();
        let link = Link {
            channel,
            broken: Arc::clone(&broken),
            images: welcome.images,
            takes: HashMap::new(),
            sockets: HashMap::new(),
        };
        *locked(&self.link) = Some(link);
        let strays: HashSet<_> = strays.into_iter().map(|given| given.info.session).collect();
        for session in strays {
            self.tell(&ToWarden::EndSession { session });
        }
        for tombstone in tombstones {
            self.emit(Event::CellEnded { tombstone, standing_cpu_us: None });
        }
        broken
    }

    async fn greet_until_it_works(&self) -> Greeted {
        let mut said = String::new();
        loop {
            let why = match tokio::time::timeout(CONNECT_WAIT, self.greet()).await {
                Ok(Ok(greeted)) => return greeted,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if why != said {
                tracing::warn!(%why, "no warden");
                said = why;
            }
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }

    async fn greet(&self) -> Result<Greeted, PacketError> {
        let channel = Arc::new(Channel::new(connect(&self.socket)?)?);
        channel.send(Packets::new(&ToWarden::Hello { version: VERSION })?, Vec::new())?;
        let welcome = match channel.receive::<FromWarden>().await?.0 {
            FromWarden::Welcome(welcome) => welcome,
            FromWarden::Rejected { reason } => return Err(PacketError::Io(io::Error::other(reason))),
            _ => return Err(PacketError::Malformed("no welcome")),
        };
        let (mut cells, mut tombstones) = (Vec::new(), Vec::new());
        while cells.len() < welcome.cells as usize || tombstones.len() < welcome.tombstones as usize {
            match channel.receive::<FromWarden>().await? {
                (FromWarden::Cell(info), descriptors) => cells.push(Given { info, walls: None, descriptors }),
                (FromWarden::CellEnded(tombstone), _) => tombstones.push(tombstone),
                _ => return Err(PacketError::Malformed("not what was announced")),
            }
        }
        Ok(Greeted { channel, welcome, cells, tombstones })
    }

    /// Looks at deadlines for ever.
    async fn watch(self: Arc<Self>) {
        let mut looks = tokio::time::interval(WATCH_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = Instant::now();
            let sessions: Vec<_> = locked(&self.sessions).values().cloned().collect();
            for session in sessions {
                session.watch(now);
            }
            for Pending { session, wanted, .. } in self.overdue_takes(now) {
                tracing::error!(session = %session.spec.id, "the warden does not answer");
                session.refused(&wanted, Error::Unavailable);
            }
        }
    }

    fn overdue_takes(&self, now: Instant) -> Vec<Pending> {
        let mut link = locked(&self.link);
        let takes = link.as_mut().map(|link| link.takes.extract_if(|_, pending| pending.until <= now));
        takes.map(|overdue| overdue.map(|(_, pending)| pending).collect()).unwrap_or_default()
    }
}

/// Connects without waiting: a socket that nobody accepts from is as good as none.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
