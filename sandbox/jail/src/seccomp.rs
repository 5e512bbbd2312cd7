//! The system calls that a locked cell may make. Everything else answers `EPERM`; a call through another
//! architecture's table kills the process.
//!
//! The lists are data to be reviewed: add a call only with the reason why a cell needs it. `tests/golden/` holds what
//! a prober inside a real cell finds allowed; a change here shows there. Two calls pass every filter by the kernel's own
//! decision (uretprobe 335 and uprobe 336): outside their trampolines they end in SIGILL or an error.

mod tree;

use crate::control::Class;
use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The filter could not be compiled: a mistake in the lists below.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A condition that makes no sense.
    #[error("seccomp filter: {0}")]
    Rule(#[from] seccompiler::BackendError),
    /// A number that no call has.
    #[error("seccomp filter: call {0}")]
    Call(c_long),
}

/// What every Rust program needs to run on, wait and end.
const RUNTIME: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The hatch: a socket that exists already. New ones cannot be made.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
];

/// Files beneath descriptors that were opened before; Landlock and an empty root bound what they reach.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    libc::SYS_utimensat,
];

/// What the WASI layer calls beyond that.
const WASM: &[c_long] = &[
    libc::SYS_symlinkat,
    // Appending to a file, and a program's advice on how it reads one.
    libc::SYS_pwritev2,
    libc::SYS_fadvise64,
];

/// What a cell's pid 1 calls that waits for many things at once.
const EVENTS: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
];

/// What pid 1 of a native cell calls to end its programs and learn how they ended, and to make the FIFO of their input.
const NURSE: &[c_long] = &[libc::SYS_kill, libc::SYS_wait4, libc::SYS_mknodat];

/// What Chromium calls, as seen in a traced cell, and near relatives of these calls. Not on the list, and not missed:
/// mounting, tracing, keys, BPF, io_uring, splicing, other processes' memory, SysV IPC, swapping, time, modules.
const PROGRAM: &[c_long] = &[
    // Files, descriptors and events.
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_chroot,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_umask,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_flock,
    libc::SYS_utimensat,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_pipe,
    libc::SYS_pipe2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_memfd_create,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    // Processes, threads, signals.
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_pause,
    libc::SYS_alarm,
    libc::SYS_setitimer,
    libc::SYS_getitimer,
    libc::SYS_arch_prctl,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getpgid,
    libc::SYS_getpgrp,
    libc::SYS_setpgid,
    libc::SYS_getsid,
    libc::SYS_setsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_getpriority,
    libc::SYS_setpriority,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_setparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_yield,
    libc::SYS_getcpu,
    // What the machine is and what time it is.
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    libc::SYS_time,
    libc::SYS_gettimeofday,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    // Sockets that were made by `socket` below or by a pair.
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// What programs of a native cell call beyond that: interpreters, compilers, archivers, databases. Still missing: all that
/// is missing above.
const NATIVE: &[c_long] = &[
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_fchmodat2,
    // FIFOs and sockets; devices need a capability.
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_readahead,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_getdents,
    libc::SYS_inotify_init,
    libc::SYS_signalfd,
    libc::SYS_eventfd,
    libc::SYS_epoll_pwait2,
    libc::SYS_msync,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_munlockall,
    libc::SYS_get_mempolicy,
    libc::SYS_setregid,
    libc::SYS_setreuid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete,
    libc::SYS_futex_waitv,
];

/// Namespaces that no program makes. Chromium's sandbox makes user, pid and network namespaces.
const FOREIGN_NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
/// Namespaces that no program of a native cell makes, beside those.
const NESTED_NAMESPACES: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET;

/// What is asked of a terminal that no program needs: to type in another's name, to be driven by another module of the
/// kernel, to be the console's. They are refused.
const TERMINAL_TRICKS: &[u64] = &[0x5412, 0x5423, 0x541C, 0x541D];
const SET_WINDOW_SIZE: i32 = 0x5414;

/// `fcntl` commands that only read or set a descriptor's own flags.
const FCNTL_COMMANDS: &[i32] =
    &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];

static WASM_FILTER: OnceLock<BpfProgram> = OnceLock::new();
static FILES_FILTER: OnceLock<BpfProgram> = OnceLock::new();
static BROWSER_FILTER: OnceLock<BpfProgram> = OnceLock::new();
static NATIVE_FILTER: OnceLock<BpfProgram> = OnceLock::new();
static PROGRAM_FILTERS: [OnceLock<[BpfProgram; 2]>; 2] = [OnceLock::new(), OnceLock::new()];

/// The filter of a class. Compiled at the first call, which a zygote makes before it forks: cells inherit it.
pub fn filter(class: Class) -> Result<&'static BpfProgram, FilterError> {
    let slot = match class {
        Class::Wasm => &WASM_FILTER,
        Class::Files => &FILES_FILTER,
        Class::Browser => &BROWSER_FILTER,
        Class::Native => &NATIVE_FILTER,
    };
    match slot.get() {
        Some(filter) => Ok(filter),
        None => {
            let filter = compile(class)?;
            Ok(slot.get_or_init(|| filter))
        }
    }
}

