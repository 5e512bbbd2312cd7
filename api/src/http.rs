//! The HTTP door: parses, calls the service, answers. Only here are axum, status codes and JSON bodies known.
//!
//! Every answer has an `X-Request-Id`; every error is a problem (see `error`), unless the bytes were no HTTP.

mod archive;
mod batch;
pub(crate) mod body;
mod browser;
mod context;
mod docs;
pub(crate) mod error;
mod event;
mod execution;
pub(crate) mod file;
mod long;
pub(crate) mod names;
mod openapi;
pub(crate) mod preview;
mod session;
mod tenant;
mod terminal;
mod unread;
pub(crate) mod usage;
mod wire;

#[cfg(test)]
mod tests;

use crate::audit::{Audit, Event};
use crate::ledger::Totals;
use crate::mcp;
use crate::metrics::Metrics;
use crate::service::{Key, Service};
use crate::tenant::Tenant;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use body::Object;
use docs::Pages;
use error::{Code, Problem};
use futures_util::FutureExt as _;
use names::Names;
use serde::Serialize;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use unread::Unread;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// The most bytes of a request's headers.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// The longest idempotency key.
const KEY_BYTES_MAX: usize = 255;
/// How long a refusal waits that is not told at once.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every handler can reach.
#[derive(Debug, Clone)]
struct Door {
    service: Service,
    pages: Arc<Pages>,
    mcp: mcp::Endpoint,
    names: Arc<Names>,
    previews: Option<preview::Previews>,
}

/// All routes of the API.
pub fn router(
    service: Service,
    audit: Audit,
    mcp: mcp::Endpoint,
    names: Names,
    previews: Option<preview::Previews>,
) -> Router {
    let watched = (audit, service.metrics().clone());
    let (routes, document) = routes().split_for_parts();
    let pages = Arc::new(Pages::new(&openapi::complete(document)));
    let door = Door { service, pages, mcp, names: Arc::new(names), previews };
    routes
        // A protocol of its own, which describes itself: no part of the document.
        .route("/mcp", post(tools).get(tools).delete(tools))
        // WebSocket, which the document has no words for.
        .route("/v1/sessions/{id}/browser/cdp", get(browser::cdp))
        .route("/v1/sessions/{id}/browser/live", get(browser::live))
        .route("/v1/sessions/{id}/terminal", get(terminal::terminal))
        .fallback(async || Problem::new(Code::NotFound, "no such route"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "the route does not take this method")
        })
        .layer(axum::middleware::from_fn_with_state(watched, edge))
        .with_state(door)
}

/// What can be asked for. Paths, methods and what is documented of them stand beside the handlers.
fn routes() -> OpenApiRouter<Door> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(execution::run))
        .routes(routes!(session::create, session::list))
        .routes(routes!(session::show, session::change, session::delete))
        .routes(routes!(execution::create, execution::list))
        .routes(routes!(execution::show))
        .routes(routes!(event::stream))
        .routes(routes!(execution::cancel))
        .routes(routes!(execution::stdin))
        .routes(routes!(execution::signal))
        .routes(routes!(context::create, context::list))
        .routes(routes!(context::restart))
        .routes(routes!(context::delete))
        .routes(routes!(file::list))
        .routes(routes!(file::upload, file::download, file::head, file::delete))
        .routes(routes!(batch::apply))
        .routes(routes!(archive::unpack, archive::pack))
        .routes(routes!(browser::act))
        .routes(routes!(browser::link::link))
        .routes(routes!(browser::look::show, browser::look::close))
        .routes(routes!(browser::look::screenshot))
        .routes(routes!(preview::open, preview::list))
        .routes(routes!(preview::close))
        .routes(routes!(usage::of_session))
        .routes(routes!(usage::of_tenant))
        .routes(routes!(usage::prices))
        .routes(routes!(tenant::create, tenant::list))
        .routes(routes!(tenant::show, tenant::change))
        .routes(routes!(tenant::create_key, tenant::keys))
        .routes(routes!(tenant::revoke_key))
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(docs::document))
        .routes(routes!(docs::page))
}

/// `/mcp`: the request is read here and answered in the protocol's own way there.
async fn tools(
    State(door): State<Door>,
    Caller(tenant): Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = body::whole(body).await?;
    door.mcp.answer(tenant, parts, bytes).await
}

/// What is served where only the operator gets: metrics.
pub fn admin_router(service: Service) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || axum::http::StatusCode::NOT_FOUND)
        .with_state(service)
}

