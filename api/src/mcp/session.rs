//! `session_create`, `session_get`, `session_close`, `usage_get`

use super::answer::{Done, invalid};
use super::conversation::Call;
use crate::config::micros;
use crate::http::error::Problem;
use crate::http::time;
use crate::http::usage::{GroupBy, group_name};
use crate::ledger::{Totals, UsageGroup, UsageLine, UsageQuery};
use crate::service::{SessionRequest, SessionView, browser};
use crate::words::{CloseReason, Runtime, SessionStatus};
use anchorhold_egress::Pattern;
use anchorhold_sandbox::{HOSTS_MAX, Network, RequestedLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const NAME_BYTES_MAX: usize = 128;
/// The most lines of a sum.
const LINES_MAX: u32 = 100;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionCreate {
    /// For people.
    name: Option<String>,
    /// How long it lives; 900 where omitted.
    ttl_seconds: Option<f64>,
    /// Its memory.
    memory_bytes: Option<u64>,
    /// How much its files may take.
    disk_bytes: Option<u64>,
    /// The longest time of one execution in the foreground.
    execution_seconds: Option<f64>,
    /// What its browser and its programs may reach; nothing where omitted.
    network: Option<Reach>,
}

/// A network, asked for and answered.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reach {
    /// Nothing, the listed hosts, or every public address.
    mode: Mode,
    /// For allow: as example.org, *.example.org or 127.0.0.1:8080. Ports 80 and 443 where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
}

// No comments on the variants: they would make the schema a union.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    None,
    Allow,
    Public,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionGet {
    /// The session; the current one where omitted.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionClose {
    /// The session; the current one where omitted.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageGet {
    /// From this time on, as 2026-01-31T00:00:00Z.
    from: Option<String>,
    /// Before this time.
    to: Option<String>,
    /// One line for each session (at most 100), day, or kind of use; omitted: one line for all.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = GroupBy::ALL))]
    group_by: Option<GroupBy>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Session {
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[schemars(with = "String", extend("enum" = SessionStatus::ALL))]
    status: SessionStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("enum" = CloseReason::ALL))]
    close_reason: Option<CloseReason>,
    #[schemars(with = "String", extend("enum" = Runtime::ALL))]
    runtime: Runtime,
    created_at: String,
    expires_at: String,
    memory_bytes: u64,
    disk_bytes: u64,
    execution_seconds: u64,
    network: Reach,
    usage: Sum,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Usage {
    lines: Vec<Line>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    usage: Sum,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Sum {
    records: u64,
    wall_us: u64,
    cpu_us: u64,
    memory_mib_ms: u64,
    /// Microseconds in which browsers were open and could run.
    browser_active_us: u64,
    /// Microseconds in which they were frozen, because nobody used them.
    browser_standby_us: u64,
    /// In 10⁻¹² dollars, decimal.
    cost_picos: String,
}

impl From<Totals> for Sum {
    fn from(totals: Totals) -> Self {
        Self {
            records: totals.records,
            wall_us: totals.wall_us,
            cpu_us: totals.cpu_us,
            memory_mib_ms: totals.memory_mib_ms,
            browser_active_us: totals.browser.active_us,
            browser_standby_us: totals.browser.standby_us,
            cost_picos: totals.cost_picos.to_string(),
        }
    }
}

impl From<SessionView> for Session {
    fn from(view: SessionView) -> Self {
        let row = view.row;
        Self {
            session_id: format!("ses_{}", row.id),
            name: row.terms.name,
            status: row.status,
            close_reason: row.close_reason,
            runtime: row.terms.runtime,
            created_at: time(row.created_us),
            expires_at: time(row.expires_us),
            memory_bytes: row.terms.limits.memory_bytes,
            disk_bytes: row.terms.limits.disk_bytes,
            execution_seconds: row.terms.limits.execution_us / 1_000_000,
            network: row.terms.network.into(),
            usage: view.totals.into(),
        }
    }
}

impl From<Network> for Reach {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self { mode: Mode::None, hosts: Vec::new() },
            Network::Allow(hosts) => Self { mode: Mode::Allow, hosts },
            Network::Public => Self { mode: Mode::Public, hosts: Vec::new() },
        }
    }
}

