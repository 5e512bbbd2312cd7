//! `/v1/sessions/{id}/files`
//!
//! A `Range` of one span of bytes is answered with 206, also a suffix; one that the file has nothing of with 416; several
//! ranges, and those of an empty file, with the whole file. The size is that of the file when it was opened: what is
//! appended meanwhile is not sent, and a file that shrinks breaks the answer off.

use super::body::{Query, percent_decode};
use super::error::{Code, Problem};
use super::openapi::{Cells, EntryType, Exclusive, Found, Live, Paths, Ranges, Regular, Uploads, sent};
use super::{Caller, Door, ListBody, SessionAt, json, ok, time};
use crate::service::ListRequest;
use anchorhold_sandbox::{Entry, EntryKind, Part, WorkspacePath};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use std::io;
use std::time::Duration;
use utoipa::ToSchema;

/// How long an upload may pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A file that was written.
#[derive(Serialize, ToSchema)]
#[schema(as = WrittenFile)]
struct WrittenBody<'a> {
    /// Relative to the workspace.
    path: &'a str,
    /// Bytes.
    size: u64,
    /// Of its content, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    sha256: String,
}

/// What is at a path of the workspace.
#[derive(Serialize, ToSchema)]
#[schema(as = Entry)]
struct EntryBody {
    /// Relative to the workspace.
    path: String,
    r#type: EntryType,
    /// Bytes.
    size: u64,
    #[schema(format = DateTime)]
    modified_at: String,
    /// Permission bits, octal.
    #[schema(pattern = "^[0-7]{4}$")]
    mode: String,
    /// A guess by the file's name.
    mime: Option<&'static str>,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::File => EntryType::File,
            EntryKind::Directory => EntryType::Directory,
            EntryKind::Symlink => EntryType::Symlink,
            EntryKind::Other => EntryType::Other,
        };
        Self {
            r#type: kind,
            size: entry.size,
            modified_at: time(entry.modified_us),
            mode: format!("{:04o}", entry.mode & 0o7777),
            mime: (entry.kind == EntryKind::File).then(|| mime(&entry.path)),
            path: entry.path,
        }
    }
}

/// A guess by name, for people; nothing relies on it.
pub(crate) fn mime(path: &str) -> &'static str {
    let (_, extension) = path.rsplit_once('.').unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "txt" | "log" | "py" | "md" => "text/plain",
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "csv" => "text/csv",
        "js" | "mjs" => "text/javascript",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// The file that the request's path names: what is after `/v1/sessions/{id}/files/`, as it was sent, decoded once.
fn path_of(uri: &Uri) -> Result<WorkspacePath, Problem> {
    let sent = uri.path().splitn(6, '/').nth(5).unwrap_or_default();
    let text = percent_decode(sent)
        .ok_or_else(|| Problem::new(Code::InvalidPath, "the path is not percent-encoded UTF-8"))?;
    match text.parse::<WorkspacePath>() {
        Ok(path) if path.is_root() => Err(Problem::new(Code::InvalidPath, "the path must name something")),
        Ok(path) => Ok(path),
        Err(error) => Err(Problem::new(Code::InvalidPath, error.to_string())),
    }
}

/// Write a file
///
/// Missing directories are made. The content is written aside and then takes the place of what was there. It may be
/// sent with its length or in chunks, and be as large as the workspace allows. Without a body the file is empty.
#[utoipa::path(
    put, path = "/v1/sessions/{id}/files/{*path}", tag = "Files", operation_id = "write_file",
    params(sent::FilePath),
    request_body(content = Option<sent::Bytes>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "The file.", body = WrittenBody),
        Live, Cells, Uploads, Regular, Exclusive,
    ),
)]
pub(super) async fn upload(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    request: Request,
) -> Result<Response, Problem> {
    let path = path_of(request.uri())?;
    Query::of(request.uri())?.finish()?;
    let length = length(request.headers())?;
    let body = impatient(request.into_body());
    let written = door.service.upload(&tenant, session, &path, length, body).await?;
    let sha256 = written.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json(StatusCode::CREATED, &WrittenBody { path: path.as_str(), size: written.size, sha256 }))
}

/// How long a body is that is taken as it comes, where its sender says so.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return Err(Problem::new(Code::UnsupportedMediaType, "compressed bodies are not taken"));
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::field("Content-Range", "parts of a file cannot be written"));
    }
    Ok(headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()))
}

/// The body, until it ends or pauses too long.
pub(super) fn impatient(body: Body) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold(Some(body.into_data_stream()), |stream| async {
        let mut stream = stream?;
        match tokio::time::timeout(PAUSE_MAX, stream.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(stream))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    })
}

/// Read a file
#[utoipa::path(
    get, path = "/v1/sessions/{id}/files/{*path}", tag = "Files", operation_id = "read_file",
    params(sent::FilePath, sent::PartHeader),
    responses(
        (
            status = 200, description = "The whole file.",
            content_type = "application/octet-stream", body = inline(sent::Bytes),
        ),
        (
            status = 206, description = "The range of it that was asked for.",
            content_type = "application/octet-stream", body = inline(sent::Bytes),
            headers(("Content-Range" = String, description = "Which range, of how many bytes")),
        ),
        Live, Cells, Regular, Ranges,
    ),
)]
pub(super) async fn download(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let path = path_of(&uri)?;
    Query::of(&uri)?.finish()?;
    let part = headers.get(header::RANGE).map_or(Part::Whole, part);
    let download = door.service.download(&tenant, session, &path, part).await?;
    let (range, size) = (download.range, download.entry.size);
    let mut response = Body::from_stream(download.body).into_response();
    if part != Part::Whole && size > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        if let Ok(value) = HeaderValue::from_str(&shown) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    describe(response.headers_mut());
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response.headers_mut().insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    Ok(response)
}

