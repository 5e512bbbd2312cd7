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
    for (path, bad, name) in [
        ("/proc/sys/fs/protected_symlinks", "0", "protected_symlinks"),
        ("/proc/sys/kernel/kptr_restrict", "0", "kptr_restrict"),
        ("/proc/sys/kernel/unprivileged_bpf_disabled", "0", "unprivileged_bpf_disabled"),
    ] {
        let value = std::fs::read_to_string(path).unwrap_or_default();
        findings.push(Finding::advice(name, value.trim() != bad, format!("{path} is {}", value.trim())));
    }
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
