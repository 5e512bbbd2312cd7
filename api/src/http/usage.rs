//! `/v1/usage`, `/v1/sessions/{id}/usage`, `/v1/prices`

use super::body::Query;
use super::error::Problem;
use super::openapi::{merged, sent};
use super::{Caller, Door, ListBody, SessionAt, TotalsBody, ok, time};
use crate::ledger::{Record, UsageGroup, UsageLine, UsageQuery};
use crate::words::{RecordKind, words};
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

const DAY_US: i64 = 86_400_000_000;

words!(
    /// How usage is summed up.
    GroupBy {
        /// By session.
        Session = "session",
        /// By day.
        Day = "day",
        /// By kind.
        Kind = "kind",
    }
);

impl From<GroupBy> for UsageGroup {
    fn from(group: GroupBy) -> Self {
        match group {
            GroupBy::Session => Self::Session,
            GroupBy::Day => Self::Day,
            GroupBy::Kind => Self::Kind,
        }
    }
}

/// What was used for one thing, written once.
#[derive(Serialize, ToSchema)]
#[schema(as = Record)]
struct RecordBody {
    id: String,
    kind: RecordKind,
    /// The execution that it is for.
    execution_id: Option<String>,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    /// Microseconds of time.
    wall_us: u64,
    /// Microseconds of processor time.
    cpu_us: u64,
    /// Memory over time: MiB times milliseconds.
    memory_mib_ms: u64,
    /// Bytes sent to the network and got from it.
    bytes: u64,
    /// Microseconds in which a browser was open and could run.
    browser_active_us: u64,
    /// Microseconds in which it was frozen, because nobody used it.
    browser_standby_us: u64,
    /// The version of the prices that it was billed by.
    price_version: String,
    /// What it cost, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]+$")]
    cost_picos: String,
    /// Whether counters were lost, so that it is the least that was used.
    estimated: bool,
}

impl From<Record> for RecordBody {
    fn from(record: Record) -> Self {
        Self {
            id: format!("rec_{}", record.id),
            kind: record.kind,
            execution_id: record.execution.map(|id| format!("exe_{id}")),
            from: time(record.from_us),
            to: time(record.to_us),
            wall_us: record.used.wall_us,
            cpu_us: record.used.cpu_us,
            memory_mib_ms: record.used.memory_mib_ms,
            bytes: record.used.bytes,
            browser_active_us: record.used.browser.active_us,
            browser_standby_us: record.used.browser.standby_us,
            price_version: record.price_version,
            cost_picos: record.used.cost_picos.to_string(),
            estimated: record.estimated,
        }
    }
}

#[derive(Serialize)]
struct LineBody {
    group: Option<String>,
    #[serde(flatten)]
    totals: TotalsBody,
}

impl PartialSchema for LineBody {
    fn schema() -> RefOr<Schema> {
        merged("A sum of records.", &[], [Group::schema(), TotalsBody::schema()])
    }
}

impl ToSchema for LineBody {
    fn name() -> std::borrow::Cow<'static, str> {
        "UsageSum".into()
    }
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "the first field of a `LineBody`")]
struct Group {
    /// The session, the day or the kind that it is for; `null` without `group_by`.
    group: Option<String>,
}

/// What is billed, and how much. Decimal strings, in pico-dollars (10⁻¹²).
#[derive(Serialize, ToSchema)]
#[schema(as = Prices)]
struct PricesBody<'a> {
    version: &'a str,
    /// `USD`
    currency: &'a str,
    /// An hour of one processor.
    #[schema(pattern = "^[0-9]+$")]
    cpu_core_hour_picos: String,
    /// An hour of one GiB of memory.
    #[schema(pattern = "^[0-9]+$")]
    memory_gib_hour_picos: String,
    /// One GiB sent to the network or got from it.
    #[schema(pattern = "^[0-9]+$")]
    egress_gib_picos: String,
    /// An hour of a browser that can run; what its actions use is paid beside it.
    #[schema(pattern = "^[0-9]+$")]
    browser_active_hour_picos: String,
    /// An hour of a browser that is frozen.
    #[schema(pattern = "^[0-9]+$")]
    browser_standby_hour_picos: String,
}

