//! The one writer. Whatever waits while a transaction is under way goes into the next one together.

use super::pack::{Packed, pack};
use super::{
    Closing, FilesMade, Ledger, LedgerError, Made, NewExecution, Once, Place, Report, SessionRow, stored,
};
use crate::price::{Plan, Used};
use crate::service::{Defaults, derived_id};
use crate::words::{CloseReason, ExecutionStatus, RecordKind};
use anchorhold_sandbox::{
    Accounted, Boottime, BrowserTime, ExecutionId, Network, SessionId, Tombstone, Walls,
};
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments as _, Connection as _, Encode, Row as _, Sqlite, Type};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The most writes of one transaction.
const BATCH_MAX: usize = 256;
/// The most writes that wait; more callers wait for room.
const WAITING_MAX: usize = 4096;
/// How often the log is brought into the database.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// A log of more pages (64 MiB) is emptied although that stops the writer for a moment.
const LOG_PAGES_MAX: i64 = 16 * 1024;
/// In the place of an output that is among the long ones.
pub(super) const LONG: &str = "long";
/// Rows that one step of clearing old things removes.
pub(super) const SWEEP_ROWS: i64 = 500;

/// A write: its statements alone, and as a whole transaction. `?` takes the parameters in order through all
/// statements; `?1` names one, but then a statement must use every number up to its highest.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) inside: &'static str,
    pub(super) alone: &'static str,
}

macro_rules! sql {
    ($($statement:expr),+ $(,)?) => {
        $crate::ledger::write::Sql {
            inside: concat!($($statement, ";"),+),
            alone: concat!("BEGIN IMMEDIATE;", $($statement, ";",)+ "COMMIT"),
        }
    };
}

pub(super) use sql;

macro_rules! insert_session {
    () => {
        "INSERT INTO sessions (id, tenant, status, created_us, expires_us, expires_boot_us, boot_id, used, metadata, \
         terms) VALUES (?, ?, 'active', ?, ?, ?, ?, ?, ?, ?)"
    };
}

macro_rules! insert_execution {
    () => {
        "INSERT INTO executions (id, session_id, status, created_us, place) VALUES (?, ?, 'running', ?, ?)"
    };
}

macro_rules! insert_remembered {
    () => {
        "INSERT INTO remembered (tenant, route, key, hash, subject, answer, created_us) VALUES (?, ?, ?, ?, ?, ?, ?)"
    };
}

pub(super) use insert_remembered;

macro_rules! insert_context {
    () => {
        "INSERT INTO contexts (session_id, place, defaults, created_us) VALUES (?, ?, ?, ?)"
    };
}

static OPEN_SESSION: Sql = sql!(insert_session!());
static OPEN_SESSION_ONCE: Sql = sql!(insert_session!(), insert_remembered!());
static OPEN_EXECUTION: Sql = sql!(insert_execution!());
static OPEN_EXECUTION_ONCE: Sql = sql!(insert_execution!(), insert_remembered!());
static OPEN_RUN: Sql = sql!(insert_session!(), insert_execution!());
static OPEN_RUN_ONCE: Sql = sql!(insert_session!(), insert_execution!(), insert_remembered!());

static RELEASE_EXECUTION: Sql = sql!(
    "DELETE FROM executions WHERE id = ? AND ended_us IS NULL",
    "DELETE FROM remembered WHERE subject = ?"
);
static FORGET_SESSION: Sql = sql!(
    "DELETE FROM sessions WHERE id = ?1 AND ended_us IS NOT NULL \
     AND NOT EXISTS (SELECT 1 FROM executions WHERE session_id = ?1) \
     AND NOT EXISTS (SELECT 1 FROM records WHERE session_id = ?1)"
);

macro_rules! record {
    ($select:literal) => {
        concat!(
            "INSERT OR IGNORE INTO records (id, tenant, session_id, kind, execution_id, cell_id, from_us, to_us, \
             wall_us, cpu_us, memory_mib_ms, bytes, price_version, cost_picos, estimated, browser_active_us, \
             browser_standby_us) SELECT ",
            $select
        )
    };
}

macro_rules! count_cell {
    ($select:literal, $also:literal) => {
        concat!(
            "INSERT INTO cells (id, session_id, cpu_us, egress_bytes, ",
            $select,
            " ON CONFLICT (id) DO UPDATE SET cpu_us = max(cpu_us, excluded.cpu_us), \
             egress_bytes = max(egress_bytes, excluded.egress_bytes), ",
            $also
        )
    };
}