/// A guest made the content: a browser must not take it for a page of ours.
pub(super) fn describe(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
}

/// The one range that is asked for. What is no range, or several of them, stands for all of the file (RFC 9110, 14.2).
fn part(value: &HeaderValue) -> Part {
    let one = |value: &str| {
        let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
        Some(match (position(first), position(last)) {
            (None, Some(bytes)) if first.is_empty() => Part::Suffix(bytes),
            (Some(first), None) if last.is_empty() => Part::Span { first, last: u64::MAX },
            (Some(first), Some(last)) if first <= last => Part::Span { first, last },
            _ => return None,
        })
    };
    value.to_str().ok().and_then(one).unwrap_or(Part::Whole)
}

/// Digits. More than a file can have are as good as the most.
fn position(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Look at a file
///
/// The headers of reading it.
#[utoipa::path(
    head, path = "/v1/sessions/{id}/files/{*path}", tag = "Files", operation_id = "stat_file",
    params(sent::FilePath),
    responses(
        (
            status = 200, description = "It can be read.",
            headers(("Content-Length" = u64, description = "Its size in bytes")),
        ),
        Live, Cells, Regular,
    ),
)]
pub(super) async fn head(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let path = path_of(&uri)?;
    Query::of(&uri)?.finish()?;
    let entry = door.service.stat(&tenant, session, &path).await?;
    if entry.kind != EntryKind::File {
        return Err(Problem::new(Code::NotRegularFile, "not a regular file"));
    }
    let mut response = StatusCode::OK.into_response();
    describe(response.headers_mut());
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response.headers_mut().insert(header::CONTENT_LENGTH, entry.size.into());
    Ok(response)
}

/// Delete a file or a directory
#[utoipa::path(
    delete, path = "/v1/sessions/{id}/files/{*path}", tag = "Files", operation_id = "delete_file",
    params(sent::FilePath, sent::DeleteQuery),
    responses((status = 204, description = "It is gone."), Live, Cells, Exclusive),
)]
pub(super) async fn delete(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let path = path_of(&uri)?;
    let mut query = Query::of(&uri)?;
    let recursive = query.flag("recursive");
    query.finish()?;
    door.service.delete(&tenant, session, &path, recursive).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// List a directory
///
/// In the order of their paths.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/files", tag = "Files", operation_id = "list_files",
    params(sent::SessionPath, sent::FilesQuery, sent::PageQuery),
    responses(
        (status = 200, description = "A page of what is there.", body = ListBody<EntryBody>),
        Live, Cells, Paths, Found, Exclusive,
    ),
)]
pub(super) async fn list(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri)?;
    let path = query.text("path").unwrap_or_default();
    let (recursive, after, limit) = (query.flag("recursive"), query.text("cursor"), query.limit());
    query.finish()?;
    let path: WorkspacePath =
        path.parse().map_err(|error| Problem::new(Code::InvalidPath, format!("path: {error}")))?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let request = ListRequest { path, recursive, after, limit };
    let listing = door.service.list(&tenant, session, &request).await?;
    Ok(ok(&ListBody {
        items: listing.entries.into_iter().map(EntryBody::from).collect(),
        next_cursor: listing.next,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: &str) -> Result<String, Code> {
        let uri = format!("/v1/sessions/ses_x/files/{uri}").parse().unwrap();
        path_of(&uri).map(|path| path.to_string()).map_err(|problem| problem.code)
    }

    #[test]
    fn paths_are_decoded_once_and_checked_after() {
        for (sent, meant) in
            [("a/b.txt", "a/b.txt"), ("a%20b", "a b"), ("%2525", "%25"), ("a%2Fb", "a/b"), ("d/", "d")]
        {
            assert_eq!(path(sent), Ok(meant.to_owned()), "{sent}");
        }
        assert_eq!(path("/workspace/a"), Ok("a".into()));
        let long = "x".repeat(5000);
        for sent in [
            "..",
            "a/../b",
            "%2e%2e/a",
            "%2e%2e%2fa",
            ".",
            "a/./b",
            "a//b",
            "%00",
            "%ff",
            "%",
            "%zz",
            "/etc/passwd",
            "",
            "%2f",
            &long,
        ] {
            assert_eq!(path(sent), Err(Code::InvalidPath), "{sent}");
        }
    }

    #[test]
    fn ranges_are_what_was_asked_for_or_everything() {
        let part = |text: &'static str| part(&HeaderValue::from_static(text));
        let span = |first, last| Part::Span { first, last };
        assert_eq!(part("bytes=0-0"), span(0, 0));
        assert_eq!(part("bytes=2-"), span(2, u64::MAX));
        assert_eq!(part("bytes=-3"), Part::Suffix(3));
        assert_eq!(part("bytes=-0"), Part::Suffix(0));
        assert_eq!(part("bytes=5-99999999999999999999"), span(5, u64::MAX));
        for text in [
            "bytes=5-4",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes",
            "bytes=-",
            "bytes=+1-2",
            "bytes= 1-2",
        ] {
            assert_eq!(part(text), Part::Whole, "{text}");
        }
    }
}
