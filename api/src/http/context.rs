//! `/v1/sessions/{id}/contexts`

use super::body::{Object, Query};
use super::error::{Code, Problem};
use super::execution::{context_name, language};
use super::openapi::{Cells, ContextStatus, Exclusive, Live, Runs, sent};
use super::session::env;
use super::{Caller, Door, ListBody, SessionAt, about, json, key, ok, segment};
use crate::service::{ContextRequest, ContextView, Defaults, Doing, Refusal};
use crate::words::{Engine, Language, Runtime};
use anchorhold_sandbox::Id;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One interpreter of a session.
#[derive(Serialize, ToSchema)]
#[schema(as = Context)]
struct ContextBody {
    #[schema(pattern = "^ctx_[0-9a-z]{26}$")]
    id: String,
    /// Unique for its language and runtime.
    name: String,
    language: Language,
    /// Which interpreter, where there are several.
    engine: Option<Engine>,
    runtime: Runtime,
    status: ContextStatus,
    /// What runs in it now.
    execution_id: Option<String>,
    /// How many executions wait for it.
    waiting: usize,
    /// The working directory of its executions, relative to the workspace.
    cwd: Option<String>,
    /// Environment variables of its executions, besides the session's.
    env: BTreeMap<String, String>,
}

impl From<ContextView> for ContextBody {
    fn from(view: ContextView) -> Self {
        let (status, execution) = match view.doing {
            Doing::Nothing => (ContextStatus::New, None),
            Doing::Changing => (ContextStatus::Changing, None),
            Doing::Idle => (ContextStatus::Idle, None),
            Doing::Running(id) => (ContextStatus::Running, Some(id)),
        };
        Self {
            id: format!("ctx_{}", view.id),
            name: view.place.context,
            language: view.place.language,
            engine: view.place.engine,
            runtime: view.place.runtime,
            status,
            execution_id: execution.map(|id| format!("exe_{id}")),
            waiting: view.waiting,
            cwd: view.defaults.cwd.map(|path| path.to_string()),
            env: view.defaults.env.into_iter().collect(),
        }
    }
}

/// The context that the path names; what is no id is like one that is unknown.
pub(super) struct ContextAt(Option<Id>);

impl<S: Sync> FromRequestParts<S> for ContextAt {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(segment(&parts.uri, 5).strip_prefix("ctx_").and_then(|id| id.parse().ok())))
    }
}

/// List contexts
///
/// The contexts of a live session, each with what it does now.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/contexts", tag = "Contexts", operation_id = "list_contexts",
    params(sent::SessionPath),
    responses((status = 200, description = "All contexts; there are no further pages.", body = ListBody<ContextBody>), Live),
)]
pub(super) async fn list(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::of(&uri)?.finish()?;
    let contexts = door.service.contexts(&tenant, session).await?;
    let items: Vec<ContextBody> = contexts.into_iter().map(Into::into).collect();
    Ok(ok(&ListBody { items, next_cursor: None }))
}

/// Create a context
///
/// Prepares an interpreter with a name, a working directory and variables, before anything runs in it. An execution that
/// names a context that does not exist makes it, too.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/contexts", tag = "Contexts", operation_id = "create_context",
    params(sent::SessionPath, sent::Once),
    request_body = sent::ContextRequest,
    responses(
        (status = 201, description = "The context.", body = ContextBody),
        Live, Runs, Exclusive, Cells,
    ),
)]
pub(super) async fn create(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let request = object.read(|fields| {
        let (language, engine) = language(fields);
        let name = context_name(fields, "name");
        let runtime = fields.word("runtime", Runtime::ALL);
        let defaults = Defaults { env: env(fields), cwd: fields.parsed("cwd", 8192) };
        Some(ContextRequest { name: name?, language: language?, engine, runtime, defaults })
    })?;
    let context = door.service.create_context(&tenant, session, request, key).await?;
    let body = ContextBody::from(context);
    Ok(about(body.id.clone(), json(StatusCode::CREATED, &body)))
}

/// Restart a context
///
/// Its interpreter ends, with what runs in it and all variables; the next execution gets a new one.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/contexts/{ctx}/restart", tag = "Contexts", operation_id = "restart_context",
    params(sent::ContextPath),
    responses((status = 200, description = "The context.", body = ContextBody), Live, Cells),
)]
pub(super) async fn restart(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ContextAt(id): ContextAt,
) -> Result<Response, Problem> {
    let id = known(&door, &tenant, session, id).await?;
    door.service.restart_context(&tenant, session, id).await?;
    let contexts = door.service.contexts(&tenant, session).await?;
    let context = contexts.into_iter().find(|context| context.id == id).ok_or(Refusal::ContextNotFound)?;
    Ok(ok(&ContextBody::from(context)))
}

/// Delete a context
///
/// Its interpreter ends, with what runs in it and all variables, and its name is free again.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}/contexts/{ctx}", tag = "Contexts", operation_id = "delete_context",
    params(sent::ContextPath),
    responses((status = 204, description = "It is gone."), Live, Cells),
)]
pub(super) async fn delete(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    ContextAt(id): ContextAt,
) -> Result<StatusCode, Problem> {
    let id = known(&door, &tenant, session, id).await?;
    door.service.delete_context(&tenant, session, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether the session exists is answered first.
async fn known(
    door: &Door,
    tenant: &crate::tenant::Tenant,
    session: anchorhold_sandbox::SessionId,
    id: Option<Id>,
) -> Result<Id, Problem> {
    match id {
        Some(id) => Ok(id),
        None => match door.service.session(tenant, session).await {
            Ok(_) => Err(Problem::new(Code::ContextNotFound, "no such context")),
            Err(refusal) => Err(refusal.into()),
        },
    }
}
