//! `/v1/sessions/{id}/contexts`

use super::body::{Object, Query};
use super::error::{Code, Problem};
use super::execution::{context_name, language};
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

#[derive(Serialize)]
struct ContextBody {
    id: String,
    name: String,
    language: Language,
    engine: Option<Engine>,
    runtime: Runtime,
    /// `new` (no interpreter), `changing`, `idle` or `running`.
    status: &'static str,
    execution_id: Option<String>,
    waiting: usize,
    cwd: Option<String>,
    env: BTreeMap<String, String>,
}

impl From<ContextView> for ContextBody {
    fn from(view: ContextView) -> Self {
        let (status, execution) = match view.doing {
            Doing::Nothing => ("new", None),
            Doing::Changing => ("changing", None),
            Doing::Idle => ("idle", None),
            Doing::Running(id) => ("running", Some(id)),
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
