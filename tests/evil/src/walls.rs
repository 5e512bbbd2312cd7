//! What a program tries that took a browser's process over. Each attempt is a line: its name, and what the kernel answered.
#![expect(unsafe_code, reason = "an attacker does not use safe wrappers")]

use crate::browser;
use std::ffi::CString;
use std::fmt::{Display, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the way out is.
const PROXY: &str = "127.0.0.1:3128";
/// A program that every image has.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Whoever is dialled and does not answer is given up.
const DIAL_TIME: Duration = Duration::from_secs(1);

/// Makes an attack and says what came of it.
pub fn report(order: &str) -> String {
    let mut report = String::new();
    let (attack, argument) = order.split_once(' ').unwrap_or((order, ""));
    match attack {
        "hello" => report.push_str("hello\n"),
        "kernel" => kernel(&mut report),
        "neighbours" => neighbours(&mut report),
        "files" => files(argument, &mut report),
        "network" => network(argument, &mut report),
        "ask" => ask(argument, &mut report),
        "listen" => listen(&mut report),
        "fork" => fork_bomb(&mut report),
        other => browser::common(other, argument, &mut report),
    }
    report
}

fn line(report: &mut String, name: impl Display, outcome: impl Display) {
    // Writing to a string does not fail.
    let _never = writeln!(report, "{name}: {outcome}");
}

/// The kernel's answer to a raw call.
fn answered(answer: impl Into<i64>) -> String {
    if answer.into() >= 0 { "done".to_owned() } else { refused(&io::Error::last_os_error()) }
}

fn outcome<T>(outcome: &io::Result<T>) -> String {
    outcome.as_ref().map_or_else(refused, |_| "done".to_owned())
}

fn refused(error: &io::Error) -> String {
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EACCES, "EACCES"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
    ];
    let number = error.raw_os_error().unwrap_or(0);
    let name = names.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    name.map_or_else(|| format!("errno {number}"), str::to_owned)
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Mounts, namespaces, processes of others, and doors into the kernel.
fn kernel(report: &mut String) {
    let (tmp, tmpfs, proc) = (c("/tmp"), c("tmpfs"), c("/proc"));
    let none = std::ptr::null::<libc::c_void>();
    macro_rules! attempts {
        ($($name:literal: $call:expr),+ $(,)?) => {
            // SAFETY: of each: paths are C strings that live through the call; the rest are integers and null pointers,
            // which the kernel checks. What succeeded would be the finding.
            $(let answer = unsafe { $call }; line(report, $name, answered(answer));)+
        };
    }
    let remount = libc::MS_REMOUNT | libc::MS_BIND;
    attempts!(
        "mount": libc::mount(tmpfs.as_ptr(), tmp.as_ptr(), tmpfs.as_ptr(), 0, none),
        "remount": libc::mount(tmp.as_ptr(), tmp.as_ptr(), tmpfs.as_ptr(), remount, none),
        "umount": libc::umount2(proc.as_ptr(), libc::MNT_DETACH),
        "pivot_root": libc::syscall(libc::SYS_pivot_root, tmp.as_ptr(), tmp.as_ptr()),
        "open_tree": libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, tmp.as_ptr(), 1),
        "fsopen": libc::syscall(libc::SYS_fsopen, tmpfs.as_ptr(), 0),
        "chroot": libc::chroot(tmp.as_ptr()),
        "unshare mount": libc::unshare(libc::CLONE_NEWNS),
        "unshare net": libc::unshare(libc::CLONE_NEWNET),
        "unshare pid": libc::unshare(libc::CLONE_NEWPID),
        "unshare user and mount": libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        // Passes the filter, because Chromium makes one when it starts; there are none left.
        "unshare user": libc::unshare(libc::CLONE_NEWUSER),
        "clone user": clone(libc::CLONE_NEWUSER),
        "clone user and net": clone(libc::CLONE_NEWUSER | libc::CLONE_NEWNET),
        "clone user and mount": clone(libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        "clone pid": clone(libc::CLONE_NEWPID),
        "clone net": clone(libc::CLONE_NEWNET),
        "clone3": libc::syscall(libc::SYS_clone3, none, 0),
        "setns": libc::setns(0, 0),
        "trace pid 1": libc::ptrace(libc::PTRACE_ATTACH, 1, 0, 0),
        "be traced": libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0),
        "kill pid 1": libc::kill(1, libc::SIGKILL),
        "stop pid 1": libc::kill(1, libc::SIGSTOP),
        "setuid 0": libc::setuid(0),
        "setresuid 0": libc::setresuid(0, 0, 0),
        "setgid 0": libc::setgid(0),
        "io_uring": libc::syscall(libc::SYS_io_uring_setup, 8, none),
        "bpf": libc::syscall(libc::SYS_bpf, 0, none, 0),
        "keyctl": libc::syscall(libc::SYS_keyctl, 0, -3, 0),
        "add_key": libc::syscall(libc::SYS_add_key, tmp.as_ptr(), tmp.as_ptr(), none, 0, -3),
        "userfaultfd": libc::syscall(libc::SYS_userfaultfd, 1),
        "perf_event_open": libc::syscall(libc::SYS_perf_event_open, none, 0, -1, -1, 0),
        "splice": libc::syscall(libc::SYS_splice, 0, none, 1, none, 1, 0),
        "memory of pid 1": libc::syscall(libc::SYS_process_vm_readv, 1, none, 0, none, 0, 0),
        "a descriptor of pid 1": libc::syscall(libc::SYS_pidfd_getfd, 0, 0, 0),
        "fanotify": libc::syscall(libc::SYS_fanotify_init, 0, 0),
        "a file by its handle": libc::syscall(libc::SYS_open_by_handle_at, -1, none, 0),
        "clock": libc::syscall(libc::SYS_clock_settime, 0, none),
        "host name": libc::syscall(libc::SYS_sethostname, tmp.as_ptr(), 1),
        "shared memory of System V": libc::syscall(libc::SYS_shmget, 0, 4096, 0o1600),
        "a device": libc::mknod(c("/tmp/device").as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 1)),
        "more descriptors": raise(libc::RLIMIT_NOFILE),
        "core files": raise(libc::RLIMIT_CORE),
        "real time": raise(libc::RLIMIT_RTPRIO),
        "priority": libc::setpriority(libc::PRIO_PROCESS, 0, -1),
    );
}

