//! A browser cell whose Chromium is the attacker.
//!
//! The cell is made as the real one is: the driver is pid 1, starts a program behind the program's walls, and locks
//! itself. The program is a child that runs on in this one's memory: what somebody has who took a Chromium process over
//! and is past Chromium's own sandbox. An execution names an attack, in the expression of an `evaluate`; the driver
//! passes it on, or does it itself where its name begins with `driver`.

use crate::{attacks, walls};
use anchorhold_jail::control::Class;
use anchorhold_jail::hatch::{Commit, Execute, FromCell, ToCell};
use anchorhold_jail::lock;
use anchorhold_jail::packet::{self, PacketError};
use anchorhold_jail::program::{Pipes, Spare};
use anchorhold_jail::walls::Walls;
use anchorhold_jail::zygote::{Hatch, PROGRAM_DESCRIPTORS_MAX};
use anchorhold_jail::{loopback, root};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};

/// Where a program finds its pipe.
const ORDERS_FD: i32 = 3;
const REPORTS_FD: i32 = 4;
/// The first order: whoever answers it runs.
const HELLO: &str = r#""expression":"hello""#;
/// Ends an order and a report.
const END: u8 = 0;

/// A cell from its commit on.
pub fn live(hatch: &Hatch) -> Result<Infallible, PacketError> {
    packet::send(&hatch.0, &FromCell::Prepared, &[])?;
    let (message, descriptors) = packet::receive::<ToCell>(&hatch.0)?;
    let (ToCell::Commit(commit), Ok([files, workspace, tmp, shm])) =
        (message, <[OwnedFd; 4]>::try_from(descriptors))
    else {
        return Err(PacketError::Malformed("no commit"));
    };
    match lock_up(&commit, &files, &[workspace, tmp, shm]) {
        Err(step) => {
            packet::send(&hatch.0, &FromCell::Refused { step }, &[])?;
            Err(PacketError::Closed)
        }
        Ok((mut program, listener, stands)) => {
            packet::send(&hatch.0, &FromCell::Ready(stands), &[listener.as_fd()])?;
            drop(listener);
            loop {
                if let ToCell::Execute(execute) = packet::receive::<ToCell>(&hatch.0)?.0 {
                    let report = program.attack(&execute.code).map_err(PacketError::Io)?;
                    answer(hatch, &execute, &report)?;
                }
            }
        }
    }
}

/// The order of `anchorhold_cell::browser::run`.
fn lock_up(
    commit: &Commit,
    files: &OwnedFd,
    parts: &[OwnedFd; 3],
) -> Result<(Attacker, OwnedFd, Walls), String> {
    let said = |step: &str, error: &dyn std::fmt::Display| format!("{step}: {error}");
    let listener = loopback::listen().map_err(|e| said("listen", &e))?;
    let namespaces = root::furnish(Class::Browser, parts).map_err(|e| said("furnish", &e))?;
    let program = Spare::fork(Class::Browser, PROGRAM_DESCRIPTORS_MAX, || true, be_the_program);
    let pipes = program.and_then(|program| program.start(commit.require_landlock, None));
    let mut attacker =
        Attacker::meet(pipes.map_err(|e| said("program", &e))?).map_err(|e| said("meet", &e))?;
    attacker.attack(HELLO).map_err(|e| said("hello", &e))?;
    namespaces.close().map_err(|e| said("namespaces", &e))?;
    let restricted = lock::restrict(Class::Browser, commit, files.as_fd()).map_err(|e| e.to_string())?;
    let stands = restricted.seal().map_err(|e| e.to_string())?;
    Ok((attacker, listener, stands))
}

/// The driver's end of the attacker.
struct Attacker {
    orders: File,
    reports: BufReader<File>,
}

impl Attacker {
    fn meet(pipes: Pipes) -> io::Result<Self> {
        Ok(Self { orders: pipes.to.into(), reports: BufReader::new(pipes.from.into()) })
    }

    /// What came of the attack that the actions name.
    fn attack(&mut self, actions: &str) -> io::Result<String> {
        let order = actions.split("\"expression\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let order = order.unwrap_or_default();
        if let Some(attack) = order.strip_prefix("driver ") {
            return Ok(walls::report(attack));
        }
        self.orders.write_all(order.as_bytes())?;
        self.orders.write_all(&[END])?;
        let mut report = Vec::new();
        self.reports.read_until(END, &mut report)?;
        if report.pop() != Some(END) {
            // As the real driver: with its program the cell has nothing more to do.
            crate::end(0);
        }
        Ok(String::from_utf8_lossy(&report).into_owned())
    }
}

/// The program: does what it is told, until the driver is gone.
#[expect(unsafe_code, reason = "descriptors that it was started with")]
fn be_the_program() {
    // SAFETY: its start put the two pipes there, and nothing else in this process owns them.
    let orders = unsafe { File::from_raw_fd(ORDERS_FD) };
    // SAFETY: as above.
    let mut reports = unsafe { File::from_raw_fd(REPORTS_FD) };
    let mut orders = BufReader::new(orders);
    loop {
        let mut order = Vec::new();
        if !matches!(orders.read_until(END, &mut order), Ok(1..)) {
            crate::end(0);
        }
        order.pop();
        let report = walls::report(&String::from_utf8_lossy(&order));
        if reports.write_all(report.as_bytes()).and_then(|()| reports.write_all(&[END])).is_err() {
            crate::end(0);
        }
    }
}

/// As the real driver answers an `evaluate`.
fn answer(hatch: &Hatch, execute: &Execute, report: &str) -> Result<(), PacketError> {
    let value: String = report.escape_default().collect::<String>().replace("\\'", "'");
    let json = format!(
        "{{\"main\":false,\"mime\":{{\"application/vnd.anchorhold.action+json\":\
         {{\"type\":\"evaluate\",\"outcome\":\"done\",\"error\":null,\"value\":\"{value}\"}}}}}}"
    );
    packet::send(&hatch.0, &FromCell::Value { execution: execute.execution, json: json.into_bytes() }, &[])?;
    packet::send(&hatch.0, &FromCell::Ended(crate::ended(execute.execution, 0)), &[])
}

/// For those attacks that are the same in every cell.
pub fn common(attack: &str, argument: &str, report: &mut String) {
    match attack {
        "syscalls" => attacks::every_system_call(report),
        "memory" => attacks::memory(argument.parse().unwrap_or(0), report),
        _ => report.push_str("unknown attack\n"),
    }
}
