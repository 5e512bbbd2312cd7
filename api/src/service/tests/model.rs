//! A model of the sandbox with the face that the service uses. Its world outlives the service, as cells do.
//!
//! Programs: `use N` (µs of CPU), `wait` (until cancelled or [`World::release`]), `daemon N` (uses N after its end),
//! `lost`, `capacity`, `panic` (the service's task, not the guest).

#![expect(missing_docs, reason = "the sandbox documents the same face")]

use anchorhold_sandbox::{
    Accounted, ArchiveFormat, Boottime, Capture, Cause, CellId, Change, Class, ContextKey, ContextStatus,
    Digest, Download, Entry, Error, Event, Execution, ExecutionId, FileBody, Finished, Follower, Image,
    Network, Outcome, Part, SessionId, SessionSpec, SessionState, Tombstone, Traffic, Unpacked, Usage, Walls,
    Wires, WorkspacePath, Written,
};
use bytes::Bytes;
use futures_util::Stream;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

#[derive(Debug, Clone, Default)]
struct Cell {
    cpu_us: u64,
    accounted_us: u64,
}

#[derive(Debug)]
struct Inside {
    events: mpsc::UnboundedSender<Event>,
    cells: HashMap<(SessionId, ContextKey), (CellId, Cell)>,
    running: HashMap<ExecutionId, SessionId>,
    cancelled: HashSet<ExecutionId>,
    results: HashMap<ExecutionId, Finished>,
    tombstones: HashMap<CellId, Tombstone>,
    finals: HashMap<CellId, u64>,
    ended: HashSet<SessionId>,
    starts: HashMap<ExecutionId, usize>,
}

/// What is outside of the service: cells, kernel, warden.
#[derive(Debug, Clone)]
pub struct World {
    inside: Arc<Mutex<Inside>>,
    changed: Arc<watch::Sender<u64>>,
    released: Arc<watch::Sender<bool>>,
    runtime: tokio::runtime::Handle,
}

impl World {
    /// Programs run on this runtime, which no death of the service ends.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        let inside = Inside {
            events: mpsc::unbounded_channel().0,
            cells: HashMap::new(),
            running: HashMap::new(),
            cancelled: HashSet::new(),
            results: HashMap::new(),
            tombstones: HashMap::new(),
            finals: HashMap::new(),
            ended: HashSet::new(),
            starts: HashMap::new(),
        };
        Self {
            inside: Arc::new(Mutex::new(inside)),
            changed: Arc::new(watch::channel(0).0),
            released: Arc::new(watch::channel(false).0),
            runtime,
        }
    }

    /// A new process of the service connects.
    pub fn connect(&self) -> (Sandbox, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut inside = self.inside();
        for tombstone in inside.tombstones.values() {
            let _sent = events.send(Event::CellEnded { tombstone: tombstone.clone(), standing_cpu_us: None });
        }
        inside.events = events;
        (Sandbox { world: Some(self.clone()) }, receiver)
    }

    /// Ends every `wait`.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// How often each execution was started.
    pub fn starts(&self) -> Vec<usize> {
        self.inside().starts.values().copied().collect()
    }

    /// How many executions run.
    pub fn running(&self) -> usize {
        self.inside().running.len()
    }

    /// The final counters of all cells that ended.
    pub fn finals_us(&self) -> u64 {
        self.inside().finals.values().sum()
    }

    /// Tombstones that were not acknowledged.
    pub fn tombstones(&self) -> usize {
        self.inside().tombstones.len()
    }

    /// The warden dies: cells are gone, and nobody knows what they used.
    pub fn lose_everything(&self) {
        let mut inside = self.inside();
        inside.cells.clear();
        inside.running.clear();
        inside.results.clear();
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    async fn program(self, session: SessionId, execution: Execution) {
        let words: Vec<&str> = execution.code.split(' ').collect();
        let number = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        if words[0] == "wait" {
            let (mut released, mut changed) = (self.released.subscribe(), self.changed.subscribe());
            while !*released.borrow_and_update() && !self.inside().cancelled.contains(&execution.id) {
                tokio::select! { _ = released.changed() => {}, _ = changed.changed() => {} }
            }
        }
        let mut inside = self.inside();
        if inside.running.remove(&execution.id).is_none() {
            return;
        }
        let cancelled = inside.cancelled.contains(&execution.id);
        let Some((cell, counter)) = inside.cells.get_mut(&(session, execution.context.clone())) else {
            return;
        };
        counter.cpu_us += if words[0] == "use" { number } else { 100 };
        let cpu_us = counter.cpu_us - counter.accounted_us;
        counter.accounted_us = counter.cpu_us;
        let finished = Finished {
            outcome: if cancelled { Outcome::Cancelled } else { Outcome::Succeeded },
            stdout: Capture {
                text: execution.code.clone(),
                kept_bytes: execution.code.len() as u64,
                total_bytes: execution.code.len() as u64,
            },
            stderr: Capture::default(),
            values: Vec::new(),
            pieces: Vec::new(),
            error: None,
            exit_code: None,
            limits_hit: Vec::new(),
            state_lost: false,
            usage: Usage { wall_us: 10, cpu_us, ..Usage::default() },
            taking: None,
            cell: Some(*cell),
            context: execution.context.clone(),
            accounted: Accounted { cpu_us: counter.cpu_us, egress_bytes: 0 },
        };
        if words[0] == "daemon" {
            counter.cpu_us += number;
        }
        inside.results.insert(execution.id, finished);
        drop(inside);
        self.note();
    }
}

