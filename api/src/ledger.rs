//! The ledger: what was allocated, what ran, what it used and what that costs. All SQL is behind this module.
//!
//! ```text
//! open ──────► close (status, report, output, usage record, cell counter: one transaction)
//!   │
//!   ├────────► release (nothing ran: as if it had never been opened)
//!   └─ crash ► close as `lost`, without a record
//! ```
//!
//! A write has happened when its method returns: from then on it survives the sudden death of every process
//! ([`LedgerSync::Process`]) or of the machine ([`LedgerSync::Power`]). Every write may be repeated.
//!
//! **Every microsecond and every byte once.** A cell's counters only grow. An execution's records take what is between a
//! counter at its end and what was recorded of the cell before; the `standing` record of an ended cell, and an `egress`
//! record without an execution, take the rest. So the records of a cell add up to its final counters, whatever crashed
//! in between.

mod outputs;
mod pack;
mod read;
mod schema;
mod tenant;
mod write;

#[cfg(test)]
mod tests;

pub use crate::config::LedgerSync;
pub use read::{CellRow, Page, UsageGroup, UsageLine, UsageQuery};
pub use tenant::{KeyId, KeyRow, Quotas, TenantId, TenantRow};

use crate::price::Picos;
use crate::service::Defaults;
use crate::words::{
    CloseReason, Engine, ExecutionStatus, Language, LimitName, RecordKind, Runtime, SessionStatus,
};
use anchorhold_sandbox::{
    Accounted, Boottime, BrowserTime, CellId, Digest, ExecutionId, Limits, Network, Piece, SessionId, Taking,
    Walls,
};
use serde::{Deserialize, Serialize};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Connections that only read.
const READERS: u32 = 4;
/// How long a connection waits for another's lock; only checkpoints hold one for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the ledger could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database failed; a full disk too.
    #[error("ledger database: {0}")]
    Database(sqlx::Error),
    /// The database is of a later version, or damaged.
    #[error("ledger schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// Something that was stored cannot be read back.
    #[error("ledger holds something unreadable: {0}")]
    Stored(&'static str),
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Closed,
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            // Trying again would be for ever.
            sqlx::Error::PoolClosed => Self::Closed,
            error => Self::Database(error),
        }
    }
}

impl From<serde_json::Error> for LedgerError {
    fn from(_: serde_json::Error) -> Self {
        Self::Stored("json")
    }
}

/// What a session was opened with and keeps for its life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Terms {
    /// For people.
    pub name: Option<String>,
    /// Where executions run that name no runtime.
    pub runtime: Runtime,
    /// What it may use.
    #[serde(with = "StoredLimits")]
    pub limits: Limits,
    /// The environment of everything in it.
    pub env: Vec<(String, String)>,
    /// Ends it when nothing happened for as long.
    pub idle_timeout_us: Option<u64>,
    /// What it may reach.
    #[serde(default)]
    pub network: Network,
    /// How large its browser's window is; width and height.
    #[serde(default)]
    pub viewport: Option<(u16, u16)>,
}

/// How [`Limits`] are written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Limits")]
struct StoredLimits {
    cpu_millicores: u32,
    memory_bytes: u64,
    disk_bytes: u64,
    processes: u32,
    output_bytes: u64,
    execution_us: u64,
    cpu_us: u64,
}

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its name.
    pub id: SessionId,
    /// Whose it is: the tenant's id.
    pub tenant: String,
    /// Where it is in its life.
    pub status: SessionStatus,
    /// Why it is over.
    pub close_reason: Option<CloseReason>,
    /// When it began.
    pub created_us: i64,
    /// When it ends by itself.
    pub expires_us: i64,
    /// The same moment on the warden's clock.
    pub expires_boot: Boottime,
    /// During which boot.
    pub boot_id: String,
    /// When it ended.
    pub ended_us: Option<i64>,
    /// Whether it may own cells or files.
    pub used: bool,
    /// The client's tags.
    pub metadata: BTreeMap<String, String>,
    /// What it was opened with.
    pub terms: Terms,
    /// The walls of its last cell.
    pub walls: Option<Walls>,
}

/// Where an execution runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// In what language.
    pub language: Language,
    /// By which interpreter, when that was asked for.
    pub engine: Option<Engine>,
    /// On what.
    pub runtime: Runtime,
    /// The image of the interpreter.
    pub image: Digest,
    /// The context's name.
    pub context: String,
}

