//! Messages over a SEQPACKET socket, without blocking.
//!
//! Sending never waits: what the socket does not take at once is queued, up to a bound, and sent by whoever runs
//! [`Channel::flush`]. So a message can be sent under a lock and from any task, and two messages arrive in the order
//! in which they were sent.

use anchorhold_jail::control::FromWarden;
use anchorhold_jail::hatch::FromCell;
use anchorhold_jail::packet::{Assembler, PacketError, Packets};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Messages that may wait for a reader that does not read. A session sends a cell few at a time; to the warden all
/// sessions send.
const QUEUED_MAX: usize = 8192;
/// Packets that are read in one go before other tasks get their turn.
pub(crate) const PACKETS_AT_ONCE: u32 = 8;

/// What may be left after some was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    /// There was all: [`Received::Nothing`] was found.
    Nothing,
    /// There may be more.
    Now,
    /// There may be more, which is not wanted before this time is over.
    After(Duration),
}

/// A lock whose holder panicked guards data that every method leaves consistent.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What can be received: names the types that the other side sends, so that no other is decoded.
pub(crate) trait Incoming: Sized {
    /// Reads one packet; see [`Assembler::receive_next`].
    fn next(
        assembler: &mut Assembler,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<(Self, Vec<OwnedFd>)>, PacketError>;
}

impl Incoming for FromCell {
    fn next(
        assembler: &mut Assembler,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<(Self, Vec<OwnedFd>)>, PacketError> {
        assembler.receive_next(socket)
    }
}

impl Incoming for FromWarden {
    fn next(
        assembler: &mut Assembler,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<(Self, Vec<OwnedFd>)>, PacketError> {
        assembler.receive_next(socket)
    }
}

/// One end of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
    unsent: Mutex<VecDeque<(Packets, Vec<OwnedFd>)>>,
    more: Notify,
    assembler: Mutex<Assembler>,
}

/// What one look at a channel found.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A message, with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// Part of one.
    Part,
    /// Nothing now.
    Nothing,
}

impl Channel {
    /// Takes the socket over and makes it non-blocking. Needs a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe because of types that lie about their descriptor; `OwnedFd` does not"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, unsent: Mutex::default(), more: Notify::new(), assembler: Mutex::default() })
    }

    /// Sends a message now or as soon as the other side reads.
    pub(crate) fn send(&self, packets: Packets, descriptors: Vec<OwnedFd>) -> Result<(), PacketError> {
        let mut unsent = locked(&self.unsent);
        if unsent.len() >= QUEUED_MAX {
            return Err(PacketError::Malformed("the other side does not read"));
        }
        let waited = !unsent.is_empty();
        unsent.push_back((packets, descriptors));
        if !waited && !self.send_queued(&mut unsent)? {
            self.more.notify_one();
        }
        Ok(())
    }

    /// Whether everything was sent; `false` when the socket takes no more now.
    fn send_queued(&self, unsent: &mut VecDeque<(Packets, Vec<OwnedFd>)>) -> Result<bool, PacketError> {
        while let Some((packets, descriptors)) = unsent.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match packets.send_next(self.socket.get_ref().as_fd(), &borrowed) {
                Ok(()) => {}
                Err(error) if error.would_block() => return Ok(false),
                Err(error) => {
                    unsent.clear();
                    return Err(error);
                }
            }
            if packets.done() {
                unsent.pop_front();
            }
        }
        Ok(true)
    }

    /// Sends what could not be sent at once, for ever; ends when the channel is broken.
    pub(crate) async fn flush(&self) -> Result<Infallible, PacketError> {
        loop {
            self.more.notified().await;
            loop {
                let mut ready = self.socket.writable().await?;
                if self.send_queued(&mut locked(&self.unsent))? {
                    break;
                }
                ready.clear_ready();
            }
        }
    }

    /// One packet of what the other side says, if there is one.
    pub(crate) fn look<T: Incoming>(&self) -> Result<Received<T>, PacketError> {
        match T::next(&mut locked(&self.assembler), self.socket.get_ref().as_fd()) {
            Ok(Some((message, descriptors))) => Ok(Received::Message(message, descriptors)),
            Ok(None) => Ok(Received::Part),
            Err(error) if error.would_block() => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Forgets what arrived of a message, and gives back the memory that long ones needed.
    pub(crate) fn forget_part(&self) {
        *locked(&self.assembler) = Assembler::default();
    }

    /// Calls `read` whenever there may be something to read; it should stop after [`PACKETS_AT_ONCE`]. Ends when it fails.
    pub(crate) async fn read_with(&self, mut read: impl FnMut() -> Result<More, PacketError>) -> PacketError {
        loop {
            let mut ready = match self.socket.readable().await {
                Ok(ready) => ready,
                Err(error) => return error.into(),
            };
            match read() {
                Ok(More::Nothing) => ready.clear_ready(),
                // Others get their turn: a flood must not keep a worker for itself.
                Ok(More::Now) => tokio::task::yield_now().await,
                Ok(More::After(wait)) => tokio::time::sleep(wait).await,
                Err(error) => return error,
            }
        }
    }

    /// The next message. Nothing is lost when the future is dropped.
    pub(crate) async fn receive<T: Incoming>(&self) -> Result<(T, Vec<OwnedFd>), PacketError> {
        loop {
            let mut ready = self.socket.readable().await?;
            match self.look()? {
                Received::Message(message, descriptors) => return Ok((message, descriptors)),
                Received::Part => {}
                Received::Nothing => ready.clear_ready(),
            }
        }
    }
}
