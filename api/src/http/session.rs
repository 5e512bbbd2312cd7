//! `/v1/sessions`

use super::body::{Fields, Object, Query};
use super::error::{Code, Problem};
use super::openapi::{Exclusive, Live, NetworkMode, Opens, sent};
use super::{Caller, Door, ListBody, SessionAt, TotalsBody, about, json, key, ok, time};
use crate::config::thousandths;
use crate::ledger::{SessionRow, Totals};
use crate::service::{SessionChange, SessionRequest, SessionView};
use crate::words::{CloseReason, Runtime, SessionStatus};
use anchorhold_egress::Pattern;
use anchorhold_sandbox::{HOSTS_MAX, Limits, Network, RequestedLimits, Wall, Window};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

const NAME_BYTES_MAX: usize = 128;
const TAGS_MAX: usize = 32;
const TAG_BYTES_MAX: usize = 256;
const VARIABLES_MAX: usize = 128;
const VARIABLE_BYTES_MAX: usize = 32 * 1024;

/// A session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionBody {
    #[schema(pattern = "^ses_[0-9a-z]{26}$")]
    id: String,
    name: Option<String>,
    status: SessionStatus,
    /// Why it is over, when it is.
    close_reason: Option<CloseReason>,
    /// Where its code runs when an execution does not say.
    runtime: Runtime,
    /// Seconds without an execution after which it ends.
    idle_timeout_seconds: Option<f64>,
    limits: LimitsBody,
    #[schema(value_type = sent::Network)]
    network: Value,
    /// Tags to find it by.
    metadata: BTreeMap<String, String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it ends by itself.
    #[schema(format = DateTime)]
    expires_at: String,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// The walls around its code, by name: `standing`, or `absent: ` and why. Empty until it had a cell.
    #[schema(value_type = BTreeMap<String, String>)]
    isolation: Map<String, Value>,
    usage: TotalsBody,
}

/// What a session may use.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
struct LimitsBody {
    /// Processors, in thousandths.
    cpu_cores: f64,
    /// Bytes of memory, of all interpreters together.
    memory_bytes: u64,
    /// Bytes of the workspace.
    disk_bytes: u64,
    /// Processes and threads.
    processes: u32,
    /// Bytes of output that are kept of an execution.
    output_bytes: u64,
    /// Seconds that an execution may take in the foreground.
    execution_seconds: f64,
    /// Seconds of processor time of an execution.
    cpu_seconds: f64,
}

impl From<&Limits> for LimitsBody {
    fn from(limits: &Limits) -> Self {
        Self {
            cpu_cores: f64::from(limits.cpu_millicores) / 1e3,
            memory_bytes: limits.memory_bytes,
            disk_bytes: limits.disk_bytes,
            processes: limits.processes,
            output_bytes: limits.output_bytes,
            execution_seconds: seconds(limits.execution_us),
            cpu_seconds: seconds(limits.cpu_us),
        }
    }
}

/// Exact for every span of time that a session may have.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a year have fewer bits than an f64")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl SessionBody {
    fn new(row: SessionRow, totals: Totals) -> Self {
        let walls = row.walls.map(|walls| walls.0).unwrap_or_default();
        Self {
            id: format!("ses_{}", row.id),
            name: row.terms.name,
            status: row.status,
            close_reason: row.close_reason,
            runtime: row.terms.runtime,
            idle_timeout_seconds: row.terms.idle_timeout_us.map(seconds),
            limits: (&row.terms.limits).into(),
            network: match row.terms.network {
                Network::None => json!({ "mode": NetworkMode::None }),
                Network::Allow(hosts) => json!({ "mode": NetworkMode::Allow, "hosts": hosts }),
                Network::Public => json!({ "mode": NetworkMode::Public }),
            },
            metadata: row.metadata,
            created_at: time(row.created_us),
            expires_at: time(row.expires_us),
            ended_at: row.ended_us.map(time),
            isolation: walls.into_iter().map(|(name, wall)| (name, standing(wall))).collect(),
            usage: totals.into(),
        }
    }
}

fn standing(wall: Wall) -> Value {
    match wall {
        Wall::Standing(_) => "standing".into(),
        Wall::Absent(why) => format!("absent: {why}").into(),
    }
}