/// An execution that is about to run.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// Names it.
    pub id: ExecutionId,
    /// In which session.
    pub session: SessionId,
    /// When it was accepted.
    pub created_us: i64,
    /// Where it runs.
    pub place: Place,
}

/// An execution.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionRow {
    /// Its name.
    pub id: ExecutionId,
    /// In which session.
    pub session: SessionId,
    /// Where it is, or what became of it.
    pub status: ExecutionStatus,
    /// When it was accepted.
    pub created_us: i64,
    /// When it ended.
    pub ended_us: Option<i64>,
    /// Where it runs.
    pub place: Place,
    /// Numbers and flags; of one that ended.
    pub report: Option<Report>,
    /// What it wrote; of one that ended, for as long as outputs are kept.
    pub output: Option<Output>,
}

/// Numbers and flags of an execution that ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The limit that ended it.
    pub limit: Option<LimitName>,
    /// Limits that it ran into.
    pub limits_hit: Vec<LimitName>,
    /// The interpreter's state is gone.
    pub state_lost: bool,
    /// The program's own exit code.
    pub exit_code: Option<i32>,
    /// Bytes written to standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes written to standard error, kept or not.
    pub stderr_bytes: u64,
    /// Some of them were not kept.
    pub truncated: bool,
    /// Wall time.
    pub wall_us: u64,
    /// Processor time.
    pub cpu_us: u64,
    /// Most memory.
    pub memory_peak_bytes: u64,
    /// Memory over time.
    pub memory_mib_ms: u64,
    /// Bytes to and from the network.
    #[serde(default)]
    pub egress_bytes: u64,
    /// Time before it began; not billed.
    pub queued_us: u64,
    /// What it cost, with its bytes.
    pub cost_picos: Picos,
}

/// What an execution wrote. Its two texts are stored beside the rest of it when they are long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Standard output, as far as it was kept.
    #[serde(default)]
    pub stdout: String,
    /// Standard error, as far as it was kept.
    #[serde(default)]
    pub stderr: String,
    /// Rich values: untrusted JSON of bounded size and depth.
    pub results: Vec<Rich>,
    /// The program's own error.
    pub error: Option<GuestError>,
    /// Files that were asked for together with the run.
    pub files: Option<Vec<ReturnedFile>>,
    /// The order of what was written; empty for what an older version stored.
    #[serde(default)]
    pub pieces: Vec<Piece>,
}

/// A rich value as in Jupyter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rich {
    /// Whether it is the value of the last expression.
    pub main: bool,
    /// By media type.
    pub mime: serde_json::Map<String, serde_json::Value>,
}

/// A program's own error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestError {
    /// Its class.
    pub name: String,
    /// What it says.
    pub message: String,
    /// Where it came from.
    pub traceback: String,
}

/// A file that was asked for together with a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnedFile {
    /// Relative to the workspace.
    pub path: String,
    /// Its content in base64, or why there is none.
    pub content: Result<String, String>,
}

/// Everything that is stored when an execution ends, in one transaction.
#[derive(Debug, Clone)]
pub struct Closing {
    /// Which one.
    pub id: ExecutionId,
    /// Of which session.
    pub session: SessionId,
    /// Of which tenant, by its id.
    pub tenant: String,
    /// What became of it.
    pub status: ExecutionStatus,
    /// When it was accepted.
    pub created_us: i64,
    /// When it ended.
    pub ended_us: i64,
    /// Where it ran.
    pub place: Place,
    /// The cell that ran it and that cell's counters at the end.
    pub cell: Option<(CellId, Accounted)>,
    /// Numbers and flags.
    pub report: Report,
    /// What it wrote.
    pub output: Arc<Output>,
    /// What of its cost is for its bytes, which have a record of their own.
    pub egress_picos: Picos,
    /// By which prices its cost was reckoned.
    pub price_version: String,
    /// How long its cell took to get, where one was taken for it; not kept.
    pub taking: Option<Taking>,
}

/// A line of what is billed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name: the execution's or the cell's.
    pub id: String,
    /// What it is for.
    pub kind: RecordKind,
    /// For which execution.
    pub execution: Option<ExecutionId>,
    /// From when.
    pub from_us: i64,
    /// To when.
    pub to_us: i64,
    /// What was used.
    pub used: Totals,
    /// By which prices.
    pub price_version: String,
    /// The numbers are not a measurement.
    pub estimated: bool,
}

