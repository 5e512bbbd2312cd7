//! Closes the last descriptors of workspaces, which the warden must not wait for: with each of them a mount goes, and the
//! kernel comes back only when no processor can see it any more, which on a busy machine takes tens of milliseconds
//! (`namespace_unlock` in its `fs/namespace.c`).
//!
//! It is a process of its own and not a thread, because the warden forks.

use crate::id::SessionId;
use crate::packet::{self, PacketError};
use nix::sys::signal::SigSet;
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

/// Workspaces that are closed at once. They spend their time waiting for the kernel, and all who wait are served together:
/// one after the other, a session's end would wait for the ends of everybody's before it.
const AT_ONCE: usize = 16;
/// What it has in hand at most. So many, and what it says of them, always fit into the socket: otherwise each side would
/// wait for the other one to read, once enough sessions end together.
const IN_HAND_MAX: usize = 2 * AT_ONCE;
/// What tells the program that it is to close descriptors.
pub const VERB: &str = "close";

/// What follows a descriptor when the warden has it no more.
const GONE_HERE: () = ();

/// The process, as the warden sees it. It ends with this.
#[derive(Debug)]
pub struct Closer {
    socket: OwnedFd,
    process: Child,
    waiting: VecDeque<(SessionId, OwnedFd)>,
    in_hand: usize,
}

impl Closer {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (ours, theirs) = packet::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(VERB).env_clear().stdin(theirs).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Self { socket: ours, process: command.spawn()?, waiting: VecDeque::new(), in_hand: 0 })
    }

    /// Has the last descriptor of a session's workspace closed.
    pub fn close(&mut self, session: SessionId, root: OwnedFd) -> Result<(), PacketError> {
        self.waiting.push_back((session, root));
        self.hand_over()
    }

    /// The next session whose workspace is gone. Call it when there is something to read.
    pub fn closed(&mut self) -> Result<SessionId, PacketError> {
        let (session, _) = packet::receive(&self.socket)?;
        self.in_hand = self.in_hand.saturating_sub(1);
        self.hand_over()?;
        Ok(session)
    }

    fn hand_over(&mut self) -> Result<(), PacketError> {
        while self.in_hand < IN_HAND_MAX
            && let Some((session, root)) = self.waiting.pop_front()
        {
            packet::send(&self.socket, &session, &[root.as_fd()])?;
            drop(root);
            // Only from now on the other one is the last, and this process will not be the one that waits.
            packet::send(&self.socket, &GONE_HERE, &[])?;
            self.in_hand += 1;
        }
        Ok(())
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
    let turn = Mutex::new(());
    thread::scope(|scope| {
        for _ in 1..AT_ONCE {
            // Without it, or with fewer, what comes waits for its turn.
            let _fewer = thread::Builder::new().spawn_scoped(scope, || close_what_comes(&turn));
        }
        close_what_comes(&turn)
    })
}

fn close_what_comes(turn: &Mutex<()>) -> Result<(), PacketError> {
    let socket = io::stdin();
    loop {
        let received = {
            let _turn = turn.lock();
            packet::receive::<SessionId>(&socket)
                .and_then(|(session, roots)| Ok((session, roots, packet::receive::<()>(&socket)?)))
        };
        match received {
            Ok((session, roots, _)) => {
                drop(roots);
                packet::send(&socket, &session, &[])?;
            }
            Err(PacketError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
