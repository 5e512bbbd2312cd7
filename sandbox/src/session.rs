//! A session: its handle, and what it does with what its state machine decides.
//!
//! Everything that a session knows is behind one lock (`driver::Core`), which is held for microseconds and never over
//! an await; messages are sent under it, so they leave in the order of the decisions. A caller's own task starts an
//! execution when its context is free; the task that reads the cell ends it and starts the next. Nothing depends on a
//! caller that is still there.

mod cell;
mod driver;
mod recover;
mod state;

use crate::channel::{More, PACKETS_AT_ONCE, locked};
use crate::error::Error;
use crate::execution::{Breach, ContextKey, Execution, Finished, Stop};
use crate::feed::{Feed, Follower};
use crate::files;
use crate::limits::Limits;
use crate::quota::{Allowance, Counted};
use crate::sandbox::{Hub, Wanted};
use crate::usage::{Accounted, Taking};
use crate::wires::Wires;
use anchorhold_jail::control::{Boottime, CellInfo, ToWarden, Tombstone, Window};
use anchorhold_jail::counters::Counters;
use anchorhold_jail::egress::{Network, TrafficReader};
use anchorhold_jail::hatch::{Execute, ToCell};
use anchorhold_jail::id::{CellId, ExecutionId, GroupId, SessionId};
use anchorhold_jail::packet::{PacketError, Packets};
use anchorhold_jail::walls::Walls;
use driver::{Core, Job};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

pub(crate) use cell::Cell;
pub use cell::Watching;

/// Where a program of the session may listen, in the order of the warden's sockets.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// How long such a program may take to let somebody in.
const DIAL_WAIT: Duration = Duration::from_secs(3);
/// How long the warden may take to end a session.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// What a session is opened with.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// Names it; never used twice.
    pub id: SessionId,
    /// Sessions of one group share a share of the machine.
    pub group: GroupId,
    /// What it may use.
    pub limits: Limits,
    /// The environment of everything in it.
    pub env: Vec<(String, String)>,
    /// What it asked for of the network.
    pub network: Network,
    /// What its group may have together.
    pub allowance: Allowance,
    /// How large its browser's window is.
    pub window: Window,
    /// After how long without use its browser is frozen; never where nothing is said.
    pub standby_after: Option<Duration>,
    /// When the warden ends it by itself.
    pub expires_at: Boottime,
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Takes executions.
    Open,
    /// Is being closed, or its time is over.
    Closing,
    /// Everything in it is gone.
    Closed,
    /// The warden died while it had cells.
    Lost,
}

/// What a context is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextStatus {
    /// Its name.
    pub key: ContextKey,
    /// The cell that holds its interpreter, when it has one.
    pub cell: Option<CellId>,
    /// What runs in it.
    pub running: Option<ExecutionId>,
    /// How many executions wait for their turn.
    pub waiting: usize,
}

/// A session; cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles of a session and the tasks of its cells share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) spec: SessionSpec,
    pub(crate) hub: Arc<Hub>,
    core: Mutex<Core>,
    /// Follows the state machine, for those who wait for an end.
    phase: watch::Sender<SessionState>,
    /// Adopted cells whose answer to `Attach` is awaited.
    attaching: watch::Sender<usize>,
    /// A permit for each upload or download that may be open.
    pub(crate) transfers: Arc<Semaphore>,
    /// A permit for each other file operation that may be open.
    pub(crate) requests: Arc<Semaphore>,
}