// What follows the first statement does nothing unless that closed something: closing twice is closing once.
static CLOSE_EXECUTION: Sql = sql!(
    "UPDATE executions SET status = ?, ended_us = ?, place = ?, report = ?, output = ? \
     WHERE id = ? AND ended_us IS NULL",
    record!("?, ?, ?, 'execution', ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, 0, 0 WHERE changes() > 0"),
    count_cell!("place) SELECT ?, ?, ?, ?, ? WHERE changes() > 0", "place = excluded.place"),
    record!("?, ?, ?, 'egress', ?, ?, ?, ?, 0, 0, 0, ?, ?, ?, 0, 0, 0 WHERE changes() > 0 AND ? > 0"),
);
static CLOSE_WITHOUT_RECORD: Sql = sql!(
    "UPDATE executions SET status = ?, ended_us = ?, report = ?, output = ? WHERE id = ? AND ended_us IS NULL"
);

static SETTLE_CELL: Sql = sql!(
    record!("?, ?, ?, ?, NULL, ?, ?, ?, 0, ?, 0, 0, ?, ?, ?, ?, ? WHERE ? > 0"),
    record!("?, ?, ?, 'egress', NULL, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?, 0, 0 WHERE ? > 0"),
    count_cell!("ended_us) VALUES (?, ?, ?, ?, ?)", "ended_us = excluded.ended_us"),
);

static USE_SESSION: Sql = sql!("UPDATE sessions SET used = 1 WHERE id = ?");
static CHANGE_SESSION: Sql = sql!(
    "UPDATE sessions SET expires_us = ?, expires_boot_us = ?, metadata = ?, \
     terms = iif(? IS NULL, terms, json_set(terms, '$.network', json(?))) WHERE id = ? AND status = 'active'"
);
static CLOSE_SESSION: Sql = sql!(
    "UPDATE sessions SET status = 'closing', close_reason = coalesce(close_reason, ?) \
     WHERE id = ? AND ended_us IS NULL"
);
static END_SESSION: Sql = sql!(
    "UPDATE sessions SET status = 'closed', close_reason = coalesce(close_reason, ?), ended_us = ?, \
     walls = coalesce(?, walls) WHERE id = ? AND ended_us IS NULL",
    "DELETE FROM contexts WHERE session_id = ?"
);
static SAVE_CONTEXT: Sql = sql!(insert_context!());
static REMEMBER: Sql = sql!(insert_remembered!());
static REMEMBER_END: Sql =
    sql!("UPDATE remembered SET answer = ?4 WHERE tenant = ?1 AND route = ?2 AND key = ?3");
static FORGET: Sql = sql!("DELETE FROM remembered WHERE tenant = ? AND route = ? AND key = ?");

static SAVE_CONTEXT_ONCE: Sql = sql!(insert_context!(), insert_remembered!());
static DELETE_CONTEXT: Sql = sql!("DELETE FROM contexts WHERE session_id = ? AND place = ?");

macro_rules! of_old_sessions {
    ($delete:literal) => {
        concat!($delete, " (SELECT id FROM sessions WHERE ended_us < ? ORDER BY ended_us LIMIT ?)")
    };
}

static SWEEP: Sql = sql!(
    "UPDATE executions SET output = NULL WHERE seq IN \
     (SELECT seq FROM executions WHERE output IS NOT NULL AND ended_us < ? LIMIT ?)",
    // What answers `lost` answers so for as long as its execution is kept.
    "DELETE FROM remembered WHERE subject IN (SELECT r.subject FROM remembered r \
     LEFT JOIN executions e ON e.id = r.subject \
     WHERE r.created_us < ? AND (e.id IS NULL OR e.status <> 'lost') LIMIT ?)",
    "DELETE FROM remembered WHERE created_us < ?",
    of_old_sessions!("DELETE FROM records WHERE session_id IN"),
    of_old_sessions!("DELETE FROM cells WHERE session_id IN"),
    of_old_sessions!("DELETE FROM executions WHERE session_id IN"),
    of_old_sessions!("DELETE FROM sessions WHERE id IN"),
);

struct Write {
    sql: &'static Sql,
    arguments: SqliteArguments,
    done: oneshot::Sender<Result<(), LedgerError>>,
}

