//! From nothing to a serving process, and back.
//!
//! ```text
//! root:  directories, admin key ─► egress, warden (unless they answer) ─► listener ─► become `uid`, for good
//! uid:   runtime ─► ledger ─► sandbox ─► what was left is taken up ─► serve ─► drain ─► end
//! ```
//!
//! The first line is single-threaded. Nothing privileged is opened after it.

use crate::aside;
use crate::audit::Audit;
use crate::config::{Config, Secret};
use crate::http;
use crate::ledger::Ledger;
use crate::listen;
use crate::mcp;
use crate::service::{Parts, Sandbox, Service, now_us};
use crate::tenant::{Tenants, admin_key};
use crate::traces::Traces;
use anyhow::{Context as _, bail};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long a process of our own may take until it answers: the warden reads all images first, from a disk that may be slow.
const BEGIN_MAX: Duration = Duration::from_secs(120);
/// How long it may take to end.
const END_MAX: Duration = Duration::from_secs(20);
/// Descriptors: some of every cell, one of every connection.
const DESCRIPTORS: u64 = 65_536;
/// Whoever collects numbers needs one or two.
const ADMIN_CONNECTIONS_MAX: usize = 16;
/// The host's last choice when memory ends.
const OOM_SCORE_ADJ: &str = "-500";
const WARDEN: &str = "anchorhold-warden";

/// What the privileged part leaves to the rest.
struct Ready {
    listener: TcpListener,
    admin: Option<TcpListener>,
    preview: Option<TcpListener>,
    socket: PathBuf,
    /// The warden is ours: it ends with us, and egress with it.
    own: Vec<Own>,
    key: Secret,
}

/// A process that serves nobody but us: the warden, egress.
#[derive(Debug)]
struct Own {
    socket: PathBuf,
    /// The process, unless an earlier life of ours started it.
    child: Option<Child>,
}

impl Own {
    /// One that outlived an earlier life of ours, or a new one.
    fn at(socket: PathBuf, command: impl FnOnce(&Path) -> Command) -> anyhow::Result<Self> {
        let child = if answers(&socket) { None } else { Some(start(command(&socket), &socket)?) };
        Ok(Self { socket, child })
    }

    /// Waits until it has cleaned up and ended, for a while.
    async fn gone(mut self) {
        let end = Instant::now() + END_MAX;
        // It removes its socket last. Being root's, it cannot be signalled from here; the warden was told through the
        // sandbox, and tells egress.
        let left = |child: &mut Option<Child>, socket: &Path| match child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => socket.exists(),
        };
        while left(&mut self.child, &self.socket) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Serves until a signal says stop.
pub fn serve(config: Config, warden: Option<PathBuf>) -> anyhow::Result<()> {
    let root = nix::unistd::geteuid().is_root();
    if !root && warden.is_none() {
        bail!("started without root, it needs the socket of a running warden: --warden SOCKET");
    }
    let ready = prepare(&config, warden, root)?;
    if root {
        become_unprivileged(config.uid).context("cannot become unprivileged")?;
    }
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(config, ready))
}

/// Everything that needs root, where it is root: directories, key, limits, warden, listener.
fn prepare(config: &Config, warden: Option<PathBuf>, root: bool) -> anyhow::Result<Ready> {
    // The warden inherits it. A container's root may not be allowed to: then cells, which raise theirs, still go first.
    let _allowed = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let data = &config.data_dir;
    // The directory stays root's: what the service could replace in it, it could make the next root follow.
    directory(data, 0o755)?;
    let ledger = data.join("ledger");
    directory(&ledger, 0o700)?;
    let audit = data.join("audit");
    directory(&audit, 0o700)?;
    let key_path = data.join("admin.key");
    let key = admin_key(&key_path).with_context(|| format!("key file {}", key_path.display()))?;
    if root {
        own(&ledger, config.uid)?;
        own(&audit, config.uid)?;
        own(&key_path, config.uid)?;
    }
    raise_limits()?;
    let (socket, own) = match warden {
        Some(socket) => (socket, Vec::new()),
        None => {
            let own = own_processes(config)?;
            (own[0].socket.clone(), own.into())
        }
    };
    let admin = config.admin_listen.map(bind).transpose()?;
    let preview = config.preview.as_ref().map(|preview| bind(preview.listen)).transpose()?;
    Ok(Ready { listener: bind(config.listen)?, admin, preview, socket, own, key })
}

/// Our own warden, and egress for it.
fn own_processes(config: &Config) -> anyhow::Result<[Own; 2]> {
    let run = config.data_dir.join("run");
    directory(&run, 0o755)?;
    let egress = Own::at(run.join("egress.sock"), |socket| egress_command(config, socket))?;
    let warden = Own::at(run.join("warden.sock"), |socket| warden_command(config, socket, &egress.socket))?;
    Ok([warden, egress])
}

fn directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Gives a directory or file to the service; no link is followed.
fn own(path: &Path, uid: u32) -> anyhow::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))
        .with_context(|| format!("cannot give {} to uid {uid}", path.display()))
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Enough descriptors, as far as this system lets root have them; and no core files: there are keys in memory.
pub(crate) fn raise_limits() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // In a container root may not be allowed to raise its hard limit: then that one is all there is.
    if hard >= DESCRIPTORS || setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS), hard)?;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Whether somebody takes connections at this socket.
