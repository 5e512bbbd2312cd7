//! Sessions that are not over, and what goes on in them.

use super::cells::Session;
use super::context::Defaults;
use super::helm::Helm;
use super::outgoing::Refusals;
use super::preview::Previews;
use super::upkeep::Command;
use super::{Refusal, SessionChange, context_id, later, now_us};
use crate::ledger::{Place, SessionRow, Terms};
use crate::tenant::{Account, ExecutionClaim, SessionClaim};
use crate::words::CloseReason;
use anchorhold_sandbox::{Boottime, ExecutionId, Id, SessionId, Tombstone};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, watch};

/// The most executions of a session that wait and run.
const EXECUTIONS_MAX: usize = 512;
/// The most contexts whose ids a session remembers.
const CONTEXTS_MAX: usize = 1024;

/// The live sessions of all tenants.
#[derive(Debug, Default)]
pub(super) struct LiveTable(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// With what each takes of its tenant's quotas.
    sessions: HashMap<SessionId, (Arc<Live>, SessionClaim)>,
}

impl LiveTable {
    pub(super) fn get(&self, id: SessionId) -> Option<Arc<Live>> {
        lock(&self.0).sessions.get(&id).map(|(live, _)| live.clone())
    }

    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        lock(&self.0).sessions.values().map(|(live, _)| live.clone()).collect()
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.0).sessions.len()
    }

    pub(super) fn insert(&self, live: &Arc<Live>, claim: SessionClaim) {
        lock(&self.0).sessions.insert(live.id, (live.clone(), claim));
    }

    pub(super) fn remove(&self, live: &Live) {
        lock(&self.0).sessions.remove(&live.id);
    }
}

/// A session that is not over.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) tenant: String,
    pub(super) account: Arc<Account>,
    pub(super) terms: Terms,
    pub(super) cells: Session,
    /// Who steers its browser.
    pub(super) helm: Arc<Helm>,
    /// Its ports that are open to people.
    pub(super) previews: Previews,
    /// What egress kept it from.
    pub(super) refusals: Refusals,
    /// Held while its life, tags or network are changed in the ledger and here.
    pub(super) change: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Whenever something in `state` came to an end.
    ended: Notify,
    closed: watch::Sender<bool>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
struct State {
    expires: (i64, Boottime),
    metadata: BTreeMap<String, String>,
    closing: Option<CloseReason>,
    forgettable: bool,
    used: bool,
    last_active: Boottime,
    running: HashSet<ExecutionId>,
    /// Ended cells, each with the executions that may have run in it and are not closed yet.
    waiting: Vec<(Tombstone, HashSet<ExecutionId>)>,
    settling: usize,
    contexts: HashMap<Id, (Place, Defaults)>,
}

/// What the passing of time means for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Expired,
    Idle,
}

impl Live {
    pub(super) fn new(
        row: &SessionRow,
        account: Arc<Account>,
        cells: Session,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        let state = State {
            expires: (row.expires_us, row.expires_boot),
            metadata: row.metadata.clone(),
            closing: None,
            forgettable: false,
            used: row.used,
            last_active: Boottime::now(),
            running: HashSet::new(),
            waiting: Vec::new(),
            settling: 0,
            contexts: HashMap::new(),
        };
        Self {
            id: row.id,
            tenant: row.tenant.clone(),
            account,
            terms: row.terms.clone(),
            cells,
            previews: Previews::default(),
            refusals: Refusals::default(),
            helm: Arc::default(),
            change: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            ended: Notify::new(),
            closed: watch::channel(false).0,
            commands,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What its life and tags would be after the change.
    pub(super) fn changed(&self, change: SessionChange) -> ((i64, Boottime), BTreeMap<String, String>) {
        let state = self.state();
        let expires = change
            .ttl_us
            .map_or(state.expires, |ttl_us| (later(now_us(), ttl_us), Boottime::now().plus_us(ttl_us)));
        (expires, change.metadata.unwrap_or_else(|| state.metadata.clone()))
    }

    pub(super) fn apply(&self, expires: (i64, Boottime), metadata: BTreeMap<String, String>) {
        let mut state = self.state();
        state.expires = expires;
        state.metadata = metadata;
        state.last_active = Boottime::now();
    }

    /// Lets an execution in, until the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>, id: ExecutionId, place: &Place) -> Result<Running, Refusal> {
        let mut state = self.state();
        if state.closing.is_some() {
            return Err(Refusal::SessionClosed);
        }
        if state.running.len() >= EXECUTIONS_MAX {
            return Err(Refusal::ContextBusy);
        }
        let claim = self.account.begin_execution()?;
        state.remember_context(self.id, place);
        drop(state);
        Ok(self.running(id, claim))
    }

    /// As [`Live::admit`], for an execution that was let in before a restart.
    pub(super) fn resume(self: &Arc<Self>, id: ExecutionId) -> Running {
        self.running(id, self.account.resume_execution())
    }

    fn running(self: &Arc<Self>, id: ExecutionId, claim: ExecutionClaim) -> Running {
        let mut state = self.state();
        state.running.insert(id);
        state.last_active = Boottime::now();
        drop(state);
        Running { live: self.clone(), id, _claim: claim }
    }

    /// A context that an earlier process of the service knew.
    pub(super) fn knew(&self, place: &Place) {
        self.state().remember_context(self.id, place);
    }

    /// Where a context of this id is, and what its executions get.
    pub(super) fn context(&self, id: Id) -> Option<(Place, Defaults)> {
        self.state().contexts.get(&id).cloned()
    }

    /// All contexts, in the order of their names.
    pub(super) fn contexts(&self) -> Vec<(Place, Defaults)> {
        let mut contexts: Vec<_> = self.state().contexts.values().cloned().collect();
        contexts.sort_by(|(a, _), (b, _)| {
            (&a.context, a.language.as_str()).cmp(&(&b.context, b.language.as_str()))
        });
        contexts
    }

    /// A new context; refused where there is one of that id.
    pub(super) fn add_context(&self, id: Id, place: &Place, defaults: &Defaults) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.closing.is_some() {
            return Err(Refusal::SessionClosed);
        }
        if state.contexts.contains_key(&id) {
            return Err(Refusal::ContextExists);
        }
        if state.contexts.len() >= CONTEXTS_MAX {
            return Err(Refusal::ContextBusy);
        }
        state.contexts.insert(id, (place.clone(), defaults.clone()));
        state.last_active = Boottime::now();
        Ok(())
    }