/// A child in new namespaces, which ends at once.
unsafe fn clone(namespaces: i32) -> i64 {
    let flags = i64::from(namespaces | libc::SIGCHLD);
    // SAFETY: no CLONE_VM: the child has its own copy of this process, which has one thread, and ends at once.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: ends the child without running anything of its parent's.
        unsafe { libc::_exit(0) }
    }
    child
}

/// Asks for more of something than the hard limit.
unsafe fn raise(resource: libc::__rlimit_resource_t) -> i64 {
    let more = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: the kernel reads one struct, which lives through the call.
    i64::from(unsafe { libc::setrlimit(resource, &raw const more) })
}

/// Everybody who can be seen or reached, for a process that looks for others.
fn neighbours(report: &mut String) {
    let seen = fs::read_dir("/proc").map(|entries| {
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut numbers: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    });
    line(report, "seen", format!("{:?}", seen.unwrap_or_default()));
    line(report, "self", std::process::id());
    // Signals that do nothing, to whoever has a number.
    let own = std::process::id().cast_signed();
    // SAFETY: takes integers only, and signal 0 is none.
    let reached = (1..32_768).filter(|&pid| pid != own && unsafe { libc::kill(pid, 0) } == 0).count();
    line(report, "reached", reached);
    for path in
        ["/proc/1/mem", "/proc/1/environ", "/proc/1/root/etc/passwd", "/proc/1/fd/3", "/proc/1/ns/net"]
    {
        line(report, path, outcome(&File::open(path)));
    }
}

/// Files of the host, the image, the kernel and the session. `canary` is a file of the host.
fn files(canary: &str, report: &mut String) {
    let reads = [
        canary,
        "/root",
        "/var/lib/anchorhold",
        "/sys/kernel",
        "/proc/kcore",
        "/proc/sys/kernel/core_pattern",
        "/proc/keys",
        "/proc/net/tcp",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/pts/0",
        "/dev/shm",
        "/run",
        "/etc/shadow",
    ];
    for path in reads {
        line(
            report,
            format_args!("read {}", if path == canary { "the canary" } else { path }),
            outcome(&File::open(path)),
        );
    }
    let writes = [
        "/made",
        "/etc/passwd",
        "/usr/lib/chromium/chromium-headless-shell",
        "/dev/made",
        "/proc/self/uid_map",
        "/proc/self/oom_score_adj",
        "/proc/sysrq-trigger",
        "/workspace/made",
        "/tmp/made",
        "/dev/null",
    ];
    for path in writes {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let written = opened.and_then(|mut file| file.write_all(b"-1000"));
        line(report, format_args!("write {path}"), outcome(&written));
    }
    for path in ["/workspace/program", "/tmp/program"] {
        let made = fs::copy(LOADER, path).and_then(|_| executable(path));
        line(report, format_args!("make {path}"), outcome(&made));
        line(report, format_args!("run {path}"), run(Command::new(path).arg("--version")));
        line(report, format_args!("load {path}"), run(Command::new(LOADER).arg(path)));
    }
    // Nothing that it could not do anyhow: it runs already.
    line(report, "run a program of the image", run(Command::new(LOADER).arg("--version")));
}

fn run(command: &mut Command) -> String {
    let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.map_or_else(
        |error| refused(&error),
        |status| if status.success() { "done" } else { "failed" }.to_owned(),
    )
}

fn executable(path: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o4755))
}

