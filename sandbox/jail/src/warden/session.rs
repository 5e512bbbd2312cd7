//! A session as the warden sees it: what its cells share and what outlives each of them.

use super::uids::UidPair;
use crate::control::{Boottime, Cause, CellLimits};
use crate::egress::Network;
use crate::id::{CellId, GroupId, SessionId};
use std::collections::HashSet;
use std::os::fd::OwnedFd;

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
    /// The root of its workspace.
    pub workspace: OwnedFd,
    /// Its live cells.
    pub cells: HashSet<CellId>,
    /// When it ends by itself.
    pub expires_at: Boottime,
    /// Set when it takes no more cells; why.
    pub ending: Option<Cause>,
}
