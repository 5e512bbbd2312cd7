//! `/v1/sessions/{id}/archive`: many files in one request.
//!
//! `POST ?path=` unpacks the body below a directory, which is made if need be: all of it or nothing, over regular files
//! that are there. What it is say `format`, else `Content-Type` (`application/x-tar`, `application/gzip`,
//! `application/zstd`, `application/zip`), else its first bytes. Names, contents and whether a file is executable are
//! taken; owners, times and other modes are not. Links, special and sparse files, names that leave the directory, are
//! reserved (`.anchorhold-…`), repeated or no UTF-8, encrypted zips and what contradicts itself are `invalid_archive`.
//! More than 100,000 entries, 64 directories deep, 4,096 bytes of a path, the workspace's room, a Zstandard window of
//! 8 MiB, or 1.5 s of processor time and 20 ns for each byte that arrives or is stored are `archive_limit`. A zip is kept
//! in the workspace while it is unpacked.
//!
//! `GET ?path=&format=` (default `tar.gz`) packs the files and directories below a directory. Links, special files and
//! names that are no UTF-8 are left out. An answer that ends before its last chunk is not whole.

use super::body::Query;
use super::error::{Code, Problem};
use super::file::{describe, impatient, length};
use super::openapi::{Archives, Cells, Exclusive, Found, Live, Paths, Regular, Uploads, sent};
use super::{Caller, Door, SessionAt, json, key_for};
use crate::service::ArchiveRequest;
use crate::words::words;
use anchorhold_sandbox::{ArchiveFormat, WorkspacePath};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

words!(
    /// The kinds of archives.
    Format {
        /// As it is.
        Tar = "tar",
        /// In gzip.
        TarGz = "tar.gz",
        /// In Zstandard.
        TarZst = "tar.zst",
        /// Zip.
        Zip = "zip",
    }
);

impl From<Format> for ArchiveFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Tar => Self::Tar,
            Format::TarGz => Self::TarGz,
            Format::TarZst => Self::TarZst,
            Format::Zip => Self::Zip,
        }
    }
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::TarGz => "application/gzip",
            Self::TarZst => "application/zstd",
            Self::Zip => "application/zip",
        }
    }

    /// What a request's media type says; nothing where it says nothing.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        match essence.trim().to_ascii_lowercase().as_str() {
            "application/octet-stream" => Ok(None),
            "application/x-tar" | "application/tar" => Ok(Some(Self::Tar)),
            "application/gzip" | "application/x-gzip" => Ok(Some(Self::TarGz)),
            "application/zstd" | "application/x-zstd" => Ok(Some(Self::TarZst)),
            "application/zip" | "application/x-zip-compressed" => Ok(Some(Self::Zip)),
            _ => {
                let detail = "the body must be a tar, tar.gz, tar.zst or zip; format=… says so as well";
                Err(Problem::new(Code::UnsupportedMediaType, detail))
            }
        }
    }
}

/// What an archive held.
#[derive(Serialize, ToSchema)]
#[schema(as = Unpacked)]
struct UnpackedBody<'a> {
    /// Below which directory it is now.
    path: &'a str,
    /// Files and directories.
    entries: u32,
    /// Bytes of the files.
    size: u64,
}

fn query(uri: &Uri) -> Result<(WorkspacePath, Option<Format>), Problem> {
    let mut query = Query::of(uri)?;
    let path = query.text("path").unwrap_or_default();
    let format = query.parsed::<Format>("format", "tar, tar.gz, tar.zst or zip");
    query.finish()?;
    let path = path.parse().map_err(|error| Problem::new(Code::InvalidPath, format!("path: {error}")))?;
    Ok((path, format))
}

/// Unpack an archive
///
/// Below a directory, which is made if need be: all of it or nothing. What kind it is say `format`, else `Content-Type`,
/// else its first bytes. Names, contents and whether a file is executable are taken. Links, special files, names that
/// leave the directory and what contradicts itself are refused.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/archive", tag = "Files", operation_id = "unpack_archive",
    params(sent::SessionPath, sent::ArchiveQuery, sent::Once),
    request_body(content = Option<sent::Bytes>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "What it held.", body = UnpackedBody),
        Live, Cells, Paths, Uploads, Regular, Exclusive, Archives,
    ),
)]
pub(super) async fn unpack(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    request: Request,
) -> Result<Response, Problem> {
    let (path, named) = query(request.uri())?;
    let format = match named {
        None => Format::of(request.headers())?,
        named => named,
    };
    let length = length(request.headers())?;
    let asked = format!("{} {path}", format.map_or("", Format::as_str));
    let key = key_for(request.headers(), Sha256::digest(asked).into())?;
    let archive = ArchiveRequest { path: path.clone(), format: format.map(ArchiveFormat::from), length };
    let body = impatient(request.into_body());
    let unpacked = door.service.unpack(&tenant, session, archive, key, body).await?;
    let body = UnpackedBody { path: path.as_str(), entries: unpacked.entries, size: unpacked.bytes };
    Ok(json(StatusCode::CREATED, &body))
}

/// Pack a directory
///
/// Files and directories; links and special files are left out. An answer that ends before its last chunk is not whole.
#[utoipa::path(
    get, path = "/v1/sessions/{id}/archive", tag = "Files", operation_id = "pack_archive",
    params(sent::SessionPath, sent::ArchiveQuery),
    responses(
        (
            status = 200, description = "The archive: a `tar.gz` where no format was asked for.",
            content(
                (inline(sent::Bytes) = "application/x-tar"),
                (inline(sent::Bytes) = "application/gzip"),
                (inline(sent::Bytes) = "application/zstd"),
                (inline(sent::Bytes) = "application/zip"),
            ),
        ),
        Live, Cells, Paths, Found, Exclusive,
    ),
)]
pub(super) async fn pack(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    uri: Uri,
) -> Result<Response, Problem> {
    let (path, format) = query(&uri)?;
    let format = format.unwrap_or(Format::TarGz);
    let body = door.service.pack(&tenant, session, &path, format.into()).await?;
    let mut response = Body::from_stream(body).into_response();
    describe(response.headers_mut());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    Ok(response)
}