/// Sends writes to the task that owns the connection.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    writes: mpsc::Sender<Write>,
    stop: mpsc::Sender<()>,
    written: Arc<AtomicU64>,
    unwritten: Arc<AtomicU64>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection, checkpointer: SqliteConnection) -> Self {
        let (writes, waiting) = mpsc::channel(WAITING_MAX);
        let (stop, stopped) = mpsc::channel(1);
        let tasks = vec![
            tokio::spawn(write_all(connection, waiting)),
            tokio::spawn(checkpoint_regularly(checkpointer, stopped)),
        ];
        let (written, unwritten) = (Arc::default(), Arc::default());
        Self { writes, stop, written, unwritten, tasks: Arc::new(Mutex::new(tasks)) }
    }

    pub(super) async fn write(&self, sql: &'static Sql, arguments: Binder) -> Result<(), LedgerError> {
        let (done, outcome) = oneshot::channel();
        let write = Write { sql, arguments: arguments.finish()?, done };
        self.writes.send(write).await.map_err(|_| LedgerError::Closed)?;
        let outcome = outcome.await.map_err(|_| LedgerError::Closed)?;
        let counter = if outcome.is_ok() { &self.written } else { &self.unwritten };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// How many writes succeeded, and how many failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.unwritten.load(Ordering::Relaxed))
    }

    pub(super) async fn close(&self) {
        // What was sent before the end is written first.
        let (done, _) = oneshot::channel();
        let last = Write { sql: &END, arguments: SqliteArguments::default(), done };
        let _gone = self.writes.send(last).await;
        let _gone = self.stop.send(()).await;
        let tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for task in tasks {
            let _joined = task.await;
        }
    }
}

static END: Sql = Sql { inside: "", alone: "" };

async fn write_all(mut connection: SqliteConnection, mut waiting: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let end = batch.iter().position(|write| std::ptr::eq(write.sql, &END));
        batch.truncate(end.unwrap_or(batch.len()));
        write_batch(&mut connection, &mut batch).await;
        if end.is_some() {
            break;
        }
    }
    drop(waiting);
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the ledger could not be closed");
    }
}

async fn write_batch(connection: &mut SqliteConnection, batch: &mut Vec<Write>) {
    if batch.len() > 1 {
        match write_together(connection, batch).await {
            Ok(()) => {
                for write in batch.drain(..) {
                    let _gone = write.done.send(Ok(()));
                }
                return;
            }
            // One of them is at fault: each gets its own transaction and its own answer.
            Err(_) => roll_back(connection).await,
        }
    }
    for write in batch.drain(..) {
        let outcome = sqlx::query_with(write.sql.alone, write.arguments).execute(&mut *connection).await;
        if outcome.is_err() {
            roll_back(connection).await;
        }
        let _gone = write.done.send(outcome.map(drop).map_err(Into::into));
    }
}