impl From<SessionView> for SessionBody {
    fn from(view: SessionView) -> Self {
        Self::new(view.row, view.totals)
    }
}

/// Fields of a session in a request; also those of `/v1/run`.
pub(super) fn request(fields: &mut Fields<'_>) -> SessionRequest {
    let network = fields.object("network", network).unwrap_or_default();
    let browser = fields.object("browser", |browser| browser.object("viewport", viewport).flatten());
    let asked_browser = browser.is_some();
    let name = fields.text("name", NAME_BYTES_MAX);
    if name.as_ref().is_some_and(|name| name.chars().any(char::is_control)) {
        fields.wrong("name", "must not contain control characters");
    }
    let asked = fields.object("limits", limits).unwrap_or_default();
    SessionRequest {
        name,
        runtime: fields.word("runtime", Runtime::ALL),
        ttl_us: fields.seconds("ttl_seconds"),
        idle_timeout_us: fields.seconds("idle_timeout_seconds"),
        limits: if asked_browser { crate::service::browser::limits(asked) } else { asked },
        env: env(fields),
        metadata: metadata(fields).unwrap_or_default(),
        network,
        viewport: browser.flatten(),
    }
}

/// Width and height of a browser's window, in CSS pixels.
fn viewport(fields: &mut Fields<'_>) -> Option<(u16, u16)> {
    let mut side = |name: &str| {
        let Some(asked) = fields.count(name) else {
            fields.missing(name);
            return None;
        };
        let side = u16::try_from(asked).ok().filter(|side| (1..=Window::SIDE_MAX).contains(side));
        if side.is_none() {
            fields.wrong(name, format!("must be from 1 to {}", Window::SIDE_MAX));
        }
        side
    };
    let (width, height) = (side("width"), side("height"));
    width.zip(height)
}

/// What a session shall reach. That it may list a host does not mean that the operator allows it.
fn network(fields: &mut Fields<'_>) -> Network {
    let mode = fields.word("mode", NetworkMode::ALL).unwrap_or(NetworkMode::None);
    let hosts = fields.list("hosts", HOSTS_MAX);
    if hosts.is_some() && mode != NetworkMode::Allow {
        fields.wrong("hosts", "is for the mode allow only");
    }
    match mode {
        NetworkMode::None => Network::None,
        NetworkMode::Public => Network::Public,
        NetworkMode::Allow => {
            let hosts = hosts.unwrap_or_default();
            if hosts.is_empty() {
                fields.missing("hosts");
            }
            let mut named = Vec::new();
            for (at, host) in hosts.into_iter().enumerate() {
                match host.as_str().map(|host| (host, host.parse::<Pattern>())) {
                    Some((host, Ok(_))) => named.push(host.to_owned()),
                    Some((_, Err(error))) => fields.wrong(&format!("hosts.{at}"), error.to_string()),
                    None => fields.wrong(&format!("hosts.{at}"), "must be a string"),
                }
            }
            Network::Allow(named)
        }
    }
}

fn limits(fields: &mut Fields<'_>) -> RequestedLimits {
    let mut narrow = |name: &str| {
        let count = fields.count(name)?;
        let narrow = u32::try_from(count).ok();
        if narrow.is_none() {
            fields.wrong(name, "is too large");
        }
        narrow
    };
    let processes = narrow("processes");
    let cpu_cores = fields.number("cpu_cores");
    let cpu_millicores = cpu_cores.and_then(thousandths);
    if cpu_cores.is_some() && cpu_millicores.is_none() {
        fields.wrong("cpu_cores", "must be from 0.001 to 1024");
    }
    RequestedLimits {
        cpu_millicores,
        memory_bytes: fields.count("memory_bytes"),
        disk_bytes: fields.count("disk_bytes"),
        processes,
        output_bytes: fields.count("output_bytes"),
        execution_us: fields.seconds("execution_seconds"),
        cpu_us: fields.seconds("cpu_seconds"),
    }
}

