//! `anchorhold egress`: the only process with outbound network.
//!
//! ```text
//! root:  listener at the control socket ─► keeper: starts the process below, and starts it again when it dies
//! uid:   settings ─► give up everything ─► wait for the warden ─► serve the outlets that it hands over
//! ```
//!
//! What is decided, resolved, dialled and counted is [`anchorhold_egress`]'s; this is the process around it. It has no
//! files, no capabilities and no keys; what it serves came by descriptor from the warden and is kept there.

mod confine;
mod control;
mod settings;

use anchorhold_jail::egress::VERSION;
use anyhow::{Context as _, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

pub use settings::{EgressConfig, List};

/// A life that ended badly within this time counts as a failed start …
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// … and after so many in a row the keeper gives up.
const FAILED_STARTS_MAX: u32 = 5;
/// For lists of processes; the kernel cuts it after 15 bytes.
const NAME: &CStr = c"anchorhold-egress";

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Where the warden connects; made by the keeper.
    pub socket: PathBuf,
    /// The configuration file; belongs to root.
    pub config: Option<PathBuf>,
    /// End when the warden says that it ends.
    pub with_warden: bool,
}

/// Keeps an egress process until a signal says stop, or until it ends well.
///
/// # Errors
/// When it cannot listen, or the process does not stay up.
pub fn keep(arguments: &Arguments) -> anyhow::Result<()> {
    nix::sys::prctl::set_name(NAME)?;
    let listener = listen(&arguments.socket)
        .with_context(|| format!("cannot listen at {}", arguments.socket.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kept = runtime.block_on(keep_up(arguments, &listener));
    fs::remove_file(&arguments.socket)?;
    kept
}

/// Binds the control socket. Only its owner, who is root where there is a warden, may connect.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

async fn keep_up(arguments: &Arguments, listener: &OwnedFd) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut failed_starts = 0;
    loop {
        let begun = Instant::now();
        let mut child = start(arguments, listener)?;
        let status = tokio::select! {
            status = wait(&mut child) => status?,
            _ = terminate.recv() => return end(child),
            _ = interrupt.recv() => return end(child),
        };
        if status.success() {
            return Ok(());
        }
        tracing::error!(%status, "the egress process ended");
        let gave_up = status.code().is_some() && begun.elapsed() < SHORT_LIFE;
        failed_starts = if gave_up { failed_starts + 1 } else { 0 };
        if failed_starts >= FAILED_STARTS_MAX {
            bail!("the egress process does not stay up");
        }
    }
}

/// The same program again; the control socket is its standard input.
fn start(arguments: &Arguments, listener: &OwnedFd) -> anyhow::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("anchorhold").args(["egress", "--kept-by", &std::process::id().to_string()]);
    if arguments.with_warden {
        command.arg("--with-warden");
    }
    if let Some(config) = &arguments.config {
        command.arg("--config").arg(config);
    }
    command.stdin(Stdio::from(listener.try_clone()?));
    command.spawn().context("cannot start the egress process")
}

async fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let _ended = watched(pidfd)?.readable().await?;
    Ok(child.wait()?)
}

fn end(mut child: Child) -> anyhow::Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Waits for a descriptor with tokio.
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of types that lie about their descriptor; `OwnedFd` does not"
    )]
    AsyncFd::new(descriptor)
}

/// The process itself, child of its keeper. Its standard input is the control socket.
///
/// # Errors
/// When it cannot be confined, or the configuration makes no sense.
pub fn serve(config: Option<&Path>, with_warden: bool, keeper: i32) -> anyhow::Result<()> {
    nix::sys::prctl::set_name(NAME)?;
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    let config = EgressConfig::read(config)?;
    let settings = config.resolve()?;
    let egress = anchorhold_egress::Egress::new(settings)?;
    crate::serve::raise_limits()?;
    let restricted = confine::restrict(config.uid, keeper)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads.max(1))
        .enable_all()
        .build()?;
    // On all threads, now that they exist.
    restricted.seal()?;
    runtime.block_on(control::serve(listener, egress, with_warden))
}
