//! The use cases: what a tenant may do with sessions, executions and files. No word of HTTP.
//!
//! ```text
//!                 ┌────────────── expires, idle, DELETE, shutdown, warden lost ─────────────┐
//! session:  active ─────────────────────────────────────────────────────────────────► closing ─► closed
//!                                                     every execution closed, every cell settled ┘
//! execution: (reserved) ─► open, durable ─► given to the sandbox ─► closed with its record, durable ─► answered
//!                  └ refused: released        └ our fault: closed as `lost`
//! ```
//!
//! Everything that must come to an end runs in a task that no caller owns: a caller that goes away loses an answer,
//! never a record.

pub mod browser;
mod cells;
mod closing;
mod context;
mod converse;
mod execution;
mod file;
mod follow;
mod helm;
mod live;
mod once;
mod outgoing;
mod preview;
mod recovery;
mod tenants;
mod upkeep;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

pub use cells::Sandbox;
pub use context::{ContextRequest, ContextView, Defaults, Doing};
pub use converse::{Conversation, Ending, NewLink};
pub use execution::{CancelOnDrop, ContextName, ExecutionRequest, OnDisconnect, RunRequest};
pub use file::{ArchiveRequest, ListRequest, Listing};
pub use follow::{Events, Told, Word};
pub use helm::LinkRole;
pub use once::{Await, Key};
pub use preview::{OpenPort, Stay, Unvisited, Visit};
pub use tenants::{NewTenant, TenantChange};
pub use upkeep::Parts;
pub use watch::{Hand, Holder, Sight, Tab, Watch};

use crate::audit::Audit;
use crate::config::SessionPolicy;
use crate::ledger::{
    ExecutionRow, Ledger, LedgerError, Made, Page, Place, Record, SessionRow, Terms, Totals, UsageLine,
    UsageQuery,
};
use crate::metrics::{Glance, Metrics};
use crate::price::Plan;
use crate::tenant::{Account, Denied, Quota, Tenant, Tenants};
use crate::traces::Traces;
use crate::words::{CloseReason, Runtime, SessionStatus};
use anchorhold_sandbox::{
    Boottime, Error, ExecutionId, FileError, Id, LimitError, LimitField, Network, RequestedLimits, Scarce,
    SessionId, SessionSpec, Window,
};
use live::{Live, LiveTable};
use once::Answer;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use upkeep::Command;

/// The most code and input of all executions that wait and run: what requests make this process hold.
const WAITING_KIB_MAX: usize = 256 * 1024;
/// How long until a write that must happen is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Why something was not done. Nothing of it is billed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such session, for this tenant.
    #[error("no such session")]
    SessionNotFound,
    /// No such execution in that session.
    #[error("no such execution")]
    ExecutionNotFound,
    /// No such context in that session.
    #[error("no such context")]
    ContextNotFound,
    /// The execution is over, or waits for its turn.
    #[error("the execution does not run now")]
    NotRunning,
    /// A context of that name exists.
    #[error("a context of that name exists")]
    ContextExists,
    /// As many streams of events are open as may.
    #[error("too many streams of events are open")]
    Streams,
    /// The session is over.
    #[error("the session is closed")]
    SessionClosed,
    /// A part of the request cannot be granted.
    #[error("{field}: {why}")]
    Invalid {
        /// Which part, as the request names it.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// The key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyConflict,
    /// As many executions wait in the context as may.
    #[error("too many executions wait in this context")]
    ContextBusy,
    /// The tenant may not, or not now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// No such tenant.
    #[error("no such tenant")]
    TenantNotFound,
    /// The tenant has no such key.
    #[error("no such key")]
    KeyNotFound,
    /// Something that exists is in the way.
    #[error("{0}")]
    Conflict(&'static str),
    /// No room; try again.
    #[error("no room: {0}")]
    Capacity(String),
    /// What was asked for cannot be run behind its walls here.
    #[error("{0}")]
    Isolation(String),
    /// The ledger cannot record, so nothing is run.
    #[error("the ledger cannot record now")]
    Ledger,
    /// The service is being stopped.
    #[error("the service is being stopped")]
    Draining,
    /// The request is longer than what a cell takes.
    #[error("code, input and environment are too long together")]
    TooLarge,
    /// A file operation was refused.
    #[error(transparent)]
    File(FileError),
    /// One of several changes was refused, so none was made.
    #[error("{why}")]
    Change {
        /// Which one, counted from 0.
        index: u32,
        /// Why.
        why: FileError,
    },
    /// A mistake of ours; the log says more.
    #[error("internal error")]
    Internal,
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        tracing::warn!(%error, "the ledger failed");
        Self::Ledger
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(why) => Self::Capacity(why),
            Error::Isolation(why) => {
                tracing::warn!(why, "a wall could not be built");
                Self::Isolation("a wall that is required could not be built".into())
            }
            Error::Quota(Scarce::Cells, most) => Self::Denied(Denied::Quota(Quota::Cells, most)),
            Error::Quota(Scarce::Browsers, most) => Self::Denied(Denied::Quota(Quota::Browsers, most)),
            Error::NoImage => Self::Isolation("the image is not there any more".into()),
            Error::Closed => Self::SessionClosed,
            Error::ContextBusy => Self::ContextBusy,
            Error::TooLarge => Self::TooLarge,
            Error::File(error) => Self::File(error),
            Error::Change { index, why } => Self::Change { index, why },
            Error::Unavailable => Self::Capacity("the warden is away".into()),
            Error::Lost => Self::SessionClosed,
        }
    }
}

