//! Questions to the ledger.

use super::write::LONG;
use super::{
    ExecutionRow, Ledger, LedgerError, Once, Place, Record, Remembered, SessionRow, Subject, Totals, counted,
};
use crate::service::Defaults;
use crate::words::{ExecutionStatus, SessionStatus};
use anchorhold_sandbox::{Accounted, Boottime, BrowserTime, CellId, ExecutionId, SessionId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::str::FromStr;

/// Sums of integers that may exceed 64 bits are taken in two halves.
const HALF: i128 = 1_000_000_000;

/// Part of a list, newest first, and where the next part begins.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Given back to get the next part.
    pub next: Option<i64>,
}

/// How usage is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageGroup {
    /// By session.
    Session,
    /// By day (UTC) of the record's end.
    Day,
    /// By what it was for.
    Kind,
}

/// Which usage is asked for.
#[derive(Debug, Clone)]
pub struct UsageQuery {
    /// Records that ended at or after this.
    pub from_us: i64,
    /// Records that ended before this.
    pub to_us: i64,
    /// How to sum up; everything in one line otherwise.
    pub group: Option<UsageGroup>,
    /// Groups after this one.
    pub after: String,
    /// At most so many groups.
    pub limit: u32,
}

/// Usage of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLine {
    /// The session's id, the day as a number since 1970, or the kind; empty without groups.
    pub group: String,
    /// The sums.
    pub totals: Totals,
}

/// What is recorded of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellRow {
    /// The cell.
    pub id: CellId,
    /// Which context it was.
    pub place: Option<super::Place>,
    /// How much of its counters is recorded.
    pub accounted: Accounted,
    /// Whether its final counter is.
    pub ended: bool,
}

macro_rules! select_sessions {
    ($rest:literal) => {
        concat!(
            "SELECT seq, id, tenant, status, close_reason, created_us, expires_us, expires_boot_us, boot_id, \
             ended_us, used, metadata, terms, walls FROM sessions ",
            $rest
        )
    };
}

macro_rules! select_executions {
    ($rest:literal) => {
        concat!(
            "SELECT seq, id, session_id, status, created_us, ended_us, place, report, output FROM executions ",
            $rest
        )
    };
}

macro_rules! totals {
    () => {
        "count(*) AS n, coalesce(sum(wall_us), 0) AS wall_us, coalesce(sum(cpu_us), 0) AS cpu_us, \
         coalesce(sum(memory_mib_ms), 0) AS memory_mib_ms, coalesce(sum(bytes), 0) AS bytes, \
         coalesce(sum(browser_active_us), 0) AS browser_active_us, \
         coalesce(sum(browser_standby_us), 0) AS browser_standby_us, \
         coalesce(sum(cost_picos / 1000000000), 0) AS cost_high, \
         coalesce(sum(cost_picos % 1000000000), 0) AS cost_low"
    };
}

macro_rules! usage_by {
    ($group:literal) => {
        concat!(
            "SELECT ",
            $group,
            " AS line, ",
            totals!(),
            " FROM records WHERE tenant = ? AND to_us >= ? AND to_us < ? GROUP BY line HAVING line > ? \
             ORDER BY line LIMIT ?"
        )
    };
}

impl Ledger {
    /// A session of this tenant.
    pub async fn session(&self, tenant: &str, id: SessionId) -> Result<Option<SessionRow>, LedgerError> {
        sqlx::query(select_sessions!("WHERE id = ? AND tenant = ?"))
            .bind(id.to_string())
            .bind(tenant)
            .fetch_optional(&self.readers)
            .await?
            .map(|row| session(&row))
            .transpose()
    }

    /// Sessions of this tenant that are where `status` says and have every one of the tags.
    pub async fn sessions(
        &self,
        tenant: &str,
        status: Option<SessionStatus>,
        tags: &[(String, String)],
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<SessionRow>, LedgerError> {
        let rows = sqlx::query(select_sessions!(
            "WHERE tenant = ?1 AND seq < ?2 AND (?3 IS NULL OR status = ?3) AND NOT EXISTS \
             (SELECT 1 FROM json_each(?4) AS wanted WHERE NOT EXISTS (SELECT 1 FROM json_each(metadata) AS tag \
             WHERE tag.key = wanted.value ->> 0 AND tag.value = wanted.value ->> 1)) ORDER BY seq DESC LIMIT ?5"
        ))
        .bind(tenant)
        .bind(before.unwrap_or(i64::MAX))
        .bind(status.map(SessionStatus::as_str))
        .bind(serde_json::to_string(tags)?)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.readers)
        .await?;
        page(rows, limit, session)
    }

