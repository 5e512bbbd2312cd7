//! Closes the last descriptors of workspaces, which the warden must not wait for: with each of them a mount goes, and the
//! kernel comes back only when no processor can see it any more, which on a busy machine takes tens of milliseconds
//! (`namespace_unlock` in its `fs/namespace.c`).
//!
//! It is a process of its own and not a thread, because the warden forks.

use crate::id::SessionId;
use crate::packet::{self, PacketError};
use crate::workspace::{self, Workspace, Workspaces};
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

/// What is said first, with the vault where there is one.
const BEGIN: () = ();
/// What follows descriptors when the warden has them no more.
const GONE_HERE: () = ();

/// The process, as the warden sees it. It ends with this.
#[derive(Debug)]
pub struct Closer {
    socket: OwnedFd,
    process: Child,
    waiting: VecDeque<(SessionId, Vec<OwnedFd>)>,
    in_hand: usize,
}

impl Closer {
    /// Starts it.
    pub fn start(workspaces: &Workspaces) -> io::Result<Self> {
        let (ours, theirs) = packet::pair()?;
        packet::send(&ours, &BEGIN, workspaces.vault().as_slice()).map_err(io::Error::other)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(VERB).env_clear().stdin(theirs).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Self { socket: ours, process: command.spawn()?, waiting: VecDeque::new(), in_hand: 0 })
    }

    /// Has a session's workspace closed: its last descriptors, or what is left of it where an earlier process had those.
    pub fn close(&mut self, session: SessionId, workspace: Option<Workspace>) -> Result<(), PacketError> {
        self.waiting.push_back((session, workspace.map(Workspace::into_descriptors).unwrap_or_default()));
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
            && let Some((session, held)) = self.waiting.pop_front()
        {
            let descriptors: Vec<_> = held.iter().map(AsFd::as_fd).collect();
            packet::send(&self.socket, &session, &descriptors)?;
            drop(held);
            // Only from now on the others are the last, and this process will not be the one that waits.
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
    let ((), vault) = packet::receive(io::stdin())?;
    let vault = vault.first();
    vault.map(workspace::enter_vault).transpose().map_err(PacketError::Io)?;
    let is_kept = vault.is_some();
    let turn = Mutex::new(());
    thread::scope(|scope| {
        for _ in 1..AT_ONCE {
            // Without it, or with fewer, what comes waits for its turn.
            let _fewer = thread::Builder::new().spawn_scoped(scope, || close_what_comes(&turn, is_kept));
        }
        close_what_comes(&turn, is_kept)
    })
}

/// `is_kept`: in a vault, too.
fn close_what_comes(turn: &Mutex<()>, is_kept: bool) -> Result<(), PacketError> {
    let socket = io::stdin();
    loop {
        let received = {
            let _turn = turn.lock();
            packet::receive::<SessionId>(&socket)
                .and_then(|(session, held)| Ok((session, held, packet::receive::<()>(&socket)?)))
        };
        match received {
            Ok((session, held, _)) => {
                if is_kept {
                    workspace::take_down(session);
                }
                drop(held);
                packet::send(&socket, &session, &[])?;
            }
            Err(PacketError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
