//! `/v1/tenants`

use super::body::{Fields, Object, Query};
use super::error::{Code, Problem};
use super::{Caller, Door, ListBody, about, json, key, ok, segment, time};
use crate::config::RATE_MAX;
use crate::ledger::{KeyId, KeyRow, Quotas, TenantId, TenantRow};
use crate::price::Picos;
use crate::service::{NewTenant, Refusal, TenantChange};
use crate::tenant::{Admin, NewKey};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;

const NAME_BYTES_MAX: usize = 64;

/// A caller that may administer.
pub(super) struct Administrator(Admin);

impl FromRequestParts<Door> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, door: &Door) -> Result<Self, Problem> {
        let Caller(tenant) = Caller::from_request_parts(parts, door).await?;
        let forbidden = || Problem::new(Code::Forbidden, "this takes the key that administers");
        tenant.admin().map(Self).ok_or_else(forbidden)
    }
}

/// The tenant that the path names.
pub(super) struct TenantAt(TenantId);

impl<S: Sync> FromRequestParts<S> for TenantAt {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = segment(&parts.uri, 3).strip_prefix("ten_").and_then(|id| id.parse().ok());
        id.map(Self).ok_or_else(|| Refusal::TenantNotFound.into())
    }
}

/// The key that the path names.
pub(super) struct KeyAt(KeyId);

impl<S: Sync> FromRequestParts<S> for KeyAt {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = segment(&parts.uri, 5).strip_prefix("key_").and_then(|id| id.parse().ok());
        id.map(Self).ok_or_else(|| Refusal::KeyNotFound.into())
    }
}

#[derive(Serialize)]
struct TenantBody {
    id: String,
    name: String,
    disabled: bool,
    quotas: QuotasBody,
    spent_picos: String,
    created_at: String,
}

#[derive(Serialize)]
struct QuotasBody {
    sessions: Option<u64>,
    concurrent_executions: Option<u64>,
    executions_per_second: Option<u64>,
    memory_bytes: Option<u64>,
    workspace_bytes: Option<u64>,
    budget_picos: Option<String>,
}

impl From<TenantRow> for TenantBody {
    fn from(row: TenantRow) -> Self {
        let quotas = row.quotas;
        Self {
            id: format!("ten_{}", row.id),
            name: row.name,
            disabled: row.disabled,
            quotas: QuotasBody {
                sessions: quotas.sessions,
                concurrent_executions: quotas.concurrent_executions,
                executions_per_second: quotas.executions_per_second,
                memory_bytes: quotas.memory_bytes,
                workspace_bytes: quotas.workspace_bytes,
                budget_picos: quotas.budget_picos.map(|picos| picos.to_string()),
            },
            spent_picos: row.spent_picos.to_string(),
            created_at: time(row.created_us),
        }
    }
}

#[derive(Serialize)]
struct KeyBody {
    id: String,
    tenant_id: String,
    name: String,
    admin: bool,
    created_at: String,
    revoked_at: Option<String>,
    /// The key itself, when it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl KeyBody {
    fn new(row: KeyRow, key: Option<String>) -> Self {
        Self {
            id: format!("key_{}", row.id),
            tenant_id: format!("ten_{}", row.tenant),
            name: row.name,
            admin: row.admin,
            created_at: time(row.created_us),
            revoked_at: row.revoked_us.map(time),
            key,
        }
    }
}

/// A name that is harmless wherever it is shown.
fn name(fields: &mut Fields<'_>) -> Option<String> {
    let name = fields.text("name", NAME_BYTES_MAX)?;
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Some(name);
    }
    fields.wrong("name", "must be 1 to 64 of A-Z a-z 0-9 _ . -");
    None
}

fn needed_name(fields: &mut Fields<'_>) -> Option<String> {
    let name = name(fields);
    if name.is_none() {
        fields.missing("name");
    }
    name
}

fn quotas(fields: &mut Fields<'_>) -> Quotas {
    // Nothing is kept that is not kept to.
    for later in ["cells", "browsers", "egress_bytes"] {
        fields.not_yet(later, &[]);
    }
    let mut most = |name: &str, highest: u64| {
        let count = fields.count(name)?;
        let some = (1..=highest).contains(&count);
        if !some {
            fields.wrong(name, format!("must be from 1 to {highest}"));
        }
        some.then_some(count)
    };
    const ANY: u64 = i64::MAX.unsigned_abs();
    Quotas {
        sessions: most("sessions", ANY),
        concurrent_executions: most("concurrent_executions", ANY),
        executions_per_second: most("executions_per_second", RATE_MAX),
        memory_bytes: most("memory_bytes", ANY),
        workspace_bytes: most("workspace_bytes", ANY),
        budget_picos: budget(fields),
    }
}

fn budget(fields: &mut Fields<'_>) -> Option<Picos> {
    let text = fields.text("budget_picos", 20)?;
    let picos = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    if picos.is_none() {
        fields.wrong("budget_picos", "must be a whole number of pico-dollars, as a string");
    }
    picos
}

pub(super) async fn create(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let new = object.read(|fields| {
        let quotas = fields.object("quotas", quotas).unwrap_or_default();
        let name = needed_name(fields).unwrap_or_default();
        Some(NewTenant { name, quotas })
    })?;
    let row = door.service.create_tenant(&admin, new, key).await?;
    Ok(about(format!("ten_{}", row.id), json(StatusCode::CREATED, &TenantBody::from(row))))
}

pub(super) async fn list(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let (before, limit) = (query.cursor(), query.limit());
    query.finish()?;
    let page = door.service.tenants(&admin, before, limit).await?;
    Ok(ok(&ListBody {
        items: page.items.into_iter().map(TenantBody::from).collect(),
        next_cursor: page.next.map(|next| next.to_string()),
    }))
}

pub(super) async fn show(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
) -> Result<Response, Problem> {
    Ok(ok(&TenantBody::from(door.service.tenant(&admin, id).await?)))
}

pub(super) async fn change(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
    object: Object,
) -> Result<Response, Problem> {
    let change = object.read(|fields| {
        Some(TenantChange {
            name: name(fields),
            disabled: fields.flag("disabled"),
            quotas: fields.object("quotas", quotas),
        })
    })?;
    Ok(ok(&TenantBody::from(door.service.change_tenant(&admin, id, change).await?)))
}

pub(super) async fn create_key(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    if key(&headers, &object)?.is_some() {
        let why = "is not taken here: the answer holds a secret, which is kept nowhere. A name is given once, so that \
                   no key is made twice";
        return Err(Problem::field("Idempotency-Key", why));
    }
    let name = object.read(|fields| Some(needed_name(fields).unwrap_or_default()))?;
    let NewKey { row, secret } = door.service.create_key(&admin, id, name).await?;
    let id = format!("key_{}", row.id);
    Ok(about(id, json(StatusCode::CREATED, &KeyBody::new(row, Some(secret.reveal().to_owned())))))
}

pub(super) async fn keys(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let (before, limit) = (query.cursor(), query.limit());
    query.finish()?;
    let page = door.service.keys(&admin, id, before, limit).await?;
    Ok(ok(&ListBody {
        items: page.items.into_iter().map(|row| KeyBody::new(row, None)).collect(),
        next_cursor: page.next.map(|next| next.to_string()),
    }))
}

pub(super) async fn revoke_key(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
    KeyAt(key): KeyAt,
) -> Result<Response, Problem> {
    Ok(ok(&KeyBody::new(door.service.revoke_key(&admin, id, key).await?, None)))
}