/// Ways out that are none. The argument: a port of the host's loopback, an abstract name and a path of sockets there.
fn network(argument: &str, report: &mut String) {
    let mut words = argument.split(' ');
    let (port, name, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    for family in 0..46 {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
            // SAFETY: takes integers only.
            let socket = unsafe { libc::socket(family, kind, 0) };
            if socket >= 0 {
                line(report, format_args!("socket {family} {kind}"), "done");
                close(socket);
            }
        }
    }
    for (what, address) in [
        ("the host's loopback", format!("127.0.0.1:{port}")),
        ("the way out by another name of loopback", "127.1.2.3:3128".to_owned()),
        ("port 3128 outside", "198.51.100.7:3128".to_owned()),
        ("port 443 outside", "198.51.100.7:443".to_owned()),
        ("metadata", "169.254.169.254:80".to_owned()),
        ("port 3128 of metadata", "169.254.169.254:3128".to_owned()),
        ("IPv6", "[2606:2800::34]:443".to_owned()),
        ("port 3128 of IPv6", "[2606:2800::34]:3128".to_owned()),
        ("IPv6 loopback", "[::1]:3128".to_owned()),
        ("the way out", PROXY.to_owned()),
    ] {
        line(report, what, outcome(&dial(&address)));
    }
    for (what, from, to) in [
        ("a name server", "0.0.0.0:0", "198.51.100.53:53"),
        ("nobody on its own loopback", "0.0.0.0:0", "127.0.0.53:53"),
        ("QUIC", "0.0.0.0:0", "198.51.100.7:443"),
        ("everybody", "0.0.0.0:0", "255.255.255.255:9"),
        ("all neighbours by IPv6", "[::]:0", "[ff02::1]:9"),
    ] {
        let to = to.parse::<SocketAddr>();
        let sent =
            UdpSocket::bind(from).and_then(|socket| socket.send_to(b"?", to.map_err(io::Error::other)?));
        line(report, what, outcome(&sent));
    }
    let resolved = std::net::ToSocketAddrs::to_socket_addrs("name.example:80").map(|mut found| found.next());
    line(report, "a name", if resolved.is_ok() { "done" } else { "no address" });
    // SAFETY: takes integers only.
    let ping = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP) };
    line(report, "ping", answered(ping));
    let abstracted = UnixAddr::from_abstract_name(name).and_then(|name| UnixStream::connect_addr(&name));
    line(report, "an abstract socket of the host", outcome(&abstracted));
    line(report, "a socket of the host by path", outcome(&UnixStream::connect(path)));
    line(report, "a port of its own choice", outcome(&std::net::TcpListener::bind("127.0.0.1:8080")));
}

fn close(descriptor: RawFd) {
    // SAFETY: it was made a line above and nothing owns it.
    unsafe { libc::close(descriptor) };
}

fn dial(address: &str) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address.parse().map_err(io::Error::other)?, DIAL_TIME)
}

/// Asks the way out for tunnels, as nothing but a browser does, through a process of its own that passes bytes on:
/// prints the answers' status.
fn ask(targets: &str, report: &mut String) {
    for target in targets.split(' ') {
        line(report, target, by_relay(target).unwrap_or_else(|error| refused(&error)));
    }
}

fn by_relay(target: &str) -> io::Result<String> {
    let (mut ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so the child may use everything as if it had made it itself.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(ours);
        let _ended = pass_on(&theirs);
        crate::end(0);
    }
    drop(theirs);
    let asked = format!("CONNECT {target} HTTP/1.1\r\nHost: allowed.example\r\n\r\n");
    let mut head = [0; 12];
    let heard = ours.write_all(asked.as_bytes()).and_then(|()| ours.read_exact(&mut head));
    drop(ours);
    // SAFETY: a child that nobody waited for; no status is asked for.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    heard.map(|()| String::from_utf8_lossy(&head[9..]).into_owned())
}

/// One question and the beginning of its answer.
fn pass_on(inside: &UnixStream) -> io::Result<()> {
    let mut outside = dial(PROXY)?;
    outside.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut bytes = [0; 4096];
    let asked = (&*inside).read(&mut bytes)?;
    outside.write_all(&bytes[..asked])?;
    let answered = outside.read(&mut bytes)?;
    (&*inside).write_all(&bytes[..answered])
}

/// Listens where the kernel likes, since no port may be bound; says where, and goes on listening.
fn listen(report: &mut String) {
    // SAFETY: takes integers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    // SAFETY: takes integers only.
    let listening = unsafe { libc::listen(socket, 8) };
    line(report, "listen", answered(listening));
    // SAFETY: a C struct of integers, for which zero is a valid value.
    let mut name: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes into a struct of that length.
    unsafe { libc::getsockname(socket, (&raw mut name).cast(), &raw mut length) };
    line(report, "port", u16::from_be(name.sin_port));
}

/// Forks until the kernel says no, and ends them all.
fn fork_bomb(report: &mut String) {
    let mut children = Vec::new();
    let refused = loop {
        // SAFETY: this process has one thread, so the child may use everything as if it had made it itself.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            child @ 1.. => children.push(child),
            _ => break io::Error::last_os_error(),
        }
    };
    line(report, "children", children.len());
    line(report, "then", self::refused(&refused));
    for child in children {
        // SAFETY: takes integers only; it is a child that nobody waited for, so the number is still its own.
        unsafe { libc::kill(child, libc::SIGKILL) };
        // SAFETY: as above; no status is asked for.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
}
