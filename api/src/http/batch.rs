//! `/v1/sessions/{id}/files:batch`: several changes as one.
//!
//! `{"operations":[…]}`, at most 1,000 of them, made in their order:
//!
//! - `{"op":"write","path","content" | "content_base64"}` makes parents and replaces a regular file
//! - `{"op":"delete","path","recursive":false}`
//! - `{"op":"move","path","to"}` makes parents; nothing may be at `to`
//! - `{"op":"mkdir","path"}` makes parents; a directory that is there stays
//!
//! Either all are made (200) or, when one is refused, none: the problem names it as `operations.N`. What runs meanwhile
//! may see the first changes before the last.

use super::body::{Fields, Object};
use super::error::Problem;
use super::execution::content;
use super::openapi::{Cells, Exclusive, Found, Live, Paths, Regular, sent};
use super::{Caller, Door, SessionAt, key, ok};
use crate::words::words;
use anchorhold_sandbox::{Change, WorkspacePath};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

/// The most operations of a batch.
const OPERATIONS_MAX: usize = 1000;
/// The longest path in a request, with what is in front of it.
const PATH_BYTES_MAX: usize = 8192;

words!(
    /// What to do.
    Operation {
        /// Write a file.
        Write = "write",
        /// Remove a file or a directory.
        Delete = "delete",
        /// Give it another path.
        Move = "move",
        /// Make a directory.
        MakeDirectory = "mkdir",
    }
);

/// A batch that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = Batch)]
struct BatchBody {
    /// How many were made.
    operations: usize,
}

/// Change several files at once
///
/// The changes are made in their order, all or none: a problem names the one that was refused as `operations.N`. What
/// runs meanwhile may see the first before the last.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/files:batch", tag = "Files", operation_id = "change_files",
    params(sent::SessionPath, sent::Once),
    request_body = sent::BatchRequest,
    responses(
        (status = 200, description = "All were made.", body = BatchBody),
        Live, Cells, Paths, Found, Regular, Exclusive,
    ),
)]
pub(super) async fn apply(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let key = key(&headers, &object)?;
    let changes = object.read(|fields| {
        let Some(operations) = fields.list("operations", OPERATIONS_MAX) else {
            fields.missing("operations");
            return None;
        };
        let mut changes = Vec::with_capacity(operations.len());
        for (at, operation) in operations.into_iter().enumerate() {
            changes.extend(fields.within(&format!("operations.{at}"), operation, change).flatten());
        }
        Some(changes)
    })?;
    let operations = changes.len();
    door.service.batch(&tenant, session, changes, key).await?;
    Ok(ok(&BatchBody { operations }))
}

fn change(fields: &mut Fields<'_>) -> Option<Change> {
    let operation = fields.word("op", Operation::ALL);
    if operation.is_none() {
        fields.missing("op");
    }
    let path = path(fields, "path");
    Some(match operation? {
        Operation::Write => {
            let content = content(fields);
            Change::Write { path: path?, content: content? }
        }
        Operation::Delete => {
            let recursive = fields.flag("recursive").unwrap_or(false);
            Change::Delete { path: path?, recursive }
        }
        Operation::Move => {
            let to = self::path(fields, "to");
            Change::Move { from: path?, to: to? }
        }
        Operation::MakeDirectory => Change::MakeDirectory { path: path? },
    })
}

fn path(fields: &mut Fields<'_>, name: &str) -> Option<String> {
    let path = fields.parsed::<WorkspacePath>(name, PATH_BYTES_MAX);
    match &path {
        None => fields.missing(name),
        Some(path) if path.is_root() => fields.wrong(name, "must name something in the workspace"),
        Some(_) => {}
    }
    path.map(|path| path.to_string())
}
