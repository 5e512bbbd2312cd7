//! A cell as the warden sees it.
//!
//! ```text
//! Born ──Prepared──► Pooled ──take──► Committing ──Ready──► Live
//!   │                  │                  │                   │
//!   └──────────────────┴───── its pid 1 ends, or kill ────────┴──► (reaped, counted, removed)
//! ```
//! There is no way back: a cell that was committed is never pooled again.

use super::egress::{Outlet, Outlets};
use super::session::Estate;
use super::uids::UidPair;
use super::zygotes::{Kind, Shelf, Unborn};
use crate::control::{Boottime, BrowserTime, Cause, CellInfo, Interpreter, Take};
use crate::counters::Counters;
use crate::id::{CellId, ExecutionId, GroupId, SessionId};
use crate::packet::Assembler;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Where a cell is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It exists; its pid 1 builds what can be built without a session.
    Born,
    /// It waits for a session.
    Pooled,
    /// A session took it; pid 1 locks itself. Until then the kernel's answer is awaited.
    Committing {
        /// Of the request.
        tag: u64,
        /// Since when.
        since: Boottime,
        /// When it is given up.
        until: Boottime,
    },
    /// The API has its hatch.
    Live,
}

/// What a session's cell has that a pooled one has not.
#[derive(Debug)]
pub struct Taken {
    /// Whose it is.
    pub session: SessionId,
    /// Its counters.
    pub counters: Counters,
    /// CPU before it was taken, in microseconds.
    pub cpu_base_us: u64,
    /// CPU when [`Self::cpu_since_us`] was asked last, in microseconds.
    pub seen_cpu_us: u64,
    /// Whether it was more than the time before.
    pub was_busy: bool,
}

impl Taken {
    /// CPU since this was asked last, in microseconds.
    pub fn cpu_since_us(&mut self) -> u64 {
        // Where its group is gone nothing runs in it.
        let now = self.counters.cpu_us().unwrap_or(self.seen_cpu_us);
        let since = now.saturating_sub(std::mem::replace(&mut self.seen_cpu_us, now));
        self.was_busy = since > 0;
        since
    }
}

/// Counts the time of a browser that is a session's.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    since: Boottime,
    frozen: Option<Boottime>,
    standby_us: u64,
}

impl Stopwatch {
    /// It begins to count.
    pub fn start(now: Boottime) -> Self {
        Self { since: now, frozen: None, standby_us: 0 }
    }

    /// Whether it stands since it was frozen.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// The browser is frozen.
    pub fn freeze(&mut self, now: Boottime) {
        self.frozen.get_or_insert(now);
    }

    /// It goes on.
    pub fn thaw(&mut self, now: Boottime) {
        if let Some(frozen) = self.frozen.take() {
            self.standby_us += now.since_us(frozen);
        }
    }

    /// What was counted until now.
    pub fn read(mut self, now: Boottime) -> BrowserTime {
        self.thaw(now);
        let all_us = now.since_us(self.since);
        BrowserTime { active_us: all_us.saturating_sub(self.standby_us), standby_us: self.standby_us }
    }
}

/// As whom a cell runs.
#[derive(Debug)]
pub enum User {
    /// As nobody yet: it becomes its session's user when it is taken.
    Nobody,
    /// As the user of its session, for which it was made.
    Session,
    /// As somebody of its own, before it has a session and afterwards.
    Own(UidPair),
    /// As somebody with files, which become those of the session that takes it.
    Ready(Estate),
}

