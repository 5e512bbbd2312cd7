//! The process around the warden: starts it, and when it ends badly kills what it left and starts it again.
//!
//! The outcome of such an end is: every cell of that life is dead, their last counters become tombstones
//! ([`crate::control::Cause::WardenDied`]), their groups, mounts and descriptors are gone, and the socket never went
//! away.

use super::config::Config;
use super::images;
use super::{Warden, log, zygotes::OpenImage};
use crate::cgroup::{Layout, Remains, Tree};
use crate::dynmods::QuickMoves;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::PidfdFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A life that ended itself with an error within this time counts as a failed start …
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// … and after so many in a row the keeper gives up.
const FAILED_STARTS_MAX: u32 = 5;

/// Signals that end the warden, as a descriptor. They are blocked for this process and its children until exec.
pub fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Runs wardens until one ends well. Returns an error when they cannot be started.
pub fn run(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let images = images::open_all(&config.arguments.image_dir)?;
    let listener = listen(&config.arguments.socket, config.arguments.client_uid)?;
    let layout = Layout::probe()?;
    let quick = QuickMoves::begin(&layout).unwrap_or_else(|error| {
        log(&format!("cells are committed more slowly now and then: no favordynmods ({error})"));
        None
    });
    let outcome = keep(config, &images, &layout, &listener, quick.as_ref());
    quick.as_ref().map_or(Ok(()), QuickMoves::end)?;
    outcome?;
    std::fs::remove_file(&config.arguments.socket)?;
    Ok(())
}

fn keep(
    config: &Config,
    images: &[OpenImage],
    layout: &Layout,
    listener: &OwnedFd,
    quick: Option<&QuickMoves>,
) -> Result<(), Box<dyn std::error::Error>> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut remains = Tree::sweep(layout, &config.cgroup())?;
    let mut failed_starts = 0;
    loop {
        let start = Instant::now();
        let child = fork_warden(config, images, layout, listener, std::mem::take(&mut remains), quick)?;
        let status = wait_for(child)?;
        remains = Tree::sweep(layout, &config.cgroup())?;
        reap_left_overs();
        if matches!(status, WaitStatus::Exited(_, 0)) {
            return Ok(());
        }
        log(&format!("the warden ended ({status:?}); {} cells went with it", remains.len()));
        // One that was killed had begun well; one that says so itself and at once will say so again.
        let gave_up = matches!(status, WaitStatus::Exited(..)) && start.elapsed() < SHORT_LIFE;
        failed_starts = if gave_up { failed_starts + 1 } else { 0 };
        if failed_starts >= FAILED_STARTS_MAX {
            return Err("the warden does not stay up".into());
        }
    }
}

/// Binds the socket; only its client's user may connect (and root).
fn listen(path: &Path, client_uid: u32) -> io::Result<OwnedFd> {
    // One that is left from before: the data directory's lock tells that nobody serves it.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(path, Some(client_uid), None)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

#[expect(unsafe_code, reason = "fork")]
fn fork_warden(
    config: &Config,
    images: &[OpenImage],
    layout: &Layout,
    listener: &OwnedFd,
    remains: Vec<Remains>,
    quick: Option<&QuickMoves>,
) -> Result<Pid, Box<dyn std::error::Error>> {
    let images = images
        .iter()
        .map(|i| Ok(OpenImage { image: i.image.clone(), file: i.file.try_clone()? }))
        .collect::<io::Result<Vec<_>>>()?;
    let listener = listener.try_clone()?;
    let keeper = Pid::this();
    // SAFETY: this process has one thread, so the child may use everything as if it had made it itself.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let served = serve(config.clone(), images, layout.clone(), listener, remains);
            let orphaned = Pid::parent() != keeper;
            let undone = quick.filter(|_| orphaned).map_or(Ok(()), |q| q.end().map_err(Into::into));
            let code = match served.and(undone) {
                Ok(()) => 0,
                Err(error) => {
                    log(&error.to_string());
                    1
                }
            };
            #[expect(clippy::exit, reason = "the child must not return into the keeper's loop")]
            std::process::exit(code)
        }
    }
}

fn serve(
    config: Config,
    images: Vec<OpenImage>,
    layout: Layout,
    listener: OwnedFd,
    remains: Vec<Remains>,
) -> Result<(), Box<dyn std::error::Error>> {
    // Without its keeper nobody would clean up after it: then it ends in order.
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    Warden::new(config, images, layout, listener, remains)?.run()?;
    Ok(())
}

/// Waits for the warden; passes on what tells it to end.
fn wait_for(warden: Pid) -> Result<WaitStatus, Box<dyn std::error::Error>> {
    let signals = signals()?;
    let process = rustix::process::Pid::from_raw(warden.as_raw()).ok_or("no process")?;
    let ended = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    loop {
        let mut events = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut events, None) {
            Err(Errno::INTR) => continue,
            ready => ready?,
        };
        match waitpid(warden, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => {}
            status => return Ok(status),
        }
        if signals.read_signal()?.is_some() {
            nix::sys::signal::kill(warden, Signal::SIGTERM)?;
        }
    }
}

/// Cells and zygotes of a dead warden became ours.
fn reap_left_overs() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