/// Variables of a session or an execution.
pub(super) fn env(fields: &mut Fields<'_>) -> Vec<(String, String)> {
    let variables = fields.texts("env", VARIABLES_MAX, |name, value| {
        let mut letters = name.bytes();
        let first = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !first || name.len() > 128 || !letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("is no name of a variable: [A-Za-z_][A-Za-z0-9_]*");
        }
        if value.len() > VARIABLE_BYTES_MAX || value.contains('\0') {
            return Err("must have at most 32768 bytes and no NUL");
        }
        Ok(())
    });
    variables.unwrap_or_default().into_iter().collect()
}

fn metadata(fields: &mut Fields<'_>) -> Option<BTreeMap<String, String>> {
    fields.texts("metadata", TAGS_MAX, |name, value| {
        if name.is_empty() || name.len() > TAG_BYTES_MAX || value.len() > TAG_BYTES_MAX {
            return Err("names and values have at most 256 bytes");
        }
        Ok(())
    })
}

/// Create a session
///
/// A workspace, limits and a lifetime. Everything is optional, also the body.
#[utoipa::path(
    post, path = "/v1/sessions", tag = "Sessions", operation_id = "create_session",
    params(sent::Once),
    request_body = Option<sent::SessionRequest>,
    responses((status = 201, description = "The session.", body = SessionBody), Opens),
)]
pub(super) async fn create(
    State(door): State<Door>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let request = object.read(|fields| Some(request(fields)))?;
    let row = door.service.create_session(&tenant, request, key).await?;
    let id = format!("ses_{}", row.id);
    Ok(about(id, json(StatusCode::CREATED, &SessionBody::new(row, Totals::default()))))
}

/// List sessions
///
/// Live and ended ones, the newest first. Ended ones are kept for 30 days.
#[utoipa::path(
    get, path = "/v1/sessions", tag = "Sessions", operation_id = "list_sessions",
    params(sent::SessionsQuery, sent::PageQuery),
    responses((status = 200, description = "A page of sessions.", body = ListBody<SessionBody>)),
)]
pub(super) async fn list(
    State(door): State<Door>,
    Caller(tenant): Caller,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let status = query.parsed("status", "active, closing or closed");
    let tags = query.with_prefix("metadata.");
    let (before, limit) = (query.cursor(), query.limit());
    query.finish()?;
    if tags.len() > TAGS_MAX {
        return Err(Problem::new(Code::InvalidRequest, "too many tags"));
    }
    let page = door.service.sessions(&tenant, status, &tags, before, limit).await?;
    Ok(ok(&ListBody {
        items: page.items.into_iter().map(SessionBody::from).collect(),
        next_cursor: page.next.map(|next| next.to_string()),
    }))
}

/// Show a session
#[utoipa::path(
    get, path = "/v1/sessions/{id}", tag = "Sessions", operation_id = "show_session",
    params(sent::SessionPath),
    responses((status = 200, description = "The session.", body = SessionBody)),
)]
pub(super) async fn show(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(id): SessionAt,
) -> Result<Response, Problem> {
    Ok(ok(&SessionBody::from(door.service.session(&tenant, id).await?)))
}

/// Change a session
///
/// Gives it more or less time, other tags, or another network. A network holds at once, for cells that are there, too:
/// connections that it does not allow are cut.
#[utoipa::path(
    patch, path = "/v1/sessions/{id}", tag = "Sessions", operation_id = "change_session",
    params(sent::SessionPath),
    request_body = Option<sent::SessionChange>,
    responses((status = 200, description = "The session.", body = SessionBody), Live, Exclusive),
)]
pub(super) async fn change(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(id): SessionAt,
    object: Object,
) -> Result<Response, Problem> {
    let change = object.read(|fields| {
        Some(SessionChange {
            ttl_us: fields.seconds("ttl_seconds"),
            metadata: metadata(fields),
            network: fields.object("network", network),
        })
    })?;
    Ok(ok(&SessionBody::from(door.service.change_session(&tenant, id, change).await?)))
}

/// End a session
///
/// What runs in it is cancelled, its workspace is gone. Answers with the final usage; again, with the same.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}", tag = "Sessions", operation_id = "delete_session",
    params(sent::SessionPath),
    responses((status = 200, description = "The session with its final usage.", body = SessionBody)),
)]
pub(super) async fn delete(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(id): SessionAt,
) -> Result<Response, Problem> {
    Ok(ok(&SessionBody::from(door.service.delete_session(&tenant, id).await?)))
}