/// The model.
#[derive(Debug, Clone)]
pub struct Sandbox {
    world: Option<World>,
}

impl Sandbox {
    fn world(&self) -> &World {
        self.world.as_ref().unwrap()
    }

    pub async fn connect(_: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), Error> {
        Err(Error::Unavailable)
    }

    pub fn images(&self) -> Vec<Image> {
        let image = |name: &str, language: &str, byte| Image {
            name: name.into(),
            class: Class::Wasm,
            language: language.into(),
            digest: Digest([byte; 32]),
        };
        vec![image("python-wasm", "python", 1), image("javascript-wasm", "javascript", 2)]
    }

    pub fn is_ready(&self) -> bool {
        true
    }

    pub fn open(&self, spec: SessionSpec) -> Session {
        Session { id: spec.id, world: self.world().clone() }
    }

    pub async fn adopt(
        &self,
        spec: SessionSpec,
        _: Vec<(CellId, ContextKey)>,
        _: impl Fn(CellId) -> Accounted,
    ) -> Session {
        self.open(spec)
    }

    pub fn survivors(&self) -> Vec<SessionId> {
        self.world().inside().cells.keys().map(|(session, _)| *session).collect()
    }

    pub async fn end_stray(&self, session: SessionId) {
        let _closed = Session { id: session, world: self.world().clone() }.close().await;
    }

    pub fn acknowledge(&self, cell: CellId) {
        self.world().inside().tombstones.remove(&cell);
    }

    pub async fn shut_down_warden(&self) {}
}

/// The model of a session.
#[derive(Debug, Clone)]
pub struct Session {
    id: SessionId,
    world: World,
}

impl Session {
    pub fn state(&self) -> SessionState {
        if self.world.inside().ended.contains(&self.id) { SessionState::Closed } else { SessionState::Open }
    }

    pub async fn execute(&self, execution: Execution) -> Result<Finished, Error> {
        let id = execution.id;
        {
            let mut inside = self.world.inside();
            *inside.starts.entry(id).or_default() += 1;
            match execution.code.as_str() {
                "lost" => return Err(Error::Lost),
                "capacity" => return Err(Error::Capacity("full".into())),
                "panic" => panic!("a mistake of ours"),
                _ => {}
            }
            let key = (self.id, execution.context.clone());
            inside.cells.entry(key).or_insert_with(|| (CellId::random(), Cell::default()));
            inside.running.insert(id, self.id);
        }
        self.world.runtime.spawn(self.world.clone().program(self.id, execution));
        self.result(id).await
    }

    pub async fn converse(&self, execution: Execution, _: Wires) -> Result<Finished, Error> {
        self.execute(execution).await
    }

    pub fn watch(&self, _: &ContextKey, _: Wires) -> Option<anchorhold_sandbox::Watching> {
        None
    }

