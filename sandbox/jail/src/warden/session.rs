//! A session as the warden sees it: what its cells share and what outlives each of them.

use super::uids::UidPair;
use crate::control::{Boottime, Cause, CellLimits};
use crate::egress::Network;
use crate::id::{CellId, GroupId, SessionId};
use crate::workspace::Workspace;
use std::collections::HashSet;
use std::os::fd::OwnedFd;

/// Namespaces that all native cells of a session are in, so that its programs reach each other's servers at `localhost`.
/// Held open: they stay when the cell that they were made with has ended.
#[derive(Debug)]
pub struct Namespaces {
    /// Of users.
    pub user: OwnedFd,
    /// Of the network.
    pub network: OwnedFd,
}

/// Where native cells of a session are born.
#[derive(Debug, Default)]
pub enum Home {
    /// The next one brings namespaces of its own.
    #[default]
    None,
    /// This one does, and is not complete yet: the others wait for it.
    Making(CellId),
    /// In these.
    Made(Namespaces),
}

/// Whose a session's processes are on this host, and its files.
#[derive(Debug)]
pub struct Estate {
    /// Its user ids.
    pub uids: UidPair,
    /// Its workspace.
    pub workspace: Workspace,
}

/// What a session has of that.
#[derive(Debug)]
pub enum Holding {
    /// Nothing: no cell was committed to it yet.
    Nothing,
    /// All of it.
    Held(Estate),
    /// Its workspace is being given back; the ids are kept for as long.
    Closing(UidPair),
}

impl Holding {
    /// All of it, if it is there.
    pub fn held(&self) -> Option<&Estate> {
        match self {
            Self::Held(estate) => Some(estate),
            Self::Nothing | Self::Closing(_) => None,
        }
    }
}

/// What a session owns.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Its group.
    pub group: GroupId,
    /// Its limits.
    pub limits: CellLimits,
    /// What it may reach, as it was said last.
    pub network: Network,
    /// Where its native cells are born.
    pub home: Home,
    /// Its user ids and files.
    pub holding: Holding,
    /// Its live cells.
    pub cells: HashSet<CellId>,
    /// When it ends by itself.
    pub expires_at: Boottime,
    /// Set when it takes no more cells; why.
    pub ending: Option<Cause>,
}