impl TryFrom<Reach> for Network {
    type Error = Problem;

    /// That a host may be listed does not mean that the operator allows it.
    fn try_from(asked: Reach) -> Result<Self, Problem> {
        if (asked.mode == Mode::Allow) == asked.hosts.is_empty() {
            return Err(invalid("network.hosts: is needed for the mode allow, and for no other"));
        }
        if asked.hosts.len() > HOSTS_MAX {
            return Err(invalid(format!("network.hosts: at most {HOSTS_MAX}")));
        }
        for host in &asked.hosts {
            host.parse::<Pattern>().map_err(|error| invalid(format!("network.hosts: {error}")))?;
        }
        Ok(match asked.mode {
            Mode::None => Self::None,
            Mode::Allow => Self::Allow(asked.hosts),
            Mode::Public => Self::Public,
        })
    }
}

/// A span of time that an argument names, in microseconds.
pub(super) fn span(name: &str, seconds: Option<f64>) -> Result<Option<u64>, Problem> {
    let Some(seconds) = seconds else { return Ok(None) };
    match micros(seconds).filter(|_| seconds >= 0.001) {
        Some(us) => Ok(Some(us)),
        None => Err(invalid(format!("{name}: must be a number of seconds from 0.001 to a year"))),
    }
}

impl Call<'_> {
    pub(super) async fn session_create(&self, asked: SessionCreate) -> Result<Done, Problem> {
        let name = asked.name;
        if name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control))
        {
            return Err(invalid("name: must have at most 128 bytes and no control characters"));
        }
        let limits = RequestedLimits {
            memory_bytes: asked.memory_bytes,
            disk_bytes: asked.disk_bytes,
            execution_us: span("execution_seconds", asked.execution_seconds)?,
            ..RequestedLimits::default()
        };
        let limits = browser::limits(limits);
        let ttl_us = span("ttl_seconds", asked.ttl_seconds)?;
        let network = asked.network.map_or(Ok(Network::None), Network::try_from)?;
        let request = SessionRequest { name, ttl_us, limits, network, ..SessionRequest::default() };
        let id = self.make_session(request).await?;
        self.show_session(self.service().session(self.tenant(), id).await?)
    }

    pub(super) async fn session_get(&self, asked: SessionGet) -> Result<Done, Problem> {
        let id = self.known_session(asked.session_id.as_deref()).await?;
        self.show_session(self.service().session(self.tenant(), id).await?)
    }

    pub(super) async fn session_close(&self, asked: SessionClose) -> Result<Done, Problem> {
        let id = self.known_session(asked.session_id.as_deref()).await?;
        let view = self.service().delete_session(self.tenant(), id).await?;
        self.forget_session(id).await;
        self.show_session(view)
    }

    fn show_session(&self, view: SessionView) -> Result<Done, Problem> {
        let session = Session::from(view);
        Done::new(session.session_id.clone(), &session)
    }

    pub(super) async fn usage_get(&self, asked: UsageGet) -> Result<Done, Problem> {
        let group = asked.group_by.map(UsageGroup::from);
        let query = UsageQuery {
            from_us: moment("from", asked.from)?.unwrap_or(i64::MIN),
            to_us: moment("to", asked.to)?.unwrap_or(i64::MAX),
            group,
            after: String::new(),
            limit: LINES_MAX,
        };
        let lines = self.service().usage(self.tenant(), &query).await?;
        let line = |line: UsageLine| Line { group: group_name(line.group, group), usage: line.totals.into() };
        let lines = lines.into_iter().map(line).collect();
        Done::new(String::new(), &Usage { lines })
    }
}

fn moment(name: &str, text: Option<String>) -> Result<Option<i64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => Ok(Some(at.as_microsecond())),
        Err(_) => Err(invalid(format!("{name}: must be a time as 2026-01-31T00:00:00Z"))),
    }
}
