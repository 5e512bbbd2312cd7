//! `/v1/tenants`

use super::body::{Fields, Object, Query};
use super::error::{Code, Problem};
use super::openapi::{Exclusive, sent};
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
use utoipa::ToSchema;

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

/// Who has sessions and pays for them.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
struct TenantBody {
    #[schema(pattern = "^ten_[0-9a-z]{26}$")]
    id: String,
    name: String,
    /// Whether its keys are refused.
    disabled: bool,
    quotas: QuotasBody,
    /// What it spent in all, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]+$")]
    spent_picos: String,
    #[schema(format = DateTime)]
    created_at: String,
}

/// How much a tenant may use; `null` is not limited for it alone.
#[derive(Serialize, ToSchema)]
#[schema(as = Quotas)]
struct QuotasBody {
    /// Live sessions.
    sessions: Option<u64>,
    /// Cells of live sessions: one of each context and command that runs, of each browser, and of each session whose files
    /// are used.
    cells: Option<u64>,
    /// Open browsers.
    browsers: Option<u64>,
    /// Executions that wait or run.
    concurrent_executions: Option<u64>,
    /// Executions begun in a second.
    executions_per_second: Option<u64>,
    /// Bytes of memory that its live sessions may have together.
    memory_bytes: Option<u64>,
    /// Bytes of workspace that its live sessions may have together.
    workspace_bytes: Option<u64>,
    /// Bytes that it may send to the network and get from it in all.
    egress_bytes: Option<u64>,
    /// What it may spend in all, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]+$")]
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
                cells: quotas.cells,
                browsers: quotas.browsers,
                concurrent_executions: quotas.concurrent_executions,
                executions_per_second: quotas.executions_per_second,
                memory_bytes: quotas.memory_bytes,
                workspace_bytes: quotas.workspace_bytes,
                egress_bytes: quotas.egress_bytes,
                budget_picos: quotas.budget_picos.map(|picos| picos.to_string()),
            },
            spent_picos: row.spent_picos.to_string(),
            created_at: time(row.created_us),
        }
    }
}

/// A key of a tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyBody {
    #[schema(pattern = "^key_[0-9a-z]{26}$")]
    id: String,
    #[schema(pattern = "^ten_[0-9a-z]{26}$")]
    tenant_id: String,
    name: String,
    /// Whether it administers.
    admin: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
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
        cells: most("cells", ANY),
        browsers: most("browsers", ANY),
        concurrent_executions: most("concurrent_executions", ANY),
        executions_per_second: most("executions_per_second", RATE_MAX),
        memory_bytes: most("memory_bytes", ANY),
        workspace_bytes: most("workspace_bytes", ANY),
        egress_bytes: most("egress_bytes", ANY),
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

/// Create a tenant
#[utoipa::path(
    post, path = "/v1/tenants", tag = "Administration", operation_id = "create_tenant",
    params(sent::Once),
    request_body = sent::TenantRequest,
    responses((status = 201, description = "The tenant.", body = TenantBody), Exclusive),
)]
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

/// List tenants
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "Administration", operation_id = "list_tenants",
    params(sent::PageQuery),
    responses((status = 200, description = "A page of tenants.", body = ListBody<TenantBody>)),
)]
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

/// Show a tenant
#[utoipa::path(
    get, path = "/v1/tenants/{id}", tag = "Administration", operation_id = "show_tenant",
    params(sent::TenantPath),
    responses((status = 200, description = "The tenant.", body = TenantBody)),
)]
pub(super) async fn show(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
) -> Result<Response, Problem> {
    Ok(ok(&TenantBody::from(door.service.tenant(&admin, id).await?)))
}

/// Change a tenant
///
/// Another name, other quotas, or whether it is disabled. Disabling ends its sessions.
#[utoipa::path(
    patch, path = "/v1/tenants/{id}", tag = "Administration", operation_id = "change_tenant",
    params(sent::TenantPath),
    request_body = Option<sent::TenantChange>,
    responses((status = 200, description = "The tenant.", body = TenantBody), Exclusive),
)]
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

/// Create a key
///
/// The only answer that shows the key itself: the server keeps a digest.
#[utoipa::path(
    post, path = "/v1/tenants/{id}/keys", tag = "Administration", operation_id = "create_key",
    params(sent::TenantPath),
    request_body = sent::KeyRequest,
    responses((status = 201, description = "The key.", body = KeyBody), Exclusive),
)]
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

/// List keys
///
/// Those of a tenant, also revoked ones; without the keys themselves.
#[utoipa::path(
    get, path = "/v1/tenants/{id}/keys", tag = "Administration", operation_id = "list_keys",
    params(sent::TenantPath, sent::PageQuery),
    responses((status = 200, description = "A page of keys.", body = ListBody<KeyBody>)),
)]
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

/// Revoke a key
///
/// It is refused from now on.
#[utoipa::path(
    delete, path = "/v1/tenants/{id}/keys/{key}", tag = "Administration", operation_id = "revoke_key",
    params(sent::KeyPath),
    responses((status = 200, description = "The key.", body = KeyBody), Exclusive),
)]
pub(super) async fn revoke_key(
    State(door): State<Door>,
    Administrator(admin): Administrator,
    TenantAt(id): TenantAt,
    KeyAt(key): KeyAt,
) -> Result<Response, Problem> {
    Ok(ok(&KeyBody::new(door.service.revoke_key(&admin, id, key).await?, None)))
}
