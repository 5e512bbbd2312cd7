//! Which walls this host can build: not from what the kernel says of itself, but from a real cell built here.

use super::config::Config;
use super::keeper;
use crate::cgroup::Layout;
use crate::control::{Boottime, CellLimits, FromWarden, Interpreter, Take, ToWarden, VERSION, Window};
use crate::egress::Network;
use crate::id::{GroupId, SessionId};
use crate::packet;
use crate::walls::Wall;
use crate::workspace::Workspaces;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the cell may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub standing: bool,
    /// Without it no cell is built.
    pub required: bool,
    /// What was seen.
    pub detail: String,
}

impl Finding {
    fn required(name: &str, outcome: Result<String, String>) -> Self {
        let standing = outcome.is_ok();
        Self { name: name.to_owned(), standing, required: true, detail: outcome.unwrap_or_else(|e| e) }
    }

    fn advice(name: &str, standing: bool, detail: String) -> Self {
        Self { name: name.to_owned(), standing, required: false, detail }
    }
}

/// A setting of the kernel that some hosts have otherwise than it should be.
struct Setting {
    path: &'static str,
    bad: &'static str,
    /// What it then does.
    so: &'static str,
}

const NO_CELLS: &str = "cells cannot get user namespaces";

const SETTINGS: [Setting; 6] = [
    Setting { path: "fs/protected_symlinks", bad: "0", so: "links in shared directories are followed" },
    Setting { path: "kernel/kptr_restrict", bad: "0", so: "addresses of the kernel can be read" },
    Setting { path: "kernel/unprivileged_bpf_disabled", bad: "0", so: "everybody on this host may load BPF" },
    // Ubuntu's, since 23.10.
    Setting { path: "kernel/apparmor_restrict_unprivileged_userns", bad: "1", so: NO_CELLS },
    // Debian's.
    Setting { path: "kernel/unprivileged_userns_clone", bad: "0", so: NO_CELLS },
    Setting { path: "user/max_user_namespaces", bad: "0", so: NO_CELLS },
];

impl Setting {
    /// Nothing where the kernel does not have it.
    fn look(&self) -> Option<Finding> {
        let Self { path, bad, so } = self;
        let name = path.split_once('/')?.1;
        let path = format!("/proc/sys/{path}");
        let value = std::fs::read_to_string(&path).ok()?;
        let value = value.trim();
        let standing = value != *bad;
        let detail = if standing { format!("{path} is {value}") } else { format!("{path} is {value}: {so}") };
        Some(Finding::advice(name, standing, detail))
    }
}

/// Looks at the host and builds one cell in it.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        Finding::required("kernel", kernel()),
        Finding::required(
            "root",
            nix::unistd::geteuid().is_root().then(|| "yes".into()).ok_or("must run as root".into()),
        ),
        Finding::required("cgroups", Layout::probe().map(|l| l.name().to_owned()).map_err(|e| e.to_string())),
    ];
    findings.extend(SETTINGS.iter().filter_map(Setting::look));
    if findings.iter().all(|f| f.standing || !f.required) {
        findings.extend(workspaces());
        match cell(config) {
            Ok(walls) => findings.extend(walls),
            Err(error) => findings.push(Finding::required("cell", Err(error))),
        }
    }
    findings
}

/// What the kernel cannot do with workspaces, and what is done instead.
fn workspaces() -> [Finding; 2] {
    match Workspaces::probe() {
        Err(error) => {
            let why = error.to_string();
            ["workspaces", "browsers"].map(|name| Finding::required(name, Err(why.clone())))
        }
        Ok(workspaces) => {
            let detached = workspaces.vault().is_none();
            let lends = workspaces.can_lend();
            let how = if detached {
                "mounted nowhere"
            } else {
                "mounted where no cell comes: Linux before 6.15 needs that"
            };
            let when = if lends {
                "can be ready before they are asked for"
            } else {
                "start when they are asked for: Linux before 6.3 cannot lend them a workspace"
            };
            [Finding::advice("workspaces", true, how.into()), Finding::advice("browsers", lends, when.into())]
        }
    }
}

/// Linux 5.15 is the floor.
fn kernel() -> Result<String, String> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 15) { Ok(release) } else { Err(format!("{release} is older than 5.15")) }
}

/// Starts a warden of its own, takes a files cell from it, and says which walls that has.
fn cell(config: &Config) -> Result<Vec<Finding>, String> {
    let mut config = config.clone();
    let nonce = SessionId::random();
    config.arguments.socket = std::env::temp_dir().join(format!("anchorhold-doctor-{nonce}.sock"));
    config.warden.cgroup = Some(format!("anchorhold-doctor-{nonce}"));
    config.arguments.client_uid = 0;
    let socket = config.arguments.socket.clone();
    let keeper = spawn_keeper(config)?;
    let outcome = connect(&socket).and_then(|warden| converse(&warden));
    // It ends by the Shutdown of the conversation; when that failed, by this.
    let _ended = nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGTERM);
    nix::sys::wait::waitpid(keeper, None).map_err(|e| e.to_string())?;
    outcome
}

#[expect(unsafe_code, reason = "fork")]
fn spawn_keeper(config: Config) -> Result<nix::unistd::Pid, String> {
    // SAFETY: the doctor has one thread.
    match unsafe { nix::unistd::fork() }.map_err(|e| e.to_string())? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let code = i32::from(keeper::run(&config).is_err());
            #[expect(clippy::exit, reason = "the child must not return into the doctor")]
            std::process::exit(code)
        }
    }
}

fn connect(path: &std::path::Path) -> Result<OwnedFd, String> {
    let address = SocketAddrUnix::new(path).map_err(|e| e.to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(|e| e.to_string())?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(error) if Instant::now() > end => {
                return Err(format!("the warden does not come up: {error}"));
            }
            Err(_not_yet) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn converse(warden: &OwnedFd) -> Result<Vec<Finding>, String> {
    let text = |e: packet::PacketError| e.to_string();
    let limits =
        CellLimits { cpu_millicores: 1000, memory_bytes: 64 << 20, disk_bytes: 1 << 20, processes: 8 };
    let take = Take {
        tag: 1,
        session: SessionId::random(),
        group: GroupId::random(),
        image: None,
        interpreter: Interpreter::Own,
        limits,
        env: vec![],
        network: Network::None,
        window: Window::default(),
        expires_at: Boottime::now().plus_us(60_000_000),
    };
    packet::send(warden, &ToWarden::Hello { version: VERSION }, &[]).map_err(text)?;
    packet::send(warden, &ToWarden::Take(take), &[]).map_err(text)?;
    loop {
        let (message, _descriptors) = packet::receive::<FromWarden>(warden).map_err(text)?;
        let findings = match message {
            FromWarden::Taken { walls, .. } => Ok(walls.0.into_iter().map(finding).collect()),
            FromWarden::Refused { why, .. } => Err(why.to_string()),
            _ => continue,
        };
        packet::send(warden, &ToWarden::Shutdown, &[]).map_err(text)?;
        return findings;
    }
}

fn finding((name, wall): (String, Wall)) -> Finding {
    match wall {
        Wall::Standing(detail) => Finding { name, standing: true, required: true, detail },
        Wall::Absent(detail) => Finding { name, standing: false, required: false, detail },
    }
}
