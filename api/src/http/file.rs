//! `/v1/sessions/{id}/files`

use super::body::{Query, percent_decode};
use super::error::{Code, Problem};
use super::{Caller, Door, ListBody, SessionAt, json, ok, time};
use crate::service::ListRequest;
use anchorhold_sandbox::{Entry, EntryKind, WorkspacePath};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// How long an upload may pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct WrittenBody<'a> {
    path: &'a str,
    size: u64,
    sha256: String,
}

#[derive(Serialize)]
struct EntryBody {
    path: String,
    r#type: &'static str,
    size: u64,
    modified_at: String,
    /// Permission bits, octal.
    mode: String,
    mime: Option<&'static str>,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Other => "other",
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

pub(super) async fn upload(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    request: Request,
) -> Result<Response, Problem> {
    let path = path_of(request.uri())?;
    Query::of(request.uri())?.finish()?;
    let headers = request.headers();
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return Err(Problem::new(Code::UnsupportedMediaType, "compressed bodies are not taken"));
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::field("Content-Range", "parts of a file cannot be written"));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = impatient(request.into_body());
    let written = door.service.upload(&tenant, session, &path, length, body).await?;
    let sha256 = written.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json(StatusCode::CREATED, &WrittenBody { path: path.as_str(), size: written.size, sha256 }))
}

/// The body, until it ends or pauses too long.
fn impatient(body: Body) -> impl Stream<Item = io::Result<Bytes>> + Send {
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

pub(super) async fn download(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let path = path_of(&uri)?;
    Query::of(&uri)?.finish()?;
    let download = door.service.download(&tenant, session, &path).await?;
    let size = download.entry.size;
    let range = headers.get(header::RANGE).and_then(|value| requested(value, size));
    let mut response = match &range {
        None => Body::from_stream(download.body).into_response(),
        Some(range) => {
            let body = Body::from_stream(part(download.body, range.clone()));
            let mut response = (StatusCode::PARTIAL_CONTENT, body).into_response();
            let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            if let Ok(value) = HeaderValue::from_str(&shown) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            response
        }
    };
    describe(response.headers_mut(), range.map_or(size, |range| range.end - range.start));
    Ok(response)
}

/// A guest made the content: a browser must not take it for a page of ours.
fn describe(headers: &mut HeaderMap, length: u64) {
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// The one range that is asked for. What is no such range, or is outside, is passed over (RFC 9110, 14.2).
fn requested(value: &HeaderValue, size: u64) -> Option<Range<u64>> {
    let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(range)
}

/// That part of a stream.
fn part(
    body: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
    range: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold((body, 0, range), |(mut body, mut at, range)| async move {
        while at < range.end {
            let bytes = match body.next().await? {
                Ok(bytes) => bytes,
                Err(error) => return Some((Err(error), (body, u64::MAX, range))),
            };
            let here = at..at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            at = here.end;
            let cut = |to: u64| usize::try_from(to.clamp(here.start, here.end) - here.start).unwrap_or(0);
            let wanted = bytes.slice(cut(range.start)..cut(range.end));
            if !wanted.is_empty() {
                return Some((Ok(wanted), (body, at, range)));
            }
        }
        None
    })
}

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
    describe(response.headers_mut(), entry.size);
    Ok(response)
}

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
    fn ranges_are_what_was_asked_for_or_nothing() {
        let range = |text: &'static str| requested(&HeaderValue::from_static(text), 10);
        assert_eq!(range("bytes=0-0"), Some(0..1));
        assert_eq!(range("bytes=2-"), Some(2..10));
        assert_eq!(range("bytes=-3"), Some(7..10));
        assert_eq!(range("bytes=-30"), Some(0..10));
        assert_eq!(range("bytes=5-99999999999999999999"), None);
        assert_eq!(range("bytes=5-18446744073709551615"), Some(5..10));
        for text in ["bytes=10-", "bytes=5-4", "bytes=0-1,3-4", "bytes=-0", "lines=0-1", "bytes=a-b", "bytes"]
        {
            assert_eq!(range(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_part_of_a_stream_is_cut_across_its_pieces() {
        let whole = Bytes::from_static(b"0123456789");
        for size in 1..=10 {
            for (start, end) in [(0, 10), (3, 7), (9, 10), (0, 1)] {
                let pieces: Vec<_> =
                    whole.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                let part: Vec<_> = part(futures_util::stream::iter(pieces), start..end).collect().await;
                let part: Vec<u8> = part.into_iter().flat_map(|piece| piece.unwrap()).collect();
                let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
                assert_eq!(part, whole[start..end], "{size} {start} {end}");
            }
        }
    }
}
