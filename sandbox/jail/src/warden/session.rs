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

/// What a session owns.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Its group.
    pub group: GroupId,
    /// Its limits.
    pub limits: CellLimits,
    /// Its user ids.
    pub uids: UidPair,
    /// What it may reach, as it was said last.
    pub network: Network,
    /// Where its native cells are born.
    pub home: Home,
    /// Its workspace; `None` when it is being given back.
    pub workspace: Option<Workspace>,
    /// Its live cells.
    pub cells: HashSet<CellId>,
    /// When it ends by itself.
    pub expires_at: Boottime,
    /// Set when it takes no more cells; why.
    pub ending: Option<Cause>,
}
