//! File operations through the session's files cell.
//!
//! The cell is taken with the first operation and kept. Paths go to it as text, content through a pipe of its own;
//! the API opens nothing that a guest can shape. Answers are as hostile as any cell's: an operation holds a bounded
//! amount of them, takes only those that fit it, and has an end ([`Desk::overdue`]).

use crate::error::Error;
use crate::execution::Breach;
use crate::sandbox::Wanted;
use crate::session::{Cell, Inner, Session, SessionState};
use crate::workspace::WorkspacePath;
use anchorhold_jail::hatch::{
    ArchiveFormat, Change, Entry, EntryKind, FileAction, FileAnswer, FileError, FileRequest, Part, ToCell,
};
use anchorhold_jail::id::{CellId, ExecutionId};
use anchorhold_jail::packet::Packets;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Take};
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Sleep;
use tokio_util::io::ReaderStream;

/// Transfers (uploads, downloads, archives) of one session that may be open at once. The files cell moves as many at a time: one more
/// would wait inside it, with its time running.
pub(crate) const TRANSFERS_MAX: usize = 3;
/// Other operations of one session that may be open at once.
pub(crate) const REQUESTS_MAX: usize = 4;
/// The most entries of a listing.
const ENTRIES_MAX: usize = 100_000;
/// The most bytes of paths in a listing.
const LISTING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long the cell may be silent when it is its turn.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long it may take over an archive that it has all of: the cell bounds its own work by the archive's size, this
/// bounds the cell.
const UNPACK_WAIT: Duration = Duration::from_secs(180);
/// How long an operation waits for those before it.
const TURN_WAIT: Duration = Duration::from_secs(60);
/// How much of a file is read at once; also what the pipe holds where the kernel allows it.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file was uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// An archive was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and directories that it named.
    pub entries: u32,
    /// Bytes of the files.
    pub bytes: u64,
}

/// A file on its way out of a workspace.
#[derive(Debug)]
pub struct Download {
    /// What it is.
    pub entry: Entry,
    /// Which of its bytes were asked for, and are there.
    pub range: Range<u64>,
    /// Their content: exactly as many bytes as the range has, or an error.
    pub body: FileBody,
}

/// What an operation came to.
#[derive(Debug)]
enum Answer {
    Written(Written),
    Found(Entry),
    Listed(Vec<Entry>),
    Unpacked(Unpacked),
    /// An archive begins to come; the last answer follows.
    Begun(oneshot::Receiver<Result<Answer, Error>>),
    /// So many bytes of an archive were sent.
    Packed(u64),
    Done,
}

/// An operation that the cell was asked for.
#[derive(Debug)]
struct Operation {
    action: FileAction,
    reply: Option<oneshot::Sender<Result<Answer, Error>>>,
    /// An archive began to come.
    begun: bool,
    listing: Vec<Entry>,
    listing_bytes: usize,
    /// The cell has to answer by then; `None` while the API moves content.
    due: Option<Instant>,
    /// Our end of the pipe of an upload that was broken off: if the cell saw it close, it would take what arrived
    /// for the whole.
    broken_off: Option<pipe::Sender>,
    _turn: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Absent,
    Taking,
    Ready(Arc<Cell>),
}

/// What a session knows of its files cell.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    slot: Slot,
    waiting: Vec<oneshot::Sender<Result<Arc<Cell>, Error>>>,
    open: HashMap<ExecutionId, Operation>,
    /// Pipes that must stay open until these cells are gone.
    kept: Vec<(CellId, pipe::Sender)>,
}

impl Desk {
    pub(crate) fn is_taking(&self) -> bool {
        matches!(self.slot, Slot::Taking)
    }

    pub(crate) fn taken(&mut self, cell: Arc<Cell>) {
        for waiting in self.waiting.drain(..) {
            // Who does not wait any more does not need it.
            let _unclaimed = waiting.send(Ok(Arc::clone(&cell)));
        }
        self.slot = Slot::Ready(cell);
    }

    pub(crate) fn take_failed(&mut self, why: &Error) {
        self.slot = Slot::Absent;
        for waiting in self.waiting.drain(..) {
            let _unclaimed = waiting.send(Err(why.clone()));
        }
    }

