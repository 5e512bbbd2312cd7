//! The attacker inside.
//!
//! The warden starts this instead of `anchorhold-cell` when `[warden] cell_program` says so. It is confined, forked,
//! committed and locked by the same code as the real worker; then, instead of interpreting a guest, it takes the
//! "code" of an execution as the name of an attack, runs it as native code, and prints what the kernel answered.
//! The tests look from the other side as well.

use anchorhold_jail::control::Class;
use anchorhold_jail::hatch::{Commit, Ended, Execute, FromCell, How, Stream, ToCell};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::zygote::{Hatch, Station};
use anchorhold_jail::{lock, packet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

mod attacks;
mod browser;
mod tracer;
mod unfiltered;
mod walls;

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("take-over") {
        let pid = words.next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        match tracer::system_calls_of(pid) {
            Ok(report) => print!("{report}"),
            Err(error) => eprintln!("anchorhold-evil: process {pid}: {error}"),
        }
        return;
    }
    // File operations stay real: attacks on them are links and files that hostile code made. So do native cells, in which
    // hostile code is what anybody runs.
    if matches!(std::env::args().nth(2).as_deref(), Some("files" | "native")) {
        return be_the_real_one();
    }
    let outcome = Station::from_env().and_then(|mut station| {
        station.confine()?;
        let class = station.class;
        station.serve(|hatch| live(class, &hatch))
    });
    if let Err(error) = outcome {
        eprintln!("anchorhold-evil: {error}");
    }
}

fn be_the_real_one() {
    use std::os::unix::process::CommandExt;
    let real = std::env::current_exe().unwrap_or_default().with_file_name("anchorhold-cell");
    let error = std::process::Command::new(real).args(std::env::args().skip(1)).exec();
    eprintln!("anchorhold-evil: {error}");
}

fn live(class: Class, hatch: &Hatch) -> Infallible {
    let _outcome = match class {
        Class::Browser => browser::live(hatch),
        Class::Wasm | Class::Files | Class::Native => try_live(class, hatch),
    };
    end(0)
}

#[expect(clippy::exit, reason = "a cell ends by ending its process")]
fn end(code: i32) -> ! {
    std::process::exit(code)
}

fn try_live(class: Class, hatch: &Hatch) -> Result<Infallible, packet::PacketError> {
    packet::send(&hatch.0, &FromCell::Prepared, &[])?;
    let (message, mut descriptors) = packet::receive::<ToCell>(&hatch.0)?;
    let (ToCell::Commit(commit), Some(workspace)) = (message, descriptors.pop()) else {
        return Err(packet::PacketError::Malformed("no commit"));
    };
    packet::send(&hatch.0, &lock_up(class, &commit, &workspace), &[])?;
    loop {
        match packet::receive::<ToCell>(&hatch.0)?.0 {
            ToCell::Execute(execute) => run(hatch, &workspace, &execute)?,
            ToCell::Attach { generation } => {
                packet::send(&hatch.0, &FromCell::Attached { generation, executions: vec![] }, &[])?;
            }
            _ => {}
        }
    }
}

fn lock_up(class: Class, commit: &Commit, workspace: &OwnedFd) -> FromCell {
    match lock::restrict(class, commit, workspace.as_fd()).and_then(lock::Restricted::seal) {
        Ok(walls) => FromCell::Ready(walls),
        Err(error) => FromCell::Refused { step: error.to_string() },
    }
}

fn run(hatch: &Hatch, workspace: &OwnedFd, execute: &Execute) -> Result<(), packet::PacketError> {
    let mut report = String::new();
    let (attack, argument) = execute.code.split_once(' ').unwrap_or((&execute.code, ""));
    match attack {
        "syscalls" => attacks::every_system_call(&mut report),
        "sockets" => attacks::every_socket(&mut report),
        "files" => attacks::host_files(workspace.as_raw_fd(), argument, &mut report),
        "memory" => attacks::memory(argument.parse().unwrap_or(0), &mut report),
        "spin" => attacks::spin(),
        "int80" => attacks::old_system_call(),
        "segv" => attacks::fault(),
        "links" => attacks::links(workspace.as_raw_fd(), &mut report),
        "write" => attacks::write_files(workspace.as_raw_fd(), &mut report),
        "exit" => end(argument.parse().unwrap_or(0)),
        "garbage" => return attacks::garbage(hatch),
        "impostor" => return impostor(hatch),
        "flood" => return flood(hatch, execute.execution),
        _ => {
            let _never_fails = writeln!(report, "unknown attack");
        }
    }
    for chunk in report.as_bytes().chunks(8 * 1024) {
        let output =
            FromCell::Output { execution: execute.execution, stream: Stream::Stdout, bytes: chunk.to_vec() };
        packet::send(&hatch.0, &output, &[])?;
    }
    packet::send(&hatch.0, &FromCell::Ended(ended(execute.execution, report.len())), &[])
}

/// An end as a cell might claim it: the usage in it must not be believed.
fn ended(execution: ExecutionId, length: usize) -> Ended {
    Ended {
        execution,
        how: How::Succeeded,
        error: None,
        exit_code: None,
        wall_us: 1,
        stdout_bytes: length as u64,
        stderr_bytes: 0,
        state_lost: false,
        memory_refused: false,
    }
}

/// Speaks for an execution that is not this cell's.
fn impostor(hatch: &Hatch) -> Result<(), packet::PacketError> {
    packet::send(&hatch.0, &FromCell::Ended(ended(ExecutionId::random(), 0)), &[])
}

/// Output without end, past every cap.
fn flood(hatch: &Hatch, execution: ExecutionId) -> Result<(), packet::PacketError> {
    loop {
        let bytes = vec![b'x'; 16 * 1024];
        packet::send(&hatch.0, &FromCell::Output { execution, stream: Stream::Stdout, bytes }, &[])?;
    }
}
