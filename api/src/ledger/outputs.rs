//! Long outputs, in a database of their own.
//!
//! One write of a database goes after the other, and nobody who opens or closes an execution shall wait until the twenty
//! megabytes of another are written. The ledger says of an execution that its output is here; it need not be any more:
//! a tenant's newest are kept, as many bytes as it may have, and one for which there is no space is given up.

use super::pack::unpack;
use super::write::{Binder, SWEEP_ROWS, Sql, Writer, sql};
use super::{Closing, LedgerError, Output, stored};
use anchorhold_sandbox::ExecutionId;
use sqlx::sqlite::{SqliteConnection, SqlitePool};

const SCHEMA: &str = include_str!("../../migrations/outputs.sql");

static KEEP: Sql = sql!(
    "INSERT OR REPLACE INTO outputs (tenant, execution_id, ended_us, bytes, packed) VALUES (?, ?, ?, ?, ?)",
    "DELETE FROM outputs WHERE seq IN (SELECT seq FROM (SELECT seq, \
     sum(bytes) OVER (ORDER BY seq DESC) AS kept FROM outputs WHERE tenant = ?) WHERE kept > ?)",
);
static SWEEP: Sql =
    sql!("DELETE FROM outputs WHERE seq IN (SELECT seq FROM outputs WHERE ended_us < ? LIMIT ?)");

/// All of them; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    writer: Writer,
    readers: SqlitePool,
    /// Of one tenant, in bytes as they are stored.
    pub(super) tenant_max: i64,
}

impl Outputs {
    /// The schema of a new database.
    pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
        sqlx::raw_sql(SCHEMA).execute(connection).await?;
        Ok(())
    }

    pub(super) fn new(writer: Writer, readers: SqlitePool) -> Self {
        Self { writer, readers, tenant_max: i64::MAX }
    }

    /// Stores one; whether it could.
    pub(super) async fn keep(&self, closing: &Closing, packed: Vec<u8>) -> bool {
        let values = Binder::default()
            .bind(closing.tenant.clone())
            .bind(closing.id.to_string())
            .bind(closing.ended_us)
            .bind(stored(packed.len() as u64))
            .bind(packed)
            .bind(closing.tenant.clone())
            .bind(self.tenant_max);
        let kept = self.writer.write(&KEEP, values).await;
        if let Err(error) = &kept {
            tracing::warn!(%error, execution = %closing.id, "a long output is not kept");
        }
        kept.is_ok()
    }

    /// What an execution wrote, if it is still here.
    pub(super) async fn read(&self, id: ExecutionId) -> Result<Option<Output>, LedgerError> {
        let packed = sqlx::query_scalar::<_, Vec<u8>>("SELECT packed FROM outputs WHERE execution_id = ?");
        let packed = packed.bind(id.to_string()).fetch_optional(&self.readers).await?;
        match packed {
            Some(packed) => unpack(packed).await.map(Some),
            None => Ok(None),
        }
    }

    /// Removes a part of those from before `ended_us`.
    pub(super) async fn sweep(&self, ended_us: i64) -> Result<(), LedgerError> {
        self.writer.write(&SWEEP, Binder::default().bind(ended_us).bind(SWEEP_ROWS)).await
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