    pub(super) fn remove_context(&self, id: Id) {
        self.state().contexts.remove(&id);
    }

    /// What is left of its life, in microseconds.
    pub(super) fn left_us(&self) -> u64 {
        self.state().expires.1.since(Boottime::now())
    }

    pub(super) fn is_running(&self, id: ExecutionId) -> bool {
        self.state().running.contains(&id)
    }

    /// Something happens in it. `true`: for the first time, as far as the ledger knows.
    pub(super) fn touch(&self) -> Result<bool, Refusal> {
        let mut state = self.state();
        if state.closing.is_some() {
            return Err(Refusal::SessionClosed);
        }
        state.last_active = Boottime::now();
        Ok(!state.used)
    }

    /// The ledger knows that it is used.
    pub(super) fn set_used(&self) {
        self.state().used = true;
    }

    /// When it is over without a record, nobody needs to know that it was.
    pub(super) fn set_forgettable(&self) {
        self.state().forgettable = true;
    }

    pub(super) fn forgettable(&self) -> bool {
        self.state().forgettable
    }

    pub(super) fn due(&self, now: Boottime) -> Due {
        let state = self.state();
        let idle_us = self.terms.idle_timeout_us.filter(|_| state.running.is_empty());
        if state.closing.is_some() {
            Due::Nothing
        } else if now >= state.expires.1 {
            Due::Expired
        } else if idle_us.is_some_and(|idle_us| now.since(state.last_active) >= idle_us) {
            Due::Idle
        } else {
            Due::Nothing
        }
    }

    /// `true`: for the first time.
    pub(super) fn begin_closing(&self, reason: CloseReason) -> bool {
        let mut state = self.state();
        let first = state.closing.is_none();
        state.closing.get_or_insert(reason);
        first
    }

    /// A cell ended. Settled when everything that may have run in it is closed.
    pub(super) fn cell_ended(self: &Arc<Self>, tombstone: Tombstone) {
        let mut state = self.state();
        let open = state.running.clone();
        if open.is_empty() {
            state.settling += 1;
            let _stopped = self.commands.send(Command::Settle(self.clone(), tombstone));
        } else {
            state.waiting.push((tombstone, open));
        }
    }

    pub(super) fn cell_settled(&self) {
        self.state().settling -= 1;
        self.ended.notify_waiters();
    }

    /// Returns when no execution is open in it.
    pub(super) async fn no_execution(&self) {
        self.until(|state| state.running.is_empty()).await;
    }

    /// Returns when this execution is closed.
    pub(super) async fn execution_ended(&self, id: ExecutionId) {
        self.until(|state| !state.running.contains(&id)).await;
    }

    /// Returns when every cell that ended is recorded.
    pub(super) async fn settled(&self) {
        self.until(|state| state.waiting.is_empty() && state.settling == 0).await;
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // From here on nothing that ends is missed.
            ended.as_mut().enable();
            if condition(&self.state()) {
                return;
            }
            ended.await;
        }
    }

    /// Returns when the session is over and recorded.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        let _sender_is_self = closed.wait_for(|closed| *closed).await.is_ok();
    }

    pub(super) fn set_closed(&self) {
        self.closed.send_replace(true);
    }
}

impl State {
    fn remember_context(&mut self, session: SessionId, place: &Place) {
        if place.language.stands_alone() {
            return;
        }
        let room = self.contexts.len() < CONTEXTS_MAX;
        if let Some(id) = context_id(session, place).filter(|_| room) {
            self.contexts.entry(id).or_insert_with(|| (place.clone(), Defaults::default()));
        }
    }
}

/// An execution that is not closed. Dropping it says that it is, or that it never was open.
#[derive(Debug)]
pub(super) struct Running {
    live: Arc<Live>,
    id: ExecutionId,
    _claim: ExecutionClaim,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.live.state();
        state.running.remove(&self.id);
        state.last_active = Boottime::now();
        for (_, open) in &mut state.waiting {
            open.remove(&self.id);
        }
        let (ready, waiting) =
            std::mem::take(&mut state.waiting).into_iter().partition(|(_, open)| open.is_empty());
        state.waiting = waiting;
        let ready: Vec<(Tombstone, _)> = ready;
        state.settling += ready.len();
        drop(state);
        for (tombstone, _) in ready {
            let _stopped = self.live.commands.send(Command::Settle(self.live.clone(), tombstone));
        }
        self.live.ended.notify_waiters();
    }
}

/// A panic while the lock was held left the state as it was between two statements; both are consistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
