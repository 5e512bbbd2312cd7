//! `/v1/sessions/{id}/browser`: what is open, how it looks, and its end.

use crate::http::error::Problem;
use crate::http::openapi::{Cells, Exclusive, Live, sent};
use crate::http::{Caller, Door, SessionAt, ok};
use crate::service::{Refusal, Sight, Tab};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde::Serialize;
use utoipa::ToSchema;

/// A session's browser.
#[derive(Serialize, ToSchema)]
#[schema(as = Browser)]
struct BrowserBody {
    /// Whether it runs. It starts with the first actions, the first client and the first who watches.
    open: bool,
    /// Its tabs, in the order of their opening.
    tabs: Vec<TabBody>,
}

/// A tab.
#[derive(Serialize, ToSchema)]
#[schema(as = Tab)]
struct TabBody {
    /// Its number, which is not used again.
    id: u32,
    /// Where it is: at most 4,096 characters.
    url: String,
    /// The page's title: at most 512 characters.
    title: String,
    /// Whether actions go there.
    selected: bool,
    /// Whether its page has crashed; `navigate` and `reload` revive it.
    crashed: bool,
}

/// Show the browser
///
/// Also while a client drives it or a person has taken over. It is not started by that.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/browser", tag = "Browser", operation_id = "show_browser",
    params(sent::SessionPath),
    responses((status = 200, description = "What is open.", body = BrowserBody), Live, Cells),
)]
pub(in crate::http) async fn show(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
) -> Result<Response, Problem> {
    let tabs = |sight| match sight {
        Sight::Page { tabs } => Some(tabs),
        Sight::Frame { .. } => None,
    };
    let tabs = door.service.glance(&tenant, session, tabs).await?;
    let open = tabs.is_some();
    let body = |tab| {
        let Tab { id, url, title, selected, crashed } = tab;
        TabBody { id, url, title, selected, crashed }
    };
    Ok(ok(&BrowserBody { open, tabs: tabs.unwrap_or_default().into_iter().map(body).collect() }))
}

/// Look at the browser
///
/// A picture (JPEG) of the selected tab as it is, for people, also while a client drives it; at most 1,600 × 1,200 pixels.
/// The action `screenshot` makes better ones.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/browser/screenshot", tag = "Browser", operation_id = "look_at_browser",
    params(sent::SessionPath),
    responses(
        (status = 200, description = "The picture.", content_type = "image/jpeg", body = Vec<u8>),
        Live, Cells, Exclusive,
    ),
)]
pub(in crate::http) async fn screenshot(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
) -> Result<Response, Problem> {
    let picture = |sight| match sight {
        Sight::Frame { data } => base64::engine::general_purpose::STANDARD.decode(data).ok(),
        Sight::Page { .. } => None,
    };
    let picture = door.service.glance(&tenant, session, picture).await?;
    let picture = picture.ok_or(Refusal::Conflict("the browser is not open"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, picture).into_response())
}

/// Close the browser
///
/// Ends it with its pages and cookies, and whatever drives it; the next actions begin with a new one.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}/browser", tag = "Browser", operation_id = "close_browser",
    params(sent::SessionPath),
    responses((status = 204, description = "It is gone, or was not there."), Live, Cells),
)]
pub(in crate::http) async fn close(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
) -> Result<StatusCode, Problem> {
    door.service.close_browser(&tenant, session).await?;
    Ok(StatusCode::NO_CONTENT)
}