    /// This cell answers nothing any more.
    pub(crate) fn lose(&mut self, cell: CellId, why: &Error) {
        if self.is(cell) {
            self.slot = Slot::Absent;
            let broken_off = self.open.values_mut().filter_map(|operation| operation.broken_off.take());
            self.kept.extend(broken_off.map(|sender| (cell, sender)));
            self.fail_open(why);
        }
    }

    pub(crate) fn cell_gone(&mut self, cell: CellId, out_of_memory: bool) {
        // Workspace and cell are paid from the same memory: what killed the cell was what it tried to write.
        let why = if out_of_memory { Error::File(FileError::NoSpace) } else { Error::Lost };
        self.lose(cell, &why);
        self.kept.retain(|(keeper, _)| *keeper != cell);
    }

    /// The session is over.
    pub(crate) fn abandon(&mut self, why: &Error) {
        self.take_failed(why);
        self.fail_open(why);
        self.kept.clear();
    }

    fn fail_open(&mut self, why: &Error) {
        for (_, operation) in self.open.drain() {
            operation.finish(Err(why.clone()));
        }
    }

    fn is(&self, cell: CellId) -> bool {
        matches!(&self.slot, Slot::Ready(ready) if ready.id == cell)
    }

    /// The files cell, when an operation waits for it too long.
    pub(crate) fn overdue(&self, now: Instant) -> Option<CellId> {
        match &self.slot {
            Slot::Ready(cell) if self.open.values().any(|o| o.due.is_some_and(|due| due <= now)) => {
                Some(cell.id)
            }
            _ => None,
        }
    }

    /// The cell has the next word: it has to say it by then.
    fn expect(&mut self, operation: ExecutionId) {
        if let Some(operation) = self.open.get_mut(&operation) {
            let unpacks = matches!(operation.action, FileAction::Unpack { .. });
            operation.due = Some(Instant::now() + if unpacks { UNPACK_WAIT } else { ANSWER_WAIT });
        }
    }

    /// An upload is broken off: the cell is told, and has to say that it understood before its pipe is closed.
    fn break_off(&mut self, id: ExecutionId, cell: &Cell, sender: pipe::Sender) {
        if let Some(operation) = self.open.get_mut(&id) {
            cell.say(&ToCell::Cancel { execution: id });
            operation.broken_off = Some(sender);
            operation.due = Some(Instant::now() + ANSWER_WAIT);
        } else if !self.is(cell.id) && !cell.gone.is_cancelled() {
            // It is being killed and might be quicker.
            self.kept.push((cell.id, sender));
        }
    }

    /// The cell said something about an operation.
    pub(crate) fn answered(
        &mut self,
        cell: CellId,
        id: ExecutionId,
        answer: FileAnswer,
    ) -> Result<(), Breach> {
        if !self.is(cell) {
            return Err(Breach("a file's answer from a cell that was not asked"));
        }
        let operation = self.open.get_mut(&id).ok_or(Breach("a file's answer without a question"))?;
        let result = match (&operation.action, answer) {
            (_, FileAnswer::Refused(why)) => Err(Error::File(why)),
            (FileAction::Upload { .. }, FileAnswer::Written { size, sha256 }) => {
                Ok(Answer::Written(Written { size, sha256 }))
            }
            (FileAction::Stat, FileAnswer::Found(entry)) => Ok(Answer::Found(entry)),
            (FileAction::Download { .. }, FileAnswer::Found(entry)) => return operation.begin(entry),
            (FileAction::List { .. }, FileAnswer::Entries(entries)) => return operation.list(entries),
            (FileAction::List { .. }, FileAnswer::Done) => {
                Ok(Answer::Listed(std::mem::take(&mut operation.listing)))
            }
            (FileAction::Delete { .. } | FileAction::Batch(_), FileAnswer::Done) => Ok(Answer::Done),
            (FileAction::Download { .. }, FileAnswer::Done) if operation.reply.is_none() => Ok(Answer::Done),
            (FileAction::Batch(_), FileAnswer::Failed { index, why }) => Err(Error::Change { index, why }),
            (FileAction::Unpack { .. }, FileAnswer::Unpacked { entries, bytes }) => {
                Ok(Answer::Unpacked(Unpacked { entries, bytes }))
            }
            (FileAction::Pack { .. }, FileAnswer::Begun) if !operation.begun => {
                return operation.begin_archive();
            }
            (FileAction::Pack { .. }, FileAnswer::Packed { bytes }) if operation.begun => {
                Ok(Answer::Packed(bytes))
            }
            _ => return Err(Breach("an answer to another question")),
        };
        if let Some(operation) = self.open.remove(&id) {
            operation.finish(result);
        }
        Ok(())
    }
}