/// Sums over records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many records.
    pub records: u64,
    /// Wall time.
    pub wall_us: u64,
    /// Processor time.
    pub cpu_us: u64,
    /// Memory over time.
    pub memory_mib_ms: u64,
    /// Bytes moved or kept.
    pub bytes: u64,
    /// How long browsers were their sessions'.
    pub browser: BrowserTime,
    /// Money; a sum may exceed what one record holds.
    pub cost_picos: i128,
}

/// A request that must not run twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Once {
    /// Whose key.
    pub tenant: String,
    /// For which operation.
    pub route: String,
    /// The client's key.
    pub key: String,
    /// Of the parsed request.
    pub hash: [u8; 32],
}

/// What became of an earlier request with the same key.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Of the earlier request.
    pub hash: [u8; 32],
    /// What it began.
    pub subject: Subject,
}

/// What a request with a key began.
#[derive(Debug, Clone)]
pub enum Subject {
    /// An execution, whose row is the answer.
    Execution(ExecutionId),
    /// Something that changes afterwards, as it was when it was answered.
    Made(Made),
}

/// What was made by one request with a key, as it was answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// A session.
    Session(Box<SessionRow>),
    /// A context of a session.
    Context(SessionId, Place, Defaults),
    /// A tenant.
    Tenant(Box<TenantRow>),
    /// Changes of a session's files; nothing while it is not known whether they were made.
    Files(Option<FilesMade>),
}

/// Changes of files that were made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesMade {
    /// All of a batch.
    Batch,
    /// What an archive held, and which one it was.
    Archive {
        /// Files and directories that it named.
        entries: u32,
        /// Bytes of the files.
        bytes: u64,
        /// Bytes of the archive.
        length: u64,
        /// SHA-256 of the archive.
        digest: [u8; 32],
    },
}

/// The open ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    writer: write::Writer,
    readers: SqlitePool,
    outputs: outputs::Outputs,
}

impl Ledger {
    /// Opens (and where needed makes or migrates) the databases in this directory. Needs a tokio runtime.
    pub async fn open(directory: &Path, sync: LedgerSync) -> Result<Self, LedgerError> {
        let options = options(&directory.join("ledger.sqlite"), sync);
        let mut connection = options.connect().await?;
        schema::migrator().run(&mut connection).await?;
        let (writer, readers) = database(connection, options).await?;
        let options = self::options(&directory.join("outputs.sqlite"), sync);
        let mut connection = options.connect().await?;
        outputs::Outputs::prepare(&mut connection).await?;
        let (outputs_writer, outputs_readers) = database(connection, options).await?;
        Ok(Self { writer, readers, outputs: outputs::Outputs::new(outputs_writer, outputs_readers) })
    }

    /// Of a tenant's long outputs so many bytes are kept, as they are stored: the newest.
    #[must_use]
    pub fn with_long_outputs_max(mut self, bytes: u64) -> Self {
        self.outputs.tenant_max = stored(bytes);
        self
    }

    /// How many writes succeeded since it was opened, and how many failed.
    pub fn writes(&self) -> (u64, u64) {
        self.writer.counts()
    }

    /// Waits for what is under way and closes the database. Later writes fail.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        self.outputs.close().await;
    }
}

/// How a database is opened, which is made if need be.
fn options(path: &Path, sync: LedgerSync) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match sync {
            // What was written to the log survives the process; only a checkpoint waits for the disk.
            LedgerSync::Process => SqliteSynchronous::Normal,
            LedgerSync::Power => SqliteSynchronous::Full,
        })
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
        // A commit must not stop for a checkpoint; a connection of its own does that.
        .pragma("wal_autocheckpoint", "0")
        .disable_statement_logging()
}

/// Who writes to a database, by this connection, and who reads.
async fn database(
    connection: SqliteConnection,
    options: SqliteConnectOptions,
) -> Result<(write::Writer, SqlitePool), LedgerError> {
    let checkpointer = options.connect().await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(options.read_only(true).pragma("cache_size", "-8192"))
        .await?;
    Ok((write::Writer::start(connection, checkpointer), readers))
}

/// Numbers are stored as SQLite has them; nothing that is counted here comes near the end of them.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn counted(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