async fn metrics(State(service): State<Service>) -> Response {
    match service.metrics_text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(refusal) => Problem::from(refusal).into_response(),
    }
}

/// Who asks, as soon as that is known.
#[derive(Debug, Clone, Default)]
struct Who(Arc<OnceLock<Tenant>>);

/// The request's id, for whoever answers it.
#[derive(Debug, Clone)]
pub(crate) struct RequestName(pub(crate) String);

/// What an answer is about; for the audit log.
#[derive(Debug, Clone)]
struct Subject(String);

/// Around every request: its id, limits of its head, panics, the bytes of problems, the logs.
async fn edge(
    State((audit, metrics)): State<(Audit, Metrics)>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = format!("req_{}", anchorhold_sandbox::Id::random());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let who = Who::default();
    request.extensions_mut().insert(who.clone());
    request.extensions_mut().insert(RequestName(id.clone()));
    let head = check_head(&request);
    // What follows on the connection may not be what it seems.
    let spoiled = head.is_err();
    let http1 = request.version() < Version::HTTP_2;
    let (request, unread) = Unread::watch(request);
    let mut response = match head {
        Err(problem) => problem.into_response(),
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(request_id = id, "a handler panicked");
            Problem::new(Code::Internal, "internal error").into_response()
        }),
    };
    let mut code = None;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        code = Some(problem.code);
        response = problem.render(&id);
    }
    if http1 && (spoiled || unread.load(Ordering::Relaxed)) {
        // Who is not told would send its next request behind a body that nobody reads.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (status, elapsed_us) = (response.status().as_u16(), begun.elapsed().as_micros());
    if let Some(code) = code {
        metrics.refusal(code.as_str());
    }
    let who = who.0.get();
    if who.is_some() || code == Some(Code::Unauthorized) {
        audit.note(Event {
            who: who.map(|tenant| (tenant.account().id(), tenant.key())),
            request: id.clone(),
            action: format!("{method} {}", route.as_ref().map_or("-", MatchedPath::as_str)),
            target: path.clone(),
            subject: response.extensions_mut().remove::<Subject>().map(|subject| subject.0),
            status,
            code: code.map(Code::as_str),
        });
    }
    match code {
        Some(code @ (Code::Internal | Code::LedgerUnavailable | Code::IsolationUnavailable)) => {
            tracing::warn!(request_id = id, %method, ?path, status, %code, elapsed_us, "request");
        }
        code => tracing::debug!(request_id = id, %method, ?path, status, code = ?code, elapsed_us, "request"),
    }
    let too_much = response.status() == StatusCode::TOO_MANY_REQUESTS;
    if too_much && !who.is_none_or(Tenant::is_told_at_once) {
        tokio::time::sleep(REFUSAL_PAUSE).await;
    }
    response
}

fn check_head(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
        + request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        let detail = format!("at most {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes");
        return Err(Problem::new(Code::HeadersTooLarge, detail));
    }
    let http1 = request.version() < Version::HTTP_2;
    if http1 && request.uri().authority().is_some() {
        return Err(Problem::new(Code::Malformed, "this is no proxy"));
    }
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Problem::new(Code::Malformed, "two lengths of one body"));
    }
    Ok(())
}

/// How the server is.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerStatus)]
struct StatusBody {
    /// `ok` or `ready`.
    status: &'static str,
}

/// Whether the process answers
#[utoipa::path(
    get, path = "/healthz", tag = "Server", operation_id = "health", security(()),
    responses((status = 200, description = "It does.", body = StatusBody)),
)]
async fn health() -> Response {
    ok(&StatusBody { status: "ok" })
}

/// Whether requests are taken
#[utoipa::path(
    get, path = "/readyz", tag = "Server", operation_id = "ready", security(()),
    responses((status = 200, description = "They are.", body = StatusBody), openapi::Cells, openapi::Recorded),
)]
async fn ready(State(door): State<Door>) -> Result<Response, Problem> {
    door.service.ready().await?;
    Ok(ok(&StatusBody { status: "ready" }))
}

/// A caller that showed a key.
struct Caller(Tenant);

impl FromRequestParts<Door> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, door: &Door) -> Result<Self, Problem> {
        let shown = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = shown.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| {
            // Whether it is missing, garbled or wrong: the same answer.
            scheme.eq_ignore_ascii_case("bearer")
        });
        let tenant = bearer
            .and_then(|(_, key)| door.service.authenticate(key.trim()))
            .ok_or_else(|| Problem::new(Code::Unauthorized, "send Authorization: Bearer and a valid key"))?;
        Self::enter(tenant, parts, door)
    }
}

