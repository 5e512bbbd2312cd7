//! The connection of the API: one at a time, never blocking the warden.

use crate::control::{FromWarden, ToWarden, VERSION};
use crate::packet::{Assembler, PacketError, Packets};
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Messages that wait because the API does not read. One that falls this far behind is cut off.
const OUTBOX_MAX: usize = 16_384;

/// Who connected may not be the controller.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Not the user that the warden serves.
    #[error("user {0} may not control this warden")]
    User(u32),
    /// The kernel does not say who it is.
    #[error("peer credentials: {0}")]
    Unknown(#[from] rustix::io::Errno),
}

/// A connected API.
#[derive(Debug)]
pub struct Controller {
    socket: OwnedFd,
    assembler: Assembler,
    outbox: VecDeque<(Packets, Vec<OwnedFd>)>,
    greeted: bool,
}

impl Controller {
    /// Takes a connection of `client_uid` or root. The socket must not block.
    pub fn admit(socket: OwnedFd, client_uid: u32) -> Result<Self, AdmitError> {
        let user = sockopt::socket_peercred(&socket)?.uid.as_raw();
        if user != client_uid && user != 0 {
            return Err(AdmitError::User(user));
        }
        Ok(Self { socket, assembler: Assembler::default(), outbox: VecDeque::new(), greeted: false })
    }

    /// The next message; `None` when there is none yet. The first must be a `Hello` of our version.
    pub fn receive(&mut self) -> Result<Option<ToWarden>, PacketError> {
        loop {
            match self.assembler.receive_next::<ToWarden>(self.socket.as_fd()) {
                Ok(None) => {}
                Ok(Some((message, _))) if self.greeted => return Ok(Some(message)),
                Ok(Some((ToWarden::Hello { version: VERSION }, _))) => {
                    self.greeted = true;
                    return Ok(Some(ToWarden::Hello { version: VERSION }));
                }
                Ok(Some(_)) => return Err(PacketError::Malformed("no hello of this version")),
                Err(error) if error.would_block() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends, or keeps what cannot be sent yet.
    pub fn send(&mut self, message: &FromWarden, descriptors: Vec<OwnedFd>) -> Result<(), PacketError> {
        if self.outbox.len() >= OUTBOX_MAX {
            return Err(PacketError::Malformed("the API does not read"));
        }
        self.outbox.push_back((Packets::new(message)?, descriptors));
        self.flush()
    }

    /// Sends what was kept, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<(), PacketError> {
        while let Some((packets, descriptors)) = self.outbox.front_mut() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match packets.send_next(self.socket.as_fd(), &borrowed) {
                Ok(()) if packets.done() => {
                    self.outbox.pop_front();
                }
                Ok(()) => {}
                Err(error) if error.would_block() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether it said hello; who did not, only looked whether somebody is here.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether something waits to be sent.
    pub fn is_behind(&self) -> bool {
        !self.outbox.is_empty()
    }
}

impl AsFd for Controller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
