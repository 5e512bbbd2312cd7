//! What happens by itself: cells end, sessions expire, old things go.

use super::cells::Sandbox;
use super::follow::STREAMS_MAX;
use super::live::{Due, Live, LiveTable};
use super::{Inner, Service, WAITING_KIB_MAX, now_us, once};
use crate::audit::Audit;
use crate::config::SessionPolicy;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::price::Plan;
use crate::tenant::Tenants;
use crate::traces::Traces;
use crate::words::CloseReason;
use anchorhold_sandbox::{Boottime, Event, SessionState, Tombstone};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// How often sessions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a part of what is old is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long a stop waits for sessions to end after their executions did.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// What is to be done next to the events of the sandbox, after those that came before.
#[derive(Debug)]
pub(super) enum Command {
    /// Record what is left of a cell.
    Settle(Arc<Live>, Tombstone),
    /// Say that every earlier event is noted.
    Barrier(oneshot::Sender<()>),
}

/// What a service is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where everything is recorded.
    pub ledger: Ledger,
    /// Who may ask; loaded from the same ledger.
    pub tenants: Tenants,
    /// Where code runs.
    pub sandbox: Sandbox,
    /// What happens there.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// What sessions may be.
    pub policy: SessionPolicy,
    /// What use costs.
    pub prices: Plan,
    /// Where refusals are noted.
    pub audit: Audit,
    /// Where spans of executions go.
    pub traces: Traces,
    /// Tells this start of the machine from others.
    pub boot_id: String,
}

impl Service {
    /// Starts the service: first it takes up what an earlier process left, then it takes new work.
    pub async fn start(parts: Parts) -> Result<Self, crate::ledger::LedgerError> {
        let (commands, orders) = mpsc::unbounded_channel();
        let Parts { ledger, tenants, sandbox, events, policy, prices, audit, traces, boot_id } = parts;
        let service = Self(Arc::new(Inner {
            ledger,
            sandbox,
            policy,
            prices,
            boot_id,
            tenants,
            administration: tokio::sync::Mutex::default(),
            live: LiveTable::default(),
            once: once::Table::default(),
            metrics: Metrics::default(),
            audit,
            traces,
            draining: AtomicBool::new(false),
            waiting_kib: Arc::new(Semaphore::new(WAITING_KIB_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            work: TaskTracker::new(),
            commands,
        }));
        service.recover().await?;
        tokio::spawn(service.clone().look_after(events, orders));
        tokio::spawn(service.clone().sweep_regularly());
        Ok(service)
    }

    async fn look_after(
        self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut orders: mpsc::UnboundedReceiver<Command>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Events first: a barrier means that those before it are noted.
                biased;
                Some(event) = events.recv() => self.note(event),
                Some(order) = orders.recv() => match order {
                    Command::Settle(live, tombstone) => self.settle(Some(live), tombstone),
                    Command::Barrier(reached) => drop(reached.send(())),
                },
                _ = look.tick() => self.look(),
            }
        }
    }

    fn note(&self, event: Event) {
        match event {
            Event::CellEnded { tombstone, .. } => match self.0.live.get(tombstone.session) {
                Some(live) => live.cell_ended(tombstone),
                None => self.settle(None, tombstone),
            },
            Event::Decided { session, decision } => self.decided(session, decision),
            Event::WardenLost => {
                tracing::warn!("the warden was lost");
                self.look();
            }
        }
    }

    fn settle(&self, live: Option<Arc<Live>>, tombstone: Tombstone) {
        let service = self.clone();
        self.0.work.spawn(async move {
            let ledger = &service.0.ledger;
            let write = || ledger.settle_cell(&tombstone, &service.0.prices, now_us());
            service.until_written("settle a cell", write).await;
            service.0.sandbox.acknowledge(tombstone.cell);
            if let Some(live) = live {
                service.note_spent(&live.account).await;
                live.cell_settled();
            }
        });
    }

    /// Returns when every event that was delivered before is noted.
    pub(super) async fn barrier(&self) {
        let (reached, wait) = oneshot::channel();
        let _stopped = self.0.commands.send(Command::Barrier(reached));
        let _stopped = wait.await;
    }

    fn look(&self) {
        let now = Boottime::now();
        for live in self.0.live.all() {
            match live.cells.state() {
                SessionState::Lost => self.begin_close(&live, CloseReason::Lost),
                // We did not close it, so the warden did.
                SessionState::Closing | SessionState::Closed => self.begin_close(&live, CloseReason::Expired),
                SessionState::Open => match live.due(now) {
                    Due::Expired => self.begin_close(&live, CloseReason::Expired),
                    Due::Idle => self.begin_close(&live, CloseReason::Idle),
                    Due::Nothing => {}
                },
            }
        }
    }

    async fn sweep_regularly(self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let before = |span_us| now_us().saturating_sub(i64::try_from(span_us).unwrap_or(i64::MAX));
            let policy = &self.0.policy;
            if let Err(error) =
                self.0.ledger.sweep(before(policy.keep_output_us), before(policy.keep_us)).await
            {
                tracing::warn!(%error, "old things could not be removed");
            }
        }
    }

    /// Takes no new work, waits for what runs (at most as long as said), ends every session, closes the ledger.
    pub async fn drain(&self, most: Duration) {
        self.refuse_new_work();
        let sessions = self.0.live.all();
        let finished = async {
            for live in &sessions {
                live.no_execution().await;
            }
        };
        if tokio::time::timeout(most, finished).await.is_err() {
            tracing::warn!("executions are cut off by the stop");
        }
        // Again all: a session may have been on its way in.
        let sessions = self.0.live.all();
        for live in &sessions {
            self.begin_close(live, CloseReason::Shutdown);
        }
        self.0.work.close();
        if tokio::time::timeout(CLOSE_MAX, self.0.work.wait()).await.is_err() {
            tracing::warn!("not everything could be closed; the next start goes on with it");
        }
        self.0.ledger.close().await;
    }

    /// From now on new work is refused.
    pub fn refuse_new_work(&self) {
        self.0.draining.store(true, Ordering::Release);
    }
}
