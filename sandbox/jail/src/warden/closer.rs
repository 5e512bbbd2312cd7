//! Closes the last descriptors of workspaces, which the warden must not wait for: with each of them a mount goes, and the
//! kernel comes back only when no processor can see it any more, which on a busy machine takes tens of milliseconds
//! (`namespace_unlock` in its `fs/namespace.c`).
//!
//! It is a process of its own and not a thread, because the warden forks.

use crate::id::SessionId;
use crate::packet::{self, PacketError};
use nix::sys::signal::SigSet;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

/// What tells the program that it is to close descriptors.
pub const VERB: &str = "close";

/// The process, as the warden sees it. It ends with this.
#[derive(Debug)]
pub struct Closer {
    socket: OwnedFd,
    process: Child,
}

impl Closer {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (ours, theirs) = packet::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(VERB).env_clear().stdin(theirs).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Self { socket: ours, process: command.spawn()? })
    }

    /// Has the last descriptor of a session's workspace closed.
    pub fn close(&self, session: SessionId, root: OwnedFd) -> Result<(), PacketError> {
        packet::send(&self.socket, &session, &[root.as_fd()])
    }

    /// The next session whose workspace is gone. Call it when there is something to read.
    pub fn closed(&self) -> Result<SessionId, PacketError> {
        Ok(packet::receive(&self.socket)?.0)
    }
}

impl AsFd for Closer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        // Then it ends. It fails when it has ended already.
        let _ended = shutdown(&self.socket, Shutdown::Both);
        let _status = self.process.wait();
    }
}

/// What the process does: closes what comes in on standard input, and says so there, until the warden is gone.
pub fn run() -> Result<(), PacketError> {
    // The warden ends when it is told to, and this with it. No set of signals is refused.
    let _blocked = SigSet::all().thread_block();
    let socket = io::stdin();
    loop {
        match packet::receive::<SessionId>(&socket) {
            Ok((session, roots)) => {
                drop(roots);
                packet::send(&socket, &session, &[])?;
            }
            Err(PacketError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
