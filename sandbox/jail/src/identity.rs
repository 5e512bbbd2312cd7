//! Who is whom: the tables of user namespaces, of those of cells, and of some that nobody is in, which are for a mount.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, pipe2};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A user namespace with one user and one group: `inside` there is `outside` on the host. From root of the host, with one
/// thread.
pub fn mapping(inside: u32, outside: u32) -> io::Result<OwnedFd> {
    let (there, is_there) = pipe2(OFlag::O_CLOEXEC)?;
    let (done, is_done) = pipe2(OFlag::O_CLOEXEC)?;
    let child = in_new_namespace(there, is_there, done, &is_done)?;
    let table = write_table(child.as_raw(), &format!("{inside} {outside} 1\n"))
        .and_then(|()| File::open(format!("/proc/{child}/ns/user")));
    drop(is_done);
    // It is our child, and ends by itself now.
    let _status = waitpid(child, None);
    Ok(table?.into())
}

/// Writes the table of the user namespace that a process is in, the same for users and groups: lines of what is inside, what
/// that is on the host, and how many. Once for each namespace. See user_namespaces(7).
pub fn write_table(pid: i32, lines: &str) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), lines)?;
    fs::write(format!("/proc/{pid}/gid_map"), lines)
}

/// Forks a process that is in a user namespace of its own until `is_done` is closed.
#[expect(unsafe_code, reason = "fork is unsafe by nature")]
fn in_new_namespace(
    there: OwnedFd,
    is_there: OwnedFd,
    done: OwnedFd,
    is_done: &OwnedFd,
) -> Result<Pid, Errno> {
    // SAFETY: this process has one thread, so the child may use everything as if it had made it itself.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => {
            drop(is_there);
            match nix::unistd::read(&there, &mut [0]) {
                Ok(1) => Ok(child),
                outcome => {
                    let _status = waitpid(child, None);
                    Err(outcome.err().unwrap_or(Errno::EPERM))
                }
            }
        }
        ForkResult::Child => {
            let waits = || {
                nix::unistd::close(is_done.as_raw_fd())?;
                nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
                nix::unistd::write(&is_there, &[0])?;
                nix::unistd::read(&done, &mut [0])
            };
            let _over = waits();
            // SAFETY: ends this process without running what its parent left to be run at an exit.
            unsafe { libc::_exit(0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as the warden has it.
    #[test]
    fn a_table_has_one_line() {
        let table = mapping(1_000_000_001, 1_000_000_003).expect("a namespace");
        let kind = nix::sys::stat::fstat(&table).expect("an open file");
        assert_ne!(kind.st_ino, nix::sys::stat::stat("/proc/self/ns/user").expect("our own").st_ino);
    }
}
