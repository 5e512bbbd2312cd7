//! `/v1/sessions/{id}/browser/…`: actions here, below it who speaks to the browser for longer.

mod cdp;
pub(super) mod link;
mod live;
pub(super) mod look;

pub(super) use cdp::cdp;
pub(super) use live::live;

use super::body::{Fields, Object};
use super::error::Problem;
use super::execution::{Form, UsageBody, disconnect};
use super::openapi::{Cells, Live, Runs, sent};
use super::{Caller, Door, SessionAt, about, key, ok};
use crate::aside::aside;
use crate::ledger::{ExecutionRow, GuestError};
use crate::service::{ExecutionRequest, browser};
use crate::words::ExecutionStatus;
use anchorhold_browser::Action;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The most actions of one request: a result each, and one of the page.
const ACTIONS_MAX: usize = 100;

/// Actions that were run. They are an execution: it can be cancelled, listed and followed by its id.
#[derive(Serialize, ToSchema)]
#[schema(as = Actions)]
struct ActionsBody<'a> {
    #[schema(pattern = "^exe_[0-9a-z]{26}$")]
    id: String,
    #[schema(pattern = "^ses_[0-9a-z]{26}$")]
    session_id: String,
    status: ExecutionStatus,
    /// One for each action, in their order: its `type`; its `outcome`, which is `done`, `failed`, `not_sent` after one
    /// that failed, or `unknown` when the page was told and did not answer; its `error`; and what it returns.
    #[schema(value_type = Vec<Object>)]
    results: Vec<&'a Value>,
    /// Where the browser is after them: `url`, `title`, and the `dialog` that waits for an answer.
    #[schema(value_type = Option<Object>)]
    page: Option<&'a Value>,
    /// What ended them, when one failed.
    #[schema(value_type = Option<super::execution::GuestErrorBody>)]
    error: Option<&'a GuestError>,
    /// Whether the browser is gone, with its pages and cookies.
    state_lost: bool,
    usage: UsageBody,
    /// What they cost, in pico-dollars (10⁻¹²).
    #[schema(pattern = "^[0-9]+$")]
    cost_picos: String,
}

impl<'a> ActionsBody<'a> {
    fn new(row: &'a ExecutionRow) -> Self {
        let (results, page) = browser::acted(row);
        let report = row.report.as_ref();
        Self {
            id: format!("exe_{}", row.id),
            session_id: format!("ses_{}", row.session),
            status: row.status,
            results,
            page,
            error: row.output.as_ref().and_then(|output| output.error.as_ref()),
            state_lost: report.is_some_and(|report| report.state_lost),
            usage: UsageBody::new(report),
            cost_picos: report.map_or(0, |report| report.cost_picos).to_string(),
        }
    }
}

/// Drive the session's browser
///
/// Runs actions in their order and stops at the first that fails. A target is one of `{"ref":"e12"}` (from a snapshot),
/// `{"selector":"css"}`, `{"role":"button","name":"Save"}`, `{"text":"Save"}`, `{"label":"Email"}` and `{"x":10,"y":20}`;
/// actions wait until it is visible, stable, enabled and gets the events. The browser starts with the first actions and
/// lives as long as the session; create the session with `"browser":{}`.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/browser/actions", tag = "Browser", operation_id = "run_actions",
    params(sent::SessionPath, sent::Once),
    request_body = sent::ActionsRequest,
    responses(
        (
            status = 200,
            description = "What became of them, when they ended; or events, when the request accepts \
                `text/event-stream`.",
            content((ActionsBody = "application/json"), (sent::Event = "text/event-stream")),
        ),
        (status = 202, description = "They run in the background.", body = ActionsBody),
        Live, Runs, Cells,
    ),
)]
pub(super) async fn act(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let request = object.read(|fields| Some(request(fields)))?;
    let form = Form::of(&headers, &request);
    let row = door.service.execute(&tenant, session, request, key, form.awaited()).await?;
    if form == Form::Whole {
        let subject = format!("exe_{}", row.id);
        return Ok(about(subject, aside(row.size(), move || ok(&ActionsBody::new(&row))).await));
    }
    form.answer(&door, &tenant, row).await
}

fn request(fields: &mut Fields<'_>) -> ExecutionRequest {
    let actions = fields.list("actions", ACTIONS_MAX);
    match &actions {
        None => fields.missing("actions"),
        Some(actions) => {
            for (at, action) in actions.iter().enumerate() {
                // Read again in the cell, which runs them; here so that a mistake is told before anything is done.
                if let Err(error) = serde_json::from_value::<Action>(action.clone()) {
                    fields.wrong(&format!("actions.{at}"), error.to_string());
                }
            }
        }
    }
    let timeout_us = fields.seconds("timeout_seconds");
    let background = fields.flag("background").unwrap_or(false);
    let request = browser::actions(actions.unwrap_or_default(), timeout_us, disconnect(fields));
    ExecutionRequest { background, ..request }
}