    /// Sessions that are not over, of all tenants. One in which something was executed is `used`.
    pub async fn sessions_not_closed(&self) -> Result<Vec<SessionRow>, LedgerError> {
        let rows = sqlx::query(
            "SELECT seq, id, tenant, status, close_reason, created_us, expires_us, expires_boot_us, boot_id, \
             ended_us, (used OR EXISTS (SELECT 1 FROM executions WHERE session_id = sessions.id)) AS used, \
             metadata, terms, walls FROM sessions WHERE ended_us IS NULL ORDER BY seq",
        );
        rows.fetch_all(&self.readers).await?.iter().map(session).collect()
    }

    /// An execution of this session.
    pub async fn execution(
        &self,
        session: SessionId,
        id: ExecutionId,
    ) -> Result<Option<ExecutionRow>, LedgerError> {
        let row = sqlx::query(select_executions!("WHERE id = ? AND session_id = ?"))
            .bind(id.to_string())
            .bind(session.to_string())
            .fetch_optional(&self.readers)
            .await?;
        self.whole(row).await
    }

    /// An execution with what it wrote.
    async fn whole(&self, row: Option<SqliteRow>) -> Result<Option<ExecutionRow>, LedgerError> {
        let Some(row) = row else { return Ok(None) };
        let execution = execution(&row)?;
        let output = match row.try_get::<Option<&str>, _>("output")? {
            Some(LONG) => self.outputs.read(execution.id).await?,
            _ => json(&row, "output")?,
        };
        Ok(Some(ExecutionRow { output, ..execution }))
    }

    /// Executions of this session, without what they wrote.
    pub async fn executions(
        &self,
        session: SessionId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<ExecutionRow>, LedgerError> {
        let rows = sqlx::query(
            "SELECT seq, id, session_id, status, created_us, ended_us, place, report \
             FROM executions WHERE session_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
        )
        .bind(session.to_string())
        .bind(before.unwrap_or(i64::MAX))
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.readers)
        .await?;
        page(rows, limit, execution)
    }