/// The filters of the programs of a class's cells, to be installed in this order. Compiled as [`filter`].
pub fn program_filters(class: Class) -> Result<&'static [BpfProgram], FilterError> {
    let [browser, native] = &PROGRAM_FILTERS;
    let slot = if class == Class::Native { native } else { browser };
    match slot.get() {
        Some(filters) => Ok(filters),
        None => {
            let filters = [compile_program(class)?, as_on_an_old_kernel()?];
            Ok(slot.get_or_init(|| filters))
        }
    }
}

fn compile_program(class: Class) -> Result<BpfProgram, FilterError> {
    let more = if class == Class::Native { NATIVE } else { &[] };
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        PROGRAM.iter().chain(more).map(|&call| (call, Vec::new())).collect();
    if class == Class::Native {
        let conditions = TERMINAL_TRICKS
            .iter()
            .map(|&request| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, request));
        rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(conditions.collect::<Result<_, _>>()?)?]);
        rules.remove(&libc::SYS_chroot);
        rules.insert(libc::SYS_clone, vec![without_bits(0, FOREIGN_NAMESPACES | NESTED_NAMESPACES)?]);
    } else {
        rules.insert(libc::SYS_clone, vec![without_bits(0, FOREIGN_NAMESPACES)?]);
        rules.insert(libc::SYS_unshare, vec![equals(0, libc::CLONE_NEWUSER)?]);
    }
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let mut sockets = families.into_iter().map(|family| equals(0, family)).collect::<Result<Vec<_>, _>>()?;
    if class == Class::Native {
        // Which interfaces there are: Node and what serves pages ask for it. To change one takes a capability in the
        // network's namespace. A browser's programs make namespaces in which they have those, and get no netlink.
        sockets.push(SeccompRule::new(vec![is(0, libc::AF_NETLINK)?, is(2, libc::NETLINK_ROUTE)?])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    tree::compile(rules, refused, SeccompAction::Allow)
}

/// clone3's flags are in memory, where no filter sees them. The C library takes `ENOSYS` for an old kernel and calls
/// clone instead; so it does, by a name below `/proc`, for execveat. Of two filters that refuse, the one installed last says
/// with what.
fn as_on_an_old_kernel() -> Result<BpfProgram, FilterError> {
    let rules = [libc::SYS_clone3, libc::SYS_execveat].map(|call| (call, Vec::new())).into();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    tree::compile(rules, SeccompAction::Allow, missing)
}

fn compile(class: Class) -> Result<BpfProgram, FilterError> {
    let classes_own: [&[c_long]; 2] = match class {
        Class::Wasm => [WASM, &[]],
        Class::Files => [&[], &[]],
        Class::Browser => [EVENTS, &[]],
        Class::Native => [EVENTS, NURSE],
    };
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = RUNTIME
        .iter()
        .chain(FILES)
        .chain(classes_own.into_iter().flatten())
        .map(|&call| (call, Vec::new()))
        .collect();
    // No memory that is written becomes code: what runs was mapped before the lock.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![without_bits(2, libc::PROT_EXEC)?]);
    }
    let commands = FCNTL_COMMANDS.iter().map(|&command| equals(1, command)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_fcntl, commands);
    if class == Class::Native {
        // How the runtime's handler of signals wakes its loop: a pair of sockets of its own. Nothing is sent to an address.
        let condition = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
        rules.insert(libc::SYS_sendto, vec![SeccompRule::new(vec![condition])?]);
        rules.insert(libc::SYS_recvfrom, Vec::new());
        // How large the terminal is.
        rules.insert(libc::SYS_ioctl, vec![equals(1, SET_WINDOW_SIZE)?]);
    }
    // A process may signal itself (abort); pid 1 of a namespace has nobody else in it.
    rules.insert(libc::SYS_tgkill, vec![equals(0, 1)?]);
    tree::compile(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

fn equals(argument: u8, value: i32) -> Result<SeccompRule, FilterError> {
    Ok(SeccompRule::new(vec![is(argument, value)?])?)
}

fn is(argument: u8, value: i32) -> Result<SeccompCondition, FilterError> {
    let value = u64::from(value.unsigned_abs());
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

fn without_bits(argument: u8, bits: i32) -> Result<SeccompRule, FilterError> {
    let mask = u64::from(bits.unsigned_abs());
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), 0)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_compile_and_name_each_call_once() {
        for class in [Class::Wasm, Class::Files, Class::Browser, Class::Native] {
            assert!(compile(class).is_ok(), "{class:?}");
            assert!(!class.runs_programs() || program_filters(class).is_ok(), "{class:?}");
        }
        let mut calls = [PROGRAM, NATIVE].concat();
        calls.sort_unstable();
        calls.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "listed twice"));
        let mut all: Vec<_> = RUNTIME.iter().chain(FILES).chain(WASM).collect();
        all.sort();
        all.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "listed twice"));
    }

    #[test]
    fn nothing_makes_processes_sockets_or_programs() {
        let denied = [
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_accept4,
            libc::SYS_ptrace,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_prctl,
            libc::SYS_linkat,
            libc::SYS_ioctl,
            libc::SYS_splice,
            libc::SYS_kill,
            libc::SYS_memfd_create,
            libc::SYS_seccomp,
        ];
        for call in denied {
            assert!(!RUNTIME.iter().chain(FILES).chain(WASM).any(|&allowed| allowed == call), "{call}");
        }
    }
}