/// List a session's records
///
/// One for each execution and one for its bytes to and from the network, where there were any; and the same for what its
/// interpreters used between executions and after them. One for each browser that was closed, with the time in which it was
/// open. The newest first.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/usage", tag = "Usage", operation_id = "session_usage",
    params(sent::SessionPath, sent::PageQuery),
    responses((status = 200, description = "A page of records.", body = ListBody<RecordBody>)),
)]
pub(super) async fn of_session(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let (before, limit) = (query.cursor(), query.limit());
    query.finish()?;
    let page = door.service.records(&tenant, session, before, limit).await?;
    Ok(ok(&ListBody {
        items: page.items.into_iter().map(RecordBody::from).collect(),
        next_cursor: page.next.map(|next| next.to_string()),
    }))
}

/// Sum up usage
///
/// Of all sessions of the key's tenant.
#[utoipa::path(
    get, path = "/v1/usage", tag = "Usage", operation_id = "usage",
    params(sent::UsageQuery, sent::PageQuery),
    responses((status = 200, description = "A page of sums.", body = ListBody<LineBody>)),
)]
pub(super) async fn of_tenant(
    State(door): State<Door>,
    Caller(tenant): Caller,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let moment = |at: Option<jiff::Timestamp>| at.map(jiff::Timestamp::as_microsecond);
    let from = moment(query.parsed("from", "a time as 2026-01-31T00:00:00Z"));
    let to = moment(query.parsed("to", "a time as 2026-01-31T00:00:00Z"));
    let group =
        query.parsed("group_by", "session, day or kind").map(|group: GroupBy| UsageGroup::from(group));
    let (after, limit) = (query.text("cursor").unwrap_or_default(), query.limit());
    query.finish()?;
    let question = UsageQuery {
        from_us: from.unwrap_or(i64::MIN),
        to_us: to.unwrap_or(i64::MAX),
        group,
        after,
        limit: limit + 1,
    };
    let mut lines = door.service.usage(&tenant, &question).await?;
    let full = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = lines.len() > full;
    lines.truncate(full);
    let next_cursor = lines.last().filter(|_| more).map(|line| line.group.clone());
    Ok(ok(&ListBody { items: lines.into_iter().map(|line| line_body(line, group)).collect(), next_cursor }))
}

fn line_body(line: UsageLine, group: Option<UsageGroup>) -> LineBody {
    LineBody { group: group_name(line.group, group), totals: line.totals.into() }
}

/// What clients know a group by: a session's id, a date, a kind.
pub(crate) fn group_name(name: String, group: Option<UsageGroup>) -> Option<String> {
    match group? {
        UsageGroup::Session => Some(format!("ses_{name}")),
        UsageGroup::Kind => Some(name),
        UsageGroup::Day => name.parse::<i64>().ok().map(|day| {
            let mut date = time(day.saturating_mul(DAY_US));
            date.truncate("2026-01-31".len());
            date
        }),
    }
}

/// Show prices
#[utoipa::path(
    get, path = "/v1/prices", tag = "Usage", operation_id = "prices",
    responses((status = 200, description = "The prices of today.", body = PricesBody)),
)]
pub(super) async fn prices(State(door): State<Door>, Caller(_): Caller) -> Response {
    let plan = door.service.prices();
    ok(&PricesBody {
        version: &plan.version,
        currency: "USD",
        cpu_core_hour_picos: plan.cpu_core_hour_picos.to_string(),
        memory_gib_hour_picos: plan.memory_gib_hour_picos.to_string(),
        egress_gib_picos: plan.egress_gib_picos.to_string(),
        browser_active_hour_picos: plan.browser_active_hour_picos.to_string(),
        browser_standby_hour_picos: plan.browser_standby_hour_picos.to_string(),
    })
}