impl From<LimitError> for Refusal {
    fn from(error: LimitError) -> Self {
        let (field, why) = match error {
            LimitError::NotPositive(field) => (field, "must be positive".into()),
            LimitError::AboveCeiling { field, ceiling } => (field, above(field, ceiling)),
        };
        let field = match field {
            LimitField::CpuMillicores => "limits.cpu_cores",
            LimitField::MemoryBytes => "limits.memory_bytes",
            LimitField::DiskBytes => "limits.disk_bytes",
            LimitField::Processes => "limits.processes",
            LimitField::OutputBytes => "limits.output_bytes",
            LimitField::ExecutionUs => "limits.execution_seconds",
            LimitField::CpuUs => "limits.cpu_seconds",
        };
        Self::Invalid { field, why }
    }
}

fn above(field: LimitField, ceiling: u64) -> String {
    let (whole, part) = match field {
        LimitField::CpuMillicores => (ceiling / 1000, ceiling % 1000),
        LimitField::ExecutionUs | LimitField::CpuUs => (ceiling / 1_000_000, ceiling % 1_000_000 / 1000),
        _ => (ceiling, 0),
    };
    if part == 0 { format!("must be at most {whole}") } else { format!("must be at most {whole}.{part:03}") }
}

/// What a session is asked for with.
#[derive(Debug, Clone, Default)]
pub struct SessionRequest {
    /// For people.
    pub name: Option<String>,
    /// Default of its executions.
    pub runtime: Option<Runtime>,
    /// Its life.
    pub ttl_us: Option<u64>,
    /// Ends it when nothing happens.
    pub idle_timeout_us: Option<u64>,
    /// What it may use.
    pub limits: RequestedLimits,
    /// The environment of everything in it.
    pub env: Vec<(String, String)>,
    /// The client's tags.
    pub metadata: BTreeMap<String, String>,
    /// What it may reach.
    pub network: Network,
    /// How large its browser's window is; width and height.
    pub viewport: Option<(u16, u16)>,
}

/// What of a session is to be changed.
#[derive(Debug, Clone, Default)]
pub struct SessionChange {
    /// Its life, from now on.
    pub ttl_us: Option<u64>,
    /// All of its tags.
    pub metadata: Option<BTreeMap<String, String>>,
    /// What it may reach.
    pub network: Option<Network>,
}

/// A session and what it used so far.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The session.
    pub row: SessionRow,
    /// The sums of its records.
    pub totals: Totals,
}

/// The service; cheap to clone.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    sandbox: Sandbox,
    policy: SessionPolicy,
    prices: Plan,
    boot_id: String,
    tenants: Tenants,
    /// Held while tenants or keys are changed in the ledger and here.
    administration: tokio::sync::Mutex<()>,
    live: LiveTable,
    once: once::Table,
    metrics: Metrics,
    audit: Audit,
    traces: Traces,
    draining: AtomicBool,
    /// KiB of code and input that may wait and run at a time.
    waiting_kib: Arc<Semaphore>,
    /// A permit for each stream of events.
    streams: Arc<Semaphore>,
    /// Tasks that must come to an end before the ledger is closed.
    work: TaskTracker,
    commands: mpsc::UnboundedSender<Command>,
}

