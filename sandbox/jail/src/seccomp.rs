//! The system calls that a locked cell may make. Everything else answers `EPERM`; a call through another
//! architecture's table kills the process.
//!
//! The lists are data to be reviewed: add a call only with the reason why a cell needs it. `tests/golden/` holds what
//! a prober inside a real cell finds allowed; a change here shows there. Two calls pass every filter by the kernel's own
//! decision (uretprobe 335 and uprobe 336): outside their trampolines they end in SIGILL or an error.

use crate::control::Class;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The filter could not be compiled: a mistake in the lists below.
#[derive(Debug, thiserror::Error)]
#[error("seccomp filter: {0}")]
pub struct FilterError(#[from] seccompiler::BackendError);

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

/// `fcntl` commands that only read or set a descriptor's own flags.
const FCNTL_COMMANDS: &[i32] =
    &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];

static WASM_FILTER: OnceLock<BpfProgram> = OnceLock::new();
static FILES_FILTER: OnceLock<BpfProgram> = OnceLock::new();

/// The filter of a class. Compiled at the first call, which a zygote makes before it forks: cells inherit it.
pub fn filter(class: Class) -> Result<&'static BpfProgram, FilterError> {
    let slot = match class {
        Class::Wasm => &WASM_FILTER,
        Class::Files => &FILES_FILTER,
    };
    match slot.get() {
        Some(filter) => Ok(filter),
        None => {
            let filter = compile(class)?;
            Ok(slot.get_or_init(|| filter))
        }
    }
}

fn compile(class: Class) -> Result<BpfProgram, FilterError> {
    let classes_own = match class {
        Class::Wasm => WASM,
        Class::Files => &[],
    };
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        RUNTIME.iter().chain(FILES).chain(classes_own).map(|&call| (call, Vec::new())).collect();
    // No memory that is written becomes code: what runs was mapped before the lock.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![without_bits(2, libc::PROT_EXEC)?]);
    }
    let commands = FCNTL_COMMANDS.iter().map(|&command| equals(1, command)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_fcntl, commands);
    // A process may signal itself (abort); pid 1 of a namespace has nobody else in it.
    rules.insert(libc::SYS_tgkill, vec![equals(0, 1)?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

fn equals(argument: u8, value: i32) -> Result<SeccompRule, FilterError> {
    let value = u64::from(value.unsigned_abs());
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    Ok(SeccompRule::new(vec![condition])?)
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
        for class in [Class::Wasm, Class::Files] {
            assert!(compile(class).unwrap().len() > RUNTIME.len());
        }
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