    /// The execution of a run, whose session the caller was never told apart from it.
    pub async fn execution_anywhere(&self, id: ExecutionId) -> Result<Option<ExecutionRow>, LedgerError> {
        let row = sqlx::query(select_executions!("WHERE id = ?"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        self.whole(row).await
    }

    /// Executions of a session that were opened and not closed.
    pub async fn executions_open(&self, session: SessionId) -> Result<Vec<ExecutionRow>, LedgerError> {
        let rows = sqlx::query(select_executions!("WHERE session_id = ? AND ended_us IS NULL ORDER BY seq"));
        rows.bind(session.to_string()).fetch_all(&self.readers).await?.iter().map(execution).collect()
    }

    /// Whether an execution of this session was lost: then what its cells used may be that execution's.
    pub async fn lost_any(&self, session: SessionId) -> Result<bool, LedgerError> {
        let row = sqlx::query("SELECT 1 FROM executions WHERE session_id = ? AND status = 'lost' LIMIT 1");
        Ok(row.bind(session.to_string()).fetch_optional(&self.readers).await?.is_some())
    }

    /// What is recorded of a cell.
    pub async fn cell(&self, id: CellId) -> Result<Option<CellRow>, LedgerError> {
        sqlx::query("SELECT id, place, cpu_us, egress_bytes, ended_us FROM cells WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?
            .map(|row| cell(&row))
            .transpose()
    }

    /// What is recorded of a session's cells.
    pub async fn cells(&self, session: SessionId) -> Result<Vec<CellRow>, LedgerError> {
        let rows =
            sqlx::query("SELECT id, place, cpu_us, egress_bytes, ended_us FROM cells WHERE session_id = ?");
        rows.bind(session.to_string()).fetch_all(&self.readers).await?.iter().map(cell).collect()
    }

    /// Whose session that is, whoever asks. For settling only.
    pub async fn owner(&self, id: SessionId) -> Result<Option<(String, i64)>, LedgerError> {
        let row = sqlx::query("SELECT tenant, created_us FROM sessions WHERE id = ?").bind(id.to_string());
        let row = row.fetch_optional(&self.readers).await?;
        Ok(row.map(|row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?))).transpose()?)
    }

    /// Contexts of a session that a client prepared.
    pub async fn contexts(&self, session: SessionId) -> Result<Vec<(Place, Defaults)>, LedgerError> {
        let rows = sqlx::query("SELECT place, defaults FROM contexts WHERE session_id = ?");
        let rows = rows.bind(session.to_string()).fetch_all(&self.readers).await?;
        let contexts = rows.iter().map(|row| {
            let (place, defaults): (&str, &str) = (row.try_get("place")?, row.try_get("defaults")?);
            Ok((serde_json::from_str(place)?, serde_json::from_str(defaults)?))
        });
        contexts.collect()
    }

    /// What became of an earlier request with this key.
    pub async fn remembered(&self, once: &Once) -> Result<Option<Remembered>, LedgerError> {
        let row = sqlx::query(
            "SELECT hash, subject, answer FROM remembered WHERE tenant = ? AND route = ? AND key = ?",
        )
        .bind(&once.tenant)
        .bind(&once.route)
        .bind(&once.key)
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let hash: Vec<u8> = row.try_get("hash")?;
        let hash = hash.try_into().map_err(|_| LedgerError::Stored("hash"))?;
        let subject = match row.try_get::<Option<String>, _>("answer")? {
            Some(made) => Subject::Made(serde_json::from_str(&made)?),
            None => Subject::Execution(parsed(&row, "subject")?),
        };
        Ok(Some(Remembered { hash, subject }))
    }

    /// A session's records, newest first.
    pub async fn records(
        &self,
        session: SessionId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<Record>, LedgerError> {
        let rows =
            sqlx::query("SELECT * FROM records WHERE session_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?")
                .bind(session.to_string())
                .bind(before.unwrap_or(i64::MAX))
                .bind(i64::from(limit) + 1)
                .fetch_all(&self.readers)
                .await?;
        page(rows, limit, record)
    }

    /// What sessions used, in the order asked for.
    pub async fn totals(&self, sessions: &[SessionId]) -> Result<Vec<Totals>, LedgerError> {
        let names: Vec<String> = sessions.iter().map(ToString::to_string).collect();
        let rows = sqlx::query(concat!(
            "SELECT session_id, ",
            totals!(),
            " FROM records WHERE session_id IN (SELECT value FROM json_each(?)) GROUP BY session_id"
        ))
        .bind(serde_json::to_string(&names)?)
        .fetch_all(&self.readers)
        .await?;
        let mut found = std::collections::HashMap::with_capacity(rows.len());
        for row in &rows {
            found.insert(row.try_get::<String, _>("session_id")?, totals(row)?);
        }
        Ok(names.iter().map(|name| found.get(name).copied().unwrap_or_default()).collect())
    }

    /// What a tenant used.
    pub async fn usage(&self, tenant: &str, query: &UsageQuery) -> Result<Vec<UsageLine>, LedgerError> {
        let sql = match query.group {
            None => usage_by!("'all'"),
            Some(UsageGroup::Session) => usage_by!("session_id"),
            // Padded, so that days sort as text: the cursor is one.
            Some(UsageGroup::Day) => usage_by!("printf('%08d', to_us / 86400000000)"),
            Some(UsageGroup::Kind) => usage_by!("kind"),
        };
        let rows = sqlx::query(sql)
            .bind(tenant)
            .bind(query.from_us)
            .bind(query.to_us)
            .bind(&query.after)
            .bind(query.limit)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok(UsageLine { group: row.try_get("line")?, totals: totals(row)? })).collect()
    }

    /// Whether questions are answered.
    pub async fn check(&self) -> Result<(), LedgerError> {
        sqlx::query("SELECT 1").fetch_one(&self.readers).await?;
        Ok(())
    }
}

/// One row more than the limit was asked for: it says whether there is a next page.
pub(super) fn page<T>(
    mut rows: Vec<SqliteRow>,
    limit: u32,
    read: impl Fn(&SqliteRow) -> Result<T, LedgerError>,
) -> Result<Page<T>, LedgerError> {
    let full = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > full;
    rows.truncate(full);
    let next = match rows.last() {
        Some(row) if more => Some(row.try_get("seq")?),
        _ => None,
    };
    Ok(Page { items: rows.iter().map(read).collect::<Result<_, _>>()?, next })
}

pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, LedgerError> {
    row.try_get::<&str, _>(column)?.parse().map_err(|_| LedgerError::Stored(column))
}

fn parsed_option<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<Option<T>, LedgerError> {
    let text = row.try_get::<Option<&str>, _>(column)?;
    text.map(|text| text.parse().map_err(|_| LedgerError::Stored(column))).transpose()
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, LedgerError> {
    let text = row.try_get::<Option<&str>, _>(column)?;
    text.map(|text| serde_json::from_str(text).map_err(|_| LedgerError::Stored(column))).transpose()
}

fn required<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, LedgerError> {
    json(row, column)?.ok_or(LedgerError::Stored(column))
}

fn session(row: &SqliteRow) -> Result<SessionRow, LedgerError> {
    Ok(SessionRow {
        id: parsed(row, "id")?,
        tenant: row.try_get("tenant")?,
        status: parsed(row, "status")?,
        close_reason: parsed_option(row, "close_reason")?,
        created_us: row.try_get("created_us")?,
        expires_us: row.try_get("expires_us")?,
        expires_boot: Boottime(counted(row.try_get("expires_boot_us")?)),
        boot_id: row.try_get("boot_id")?,
        ended_us: row.try_get("ended_us")?,
        used: row.try_get("used")?,
        metadata: required(row, "metadata")?,
        terms: required(row, "terms")?,
        walls: json(row, "walls")?,
    })
}

/// Without what it wrote.
fn execution(row: &SqliteRow) -> Result<ExecutionRow, LedgerError> {
    Ok(ExecutionRow {
        id: parsed(row, "id")?,
        session: parsed(row, "session_id")?,
        status: parsed::<ExecutionStatus>(row, "status")?,
        created_us: row.try_get("created_us")?,
        ended_us: row.try_get("ended_us")?,
        place: required(row, "place")?,
        report: json(row, "report")?,
        output: None,
    })
}

fn cell(row: &SqliteRow) -> Result<CellRow, LedgerError> {
    Ok(CellRow {
        id: parsed(row, "id")?,
        place: json(row, "place")?,
        accounted: Accounted {
            cpu_us: counted(row.try_get("cpu_us")?),
            egress_bytes: counted(row.try_get("egress_bytes")?),
        },
        ended: row.try_get::<Option<i64>, _>("ended_us")?.is_some(),
    })
}

fn record(row: &SqliteRow) -> Result<Record, LedgerError> {
    Ok(Record {
        id: row.try_get("id")?,
        kind: parsed(row, "kind")?,
        execution: parsed_option(row, "execution_id")?,
        from_us: row.try_get("from_us")?,
        to_us: row.try_get("to_us")?,
        used: Totals {
            records: 1,
            wall_us: counted(row.try_get("wall_us")?),
            cpu_us: counted(row.try_get("cpu_us")?),
            memory_mib_ms: counted(row.try_get("memory_mib_ms")?),
            bytes: counted(row.try_get("bytes")?),
            browser: browser_time(row)?,
            cost_picos: i128::from(row.try_get::<i64, _>("cost_picos")?),
        },
        price_version: row.try_get("price_version")?,
        estimated: row.try_get("estimated")?,
    })
}

fn browser_time(row: &SqliteRow) -> Result<BrowserTime, LedgerError> {
    Ok(BrowserTime {
        active_us: counted(row.try_get("browser_active_us")?),
        standby_us: counted(row.try_get("browser_standby_us")?),
    })
}

fn totals(row: &SqliteRow) -> Result<Totals, LedgerError> {
    let (high, low): (i64, i64) = (row.try_get("cost_high")?, row.try_get("cost_low")?);
    Ok(Totals {
        records: counted(row.try_get("n")?),
        wall_us: counted(row.try_get("wall_us")?),
        cpu_us: counted(row.try_get("cpu_us")?),
        memory_mib_ms: counted(row.try_get("memory_mib_ms")?),
        bytes: counted(row.try_get("bytes")?),
        browser: browser_time(row)?,
        cost_picos: i128::from(high) * HALF + i128::from(low),
    })
}