fn answers(socket: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let Ok(address) = SocketAddrUnix::new(socket) else { return false };
    // Without waiting: egress takes one connection after the other, and those who only look queue up meanwhile.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .and_then(|descriptor| connect(&descriptor, &address));
    // A queue that is full is somebody's.
    matches!(connected, Ok(()) | Err(rustix::io::Errno::AGAIN))
}

fn warden_command(config: &Config, socket: &Path, egress: &Path) -> Command {
    let mut command = Command::new(warden_program());
    command.arg("--socket").arg(socket);
    command.arg("--data-dir").arg(config.data_dir.join("warden"));
    command.arg("--image-dir").arg(&config.image_dir);
    command.arg("--client-uid").arg(config.uid.to_string());
    command.arg("--egress").arg(egress);
    command.args(config.file.iter().flat_map(|file| ["--config".as_ref(), file.as_os_str()]));
    command
}

fn egress_command(config: &Config, socket: &Path) -> Command {
    // Whatever became of the file meanwhile: the same program.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("anchorhold").args(["egress", "--with-warden", "--socket"]).arg(socket);
    command.args(config.file.iter().flat_map(|file| ["--config".as_ref(), file.as_os_str()]));
    command
}

/// Starts a process of our own, and waits until it answers.
fn start(mut command: Command, socket: &Path) -> anyhow::Result<Child> {
    // A group of its own: what is sent to ours (Ctrl-C) is not for it.
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let begun = Instant::now();
    while !answers(socket) {
        if let Some(status) = child.try_wait()? {
            bail!("the process for {} ended before it answered ({status})", socket.display());
        }
        if begun.elapsed() > BEGIN_MAX {
            // It must not come up later, when nobody waits for it.
            child.kill()?;
            child.wait()?;
            bail!("nobody answers at {}", socket.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// Beside this program, or wherever `$PATH` finds it.
pub fn warden_program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(WARDEN)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| WARDEN.into())
}

/// For good: another uid, no groups, no capabilities, none to be had again.
pub(crate) fn become_unprivileged(uid: u32) -> anyhow::Result<()> {
    use caps::{CapSet, Capability};
    let (user, group) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(uid));
    for capability in caps::read(None, CapSet::Bounding)? {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(user, user, user)?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    let left: Vec<Capability> = caps::read(None, CapSet::Permitted)?.into_iter().collect();
    if !left.is_empty() || nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_ok() {
        bail!("privileges are left");
    }
    Ok(())
}

/// One service per data directory, as long as the file is open. As the service: the directory is its own.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!("another anchorhold uses {}", directory.display()),
        Err(fs::TryLockError::Error(error)) => Err(error).context("cannot lock the data directory"),
    }
}

async fn run(config: Config, ready: Ready) -> anyhow::Result<()> {
    aside::start();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let directory = config.data_dir.join("ledger");
    let _lock = lock(&directory)?;
    let audit = Audit::start(&config.data_dir.join("audit"), config.audit).context("audit log")?;
    let ledger = Ledger::open(&directory, config.ledger_sync).await?;
    let ledger = ledger.with_long_outputs_max(config.session.keep_output_bytes);
    let tenants = Tenants::load(&ledger, config.tenants, &ready.key, config.key.as_ref(), now_us()).await?;
    let (sandbox, events) = Sandbox::connect(&ready.socket).await.context("the warden does not take us")?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let traces = config.traces.as_deref().map_or(Ok(Traces::default()), Traces::to)?;
    let service = Service::start(Parts {
        ledger,
        tenants,
        sandbox: sandbox.clone(),
        events,
        policy: config.session.clone(),
        prices: config.prices.clone(),
        audit: audit.clone(),
        traces: traces.clone(),
        boot_id,
    })
    .await?;

    let (stop, stopped) = watch::channel(false);
    let listener = tokio::net::TcpListener::from_std(ready.listener)?;
    let address = listener.local_addr()?;
    let mcp = mcp::Endpoint::new(service.clone(), audit.clone(), &config.mcp);
    let names = http::names::Names::new(&config.mcp);
    let mut previews = None;
    if let (Some(listener), Some(policy)) = (ready.preview, &config.preview) {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let at = http::preview::Previews::new(policy, listener.local_addr()?.port());
        let router = http::preview::router(service.clone(), at.clone());
        tokio::spawn(listen::serve(listener, router, config.connections_max, stopped.clone()));
        previews = Some(at);
    }
    let router = http::router(service.clone(), audit.clone(), mcp.clone(), names, previews);
    let door = tokio::spawn(listen::serve(listener, router, config.connections_max, stopped.clone()));
    if let Some(admin) = ready.admin {
        let listener = tokio::net::TcpListener::from_std(admin)?;
        let router = http::admin_router(service.clone());
        tokio::spawn(listen::serve(listener, router, ADMIN_CONNECTIONS_MAX, stopped));
    }
    say_ready(&config, address);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    // The door stays open meanwhile: who asks for new work is told.
    service.drain(config.drain).await;
    mcp.close();
    stop.send_replace(true);
    door.await?;
    audit.close();
    tokio::task::spawn_blocking(move || traces.close()).await?;
    if !ready.own.is_empty() {
        sandbox.shut_down_warden().await;
    }
    for own in ready.own {
        own.gone().await;
    }
    Ok(())
}

fn say_ready(config: &Config, address: SocketAddr) {
    let key = config.data_dir.join("admin.key");
    // To standard output, for people and for programs that wait for it; a closed one is no reason to stop.
    let line = format!("anchorhold is ready on http://{address} (key: {})\n", key.display());
    let _closed = io::Write::write_all(&mut io::stdout().lock(), line.as_bytes());
}