/// A cell.
#[derive(Debug)]
pub struct Cell {
    /// Its name.
    pub id: CellId,
    /// What it was made of.
    pub kind: Kind,
    /// Where it is in its life.
    pub state: State,
    /// The outer end of its hatch.
    pub hatch: OwnedFd,
    /// Puts together what it says before it is live.
    pub assembler: Assembler,
    /// Whom it is for already, though it is not ready to be taken.
    pub reserved: Option<Box<Take>>,
    /// As whom it runs.
    pub user: User,
    /// What it runs already when it waits in a pool, where that is more than what all of its kind begin as.
    pub program: Option<Interpreter>,
    /// The session that holds it, and whose groups it may be in: set before the first step towards them, so that it is
    /// cleaned up whichever of them fails.
    pub place: Option<(GroupId, SessionId)>,
    /// Set when a session took it.
    pub taken: Option<Taken>,
    /// When it is killed, and on which execution's account.
    pub deadline: Option<(Boottime, ExecutionId)>,
    /// Its way out, if it has a network.
    pub outlet: Option<Outlet>,
    /// Of a browser that was handed over.
    pub stopwatch: Option<Stopwatch>,
    /// Why it is being ended, once something decided so.
    pub cause: Option<Cause>,
    pidfd: OwnedFd,
    pid: Pid,
}

impl Cell {
    /// A new one.
    pub fn new(unborn: Unborn, kind: Kind, pidfd: OwnedFd) -> io::Result<Self> {
        let pid = pid_of(&pidfd)?;
        let Unborn { cell: id, hatch, reserved, program } = unborn;
        Ok(Self {
            id,
            kind,
            state: State::Born,
            hatch,
            user: if reserved.is_some() { User::Session } else { User::Nobody },
            reserved,
            program,
            assembler: Assembler::default(),
            place: None,
            taken: None,
            deadline: None,
            outlet: None,
            stopwatch: None,
            cause: None,
            pidfd,
            pid,
        })
    }

    /// The pool that it is for, when it is for one.
    pub fn shelf(&self) -> Shelf {
        Shelf { kind: self.kind, program: self.program }
    }

    /// Whether it was made for one session.
    pub fn is_ordered(&self) -> bool {
        matches!(self.user, User::Session)
    }

    /// The number of its pid 1 on the host. Not reused while the warden has not reaped it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when pid 1 ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Kills pid 1, and with it everything in its pid namespace. The first cause stands.
    pub fn kill(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        // Fails only when it has ended already.
        let _ended = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Takes the zombie off the kernel's hands. Call it when [`Self::pidfd`] is readable.
    pub fn reap(&self) {
        let id = WaitId::PidFd(self.pidfd.as_fd());
        // It is our child (CLONE_PARENT) and has ended, so there is nothing else that waiting could say.
        let _status = rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }

    /// What the API is told of it.
    pub fn info(&self) -> Option<CellInfo> {
        let taken = self.taken.as_ref()?;
        Some(CellInfo {
            cell: self.id,
            session: taken.session,
            class: self.kind.class,
            image: self.kind.image,
            cpu_base_us: taken.cpu_base_us,
        })
    }

    /// Copies of the hatch and the counters for the API; of what its outlet carries it may read only.
    pub fn descriptors(&self, outlets: &Outlets) -> io::Result<Vec<OwnedFd>> {
        let mut descriptors = vec![self.hatch.try_clone()?];
        if let Some(taken) = &self.taken {
            for file in taken.counters.descriptors() {
                descriptors.push(file.as_fd().try_clone_to_owned()?);
            }
        }
        if let Some(outlet) = &self.outlet {
            descriptors.push(outlets.reader(outlet)?);
        }
        Ok(descriptors)
    }
}

/// The process behind a pidfd, from its fdinfo: proc_pid_fdinfo(5).
fn pid_of(pidfd: &OwnedFd) -> io::Result<Pid> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    number.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("the process has ended"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_microsecond_is_active_or_standby(steps in proptest::collection::vec((0u64..1000, any::<bool>()), 0..50)) {
            let mut now = Boottime(1_000);
            let mut watch = Stopwatch::start(now);
            let (mut frozen, mut active_us, mut standby_us) = (false, 0, 0);
            for (us, freeze) in steps {
                now = now.plus_us(us);
                *(if frozen { &mut standby_us } else { &mut active_us }) += us;
                prop_assert_eq!(watch.read(now), BrowserTime { active_us, standby_us });
                if freeze { watch.freeze(now) } else { watch.thaw(now) }
                frozen = freeze;
                prop_assert_eq!(watch.is_frozen(), frozen);
            }
        }
    }
}
