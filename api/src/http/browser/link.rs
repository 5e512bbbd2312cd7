//! `/v1/sessions/{id}/browser/links`, and how who follows one is let in.

use crate::http::body::{Object, Query};
use crate::http::error::{Code, Problem};
use crate::http::openapi::{Live, sent};
use crate::http::{Caller, Door, SessionAt, json, key, names, time};
use crate::service::LinkRole;
use anchorhold_sandbox::SessionId;
use axum::extract::{FromRequestParts as _, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

/// How long a link is good that says nothing else.
const TTL_US: u64 = 300_000_000;
/// The longest.
const TTL_US_MAX: u64 = 3_600_000_000;

/// A way to a session's browser for somebody without a key.
#[derive(Serialize, ToSchema)]
#[schema(as = BrowserLink)]
struct LinkBody {
    /// Whoever has it is let in by it: a secret. It is good for this session and this role, and for beginning only; what
    /// was begun goes on after its end.
    url: String,
    /// Until when something can be begun.
    #[schema(format = "date-time")]
    expires_at: String,
}

/// Make a link to the browser
///
/// With the role `cdp` it is the WebSocket endpoint for Playwright (`connectOverCDP`), Puppeteer
/// (`browserWSEndpoint`) and others that speak the Chrome DevTools Protocol. One such client is let in at a time, and
/// actions are refused meanwhile; its connection is an execution.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/browser/links", tag = "Browser", operation_id = "create_browser_link",
    params(sent::SessionPath), request_body = sent::LinkRequest,
    responses((status = 201, description = "The link.", body = LinkBody), Live),
)]
pub(in crate::http) async fn link(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    if key(&headers, &object)?.is_some() {
        let why = "is not taken here: the answer holds a secret, which is kept nowhere. A link more than was needed ends \
                   by itself";
        return Err(Problem::field("Idempotency-Key", why));
    }
    let (role, ttl_us) = object.read(|fields| {
        let role = fields.word("role", LinkRole::ALL);
        if role.is_none() {
            fields.missing("role");
        }
        let ttl_us = fields.seconds("ttl_seconds").unwrap_or(TTL_US);
        if ttl_us > TTL_US_MAX {
            fields.wrong("ttl_seconds", format!("must be at most {}", TTL_US_MAX / 1_000_000));
        }
        Some((role?, ttl_us))
    })?;
    let link = door.service.link(&tenant, session, role, ttl_us).await?;
    let body = LinkBody {
        url: address(&headers, &uri, session, role, &link.token)?,
        expires_at: time(link.expires_us),
    };
    let mut response = json(StatusCode::CREATED, &body);
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Where the client sees this server.
fn address(
    headers: &HeaderMap,
    uri: &Uri,
    session: SessionId,
    role: LinkRole,
    token: &str,
) -> Result<String, Problem> {
    let host = names::host(headers, uri)?;
    let secure = names::is_secure(headers);
    let (scheme, page) = match (role, secure) {
        (LinkRole::Cdp, false) => ("ws", "cdp"),
        (LinkRole::Cdp, true) => ("wss", "cdp"),
        (_, false) => ("http", "live"),
        (_, true) => ("https", "live"),
    };
    Ok(format!("{scheme}://{host}/v1/sessions/ses_{session}/browser/{page}?token={token}"))
}

/// Who comes with a link or a key, to do what one of `roles` may. A key may do everything; what it is taken for is the
/// last of them.
pub(super) async fn enter(
    parts: &mut Parts,
    door: &Door,
    roles: &[LinkRole],
) -> Result<(SessionId, Caller, Option<LinkRole>), Problem> {
    door.names.check(&parts.headers, &parts.uri)?;
    let SessionAt(session) = SessionAt::from_request_parts(parts, door).await?;
    let mut query = Query::of(&parts.uri)?;
    let token: Option<String> = query.parsed("token", "a link's token");
    query.finish()?;
    let Some(token) = token else {
        let caller = Caller::from_request_parts(parts, door).await?;
        return Ok((session, caller, roles.last().copied()));
    };
    let known = door.service.by_link(session, &token).filter(|(_, role)| roles.contains(role));
    let (tenant, role) =
        known.ok_or_else(|| Problem::new(Code::Unauthorized, "the link is not good, or not any more"))?;
    Ok((session, Caller::enter(tenant, parts, door)?, Some(role)))
}
