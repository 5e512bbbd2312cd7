//! What the process that faces the network gives up before it hears anybody.
//!
//! Two steps, because threads are made in between: [`restrict`] acts on the only thread there is, and those that it
//! makes inherit it; [`Restricted::seal`] covers all of them.

use anyhow::{Context as _, bail};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};
use libc::c_long;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// Running, waiting, ending; sockets of the Internet; the warden's channel.
const CALLS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_ctl,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
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
    libc::SYS_sched_getaffinity,
    // A thread that was just made, and begins beside the seal.
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Counters that the warden hands over: their size.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
];

/// Commands on a descriptor's own flags; and the seals of counters.
const FCNTL_COMMANDS: &[i32] =
    &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC, libc::F_GET_SEALS];

/// A process without a user's rights, files or processes to signal; its system calls are still open.
pub(super) struct Restricted(BpfProgram);

/// Becomes the user (where that is to be done), gains nothing any more, and closes the file system.
pub(super) fn restrict(uid: u32, keeper: i32) -> anyhow::Result<Restricted> {
    if nix::unistd::geteuid().is_root() {
        crate::serve::become_unprivileged(uid).context("cannot become unprivileged")?;
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    // After the change of user, which forgets it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if Pid::parent() != Pid::from_raw(keeper) {
        bail!("the keeper is gone");
    }
    landlock()?;
    Ok(Restricted(filter()?))
}

impl Restricted {
    /// Installs the filter on every thread.
    pub(super) fn seal(self) -> anyhow::Result<()> {
        seccompiler::apply_filter_all_threads(&self.0).context("cannot install the seccomp filter")
    }
}

/// No file can be opened, no TCP port bound, nobody outside signalled or reached by an abstract name: as far as this
/// kernel knows how to. What was opened before stays.
fn landlock() -> anyhow::Result<()> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        tracing::warn!(
            "this kernel has no Landlock; egress keeps to seccomp, which lets it open no file either"
        );
    }
    Ok(())
}

fn filter() -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        CALLS.iter().map(|&call| (call, Vec::new())).collect();
    // No memory that is written becomes code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let mask = u64::from(libc::PROT_EXEC.unsigned_abs());
        rules.insert(call, vec![rule(2, SeccompCmpOp::MaskedEq(mask), 0)?]);
    }
    // TCP and UDP, no other family.
    let families = [libc::AF_INET, libc::AF_INET6].map(|family| rule(0, SeccompCmpOp::Eq, family));
    rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    let commands = FCNTL_COMMANDS.iter().map(|&command| rule(1, SeccompCmpOp::Eq, command));
    rules.insert(libc::SYS_fcntl, commands.collect::<Result<_, _>>()?);
    let request = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::FIONBIO)?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![request])?]);
    // An abort is a signal to oneself.
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, Pid::this().as_raw())?]);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(SeccompFilter::new(rules, refused, SeccompAction::Allow, TargetArch::x86_64)?.try_into()?)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: i32) -> anyhow::Result<SeccompRule> {
    let value = u64::from(value.unsigned_abs());
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}