    pub async fn dial(&self, _: u16) -> Result<Option<tokio::net::TcpStream>, Error> {
        std::future::ready(Ok(None)).await
    }

    async fn result(&self, id: ExecutionId) -> Result<Finished, Error> {
        let mut changed = self.world.changed.subscribe();
        loop {
            {
                let inside = self.world.inside();
                if let Some(finished) = inside.results.get(&id) {
                    return Ok(finished.clone());
                }
                if !inside.running.contains_key(&id) {
                    return Err(Error::Lost);
                }
            }
            changed.changed().await.unwrap();
        }
    }

    pub async fn recover(&self, id: ExecutionId, _: &ContextKey) -> Result<Finished, Error> {
        self.result(id).await
    }

    pub fn cancel(&self, id: ExecutionId) -> bool {
        let mut inside = self.world.inside();
        let known = inside.running.contains_key(&id);
        if known {
            inside.cancelled.insert(id);
        }
        drop(inside);
        self.world.note();
        known
    }

    pub fn acknowledge(&self, id: ExecutionId) {
        self.world.inside().results.remove(&id);
    }

    pub fn renew(&self, _: Boottime) {}

    pub fn reroute(&self, _: Network) {}

    pub fn follow(&self, _: ExecutionId) -> Option<Follower> {
        None
    }

    pub fn input(&self, id: ExecutionId, _: Vec<u8>, _: bool) -> Result<bool, Error> {
        Ok(self.world.inside().running.contains_key(&id))
    }

    pub fn kill(&self, id: ExecutionId) -> bool {
        self.cancel(id)
    }

    pub fn contexts(&self) -> Vec<ContextStatus> {
        Vec::new()
    }

    pub fn restart(&self, _: &ContextKey) -> bool {
        false
    }

    pub fn remove(&self, _: &ContextKey) -> bool {
        false
    }

    pub fn walls(&self) -> Option<Walls> {
        None
    }

    pub async fn close(&self) -> Result<(), Error> {
        let running: Vec<_> = {
            let inside = self.world.inside();
            inside.running.iter().filter(|(_, session)| **session == self.id).map(|(id, _)| *id).collect()
        };
        for id in running {
            self.cancel(id);
            let _result = self.result(id).await;
        }
        let mut inside = self.world.inside();
        let keys: Vec<_> = inside.cells.keys().filter(|(session, _)| *session == self.id).cloned().collect();
        for key in keys {
            let (cell, counter) = inside.cells.remove(&key).unwrap();
            let tombstone = Tombstone {
                cell,
                session: self.id,
                cause: Cause::Killed,
                cpu_us: counter.cpu_us,
                memory_peak_bytes: 0,
                oom_kills: 0,
                traffic: Traffic::default(),
                browser: None,
            };
            inside.finals.insert(cell, counter.cpu_us);
            inside.tombstones.insert(cell, tombstone.clone());
            let _gone = inside.events.send(Event::CellEnded { tombstone, standing_cpu_us: None });
        }
        inside.ended.insert(self.id);
        Ok(())
    }

    pub async fn upload(
        &self,
        _: &WorkspacePath,
        _: Option<u64>,
        _: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Written, Error> {
        Err(Error::Unavailable)
    }

    pub async fn download(&self, _: &WorkspacePath, _: Part) -> Result<Download, Error> {
        Err(Error::Unavailable)
    }

    pub async fn unpack(
        &self,
        _: &WorkspacePath,
        _: Option<ArchiveFormat>,
        _: Option<u64>,
        _: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Unpacked, Error> {
        Err(Error::Unavailable)
    }

    pub async fn pack(&self, _: &WorkspacePath, _: ArchiveFormat) -> Result<FileBody, Error> {
        Err(Error::Unavailable)
    }

    pub async fn batch(&self, _: Vec<Change>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }

    pub async fn stat(&self, _: &WorkspacePath) -> Result<Entry, Error> {
        Err(Error::Unavailable)
    }

    pub async fn list(&self, _: &WorkspacePath, _: bool) -> Result<Vec<Entry>, Error> {
        Err(Error::Unavailable)
    }

    pub async fn delete(&self, _: &WorkspacePath, _: bool) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
}