impl Service {
    /// Who costs what.
    pub fn prices(&self) -> &Plan {
        &self.0.prices
    }

    /// What sessions may be.
    pub fn policy(&self) -> &SessionPolicy {
        &self.0.policy
    }

    /// Where numbers are counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// All numbers, as Prometheus reads them.
    pub fn metrics_text(&self) -> Result<String, Refusal> {
        let (written, unwritten) = self.0.ledger.writes();
        let glance = Glance { sessions: self.0.live.count(), written, unwritten };
        self.0.metrics.text(glance).map_err(|_| Refusal::Internal)
    }

    /// Whether new work is taken and could be done.
    pub async fn ready(&self) -> Result<(), Refusal> {
        self.accepting()?;
        self.0.ledger.check().await?;
        if self.0.sandbox.is_ready() { Ok(()) } else { Err(Refusal::Capacity("the warden is away".into())) }
    }

    /// A new session.
    pub async fn create_session(
        &self,
        tenant: &Tenant,
        request: SessionRequest,
        key: Option<Key>,
    ) -> Result<SessionRow, Refusal> {
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.id(), "sessions"));
        let answer = self.at_most_once(once.clone(), Await::End, async move {
            let (live, row) = service.admit_session(&tenant, request)?;
            match service.0.ledger.open_session(&row, once.as_ref()).await {
                Ok(()) => Ok(Answer::Made(Made::Session(Box::new(row)))),
                Err(error) => {
                    service.0.live.remove(&live);
                    Err(error.into())
                }
            }
        });
        match answer.await? {
            Answer::Made(Made::Session(row)) => Ok(*row),
            _ => Err(Refusal::Internal),
        }
    }

    /// A tenant's session.
    pub async fn session(&self, tenant: &Tenant, id: SessionId) -> Result<SessionView, Refusal> {
        let row = self.0.ledger.session(tenant.id(), id).await?.ok_or(Refusal::SessionNotFound)?;
        let mut views = self.with_totals(vec![row]).await?;
        views.pop().ok_or(Refusal::Internal)
    }

    /// A tenant's sessions, newest first.
    pub async fn sessions(
        &self,
        tenant: &Tenant,
        status: Option<SessionStatus>,
        tags: &[(String, String)],
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<SessionView>, Refusal> {
        let page = self.0.ledger.sessions(tenant.id(), status, tags, before, limit).await?;
        Ok(Page { items: self.with_totals(page.items).await?, next: page.next })
    }

    /// Changes a live session.
    pub async fn change_session(
        &self,
        tenant: &Tenant,
        id: SessionId,
        change: SessionChange,
    ) -> Result<SessionView, Refusal> {
        let live = self.find(tenant, id).await?;
        if change.ttl_us.is_some_and(|ttl_us| ttl_us > self.0.policy.ttl_us_max) {
            return Err(self.ttl_too_long());
        }
        // In a task of its own: whoever hangs up in the middle must not leave a change that is stored and not made.
        let service = self.clone();
        let done = self.0.work.spawn(async move { service.change_live(&live, change).await });
        done.await.map_err(|_| Refusal::Internal)??;
        self.session(tenant, id).await
    }

    async fn change_live(&self, live: &Live, change: SessionChange) -> Result<(), Refusal> {
        let _one_change_at_a_time = live.change.lock().await;
        let network = change.network.clone();
        let (expires, metadata) = live.changed(change);
        self.0.ledger.change_session(live.id, expires, &metadata, network.as_ref()).await?;
        live.apply(expires, metadata);
        live.cells.renew(expires.1);
        if let Some(network) = network {
            live.cells.reroute(network);
        }
        Ok(())
    }

    /// Ends a session; returns when everything in it is gone and recorded. Again: the same.
    pub async fn delete_session(&self, tenant: &Tenant, id: SessionId) -> Result<SessionView, Refusal> {
        match self.find(tenant, id).await {
            Ok(live) => self.close(&live, CloseReason::Client).await,
            Err(Refusal::SessionClosed) => {}
            Err(refusal) => return Err(refusal),
        }
        self.session(tenant, id).await
    }

    /// Whether a tenant's session is there and not over.
    pub async fn look_up(&self, tenant: &Tenant, id: SessionId) -> Result<(), Refusal> {
        self.find(tenant, id).await.map(drop)
    }

    /// Begins to end a tenant's session that nobody will use any more; waits for nothing. Another's is left alone.
    pub fn give_up(&self, tenant: &Tenant, id: SessionId) {
        if let Some(live) = self.0.live.get(id).filter(|live| live.tenant == tenant.id()) {
            self.begin_close(&live, CloseReason::Client);
        }
    }

    /// An execution of a tenant's session.
    pub async fn execution(
        &self,
        tenant: &Tenant,
        session: SessionId,
        id: ExecutionId,
    ) -> Result<ExecutionRow, Refusal> {
        self.owned(tenant, session).await?;
        self.0.ledger.execution(session, id).await?.ok_or(Refusal::ExecutionNotFound)
    }

    /// Executions of a tenant's session, newest first.
    pub async fn executions(
        &self,
        tenant: &Tenant,
        session: SessionId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<ExecutionRow>, Refusal> {
        self.owned(tenant, session).await?;
        Ok(self.0.ledger.executions(session, before, limit).await?)
    }

    /// The records of a tenant's session, newest first.
    pub async fn records(
        &self,
        tenant: &Tenant,
        session: SessionId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<Record>, Refusal> {
        self.owned(tenant, session).await?;
        Ok(self.0.ledger.records(session, before, limit).await?)
    }

    /// What a tenant used.
    pub async fn usage(&self, tenant: &Tenant, query: &UsageQuery) -> Result<Vec<UsageLine>, Refusal> {
        Ok(self.0.ledger.usage(tenant.id(), query).await?)
    }

    fn accepting(&self) -> Result<(), Refusal> {
        if self.0.draining.load(Ordering::Acquire) { Err(Refusal::Draining) } else { Ok(()) }
    }

    /// Whether the session is this tenant's, live or not.
    async fn owned(&self, tenant: &Tenant, id: SessionId) -> Result<(), Refusal> {
        match self.find(tenant, id).await {
            Ok(_) | Err(Refusal::SessionClosed) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// The live session of this tenant.
    async fn find(&self, tenant: &Tenant, id: SessionId) -> Result<Arc<Live>, Refusal> {
        match self.0.live.get(id) {
            Some(live) if live.tenant == tenant.id() => Ok(live),
            Some(_) => Err(Refusal::SessionNotFound),
            None => match self.0.ledger.session(tenant.id(), id).await? {
                Some(_) => Err(Refusal::SessionClosed),
                None => Err(Refusal::SessionNotFound),
            },
        }
    }

    /// Makes a session live; the caller then opens it in the ledger, or takes it away again.
    fn admit_session(
        &self,
        tenant: &Tenant,
        request: SessionRequest,
    ) -> Result<(Arc<Live>, SessionRow), Refusal> {
        self.accepting()?;
        let policy = &self.0.policy;
        let runtime = request.runtime.unwrap_or(policy.default_runtime);
        if runtime == Runtime::Native && self.0.sandbox.is_ready() && !self.runs_natively() {
            return Err(Refusal::Isolation("no image on this server runs code natively".into()));
        }
        let ttl_us = request.ttl_us.unwrap_or(policy.ttl_us);
        if ttl_us > policy.ttl_us_max {
            return Err(self.ttl_too_long());
        }
        let limits = request.limits.resolve(&policy.limits, &policy.ceiling)?;
        let created_us = now_us();
        let row = SessionRow {
            id: SessionId::random(),
            tenant: tenant.id().to_owned(),
            status: SessionStatus::Active,
            close_reason: None,
            created_us,
            expires_us: later(created_us, ttl_us),
            expires_boot: Boottime::now().plus_us(ttl_us),
            boot_id: self.0.boot_id.clone(),
            ended_us: None,
            used: false,
            metadata: request.metadata,
            terms: Terms {
                name: request.name,
                runtime,
                limits,
                env: request.env,
                idle_timeout_us: request.idle_timeout_us,
                network: request.network,
                viewport: request.viewport,
            },
            walls: None,
        };
        let claim = tenant.account().open_session(&limits)?;
        let cells = self.0.sandbox.open(self.spec(tenant.account(), &row));
        let live = Arc::new(Live::new(&row, tenant.account().clone(), cells, self.0.commands.clone()));
        self.0.live.insert(&live, claim);
        Ok((live, row))
    }

    fn spec(&self, account: &Account, row: &SessionRow) -> SessionSpec {
        SessionSpec {
            id: row.id,
            group: account.id().group(),
            allowance: account.allowance(),
            limits: row.terms.limits,
            env: row.terms.env.clone(),
            network: row.terms.network.clone(),
            window: row.terms.viewport.map_or(Window::default(), |(width, height)| Window { width, height }),
            standby_after: self.0.policy.standby_after,
            expires_at: row.expires_boot,
        }
    }

    fn ttl_too_long(&self) -> Refusal {
        let seconds = self.0.policy.ttl_us_max / 1_000_000;
        Refusal::Invalid { field: "ttl_seconds", why: format!("must be at most {seconds}") }
    }

    async fn with_totals(&self, rows: Vec<SessionRow>) -> Result<Vec<SessionView>, Refusal> {
        let ids: Vec<SessionId> = rows.iter().map(|row| row.id).collect();
        let totals = self.0.ledger.totals(&ids).await?;
        let views = rows.into_iter().zip(totals).map(|(mut row, totals)| {
            if let Some(live) = self.0.live.get(row.id) {
                row.walls = live.cells.walls().or(row.walls);
            }
            SessionView { row, totals }
        });
        Ok(views.collect())
    }

    /// Ends a live session and waits for it.
    async fn close(&self, live: &Arc<Live>, reason: CloseReason) {
        self.begin_close(live, reason);
        live.closed().await;
    }

    /// Ends a live session; the first reason stays.
    fn begin_close(&self, live: &Arc<Live>, reason: CloseReason) {
        if live.begin_closing(reason) {
            let (service, live) = (self.clone(), live.clone());
            self.0.work.spawn(async move { service.close_now(&live, reason).await });
        }
    }

    async fn close_now(&self, live: &Live, reason: CloseReason) {
        self.until_written("close a session", || self.0.ledger.close_session(live.id, reason)).await;
        // A warden that is away comes back, and then knows whether the session's cells are gone.
        while let Err(error) = live.cells.close().await {
            if error == Error::Lost {
                break;
            }
            tracing::warn!(session = %live.id, %error, "a session could not be closed yet");
            tokio::time::sleep(RETRY_EVERY).await;
        }
        live.no_execution().await;
        // The cells' ends were delivered before the sandbox said that the session is closed; now they are noted.
        self.barrier().await;
        live.settled().await;
        let walls = live.cells.walls();
        let ended_us = now_us();
        self.until_written("end a session", || {
            self.0.ledger.end_session(live.id, reason, ended_us, walls.as_ref())
        })
        .await;
        if live.forgettable() {
            self.until_written("forget a session", || self.0.ledger.forget_session(live.id)).await;
        }
        self.0.live.remove(live);
        live.set_closed();
    }

    /// A write that must happen, however long the disk is full.
    async fn until_written<F: Future<Output = Result<(), LedgerError>>>(
        &self,
        what: &str,
        write: impl Fn() -> F,
    ) {
        while let Err(error) = write().await {
            if matches!(error, LedgerError::Closed) {
                tracing::error!(what, "the ledger was closed too early");
                return;
            }
            tracing::warn!(what, %error, "the ledger could not write; trying again");
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

fn later(at_us: i64, by_us: u64) -> i64 {
    at_us.saturating_add(i64::try_from(by_us).unwrap_or(i64::MAX))
}

/// The name of a context to clients. It follows from what the context is, so it needs no memory.
pub fn context_id(session: SessionId, place: &Place) -> Option<Id> {
    let Place { runtime, image, language, context, .. } = place;
    derived_id(&format!("{session}/{runtime}/{image}/{language}/{context}")).parse().ok()
}

/// An id that follows from a text.
pub fn derived_id(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digest = Sha256::digest(text.as_bytes());
    let letters = digest.iter().take(26).enumerate();
    // 128 bits in 26 letters: the first has only three of its five bits.
    let letters =
        letters.map(|(i, byte)| char::from(ALPHABET[usize::from(byte & if i == 0 { 7 } else { 31 })]));
    letters.collect()
}
