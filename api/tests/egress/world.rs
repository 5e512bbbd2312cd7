//! A host that `anchorhold egress` runs on, and cells: network namespaces of their own, with a process in each.
//!
//! The host has loopback alone, so that no packet leaves it; an echo on its loopback stands for the world, which the
//! operator opens by `allow_private`.

use anchorhold_jail::egress::{Decision, Network};
use anchorhold_jail::id::SessionId;
use anchorhold_jail::warden::egress::{Heard, Outlet, Outlets};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, PidfdFlags};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the echo is.
pub const ECHO: &str = "127.0.0.1:8081";
/// Where names are resolved.
const RESOLVER: &str = "127.0.0.1:5353";
/// Where a cell's proxy is, inside of it.
const PROXY: &str = "127.0.0.1:3128";
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test on a host of its own.
pub fn run(settings: &str, test: impl FnOnce(Host) + Send + 'static) {
    let settings = settings.to_owned();
    let thread = std::thread::spawn(move || {
        own_network();
        let echo = TcpListener::bind(ECHO).unwrap();
        std::thread::spawn(move || echo.incoming().for_each(|stream| echo_on(stream.unwrap())));
        let names = UdpSocket::bind(RESOLVER).unwrap();
        std::thread::spawn(move || resolve(&names));
        test(Host::start(&settings));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A namespace belongs to this thread from here on, and to all that it starts.
fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: they make network namespaces");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("these tests need iproute2").success());
}

/// A resolver for which every name has one address: this host's loopback.
fn resolve(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let question = &query[12..length];
        // Labels to the empty one, then the kind and the class: see RFC 1035 §4.1.2.
        let end = question.iter().position(|&byte| byte == 0).unwrap() + 5;
        let question = &question[..end];
        let is_v4 = question[end - 4..end - 2] == [0, 1];
        let counts = [0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0];
        let record: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1];
        let answer = [&query[..2], &counts, question, if is_v4 { record } else { &[] }].concat();
        socket.send_to(&answer, from).unwrap();
    }
}

fn echo_on(stream: TcpStream) {
    std::thread::spawn(move || {
        let mut back = stream.try_clone().unwrap();
        // Ends when either side does.
        let _ended = std::io::copy(&mut &stream, &mut back);
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    });
}

/// A machine with egress on it, and the warden's custody of outlets.
pub struct Host {
    pub keeper: Child,
    pub socket: PathBuf,
    pub outlets: Outlets,
    /// What was decided so far.
    pub decisions: Vec<(SessionId, Decision)>,
    _directory: tempfile::TempDir,
}

impl Host {
    fn start(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("anchorhold.toml");
        fs::write(&config, format!("[egress]\n{settings}\n")).unwrap();
        let socket = directory.path().join("egress.sock");
        let keeper = Command::new(env!("CARGO_BIN_EXE_anchorhold"))
            .args(["egress", "--with-warden", "--socket"])
            .arg(&socket)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let outlets = Outlets::new(Some(socket.clone()));
        Self { keeper, socket, outlets, decisions: Vec::new(), _directory: directory }
    }

    /// A session's cell with a way out.
    pub fn cell(&mut self, session: SessionId, hosts: &[&str]) -> (Cell, Outlet) {
        self.cell_with(session, Network::Allow(hosts.iter().map(|&host| host.into()).collect()))
    }

    /// A session's cell with what it asked for.
    pub fn cell_with(&mut self, session: SessionId, network: Network) -> (Cell, Outlet) {
        let (cell, listener) = Cell::start();
        let outlet = self.outlets.open(session, network, listener, cell.pidfd(), false).unwrap();
        self.tend_until("connected", |host| host.outlets.connection().is_some());
        (cell, outlet)
    }

    /// Does what a warden's loop does, until something is so.
    pub fn tend_until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        loop {
            self.outlets.tend();
            let heard = self.outlets.hear();
            self.decisions.extend(heard.into_iter().filter_map(|heard| match heard {
                Heard::Decided(session, decision) => Some((session, decision)),
                Heard::Wanted(..) => None,
            }));
            if is_so(self) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process that the keeper keeps, once it serves.
    pub fn process(&self) -> Pid {
        let keeper = self.keeper.id();
        let begun = Instant::now();
        loop {
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
            let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                return pid;
            }
            assert!(begun.elapsed() < PATIENCE, "the keeper has no process");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The rules of what was refused to a session so far, `-` for what was allowed.
    pub fn verdicts(&self, session: SessionId) -> Vec<&str> {
        let its = self.decisions.iter().filter(|(whose, _)| *whose == session);
        its.map(|(_, decision)| decision.rule.as_deref().unwrap_or("-")).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What it keeps ends with it. Both fail only when it is gone already.
        let _gone = self.keeper.kill();
        let _reaped = self.keeper.wait();
    }
}

/// A namespace with loopback alone, and a process that lives in it.
pub struct Cell {
    process: Child,
    network: File,
}

impl Cell {
    /// With the listening socket that was made inside.
    fn start() -> (Self, OwnedFd) {
        let made = std::thread::spawn(|| {
            own_network();
            let listener = TcpListener::bind(PROXY).unwrap();
            let process = Command::new("sleep").arg("600").spawn().unwrap();
            let network = File::open(format!("/proc/{}/ns/net", process.id())).unwrap();
            (Self { process, network }, listener.into())
        });
        made.join().unwrap()
    }

    fn pidfd(&self) -> OwnedFd {
        rustix::process::pidfd_open(Pid::from_child(&self.process), PidfdFlags::empty()).unwrap()
    }

    /// The end of everything in it.
    pub fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks for a tunnel from inside: its stream, or the refusal.
    pub fn tunnel(&self, target: &str) -> Result<TcpStream, String> {
        let network = self.network.try_clone().unwrap();
        let connect = move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            TcpStream::connect(PROXY)
        };
        let mut stream = std::thread::spawn(connect).join().unwrap().map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let asked = stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes());
        asked.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
            answer.push(byte[0]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.starts_with("HTTP/1.1 200 ") { Ok(stream) } else { Err(answer) }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Sends so many bytes and gets them back.
pub fn echo(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    let sent = vec![0x5a; bytes];
    stream.write_all(&sent)?;
    let mut back = vec![0; bytes];
    stream.read_exact(&mut back)?;
    assert_eq!(back, sent);
    Ok(())
}

/// Waits until the other side ends the connection, in whatever way.
pub fn assert_closed(stream: &mut TcpStream) {
    let read = stream.read(&mut [0]);
    let late = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!late && !matches!(read, Ok(1..)), "{read:?}");
}
