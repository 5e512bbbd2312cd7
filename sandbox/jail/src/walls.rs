//! Which walls stand around a cell, as read back from the kernel from inside it.

use serde::{Deserialize, Serialize};

/// A wall: it stands (with what was read back), or it is absent (with why).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wall {
    /// It stands.
    Standing(String),
    /// It is not there; only walls that the operator named optional may be absent.
    Absent(String),
}

/// The walls of one cell, by name: `user_namespace`, `pid_namespace`, `mount_namespace`, `network_namespace`,
/// `ipc_namespace`, `uts_namespace`, `cgroup_namespace`, `root`, `capabilities`, `no_new_privileges`, `seccomp`,
/// `landlock`, `cgroup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls(pub Vec<(String, Wall)>);

impl Walls {
    /// Adds a wall.
    pub fn push(&mut self, name: &str, wall: Wall) {
        self.0.push((name.to_owned(), wall));
    }
}