impl Operation {
    fn finish(self, result: Result<Answer, Error>) {
        if let Some(reply) = self.reply {
            // Who does not wait any more does not need it.
            let _unclaimed = reply.send(result);
        }
    }

    /// A download begins: the cell's turn ends when its content is read.
    fn begin(&mut self, entry: Entry) -> Result<(), Breach> {
        let reply = self.reply.take().ok_or(Breach("found twice"))?;
        self.due = None;
        if reply.send(Ok(Answer::Found(entry))).is_err() {
            self.due = Some(Instant::now() + ANSWER_WAIT);
        }
        Ok(())
    }

    /// An archive begins to come: the cell's turn ends when it is read, and then it has the last word.
    fn begin_archive(&mut self) -> Result<(), Breach> {
        let (sender, last) = oneshot::channel();
        let reply = self.reply.replace(sender).ok_or(Breach("begun twice"))?;
        self.begun = true;
        self.due = None;
        if reply.send(Ok(Answer::Begun(last))).is_err() {
            self.due = Some(Instant::now() + ANSWER_WAIT);
        }
        Ok(())
    }

    fn list(&mut self, entries: Vec<Entry>) -> Result<(), Breach> {
        if entries.is_empty() {
            return Err(Breach("an empty part of a listing"));
        }
        self.listing_bytes += entries.iter().map(|entry| entry.path.len()).sum::<usize>();
        if self.listing.len() + entries.len() > ENTRIES_MAX || self.listing_bytes > LISTING_BYTES_MAX {
            return Err(Breach("a listing without end"));
        }
        self.listing.extend(entries);
        self.due = Some(Instant::now() + ANSWER_WAIT);
        Ok(())
    }
}

/// An operation on its way, for the one who waits for it.
struct Asked {
    id: ExecutionId,
    cell: Arc<Cell>,
    reply: oneshot::Receiver<Result<Answer, Error>>,
}

impl Asked {
    async fn answer(&mut self) -> Result<Answer, Error> {
        (&mut self.reply).await.unwrap_or(Err(Error::Lost))
    }
}