impl Session {
    pub(crate) fn new(spec: SessionSpec, hub: Arc<Hub>, adopted: bool) -> Self {
        let inner = Inner {
            core: Mutex::new(Core::new(&spec, adopted)),
            spec,
            hub,
            phase: watch::Sender::new(SessionState::Open),
            attaching: watch::Sender::new(0),
            transfers: Arc::new(Semaphore::new(files::TRANSFERS_MAX)),
            requests: Arc::new(Semaphore::new(files::REQUESTS_MAX)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Its name.
    pub fn id(&self) -> SessionId {
        self.inner.spec.id
    }

    /// Where it is in its life.
    pub fn state(&self) -> SessionState {
        locked(&self.inner.core).state.phase()
    }

    /// Runs code; waits for its turn in its context, and takes a cell when the context has none.
    ///
    /// Dropping the future does not stop the execution: its result stays with the session until [`Session::recover`]
    /// fetches or [`Session::acknowledge`] drops it.
    ///
    /// # Errors
    /// [`Error::ContextBusy`] when 64 executions wait already (or the id is not new), [`Error::TooLarge`],
    /// [`Error::Closed`], [`Error::Lost`]; and when there is no cell for it: [`Error::Capacity`],
    /// [`Error::Isolation`], [`Error::NoImage`], [`Error::Unavailable`].
    pub async fn execute(&self, execution: Execution) -> Result<Finished, Error> {
        let ticket = self.inner.submit(execution, Vec::new())?;
        ticket.result().await
    }

    /// As [`Session::execute`], for a cell that converses by these pipes instead of running code. It hears the end of
    /// them when it ends, and they end with it.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn converse(&self, execution: Execution, wires: Wires) -> Result<Finished, Error> {
        let ticket = self.inner.submit(execution, vec![wires.heard, wires.told])?;
        ticket.result().await
    }

    /// Has a context's cell converse by these pipes beside what it runs. `None`: it has no cell. The cell counts as used for
    /// as long as the answer is kept.
    pub fn watch(&self, context: &ContextKey, wires: Wires) -> Option<Watching> {
        let packets = Packets::new(&ToCell::Watch).ok()?;
        locked(&self.inner.core).watching(&self.inner, context, packets, vec![wires.heard, wires.told])
    }

    /// Ends an execution, running or waiting; its result says what became of it. `false`: it is neither here.
    pub fn cancel(&self, id: ExecutionId) -> bool {
        let mut core = locked(&self.inner.core);
        core.cancel(&self.inner, id, Stop::Cancelled)
    }

    /// What an execution says, from the beginning and as it says it. `None`: it is not here, or settled.
    pub fn follow(&self, id: ExecutionId) -> Option<Follower> {
        locked(&self.inner.core).follow(id)
    }

    /// More standard input for an execution whose input was left open; `end`: and no more. `false`: it does not run.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when that would be more than 16 MiB after its start; it gets nothing of it then.
    pub fn input(&self, id: ExecutionId, bytes: Vec<u8>, end: bool) -> Result<bool, Error> {
        locked(&self.inner.core).input(id, bytes, end)
    }

    /// Ends an execution together with its interpreter, at once. `false`: it is neither running nor waiting here.
    pub fn kill(&self, id: ExecutionId) -> bool {
        let mut core = locked(&self.inner.core);
        let known = core.cancel(&self.inner, id, Stop::Cancelled);
        if let Some(cell) = core.cell_of(id) {
            core.stop(&self.inner, cell);
        }
        known
    }

    /// Ends a context's interpreter; what runs in it is cancelled, what waits runs in the next one. `false`: it has
    /// none.
    pub fn restart(&self, context: &ContextKey) -> bool {
        locked(&self.inner.core).restart(&self.inner, context)
    }

    /// Ends a context: as [`Session::restart`], and what waits is cancelled.
    pub fn remove(&self, context: &ContextKey) -> bool {
        let mut core = locked(&self.inner.core);
        let effects = core.state.withdraw(context);
        core.apply(&self.inner, effects);
        core.restart(&self.inner, context)
    }

    /// The result is stored: its cell and the session may forget it.
    pub fn acknowledge(&self, id: ExecutionId) {
        locked(&self.inner.core).acknowledge(id);
    }

    /// Its life was changed.
    pub fn renew(&self, expires_at: Boottime) {
        let mut core = locked(&self.inner.core);
        core.expires_at = expires_at;
        if core.touched {
            self.inner.hub.tell(&ToWarden::Renew { session: self.id(), expires_at });
        }
    }

    /// What it may reach was changed: that holds in cells that it has and in those that it takes.
    pub fn reroute(&self, network: Network) {
        let mut core = locked(&self.inner.core);
        core.network.clone_from(&network);
        if core.touched {
            self.inner.hub.tell(&ToWarden::Reroute { session: self.id(), network });
        }
    }

    /// Connects to what listens at a port of its native cells' loopback. `None`: nothing does.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the warden does not answer.
    pub async fn dial(&self, port: u16) -> Result<Option<TcpStream>, Error> {
        let sockets = self.inner.hub.sockets(self.id()).await?;
        for (socket, address) in sockets.into_iter().zip(LOOPBACK) {
            let socket = TcpSocket::from_std_stream(socket.into());
            let connected = tokio::time::timeout(DIAL_WAIT, socket.connect((address, port).into())).await;
            // Otherwise it is refused, or whoever listens lets nobody in.
            if let Ok(Ok(stream)) = connected {
                return Ok(Some(stream));
            }
        }
        Ok(None)
    }

    /// Its contexts that have a cell or something to run.
    pub fn contexts(&self) -> Vec<ContextStatus> {
        let core = locked(&self.inner.core);
        let contexts = core.state.contexts();
        contexts
            .map(|(key, cell, running, waiting)| ContextStatus { key: key.clone(), cell, running, waiting })
            .collect()
    }

    /// The walls of the cell that it took last.
    pub fn walls(&self) -> Option<Walls> {
        locked(&self.inner.core).walls.clone()
    }

    /// Ends everything in it. When this returns, every [`crate::Event::CellEnded`] of it was delivered. May be called
    /// again.
    ///
    /// # Errors
    /// [`Error::Lost`] when the warden died and with it the final counters; [`Error::Unavailable`] when it does not
    /// answer.
    pub async fn close(&self) -> Result<(), Error> {
        let mut phase = self.inner.phase.subscribe();
        self.inner.begin_close()?;
        let over = phase.wait_for(|phase| matches!(phase, SessionState::Closed | SessionState::Lost));
        match tokio::time::timeout(CLOSE_WAIT, over).await {
            Ok(Ok(phase)) if *phase == SessionState::Closed => Ok(()),
            Ok(Ok(_)) => Err(Error::Lost),
            // The sender lives in `self`.
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }
}

/// A caller's claim on a result.
struct Ticket {
    inner: Arc<Inner>,
    id: ExecutionId,
    reply: oneshot::Receiver<Result<Finished, Error>>,
}

impl Ticket {
    async fn result(mut self) -> Result<Finished, Error> {
        // A reply is dropped only when somebody else claims the result.
        (&mut self.reply).await.unwrap_or(Err(Error::Lost))
    }
}

impl Drop for Ticket {
    /// A result that arrived and was not looked at goes back to the session.
    fn drop(&mut self) {
        self.reply.close();
        if let Ok(Ok(finished)) = self.reply.try_recv() {
            locked(&self.inner.core).keep(self.id, finished);
        }
    }
}

impl Inner {
    fn submit(self: &Arc<Self>, execution: Execution, descriptors: Vec<OwnedFd>) -> Result<Ticket, Error> {
        let Execution { id, context, reset_context, code, dialect, stdin, stdin_open, env, cwd, timeout_us } =
            execution;
        let output_bytes = self.spec.limits.output_bytes;
        let execute =
            Execute { execution: id, code, dialect, stdin, stdin_open, env, cwd, timeout_us, output_bytes };
        let packets = Packets::new(&ToCell::Execute(execute)).map_err(|_| Error::TooLarge)?;
        let (sender, reply) = oneshot::channel();
        let mut core = locked(&self.core);
        if core.knows(id) {
            return Err(Error::ContextBusy);
        }
        let effects = core.state.submit(id, &context, reset_context)?;
        core.jobs.insert(
            id,
            Job {
                context,
                packets: Some((packets, descriptors)),
                timeout_us,
                accepted: Instant::now(),
                cell: None,
                reply: sender,
                feed: Feed::default(),
            },
        );
        core.apply(self, effects);
        drop(core);
        Ok(Ticket { inner: Arc::clone(self), id, reply })
    }

    fn begin_close(self: &Arc<Self>) -> Result<(), Error> {
        let mut core = locked(&self.core);
        match core.state.phase() {
            SessionState::Closed => return Ok(()),
            SessionState::Lost => return Err(Error::Lost),
            SessionState::Open | SessionState::Closing => {}
        }
        core.stop_all(Stop::Closing);
        let effects = core.state.close();
        core.apply(self, effects);
        if !core.touched {
            // The warden never heard of it.
            self.finish(&mut core);
            drop(core);
            self.hub.forget(self.spec.id);
            return Ok(());
        }
        if self.hub.tell(&ToWarden::EndSession { session: self.spec.id }) {
            Ok(())
        } else {
            Err(Error::Unavailable)
        }
    }

    fn finish(self: &Arc<Self>, core: &mut Core) {
        let effects = core.state.session_ended();
        core.apply(self, effects);
        core.drop_cells();
        core.desk.abandon(&Error::Closed);
        self.phase.send_replace(core.state.phase());
    }

    /// The warden gave the cell that was asked for.
    pub(crate) fn taken(
        self: &Arc<Self>,
        wanted: &Wanted,
        taking: Taking,
        given: Given,
        counted: Vec<Counted>,
    ) {
        let id = given.info.cell;
        let mut core = locked(&self.core);
        let open = matches!(core.state.phase(), SessionState::Open | SessionState::Closing);
        match given.into_cell().filter(|_| open) {
            Some((cell, base_us, walls)) => {
                core.hold(&cell, base_us, Accounted::default(), counted).taking = Some(taking);
                core.walls = walls.or(core.walls.take());
                self.hub.spawn(cell::read(Arc::clone(self), Arc::clone(&cell)));
                let effects = match wanted {
                    Wanted::Context(key) => core.state.taken(key, id),
                    Wanted::Files => core.files_taken(&self.hub, cell),
                };
                core.apply(self, effects);
            }
            None => {
                self.hub.tell(&ToWarden::Kill { cell: id });
                let why = if open {
                    // As it is when this process may have no more of them.
                    Error::Capacity("a cell came without its descriptors".to_owned())
                } else {
                    Error::Closed
                };
                core.take_failed(self, wanted, why);
            }
        }
    }

    /// There is no cell.
    pub(crate) fn refused(self: &Arc<Self>, wanted: &Wanted, why: Error) {
        locked(&self.core).take_failed(self, wanted, why);
    }

    /// Reads what the cell says. Under the lock from the socket to the end, so that the
    /// end of a cell finds everything before it heard.
    fn read(self: &Arc<Self>, cell: &Cell) -> Result<More, PacketError> {
        let mut core = locked(&self.core);
        match core.pause(self, cell.id) {
            Some(wait) => Ok(More::After(wait)),
            None => core.read(self, cell, PACKETS_AT_ONCE),
        }
    }

    /// The cell must not go on.
    pub(crate) fn breach(self: &Arc<Self>, cell: CellId, why: Breach) {
        tracing::warn!(session = %self.spec.id, %cell, %why, "a cell is killed");
        locked(&self.core).breach(self, cell);
    }

    /// The cell's end of its hatch is closed: the warden should say soon that it is gone, and knows better why.
    fn hung_up(&self, cell: CellId) {
        locked(&self.core).hung_up(self, cell);
    }

    /// The warden says that the cell is gone. What nothing accounts for of its CPU.
    pub(crate) fn cell_ended(self: &Arc<Self>, tombstone: &Tombstone) -> Option<u64> {
        locked(&self.core).cell_ended(self, tombstone)
    }

    /// The warden says that the session is gone.
    pub(crate) fn session_ended(self: &Arc<Self>) {
        self.finish(&mut locked(&self.core));
    }

    /// The warden died. Whether the session is lost with it.
    pub(crate) fn warden_lost(self: &Arc<Self>) -> bool {
        let mut core = locked(&self.core);
        let elsewhere = !core.cells.is_empty() || core.desk.is_taking();
        let effects = core.state.warden_lost(elsewhere);
        core.apply(self, effects);
        let lost = core.state.phase() == SessionState::Lost;
        if lost {
            core.drop_cells();
            core.desk.abandon(&Error::Lost);
            self.phase.send_replace(SessionState::Lost);
        }
        // The new warden knows nothing of it.
        core.touched &= lost;
        lost
    }

    /// Looks at every deadline; called every [`crate::sandbox::WATCH_EVERY`].
    pub(crate) fn watch(self: &Arc<Self>, now: Instant) {
        locked(&self.core).watch(self, now);
    }

    /// For file operations, which have a room of their own.
    pub(crate) fn with_core<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        act(&mut locked(&self.core))
    }
}

/// A cell as the warden handed it over.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) info: CellInfo,
    pub(crate) walls: Option<Walls>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Given {
    /// `None` when the descriptors are not what they should be. Needs a tokio runtime.
    fn into_cell(mut self) -> Option<(Arc<Cell>, u64, Option<Walls>)> {
        if self.descriptors.is_empty() {
            return None;
        }
        let hatch = self.descriptors.remove(0);
        let way_out = self.descriptors.split_off(Counters::FILES.min(self.descriptors.len()));
        let traffic = match &way_out[..] {
            [] => None,
            [file] => Some(TrafficReader::open(file).ok()?),
            _ => return None,
        };
        let counters = Counters::from_descriptors(self.descriptors)?;
        let channel = crate::channel::Channel::new(hatch).ok()?;
        let CellInfo { cell: id, class, .. } = self.info;
        let cell = Cell { id, class, channel, counters, traffic, gone: Default::default() };
        Some((Arc::new(cell), self.info.cpu_base_us, self.walls))
    }
}
