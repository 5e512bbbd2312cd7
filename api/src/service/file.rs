//! Files of a session's workspace. Its files cell does everything; nothing here opens a path.

use super::live::Live;
use super::{Refusal, Service};
use crate::tenant::Tenant;
use anchorhold_sandbox::{
    ArchiveFormat, Change, Download, Entry, Error, FileBody, FileError, Part, SessionId, Unpacked,
    WorkspacePath, Written,
};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use std::io;
use std::sync::Arc;

/// The most that files answered with a run take together, in base64.
pub(super) const RETURNED_BYTES_MAX: usize = 16 << 20;

/// What to list.
#[derive(Debug)]
pub struct ListRequest {
    /// The directory.
    pub path: WorkspacePath,
    /// Also everything below.
    pub recursive: bool,
    /// From after this path.
    pub after: Option<String>,
    /// At most so many entries.
    pub limit: usize,
}

/// An archive on its way in.
#[derive(Debug)]
pub struct ArchiveRequest {
    /// The directory to unpack it in.
    pub path: WorkspacePath,
    /// What it is, where known.
    pub format: Option<ArchiveFormat>,
    /// Bytes, where known.
    pub length: Option<u64>,
}

/// A part of a directory's entries.
#[derive(Debug)]
pub struct Listing {
    /// The part, in the order of their paths.
    pub entries: Vec<Entry>,
    /// Given back to get the next part.
    pub next: Option<String>,
}

impl Service {
    /// Writes a file.
    pub async fn upload(
        &self,
        tenant: &Tenant,
        session: SessionId,
        path: &WorkspacePath,
        length: Option<u64>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Written, Refusal> {
        self.accepting()?;
        let live = self.workspace(tenant, session).await?;
        Ok(live.cells.upload(path, length, body).await?)
    }

    /// Reads a file, or a part of it.
    pub async fn download(
        &self,
        tenant: &Tenant,
        session: SessionId,
        path: &WorkspacePath,
        part: Part,
    ) -> Result<Download, Refusal> {
        Ok(self.workspace(tenant, session).await?.cells.download(path, part).await?)
    }

    /// Makes several changes as one.
    pub async fn batch(
        &self,
        tenant: &Tenant,
        session: SessionId,
        changes: Vec<Change>,
    ) -> Result<(), Refusal> {
        self.accepting()?;
        Ok(self.workspace(tenant, session).await?.cells.batch(changes).await?)
    }

    /// Unpacks an archive below a directory.
    pub async fn unpack(
        &self,
        tenant: &Tenant,
        session: SessionId,
        archive: &ArchiveRequest,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Unpacked, Refusal> {
        self.accepting()?;
        let ArchiveRequest { path, format, length } = archive;
        let live = self.workspace(tenant, session).await?;
        Ok(live.cells.unpack(path, *format, *length, body).await?)
    }

    /// Packs what is below a directory.
    pub async fn pack(
        &self,
        tenant: &Tenant,
        session: SessionId,
        path: &WorkspacePath,
        format: ArchiveFormat,
    ) -> Result<FileBody, Refusal> {
        Ok(self.workspace(tenant, session).await?.cells.pack(path, format).await?)
    }

    /// Says what is at a path.
    pub async fn stat(
        &self,
        tenant: &Tenant,
        session: SessionId,
        path: &WorkspacePath,
    ) -> Result<Entry, Refusal> {
        Ok(self.workspace(tenant, session).await?.cells.stat(path).await?)
    }

    /// Lists a directory.
    pub async fn list(
        &self,
        tenant: &Tenant,
        session: SessionId,
        request: &ListRequest,
    ) -> Result<Listing, Refusal> {
        let live = self.workspace(tenant, session).await?;
        let mut entries = live.cells.list(&request.path, request.recursive).await?;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some(after) = &request.after {
            entries.retain(|entry| entry.path > *after);
        }
        let more = entries.len() > request.limit;
        entries.truncate(request.limit);
        let next = entries.last().filter(|_| more).map(|entry| entry.path.clone());
        Ok(Listing { entries, next })
    }

    /// Removes a file or a directory.
    pub async fn delete(
        &self,
        tenant: &Tenant,
        session: SessionId,
        path: &WorkspacePath,
        recursive: bool,
    ) -> Result<(), Refusal> {
        Ok(self.workspace(tenant, session).await?.cells.delete(path, recursive).await?)
    }

    /// The live session; the ledger knows from now on that it may own files.
    async fn workspace(&self, tenant: &Tenant, session: SessionId) -> Result<Arc<Live>, Refusal> {
        let live = self.find(tenant, session).await?;
        if live.touch()? {
            self.0.ledger.use_session(session).await?;
            live.set_used();
        }
        Ok(live)
    }
}

/// A file's content in base64 of at most `room` bytes, or why not.
pub(super) async fn read_whole(live: &Live, path: &WorkspacePath, room: usize) -> Result<String, String> {
    let too_large = || "the files together are too large to be returned".to_owned();
    let download = live.cells.download(path, Part::Whole).await.map_err(|error| match error {
        Error::File(error) => reason(error).to_owned(),
        other => other.to_string(),
    })?;
    let size = usize::try_from(download.entry.size).map_err(|_| too_large())?;
    if size.div_ceil(3).saturating_mul(4) > room {
        return Err(too_large());
    }
    let mut content = Vec::with_capacity(size);
    let mut body = download.body;
    while let Some(bytes) = body.try_next().await.map_err(|error| error.to_string())? {
        content.extend_from_slice(&bytes);
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(content))
}

fn reason(error: FileError) -> &'static str {
    match error {
        FileError::NotFound => "file_not_found",
        FileError::NotRegular => "not_regular_file",
        FileError::InvalidPath => "invalid_path",
        _ => "unreadable",
    }
}
