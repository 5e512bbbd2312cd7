//! What hostile native code tries.
#![expect(unsafe_code, reason = "an attacker does not use safe wrappers")]

use anchorhold_jail::packet::PacketError;
use anchorhold_jail::zygote::Hatch;
use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, RawFd};

/// Calls that would end, stop or derail this process instead of answering.
pub const NOT_TRIED: &[i64] = &[
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_pause,
    libc::SYS_rt_sigsuspend,
    libc::SYS_restart_syscall,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_brk,
    // uretprobe and uprobe (Linux 6.11, 6.18): the kernel lets them past every filter and answers calls from anywhere
    // but its own trampolines with SIGILL.
    335,
    336,
];

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn line(report: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _never = writeln!(report, "{text}");
}

/// Calls 0 to 600 with arguments that no call can use; prints for each whether the filter let it through.
/// `EPERM` is what the filter answers; everything else came from the call itself.
pub fn every_system_call(report: &mut String) {
    for number in (0..=600).filter(|number| !NOT_TRIED.contains(number)) {
        // SAFETY: this is the attack: the arguments are invalid for every call that dereferences or uses them, and
        // a call that did something all the same would be the finding.
        let answer = unsafe { libc::syscall(number, -1i64, -1i64, -1i64, -1i64, -1i64, -1i64) };
        let allowed = !(answer == -1 && errno() == libc::EPERM);
        if allowed {
            line(report, format_args!("{number}"));
        }
    }
}

/// Every family and type of socket; prints those that opened.
pub fn every_socket(report: &mut String) {
    for family in 0..46 {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
            // SAFETY: takes integers only.
            if unsafe { libc::socket(family, kind, 0) } >= 0 {
                line(report, format_args!("family {family} type {kind} opened"));
            }
        }
    }
    line(report, format_args!("done"));
}

/// Opens well-known paths of the host, and the canary given, by every way there is; prints those that opened.
pub fn host_files(workspace: RawFd, canary: &str, report: &mut String) {
    let known = [
        "/etc/passwd",
        "/etc/shadow",
        "/proc/self/status",
        "/proc/1/root/etc/passwd",
        "/sys/kernel",
        "/dev/null",
        "/dev/mem",
        "/root",
        "/bin/sh",
        "/run",
        "/var",
        "/tmp",
        "/",
    ];
    let climbing = ["..", "../..", "../../../../etc/passwd", "workspace/../..", "tmp/../../etc/passwd"];
    for path in known.into_iter().chain([canary]) {
        try_open(libc::AT_FDCWD, path, report);
        try_open(workspace, path, report);
    }
    for path in climbing {
        try_open(workspace, path, report);
    }
    for descriptor in 3..64 {
        try_open(descriptor, "../../../../../../etc/passwd", report);
    }
    line(report, format_args!("done"));
}

fn try_open(directory: RawFd, path: &str, report: &mut String) {
    let Ok(c_path) = CString::new(path) else { return };
    // SAFETY: the path is a C string that lives through the call.
    let descriptor = unsafe { libc::openat(directory, c_path.as_ptr(), libc::O_RDONLY) };
    if descriptor >= 0 {
        line(report, format_args!("{path} opened from {directory}"));
        // SAFETY: it was opened a line above and nothing owns it.
        unsafe { libc::close(descriptor) };
    }
}

#[expect(clippy::multiple_unsafe_ops_per_block, reason = "one table of six attempts")]
/// Makes, in the workspace, everything that is no plain file; prints what was made.
pub fn write_files(workspace: RawFd, report: &mut String) {
    let name = |text: &str| CString::new(text).unwrap_or_default();
    // SAFETY: all paths are C strings that live through their calls; modes and devices are integers.
    let attempts = unsafe {
        [
            (
                "device",
                libc::mknodat(
                    workspace,
                    name("workspace/dev").as_ptr(),
                    libc::S_IFCHR | 0o666,
                    libc::makedev(1, 3),
                ),
            ),
            ("fifo", libc::mknodat(workspace, name("workspace/fifo").as_ptr(), libc::S_IFIFO | 0o666, 0)),
            ("outside", libc::mkdirat(workspace, name("outside").as_ptr(), 0o777)),
            ("setuid", libc::fchmodat(workspace, name("workspace").as_ptr(), 0o4777, 0)),
            ("owner", libc::fchownat(workspace, name("workspace").as_ptr(), 0, 0, 0)),
            (
                "link",
                libc::linkat(
                    workspace,
                    name("workspace").as_ptr(),
                    workspace,
                    name("workspace/l").as_ptr(),
                    0,
                ),
            ),
        ]
    };
    for (what, answer) in attempts {
        if answer == 0 {
            line(report, format_args!("{what} made"));
        }
    }
    line(report, format_args!("done"));
}

/// Where links lead that hostile code leaves for those who come after it.
const LINK_TARGETS: &[&str] = &[
    "/etc/shadow",
    "../../etc/passwd",
    "/proc/self/root/etc/passwd",
    "/proc/1/root",
    "/proc/self/fd/3",
    "real",
    ".",
    "..",
];

/// Leaves links `l0`, `l1` … in the workspace; prints how many.
pub fn links(workspace: RawFd, report: &mut String) {
    let made = LINK_TARGETS.iter().enumerate().filter(|(n, target)| {
        let (target, name) = (CString::new(**target).unwrap_or_default(), format!("workspace/l{n}"));
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: both are C strings that live through the call.
        unsafe { libc::symlinkat(target.as_ptr(), workspace, name.as_ptr()) == 0 }
    });
    line(report, format_args!("{}", made.count()));
}

/// Touches so many bytes.
pub fn memory(bytes: usize, report: &mut String) {
    let mut hoard = Vec::new();
    while hoard.len() * (1 << 20) < bytes {
        hoard.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
    line(report, format_args!("touched {}", hoard.len() << 20));
}

/// Never comes back.
pub fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// The 32-bit table of system calls: must kill, never answer.
pub fn old_system_call() {
    // SAFETY: the attack: getpid by the old gate; where it is served, it only returns a number.
    unsafe { std::arch::asm!("int 0x80", inout("rax") 20 => _) };
}

/// Reads where nothing is.
pub fn fault() {
    // SAFETY: none: this is the crash that the test wants; the kernel ends the process.
    unsafe { std::ptr::read_volatile(8 as *const u8) };
}

/// Bytes that are no message.
pub fn garbage(hatch: &Hatch) -> Result<(), PacketError> {
    let noise = [0xffu8; 1000];
    // SAFETY: the buffer lives through the call and is as long as is said.
    unsafe { libc::send(hatch.0.as_raw_fd(), noise.as_ptr().cast(), noise.len(), 0) };
    // SAFETY: as above. `send` is not on the list of calls; `write` on a socket is.
    unsafe { libc::write(hatch.0.as_raw_fd(), noise.as_ptr().cast(), noise.len()) };
    Ok(())
}