async fn write_together(connection: &mut SqliteConnection, batch: &[Write]) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for write in batch {
        sqlx::query_with(write.sql.inside, write.arguments.clone()).execute(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(&mut *connection).await?;
    Ok(())
}

async fn roll_back(connection: &mut SqliteConnection) {
    // Fails when the error already ended the transaction.
    let _none_open = sqlx::query("ROLLBACK").execute(&mut *connection).await;
}

async fn checkpoint_regularly(mut connection: SqliteConnection, mut stopped: mpsc::Receiver<()>) {
    while tokio::time::timeout(CHECKPOINT_EVERY, stopped.recv()).await.is_err() {
        let outcome = match checkpoint(&mut connection, "PRAGMA wal_checkpoint(PASSIVE)").await {
            Ok(pages) if pages > LOG_PAGES_MAX => {
                checkpoint(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await
            }
            other => other,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the ledger's log could not be brought into the database");
        }
    }
    let _last = checkpoint(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await;
}

async fn checkpoint(connection: &mut SqliteConnection, pragma: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query(pragma).fetch_one(connection).await?.try_get(1)
}

/// Collects parameters; the first that cannot be encoded fails the whole.
#[derive(Default)]
pub(super) struct Binder {
    arguments: SqliteArguments,
    failed: bool,
}

impl Binder {
    pub(super) fn bind<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(mut self, value: T) -> Self {
        self.failed |= self.arguments.add(value).is_err();
        self
    }

    fn finish(self) -> Result<SqliteArguments, LedgerError> {
        if self.failed { Err(LedgerError::Stored("parameter")) } else { Ok(self.arguments) }
    }

    fn session(self, row: &SessionRow) -> Result<Self, LedgerError> {
        Ok(self
            .bind(row.id.to_string())
            .bind(row.tenant.clone())
            .bind(row.created_us)
            .bind(row.expires_us)
            .bind(stored(row.expires_boot.0))
            .bind(row.boot_id.clone())
            .bind(row.used)
            .bind(serde_json::to_string(&row.metadata)?)
            .bind(serde_json::to_string(&row.terms)?))
    }

    fn execution(self, execution: &NewExecution) -> Result<Self, LedgerError> {
        Ok(self
            .bind(execution.id.to_string())
            .bind(execution.session.to_string())
            .bind(execution.created_us)
            .bind(serde_json::to_string(&execution.place)?))
    }

    pub(super) fn made(
        self,
        once: &Once,
        subject: String,
        made: &Made,
        now_us: i64,
    ) -> Result<Self, LedgerError> {
        Ok(self.once(once, subject, Some(serde_json::to_string(made)?), now_us))
    }

    fn once(self, once: &Once, subject: String, answer: Option<String>, now_us: i64) -> Self {
        self.name(once).bind(once.hash.to_vec()).bind(subject).bind(answer).bind(now_us)
    }

    /// By which a request with a key is found again.
    fn name(self, once: &Once) -> Self {
        self.bind(once.tenant.clone()).bind(once.route.clone()).bind(once.key.clone())
    }
}

/// The name of the record for the bytes of an execution or of a cell's rest: recording twice is recording once.
fn egress_record(of: &str) -> String {
    derived_id(&format!("{of}/egress"))
}

impl Ledger {
    /// A session begins.
    pub async fn open_session(&self, row: &SessionRow, once: Option<&Once>) -> Result<(), LedgerError> {
        let values = Binder::default().session(row)?;
        match once {
            None => self.writer.write(&OPEN_SESSION, values).await,
            Some(once) => {
                let made = Made::Session(Box::new(row.clone()));
                let values = values.made(once, row.id.to_string(), &made, row.created_us)?;
                self.writer.write(&OPEN_SESSION_ONCE, values).await
            }
        }
    }

    /// An execution is about to be given to the sandbox.
    pub async fn open_execution(
        &self,
        execution: &NewExecution,
        once: Option<&Once>,
    ) -> Result<(), LedgerError> {
        let values = Binder::default().execution(execution)?;
        match once {
            None => self.writer.write(&OPEN_EXECUTION, values).await,
            Some(once) => {
                let values = values.once(once, execution.id.to_string(), None, execution.created_us);
                self.writer.write(&OPEN_EXECUTION_ONCE, values).await
            }
        }
    }

    /// A session begins together with its only execution.
    pub async fn open_run(
        &self,
        row: &SessionRow,
        execution: &NewExecution,
        once: Option<&Once>,
    ) -> Result<(), LedgerError> {
        let values = Binder::default().session(row)?.execution(execution)?;
        match once {
            None => self.writer.write(&OPEN_RUN, values).await,
            Some(once) => {
                let values = values.once(once, execution.id.to_string(), None, execution.created_us);
                self.writer.write(&OPEN_RUN_ONCE, values).await
            }
        }
    }

    /// Nothing ran: as if the execution had never been opened; its key is forgotten too.
    pub async fn release_execution(&self, id: ExecutionId) -> Result<(), LedgerError> {
        let id = id.to_string();
        self.writer.write(&RELEASE_EXECUTION, Binder::default().bind(id.clone()).bind(id)).await
    }

    /// Removes a session that is over, if nothing was executed or recorded in it: as if it had never been.
    pub async fn forget_session(&self, id: SessionId) -> Result<(), LedgerError> {
        self.writer.write(&FORGET_SESSION, Binder::default().bind(id.to_string())).await
    }

    /// An execution ended. What reached no cell or was lost is closed without a record.
    pub async fn close_execution(&self, closing: &Closing) -> Result<(), LedgerError> {
        let id = closing.id.to_string();
        let report = serde_json::to_string(&closing.report)?;
        let output = match pack(&closing.output).await? {
            Packed::Short(json) => Some(json),
            Packed::Long(packed) => self.outputs.keep(closing, packed).await.then(|| LONG.to_owned()),
        };
        let Some((cell, accounted)) = closing.cell.filter(|_| closing.status != ExecutionStatus::Lost) else {
            let values = Binder::default()
                .bind(closing.status.as_str())
                .bind(closing.ended_us)
                .bind(report)
                .bind(output)
                .bind(id);
            return self.writer.write(&CLOSE_WITHOUT_RECORD, values).await;
        };
        let place = serde_json::to_string(&closing.place)?;
        let Report { wall_us, cpu_us, memory_mib_ms, egress_bytes, .. } = closing.report;
        let of = |binder: Binder, record: String| {
            binder
                .bind(record)
                .bind(closing.tenant.clone())
                .bind(closing.session.to_string())
                .bind(id.clone())
                .bind(cell.to_string())
                .bind(closing.created_us.saturating_add(stored(closing.report.queued_us)))
                .bind(closing.ended_us)
        };
        let values = Binder::default()
            .bind(closing.status.as_str())
            .bind(closing.ended_us)
            .bind(place.clone())
            .bind(report)
            .bind(output)
            .bind(id.clone());
        let values = of(values, id.clone())
            .bind(stored(wall_us))
            .bind(stored(cpu_us))
            .bind(stored(memory_mib_ms))
            .bind(closing.price_version.clone())
            .bind(closing.report.cost_picos.saturating_sub(closing.egress_picos))
            // The cell's counters.
            .bind(cell.to_string())
            .bind(closing.session.to_string())
            .bind(stored(accounted.cpu_us))
            .bind(stored(accounted.egress_bytes))
            .bind(place);
        let values = of(values, egress_record(&id))
            .bind(stored(egress_bytes))
            .bind(closing.price_version.clone())
            .bind(closing.egress_picos)
            .bind(stored(egress_bytes));
        self.writer.write(&CLOSE_EXECUTION, values).await
    }

    /// A cell ended: the rest of its counters is recorded, and never again. To be called when every execution that may
    /// have run there is closed.
    ///
    /// The rest is free where an execution of the session was lost: it may be what that execution used.
    pub async fn settle_cell(
        &self,
        tombstone: &Tombstone,
        plan: &Plan,
        now_us: i64,
    ) -> Result<(), LedgerError> {
        let Some((tenant, from_us)) = self.owner(tombstone.session).await? else { return Ok(()) };
        let recorded = self.cell(tombstone.cell).await?;
        if recorded.as_ref().is_some_and(|cell| cell.ended) {
            return Ok(());
        }
        let recorded = recorded.map(|cell| cell.accounted).unwrap_or_default();
        let last = Accounted { cpu_us: tombstone.cpu_us, egress_bytes: tombstone.traffic.sum_bytes() };
        let cpu_us = last.cpu_us.saturating_sub(recorded.cpu_us);
        let egress_bytes = last.egress_bytes.saturating_sub(recorded.egress_bytes);
        let lost = cpu_us + egress_bytes > 0 && self.lost_any(tombstone.session).await?;
        let (cell, session) = (tombstone.cell.to_string(), tombstone.session.to_string());
        let of =
            |binder: Binder, record: String| binder.bind(record).bind(tenant.clone()).bind(session.clone());
        let rest = |binder: Binder, count: u64, used: Used| {
            binder
                .bind(cell.clone())
                .bind(from_us)
                .bind(now_us)
                .bind(stored(count))
                .bind(plan.version.clone())
                .bind(if lost { 0 } else { plan.cost(used) })
                .bind(lost)
        };
        let kind = if tombstone.browser.is_some() { RecordKind::Browser } else { RecordKind::Standing };
        let browser = tombstone.browser.unwrap_or_default();
        let BrowserTime { active_us, standby_us } = browser;
        let own = Used { cpu_us, browser, ..Used::default() };
        let values = rest(of(Binder::default(), cell.clone()).bind(kind.as_str()), cpu_us, own)
            .bind(stored(active_us))
            .bind(stored(standby_us))
            .bind(stored(cpu_us.saturating_add(active_us).saturating_add(standby_us)));
        let egress = Used { egress_bytes, ..Used::default() };
        let values = rest(of(values, egress_record(&cell)), egress_bytes, egress)
            .bind(stored(egress_bytes))
            .bind(cell.clone())
            .bind(session.clone())
            .bind(stored(last.cpu_us))
            .bind(stored(last.egress_bytes))
            .bind(now_us);
        self.writer.write(&SETTLE_CELL, values).await
    }

    /// The session may own cells or files from now on.
    pub async fn use_session(&self, id: SessionId) -> Result<(), LedgerError> {
        self.writer.write(&USE_SESSION, Binder::default().bind(id.to_string())).await
    }

    /// An active session's life, tags or network were changed.
    pub async fn change_session(
        &self,
        id: SessionId,
        expires: (i64, Boottime),
        metadata: &BTreeMap<String, String>,
        network: Option<&Network>,
    ) -> Result<(), LedgerError> {
        let network = network.map(serde_json::to_string).transpose()?;
        let values = Binder::default()
            .bind(expires.0)
            .bind(stored(expires.1.0))
            .bind(serde_json::to_string(metadata)?)
            .bind(network.clone())
            .bind(network)
            .bind(id.to_string());
        self.writer.write(&CHANGE_SESSION, values).await
    }

    /// A session takes nothing more. The first reason stays.
    pub async fn close_session(&self, id: SessionId, reason: CloseReason) -> Result<(), LedgerError> {
        let values = Binder::default().bind(reason.as_str()).bind(id.to_string());
        self.writer.write(&CLOSE_SESSION, values).await
    }

    /// A session is over and owns nothing any more.
    pub async fn end_session(
        &self,
        id: SessionId,
        reason: CloseReason,
        ended_us: i64,
        walls: Option<&Walls>,
    ) -> Result<(), LedgerError> {
        let values = Binder::default()
            .bind(reason.as_str())
            .bind(ended_us)
            .bind(walls.map(serde_json::to_string).transpose()?)
            .bind(id.to_string())
            .bind(id.to_string());
        self.writer.write(&END_SESSION, values).await
    }

    /// A client prepared a context.
    pub async fn save_context(
        &self,
        session: SessionId,
        place: &Place,
        defaults: &Defaults,
        once: Option<&Once>,
        now_us: i64,
    ) -> Result<(), LedgerError> {
        let values = Binder::default()
            .bind(session.to_string())
            .bind(serde_json::to_string(place)?)
            .bind(serde_json::to_string(defaults)?)
            .bind(now_us);
        match once {
            None => self.writer.write(&SAVE_CONTEXT, values).await,
            Some(once) => {
                let made = Made::Context(session, place.clone(), defaults.clone());
                let values = values.made(once, session.to_string(), &made, now_us)?;
                self.writer.write(&SAVE_CONTEXT_ONCE, values).await
            }
        }
    }

    /// Files of a session are about to be changed by a request with a key. Until [`Ledger::files_made`] or
    /// [`Ledger::files_unchanged`] it is not known whether they were.
    pub async fn change_files(
        &self,
        session: SessionId,
        once: &Once,
        now_us: i64,
    ) -> Result<(), LedgerError> {
        let values = Binder::default().made(once, session.to_string(), &Made::Files(None), now_us)?;
        self.writer.write(&REMEMBER, values).await
    }

    /// The changes were made.
    pub async fn files_made(&self, once: &Once, made: FilesMade) -> Result<(), LedgerError> {
        let answer = serde_json::to_string(&Made::Files(Some(made)))?;
        self.writer.write(&REMEMBER_END, Binder::default().name(once).bind(answer)).await
    }

    /// The changes were refused: as if nobody had asked.
    pub async fn files_unchanged(&self, once: &Once) -> Result<(), LedgerError> {
        self.writer.write(&FORGET, Binder::default().name(once)).await
    }

    /// A context is not wanted any more.
    pub async fn delete_context(&self, session: SessionId, place: &Place) -> Result<(), LedgerError> {
        let values = Binder::default().bind(session.to_string()).bind(serde_json::to_string(place)?);
        self.writer.write(&DELETE_CONTEXT, values).await
    }

    /// Removes a part of what is older than it is kept: outputs and keys from before `output_us`, sessions with all
    /// that hangs on them from before `session_us`.
    pub async fn sweep(&self, output_us: i64, session_us: i64) -> Result<(), LedgerError> {
        let mut values = Binder::default()
            .bind(output_us)
            .bind(SWEEP_ROWS)
            .bind(output_us)
            .bind(SWEEP_ROWS)
            .bind(session_us);
        for _table in 0..4 {
            values = values.bind(session_us).bind(SWEEP_ROWS);
        }
        self.writer.write(&SWEEP, values).await?;
        self.outputs.sweep(output_us).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_transaction_is_its_statements_between_begin_and_commit() {
        assert_eq!(OPEN_RUN.alone, format!("BEGIN IMMEDIATE;{}COMMIT", OPEN_RUN.inside));
        assert_eq!(crate::words::SessionStatus::Active.as_str(), "active");
        assert_eq!(ExecutionStatus::Running.as_str(), "running");
        assert_eq!(crate::words::RecordKind::Execution.as_str(), "execution");
        assert_eq!(crate::words::RecordKind::Standing.as_str(), "standing");
        assert_eq!(crate::words::RecordKind::Egress.as_str(), "egress");
    }
}
