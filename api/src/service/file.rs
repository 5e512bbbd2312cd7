//! Files of a session's workspace. Its files cell does everything; nothing here opens a path.

use super::live::{Live, lock};
use super::once::Answer;
use super::{Await, Key, Refusal, Service, now_us};
use crate::ledger::{FilesMade, Made};
use crate::tenant::Tenant;
use anchorhold_sandbox::{
    ArchiveFormat, Change, Download, Entry, Error, FileBody, FileError, Part, SessionId, Unpacked,
    WorkspacePath, Written,
};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream::Fuse;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

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
        key: Option<Key>,
    ) -> Result<(), Refusal> {
        let made = self.change_once(tenant, session, "files", key, |live| async move {
            live.cells.batch(changes).await.map(|()| FilesMade::Batch)
        });
        match made.await? {
            FilesMade::Batch => Ok(()),
            FilesMade::Archive { .. } => Err(Refusal::Internal),
        }
    }

    /// Unpacks an archive below a directory. `key` is of the request without its body.
    pub async fn unpack(
        &self,
        tenant: &Tenant,
        session: SessionId,
        archive: ArchiveRequest,
        key: Option<Key>,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Unpacked, Refusal> {
        let ArchiveRequest { path, format, length } = archive;
        // The body is still to come when it is decided whether a request is the first with its key: then it is unpacked,
        // else only compared.
        let body = Arc::new(Mutex::new(Some(Digested::of(body, key.is_some()))));
        let first = body.clone();
        let keyed = key.is_some();
        let made = self.change_once(tenant, session, "archive", key, move |live| async move {
            let mut body = lock(&first).take().ok_or(Error::Unavailable)?;
            let Unpacked { entries, bytes } = live.cells.unpack(&path, format, length, &mut body).await?;
            // An archive may end before its body does.
            while keyed && let Some(Ok(_)) = body.next().await {}
            let (length, digest) = body.sum();
            Ok(FilesMade::Archive { entries, bytes, length, digest })
        });
        let FilesMade::Archive { entries, bytes, length, digest } = made.await? else {
            return Err(Refusal::Internal);
        };
        let unread = lock(&body).take();
        if let Some(mut again) = unread {
            while again.length <= length
                && let Some(read) = again.next().await
            {
                read.map_err(|_| Refusal::File(FileError::Incomplete))?;
            }
            if again.sum() != (length, digest) {
                return Err(Refusal::KeyConflict);
            }
        }
        Ok(Unpacked { entries, bytes })
    }

    /// Changes files, once under a key. That they are about to be changed is recorded before, and what came of it after:
    /// whoever asks again after a crash in between is told that nobody knows.
    async fn change_once<F>(
        &self,
        tenant: &Tenant,
        session: SessionId,
        route: &str,
        key: Option<Key>,
        change: impl FnOnce(Arc<Live>) -> F + Send + 'static,
    ) -> Result<FilesMade, Refusal>
    where
        F: Future<Output = Result<FilesMade, Error>> + Send,
    {
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.id(), format!("{route}/{session}")));
        let answer = self.at_most_once(once.clone(), Await::End, async move {
            service.accepting()?;
            let live = service.workspace(&tenant, session).await?;
            let Some(once) = once else { return Ok(Answer::Made(Made::Files(Some(change(live).await?)))) };
            let ledger = &service.0.ledger;
            ledger.change_files(session, &once, now_us()).await?;
            let changed = change(live).await;
            match &changed {
                Ok(made) => ledger.files_made(&once, made.clone()).await,
                // Its cell died: perhaps they were made.
                Err(Error::Lost) => Ok(()),
                Err(_) => ledger.files_unchanged(&once).await,
            }
            // Made or refused, it is told as it is; who asks again will hear that nobody knows.
            .unwrap_or_else(|error| tracing::warn!(%error, "what came of a change is not recorded"));
            Ok(Answer::Made(Made::Files(Some(changed?))))
        });
        match answer.await? {
            Answer::Made(Made::Files(Some(made))) => Ok(made),
            Answer::Made(Made::Files(None)) => Err(Refusal::Conflict(
                "an earlier request with this key was cut off, and it is not known whether it changed files",
            )),
            _ => Err(Refusal::Internal),
        }
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

/// A body, and what of it was read, where that is of interest.
struct Digested<S> {
    body: Pin<Box<Fuse<S>>>,
    length: u64,
    hasher: Option<Sha256>,
}

impl<S: Stream> Digested<S> {
    fn of(body: S, wanted: bool) -> Self {
        Self { body: Box::pin(body.fuse()), length: 0, hasher: wanted.then(Sha256::new) }
    }

    /// Length and SHA-256.
    fn sum(self) -> (u64, [u8; 32]) {
        (self.length, self.hasher.map_or([0; 32], |hasher| hasher.finalize().into()))
    }
}

impl<S: Stream<Item = io::Result<Bytes>>> Stream for Digested<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let read = self.body.as_mut().poll_next(context);
        if let (Poll::Ready(Some(Ok(bytes))), Some(hasher)) = (&read, &mut self.hasher) {
            hasher.update(bytes);
            self.length += bytes.len() as u64;
        }
        read
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