impl Caller {
    /// Somebody who is known now.
    fn enter(tenant: Tenant, parts: &Parts, door: &Door) -> Result<Self, Problem> {
        if let Some(who) = parts.extensions.get::<Who>() {
            // The same key twice, where an extractor asks another.
            let _same = who.0.set(tenant.clone());
        }
        door.service.enter(&tenant)?;
        Ok(Self(tenant))
    }
}

/// The session that the path names. What is no id is answered like an unknown one.
struct SessionAt(anchorhold_sandbox::SessionId);

impl<S: Sync> FromRequestParts<S> for SessionAt {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = segment(&parts.uri, 3).strip_prefix("ses_").and_then(|id| id.parse().ok());
        id.map(Self).ok_or_else(|| crate::service::Refusal::SessionNotFound.into())
    }
}

/// The execution that the path names.
struct ExecutionAt(Option<anchorhold_sandbox::ExecutionId>);

impl<S: Sync> FromRequestParts<S> for ExecutionAt {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        // Whether the session exists is answered first.
        Ok(Self(segment(&parts.uri, 5).strip_prefix("exe_").and_then(|id| id.parse().ok())))
    }
}

/// A part of the path as it was sent: `/v1/sessions/{3}/executions/{5}`.
fn segment(uri: &Uri, at: usize) -> &str {
    uri.path().split('/').nth(at).unwrap_or_default()
}

/// The request's idempotency key, for what `object` asks for.
fn key(headers: &HeaderMap, object: &Object) -> Result<Option<Key>, Problem> {
    key_for(headers, object.hash())
}

/// The request's idempotency key, for what has this hash.
fn key_for(headers: &HeaderMap, hash: [u8; 32]) -> Result<Option<Key>, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= KEY_BYTES_MAX && values.next().is_none() => {
            Ok(Some(Key { text: text.to_owned(), hash }))
        }
        _ => Err(Problem::field(
            NAME,
            format!("must be one key of 1 to {KEY_BYTES_MAX} visible ASCII characters"),
        )),
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_with(status, body, Body::from)
}

/// What is sent is made of `body`, written as JSON.
fn json_with(status: StatusCode, body: &impl Serialize, sent: impl FnOnce(Vec<u8>) -> Body) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let json = HeaderValue::from_static("application/json");
            (status, [(header::CONTENT_TYPE, json)], sent(bytes)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            Problem::new(Code::Internal, "internal error").into_response()
        }
    }
}

/// An answer about something that the path does not name.
fn about(subject: impl Into<String>, mut response: Response) -> Response {
    response.extensions_mut().insert(Subject(subject.into()));
    response
}

fn ok(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ListOf)]
struct ListBody<T> {
    items: Vec<T>,
    /// Given as `cursor`, it gets the next page. `null` on the last one.
    next_cursor: Option<String>,
}

/// Sums of records.
#[derive(Serialize, ToSchema)]
#[schema(as = Totals)]
struct TotalsBody {
    /// How many.
    records: u64,
    /// Microseconds of time.
    wall_us: u64,
    /// Microseconds of processor time.
    cpu_us: u64,
    /// Memory over time: MiB times milliseconds.
    memory_mib_ms: u64,
    /// Bytes sent to the network and got from it.
    egress_bytes: u64,
    /// Microseconds in which browsers were open and could run.
    browser_active_us: u64,
    /// Microseconds in which they were frozen, because nobody used them.
    browser_standby_us: u64,
    /// What it cost, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]+$")]
    cost_picos: String,
}

impl From<Totals> for TotalsBody {
    fn from(totals: Totals) -> Self {
        Self {
            records: totals.records,
            wall_us: totals.wall_us,
            cpu_us: totals.cpu_us,
            memory_mib_ms: totals.memory_mib_ms,
            egress_bytes: totals.bytes,
            browser_active_us: totals.browser.active_us,
            browser_standby_us: totals.browser.standby_us,
            cost_picos: totals.cost_picos.to_string(),
        }
    }
}

/// RFC 3339 in UTC.
pub(crate) fn time(at_us: i64) -> String {
    jiff::Timestamp::from_microsecond(at_us).unwrap_or(jiff::Timestamp::MAX).to_string()
}
