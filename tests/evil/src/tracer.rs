//! From outside and with root's rights: has a process of the real Chromium make system calls, as code of an attacker's in it
//! would. So Chromium's own sandbox is attacked together with the cell's.
#![expect(unsafe_code, reason = "ptrace has no safe wrapper here")]

use crate::attacks::NOT_TRIED;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};

/// Processes that would be made, and not be ours to end.
const MAKES_PROCESSES: [i64; 2] = [libc::SYS_fork, libc::SYS_vfork];
/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// A stop for a trapped call leaves one for the step behind.
const STEPS_MAX: usize = 4;

/// The calls that answer something else than `EPERM`, and are not trapped: one number in a line.
pub fn system_calls_of(pid: i32) -> io::Result<String> {
    trace(libc::PTRACE_ATTACH, pid, 0)?;
    wait(pid)?;
    let before = registers(pid)?;
    let instruction = find_instruction(pid)?;
    let mut report = String::new();
    for number in (0..=600).filter(|number| !NOT_TRIED.contains(number) && !MAKES_PROCESSES.contains(number))
    {
        if calls(pid, before, instruction, number)? {
            // Writing to a string does not fail.
            let _never = writeln!(report, "{number}");
        }
    }
    set_registers(pid, before)?;
    trace(libc::PTRACE_DETACH, pid, 0)?;
    Ok(report)
}

/// Makes one call with arguments that no call can use. Whether it was let through.
fn calls(pid: i32, before: libc::user_regs_struct, instruction: u64, number: i64) -> io::Result<bool> {
    let none = u64::MAX;
    let mut wanted = before;
    (wanted.rip, wanted.rax, wanted.orig_rax) = (instruction, number.cast_unsigned(), none);
    (wanted.rdi, wanted.rsi, wanted.rdx, wanted.r10, wanted.r8, wanted.r9) =
        (none, none, none, none, none, none);
    set_registers(pid, wanted)?;
    for _ in 0..STEPS_MAX {
        trace(libc::PTRACE_SINGLESTEP, pid, 0)?;
        match wait(pid)? {
            libc::SIGTRAP => {
                let after = registers(pid)?;
                if after.rip != instruction {
                    return Ok(after.rax.cast_signed() != -i64::from(libc::EPERM));
                }
            }
            // By Chromium's filter, which has the process crash.
            libc::SIGSYS => return Ok(false),
            // Something else happened to it; it is none of ours.
            _ => {}
        }
    }
    Err(io::Error::other(format!("call {number} does not end")))
}

/// Waits until it stops; by which signal.
fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer, which lives through the call.
    if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if libc::WIFSTOPPED(status) {
        return Ok(libc::WSTOPSIG(status));
    }
    Err(io::Error::other(format!("it ended: {status}")))
}

fn trace(request: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: these requests take integers, or the address of a struct that the caller keeps through the call.
    let answer = unsafe { libc::ptrace(request, pid, 0usize, data) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn registers(pid: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: a C struct of integers, for which zero is a valid value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(libc::PTRACE_GETREGS, pid, (&raw mut registers).addr())?;
    Ok(registers)
}

fn set_registers(pid: i32, registers: libc::user_regs_struct) -> io::Result<()> {
    trace(libc::PTRACE_SETREGS, pid, (&raw const registers).addr())
}

/// Where a system call is made in code that every process has.
fn find_instruction(pid: i32) -> io::Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let range = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| line.split(' ').next());
    let bounds = range.and_then(|range| range.split_once('-'));
    let bounds = bounds.and_then(|(from, to)| {
        Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
    });
    let (from, to) = bounds.ok_or_else(|| io::Error::other("no vdso"))?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    memory.seek(SeekFrom::Start(from))?;
    let mut code = Vec::new();
    memory.take(to - from).read_to_end(&mut code)?;
    let at =
        code.windows(2).position(|two| two == SYSCALL).ok_or_else(|| io::Error::other("no call in it"))?;
    Ok(from + at as u64)
}
