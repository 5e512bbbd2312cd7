//! The warden's own configuration: ceilings that no request can exceed. Read from the root-owned file and root's
//! environment, never from the API.

use crate::settings::{Settings, SettingsError};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Where the API connects.
    pub socket: PathBuf,
    /// Where the image store is.
    pub image_dir: PathBuf,
    /// The only user, besides root, that may connect.
    pub client_uid: u32,
    /// Where egress listens, if there is one.
    pub egress: Option<PathBuf>,
    /// Tells instances on one host apart: names the cgroup where the configuration does not.
    pub instance: String,
}

/// `[warden]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WardenConfig {
    /// Our cgroup's name in every hierarchy; default `anchorhold-<instance>`.
    pub cgroup: Option<String>,
    /// First host user id for sessions.
    pub uid_base: u32,
    /// How many; each session uses two.
    pub uid_count: u32,
    /// Host user id of zygotes.
    pub zygote_uid: u32,
    /// Most cells alive, pool included.
    pub cells_max: usize,
    /// Cap of everything together, in bytes; default 80 % of the machine.
    pub memory_bytes: Option<u64>,
    /// Largest memory of a session, in bytes.
    pub session_memory_bytes_max: u64,
    /// Largest workspace, in bytes.
    pub session_disk_bytes_max: u64,
    /// Most CPU of a session, in thousandths of a processor.
    pub session_cpu_millicores_max: u32,
    /// Most tasks of a session.
    pub session_processes_max: u32,
    /// How long cells live without an API, in seconds.
    pub orphan_grace_seconds: u64,
    /// Refuse cells on kernels without Landlock.
    pub require_landlock: bool,
    /// The program of cells; default `anchorhold-cell` beside the warden.
    pub cell_program: Option<PathBuf>,
}

impl Default for WardenConfig {
    fn default() -> Self {
        Self {
            cgroup: None,
            uid_base: 1_000_000_000,
            uid_count: 65_536,
            zygote_uid: 59_001,
            cells_max: 2_000,
            memory_bytes: None,
            session_memory_bytes_max: 16 << 30,
            session_disk_bytes_max: 8 << 30,
            session_cpu_millicores_max: 64_000,
            session_processes_max: 4_096,
            orphan_grace_seconds: 600,
            require_landlock: false,
            cell_program: None,
        }
    }
}

/// `[pool]`: how many prepared cells wait for sessions, per image.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Of each wasm image.
    pub wasm: usize,
    /// Of the files class.
    pub files: usize,
    /// Of each browser image.
    pub browser: usize,
    /// Of each image of native cells. With 0 even their zygote, whose start takes seconds and some hundred megabytes of
    /// memory, is started only for the first session that wants one.
    pub native: usize,
    /// Of these, beside the others, with a Node that runs already, for sessions that begin with JavaScript and have no
    /// environment of their own; none with `native = 0`. Each has some 10 MB that it shares with nobody.
    pub node: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { wasm: 8, files: 2, browser: 1, native: 2, node: 1 }
    }
}

/// Everything, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// From the command line.
    pub arguments: Arguments,
    /// `[warden]`.
    pub warden: WardenConfig,
    /// `[pool]`.
    pub pool: PoolConfig,
}

impl Config {
    /// Reads the file and the environment.
    pub fn read(arguments: Arguments, file: Option<&Path>) -> Result<Self, SettingsError> {
        let settings = Settings::read(file)?;
        Ok(Self { arguments, warden: settings.section("warden")?, pool: settings.section("pool")? })
    }

    /// Our cgroup's name.
    pub fn cgroup(&self) -> String {
        self.warden.cgroup.clone().unwrap_or_else(|| format!("anchorhold-{}", self.arguments.instance))
    }

    /// Cap of everything together, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.warden.memory_bytes.unwrap_or_else(|| {
            let info = rustix::system::sysinfo();
            let total = info.totalram.saturating_mul(u64::from(info.mem_unit));
            total / 10 * 8
        })
    }

    /// The program of cells.
    pub fn cell_program(&self) -> PathBuf {
        self.warden.cell_program.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("anchorhold-cell")
        })
    }
}
