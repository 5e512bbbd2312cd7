//! A program's standard input: a FIFO in the session's `/tmp` for each execution that has some, gone from there as soon as
//! the program has opened it.

use anchorhold_jail::id::random_bytes;
use anchorhold_jail::lock::TMP_DIR;
use bytes::{Buf as _, BytesMut};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;

#[derive(Debug)]
enum Tap {
    /// There is none.
    Absent,
    /// The program has not opened it yet; kept open so that it can, whenever it does.
    Offered { name: String, _kept: OwnedFd },
    /// It reads.
    Open(pipe::Sender),
}

/// The input of one execution after the other.
#[derive(Debug)]
pub(super) struct Input {
    tmp: OwnedFd,
    tap: Tap,
    unsent: BytesMut,
    /// More may follow.
    open: bool,
}

impl Input {
    /// Below the workspace's root.
    pub(super) fn of(files: &OwnedFd) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tmp = rustix::fs::openat(files, TMP_DIR, flags, Mode::empty())?;
        Ok(Self { tmp, tap: Tap::Absent, unsent: BytesMut::new(), open: false })
    }

    /// An execution begins with this; `open`: more may follow. Where the program finds it.
    pub(super) fn begin(&mut self, bytes: Vec<u8>, open: bool) -> io::Result<Option<String>> {
        self.end();
        if bytes.is_empty() && !open {
            return Ok(None);
        }
        let name = format!(".stdin-{:016x}", u64::from_le_bytes(random_bytes()));
        rustix::fs::mknodat(&self.tmp, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let kept = self.open_fifo(&name, OFlags::RDWR)?;
        let path = format!("/tmp/{name}");
        (self.tap, self.unsent, self.open) =
            (Tap::Offered { name, _kept: kept }, bytes.as_slice().into(), open);
        Ok(Some(path))
    }

    /// The name is the session's: something else may be there by now. Whatever it is, it is the session's own.
    fn open_fifo(&self, name: &str, how: OFlags) -> io::Result<OwnedFd> {
        let flags = how | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.tmp, name, flags, Mode::empty())?)
    }

    /// The program has opened it.
    pub(super) fn opened(&mut self) {
        let Tap::Offered { name, .. } = &self.tap else { return };
        let sender = self.open_fifo(name, OFlags::WRONLY).and_then(pipe::Sender::from_owned_fd);
        self.forget_name();
        self.tap = sender.map_or(Tap::Absent, Tap::Open);
        self.close_at_the_end();
    }

    fn forget_name(&self) {
        if let Tap::Offered { name, .. } = &self.tap {
            // The session may have been quicker.
            let _gone = rustix::fs::unlinkat(&self.tmp, name, AtFlags::empty());
        }
    }

    /// More of it; `end`: and no more.
    pub(super) fn add(&mut self, bytes: &[u8], end: bool) {
        if self.open {
            self.unsent.extend_from_slice(bytes);
            self.open = !end;
            self.close_at_the_end();
        }
    }

    /// Whether there is something for a program that reads.
    pub(super) fn has_unsent(&self) -> bool {
        matches!(self.tap, Tap::Open(_)) && !self.unsent.is_empty()
    }

    /// Writes something of what is unsent.
    pub(super) async fn write(&mut self) {
        let Tap::Open(sender) = &self.tap else { return };
        let written = match sender.writable().await {
            Ok(()) => sender.try_write(&self.unsent),
            Err(error) => Err(error),
        };
        match written {
            Ok(length) => self.unsent.advance(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Nobody reads any more.
            Err(_) => self.tap = Tap::Absent,
        }
        self.close_at_the_end();
    }

    /// A reader sees the end when the last writer is gone.
    fn close_at_the_end(&mut self) {
        if matches!(self.tap, Tap::Open(_)) && self.unsent.is_empty() && !self.open {
            self.tap = Tap::Absent;
        }
    }

    /// The execution has ended.
    pub(super) fn end(&mut self) {
        self.forget_name();
        (self.tap, self.unsent, self.open) = (Tap::Absent, BytesMut::new(), false);
    }
}
