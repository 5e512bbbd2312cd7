//! Makes a named step fail, so that tests can show that a missing wall refuses the cell.
//!
//! The name comes from `ANCHORHOLD_FAULT` in the warden's environment, which only root sets. A fault can only make
//! something fail that would have worked: it opens nothing.
//!
//! Three steps refuse no cell: `workspace_detached` and `workspace_lending` are what older kernels cannot do, and are done in
//! another way where they fail; without `node_ahead` no Node waits for a session.

use nix::errno::Errno;
use std::sync::OnceLock;

/// The variable that names the step.
pub const VARIABLE: &str = "ANCHORHOLD_FAULT";

static STEP: OnceLock<Option<String>> = OnceLock::new();

/// Every step that all cells have.
pub const STEPS: &[&str] = &[
    "zygote_namespaces",
    "zygote_root",
    "zygote_user",
    "fork",
    "workspace",
    "session_cgroup",
    "cell_cgroup",
    "user_map",
    "user",
    "capabilities",
    "no_new_privileges",
    "landlock",
    "seccomp",
    "readback",
];

/// The steps of cells that run programs. One that is a terminal's has the step `terminal`, too.
pub const PROGRAM_STEPS: &[&str] = &["listener", "namespaces", "mounts", "program"];

/// The step that native cells have besides: pid 1, made in its zygote's memory, leaves that for a program of its own.
pub const NATIVE_STEPS: &[&str] = &["first_program"];

/// The steps that browsers' cells have besides: after they were taken.
pub const BROWSER_STEPS: &[&str] = &["workspace_idmap", "workspace_mount"];

/// `EIO` when this step was told to fail.
pub fn step(name: &str) -> Result<(), Errno> {
    match STEP.get_or_init(|| std::env::var(VARIABLE).ok()) {
        Some(step) if step == name => Err(Errno::EIO),
        _ => Ok(()),
    }
}