impl Session {
    /// Writes a file; parents are made, and it is visible only when complete. `length` is what the sender promised:
    /// if the body has another, nothing changes.
    ///
    /// # Errors
    /// [`Error::File`], also when `body` fails ([`FileError::Incomplete`]); or as [`Session::execute`].
    pub async fn upload(
        &self,
        path: &WorkspacePath,
        length: Option<u64>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Written, Error> {
        match self.send(path, FileAction::Upload { length }, length, body).await? {
            Answer::Written(written) => Ok(written),
            _ => Err(Error::Lost),
        }
    }

    /// Puts all that an archive holds below a directory, which is made if need be; or nothing. Files that are there
    /// are replaced. `format` is seen by its first bytes where not known, `length` is as for [`Session::upload`].
    ///
    /// # Errors
    /// [`Error::File`], with [`FileError::Archive`] or [`FileError::ArchiveLimit`] for what the archive is; or as
    /// [`Session::execute`].
    pub async fn unpack(
        &self,
        path: &WorkspacePath,
        format: Option<ArchiveFormat>,
        length: Option<u64>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Unpacked, Error> {
        match self.send(path, FileAction::Unpack { format, length }, length, body).await? {
            Answer::Unpacked(unpacked) => Ok(unpacked),
            _ => Err(Error::Lost),
        }
    }

    /// Sends content to the cell; its last answer.
    async fn send(
        &self,
        path: &WorkspacePath,
        action: FileAction,
        length: Option<u64>,
        body: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Answer, Error> {
        let (reader, writer) = content_pipe()?;
        let mut asked = self.ask(path, action, Some(reader)).await?;
        let sender = pipe::Sender::from_owned_fd(writer).map_err(no_pipe)?;
        let (session, id, cell) = (Arc::clone(&self.inner), asked.id, Arc::clone(&asked.cell));
        let mut upload = Upload { session, id, cell, sender: Some(sender), length, sent: 0 };
        let sent = tokio::select! {
            biased;
            // Refused before everything was sent.
            answer = asked.answer() => Err(answer),
            sent = upload.send(body) => Ok(sent),
        };
        let answer = match sent {
            Err(early) => early,
            Ok(Sent::Broken) => return Err(FileError::Incomplete.into()),
            Ok(Sent::Unread) => return Err(Error::Lost),
            Ok(Sent::All) => {
                upload.complete();
                asked.answer().await
            }
        };
        let answer = answer?;
        let wrote_what_was_sent = match &answer {
            Answer::Written(written) => written.size == upload.sent,
            _ => true,
        };
        if upload.sender.is_some() || !wrote_what_was_sent {
            self.inner.breach(asked.cell.id, Breach("it says that it wrote what was not sent"));
            return Err(Error::Lost);
        }
        Ok(answer)
    }

    /// Reads a regular file, or a part of it.
    ///
    /// # Errors
    /// [`Error::File`], with [`FileError::OutOfRange`] when nothing of the part is there; or as [`Session::execute`].
    pub async fn download(&self, path: &WorkspacePath, part: Part) -> Result<Download, Error> {
        let (reader, writer) = content_pipe()?;
        let receiver = pipe::Receiver::from_owned_fd(reader).map_err(no_pipe)?;
        let mut asked = self.ask(path, FileAction::Download { part }, Some(writer)).await?;
        let Answer::Found(entry) = asked.answer().await? else { return Err(Error::Lost) };
        let Some(range) = part.of(entry.size) else {
            self.inner.breach(asked.cell.id, Breach("it found nothing to send and sends it"));
            return Err(Error::Lost);
        };
        let length = range.end - range.start;
        let body = self.body(&asked, receiver.take(length), End::After(length));
        if entry.kind != EntryKind::File {
            return Err(FileError::NotRegular.into());
        }
        Ok(Download { entry, range, body })
    }

    /// Reads all files and directories below a directory as an archive. Links, special files and names that are no
    /// UTF-8 are left out.
    ///
    /// # Errors
    /// [`Error::File`], with [`FileError::ArchiveLimit`] for more than an archive may hold; or as
    /// [`Session::execute`].
    pub async fn pack(&self, path: &WorkspacePath, format: ArchiveFormat) -> Result<FileBody, Error> {
        let (reader, writer) = content_pipe()?;
        let receiver = pipe::Receiver::from_owned_fd(reader).map_err(no_pipe)?;
        let mut asked = self.ask(path, FileAction::Pack { format }, Some(writer)).await?;
        let Answer::Begun(last) = asked.answer().await? else { return Err(Error::Lost) };
        Ok(self.body(&asked, receiver.take(u64::MAX), End::Said { read: 0, last }))
    }

    fn body(&self, asked: &Asked, content: Take<pipe::Receiver>, end: End) -> FileBody {
        FileBody {
            content: Some(ReaderStream::with_capacity(content, CHUNK_BYTES)),
            end,
            silence: Box::pin(tokio::time::sleep(ANSWER_WAIT)),
            session: Arc::clone(&self.inner),
            operation: asked.id,
            cell: asked.cell.id,
        }
    }

    /// Says what is at a path.
    ///
    /// # Errors
    /// [`Error::File`]; or as [`Session::execute`].
    pub async fn stat(&self, path: &WorkspacePath) -> Result<Entry, Error> {
        match self.ask(path, FileAction::Stat, None).await?.answer().await? {
            Answer::Found(entry) => Ok(entry),
            _ => Err(Error::Lost),
        }
    }

    /// Lists a directory; at most 100,000 entries.
    ///
    /// # Errors
    /// [`Error::File`], also for more entries ([`FileError::TooMany`]); or as [`Session::execute`].
    pub async fn list(&self, path: &WorkspacePath, recursive: bool) -> Result<Vec<Entry>, Error> {
        match self.ask(path, FileAction::List { recursive }, None).await?.answer().await? {
            Answer::Listed(entries) => Ok(entries),
            _ => Err(Error::Lost),
        }
    }

    /// Removes a file, or a directory (one that is not empty only when `recursive`).
    ///
    /// # Errors
    /// [`Error::File`]; or as [`Session::execute`].
    pub async fn delete(&self, path: &WorkspacePath, recursive: bool) -> Result<(), Error> {
        match self.ask(path, FileAction::Delete { recursive }, None).await?.answer().await? {
            Answer::Done => Ok(()),
            _ => Err(Error::Lost),
        }
    }

    /// Makes all of these changes, in this order, or none.
    ///
    /// # Errors
    /// [`Error::Change`] for the first that is refused; or as [`Session::execute`].
    pub async fn batch(&self, changes: Vec<Change>) -> Result<(), Error> {
        let count = changes.len();
        let mut asked = self.ask(&WorkspacePath::root(), FileAction::Batch(changes), None).await?;
        match asked.answer().await {
            Ok(Answer::Done) => Ok(()),
            Err(Error::Change { index, .. }) if index as usize >= count => {
                self.inner.breach(asked.cell.id, Breach("it refuses a change that is not there"));
                Err(Error::Lost)
            }
            Err(error) => Err(error),
            Ok(_) => Err(Error::Lost),
        }
    }

    /// Asks the files cell, when it is this operation's turn.
    async fn ask(
        &self,
        path: &WorkspacePath,
        action: FileAction,
        descriptor: Option<OwnedFd>,
    ) -> Result<Asked, Error> {
        let turns = if action.is_transfer() { &self.inner.transfers } else { &self.inner.requests };
        let turn = tokio::time::timeout(TURN_WAIT, Arc::clone(turns).acquire_owned());
        let busy = || Error::Capacity("another file operation of the session takes too long".to_owned());
        let turn = turn.await.map_err(|_| busy())?.map_err(|_| Error::Closed)?;
        let cell = self.inner.files_cell().await?;
        let id = ExecutionId::random();
        let request = FileRequest { operation: id, path: path.as_str().to_owned(), action };
        let message = ToCell::File(request);
        let packets = Packets::new(&message).map_err(|_| Error::TooLarge)?;
        let ToCell::File(FileRequest { action, .. }) = message else { return Err(Error::Lost) };
        // The changes are on their way: what they hold is not kept a second time.
        let action =
            if matches!(action, FileAction::Batch(_)) { FileAction::Batch(Vec::new()) } else { action };
        let (sender, reply) = oneshot::channel();
        // While content is sent the sender watches; otherwise it is the cell's turn now.
        let sends = matches!(action, FileAction::Upload { .. } | FileAction::Unpack { .. });
        let due = (!sends).then(|| Instant::now() + ANSWER_WAIT);
        let operation = Operation {
            action,
            reply: Some(sender),
            begun: false,
            listing: Vec::new(),
            listing_bytes: 0,
            due,
            broken_off: None,
            _turn: turn,
        };
        self.inner.with_core(|core| {
            if !core.desk.is(cell.id) {
                return Err(Error::Lost);
            }
            core.desk.open.insert(id, operation);
            cell.send(packets, descriptor.into_iter().collect());
            Ok(())
        })?;
        Ok(Asked { id, cell, reply })
    }
}

impl Inner {
    /// The session's files cell; taken when there is none.
    async fn files_cell(self: &Arc<Self>) -> Result<Arc<Cell>, Error> {
        let cell = self.with_core(|core| {
            if core.phase() != SessionState::Open {
                return Err(Error::Closed);
            }
            let (sender, cell) = oneshot::channel();
            match &core.desk.slot {
                Slot::Ready(ready) => {
                    let _received_below = sender.send(Ok(Arc::clone(ready)));
                    return Ok(cell);
                }
                Slot::Taking => {}
                Slot::Absent => {
                    core.take(self, Wanted::Files)?;
                    core.desk.slot = Slot::Taking;
                }
            }
            core.desk.waiting.push(sender);
            Ok(cell)
        })?;
        cell.await.unwrap_or(Err(Error::Lost))
    }
}

/// How the sending of an upload ended.
enum Sent {
    /// The cell has everything that there is (or wants no more of it): it has the last word.
    All,
    /// The body failed.
    Broken,
    /// The cell does not read it.
    Unread,
}

/// The sending side of an upload. Dropped before it is complete, it sees to it that the cell does not take what
/// arrived for the whole.
struct Upload {
    session: Arc<Inner>,
    id: ExecutionId,
    cell: Arc<Cell>,
    sender: Option<pipe::Sender>,
    length: Option<u64>,
    sent: u64,
}

impl Upload {
    async fn send(&mut self, body: impl Stream<Item = io::Result<Bytes>> + Send) -> Sent {
        let mut body = pin!(body);
        while let Some(chunk) = body.next().await {
            let Ok(chunk) = chunk else { return Sent::Broken };
            let Some(sender) = &mut self.sender else { return Sent::All };
            // One byte more than was promised is enough for the cell to refuse.
            let room = self.length.map_or(u64::MAX, |length| (length + 1).saturating_sub(self.sent));
            let size = chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            match tokio::time::timeout(ANSWER_WAIT, sender.write_all(&chunk[..size])).await {
                Ok(Ok(())) => self.sent += size as u64,
                // The cell closed its end: it will say why.
                Ok(Err(_)) => return Sent::All,
                Err(_) => {
                    self.session.breach(self.cell.id, Breach("it does not read an upload"));
                    return Sent::Unread;
                }
            }
            if size < chunk.len() {
                return Sent::All;
            }
        }
        Sent::All
    }

    /// There is no more content.
    fn complete(&mut self) {
        if self.length.is_none() {
            self.cell.say(&ToCell::Complete { operation: self.id, bytes: self.sent });
        }
        self.sender = None;
        self.session.with_core(|core| core.desk.expect(self.id));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        self.session.with_core(|core| {
            if self.length.is_some_and(|length| self.sent < length) {
                // Too little arrived: the cell sees that by itself when the pipe is closed.
                core.desk.expect(self.id);
                drop(sender);
            } else {
                core.desk.break_off(self.id, &self.cell, sender);
            }
        });
    }
}

/// Content of a workspace: a stream of exactly as many bytes as were promised, or of a whole archive; or an error.
/// Dropping it ends the transfer.
#[derive(Debug)]
pub struct FileBody {
    content: Option<ReaderStream<Take<pipe::Receiver>>>,
    end: End,
    silence: Pin<Box<Sleep>>,
    session: Arc<Inner>,
    operation: ExecutionId,
    cell: CellId,
}

/// How the end of content is known. That the pipe is closed says nothing: the cell may have died.
#[derive(Debug)]
enum End {
    /// After so many more bytes.
    After(u64),
    /// The cell says it, and how many bytes that are.
    Said { read: u64, last: oneshot::Receiver<Result<Answer, Error>> },
}

impl FileBody {
    /// The pipe is closed, or everything was read.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let whole = match &mut self.end {
            End::After(0) => return Poll::Ready(None),
            // The file shrank, or the cell is gone.
            End::After(_) => false,
            // `Desk` watches for how long the cell may take to say it.
            End::Said { read, last } => {
                let said = ready!(Pin::new(last).poll(context));
                matches!(said, Ok(Ok(Answer::Packed(bytes))) if bytes == *read)
            }
        };
        self.end = End::After(0);
        Poll::Ready((!whole).then(|| Err(io::ErrorKind::UnexpectedEof.into())))
    }

    /// Nothing more is read.
    fn stop(&mut self) {
        self.content = None;
        self.session.with_core(|core| core.desk.expect(self.operation));
    }
}

impl Stream for FileBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let whole = matches!(this.end, End::After(0));
        let Some(content) = this.content.as_mut().filter(|_| !whole) else { return this.poll_end(context) };
        let item = match content.poll_next_unpin(context) {
            Poll::Pending => {
                ready!(this.silence.as_mut().poll(context));
                this.session.breach(this.cell, Breach("a download that does not go on"));
                Err(io::ErrorKind::TimedOut.into())
            }
            Poll::Ready(Some(item)) => item,
            Poll::Ready(None) => {
                this.stop();
                return this.poll_end(context);
            }
        };
        match &item {
            Ok(bytes) => {
                match &mut this.end {
                    End::After(left) => *left -= bytes.len() as u64,
                    End::Said { read, .. } => *read += bytes.len() as u64,
                }
                this.silence.as_mut().reset(tokio::time::Instant::now() + ANSWER_WAIT);
            }
            Err(_) => {
                this.content = None;
                this.end = End::After(0);
            }
        }
        Poll::Ready(Some(item))
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Both ends of a pipe for content: to read, to write.
pub(crate) fn content_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| no_pipe(error.into()))?;
    // A smaller one only costs more switches between us and the cell.
    let _size = rustix::pipe::fcntl_setpipe_size(&writer, CHUNK_BYTES);
    Ok((reader, writer))
}

fn no_pipe(error: io::Error) -> Error {
    Error::Capacity(format!("no pipe: {error}"))
}
