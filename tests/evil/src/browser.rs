//! A browser cell whose Chromium is the attacker.
//!
//! The cell is made as the real one is: the driver is pid 1, starts a program behind the program's walls, and locks
//! itself. The program is a child that runs on in this one's memory: what somebody has who took a Chromium process over
//! and is past Chromium's own sandbox. An execution names an attack, in the expression of an `evaluate`; the driver
//! passes it on, or does it itself where its name begins with `driver`.

use crate::{attacks, unfiltered, walls};
use anchorhold_jail::control::Class;
use anchorhold_jail::hatch::{Commit, Execute, FromCell, ToCell};
use anchorhold_jail::lock;
use anchorhold_jail::packet::{self, PacketError};
use anchorhold_jail::program::{Copies, Pipes, Spare};
use anchorhold_jail::walls::Walls;
use anchorhold_jail::zygote::Hatch;
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

/// A cell from its birth on.
pub fn live(hatch: &Hatch) -> Result<Infallible, PacketError> {
    let (ToCell::Prepare { require_landlock, .. }, _) = packet::receive::<ToCell>(&hatch.0)? else {
        return Err(PacketError::Malformed("no identity"));
    };
    let (mut program, listener) = told(hatch, prepare(require_landlock))?;
    packet::send(&hatch.0, &FromCell::Prepared, &[])?;
    let (message, descriptors) = packet::receive::<ToCell>(&hatch.0)?;
    let (ToCell::Commit(commit), Ok(given)) = (message, <[OwnedFd; 2]>::try_from(descriptors)) else {
        return Err(PacketError::Malformed("no commit"));
    };
    let stands = told(hatch, lock_up(&commit, &given))?;
    packet::send(&hatch.0, &FromCell::Ready(stands), &[listener.as_fd()])?;
    drop(listener);
    loop {
        if let ToCell::Execute(execute) = packet::receive::<ToCell>(&hatch.0)?.0 {
            let report = program.attack(&execute.code).map_err(PacketError::Io)?;
            answer(hatch, &execute, &report)?;
        }
    }
}

/// A step that failed is told, and ends the cell.
fn told<T>(hatch: &Hatch, outcome: Result<T, String>) -> Result<T, PacketError> {
    outcome.map_err(|step| {
        let _nobody_else_to_tell = packet::send(&hatch.0, &FromCell::Refused { step }, &[]);
        PacketError::Closed
    })
}

fn said(step: &str, error: &dyn std::fmt::Display) -> String {
    format!("{step}: {error}")
}

/// The order of `anchorhold_cell::browser::run` until `Prepared` …
fn prepare(require_landlock: bool) -> Result<(Attacker, OwnedFd), String> {
    let listener = loopback::listen().map_err(|e| said("listen", &e))?;
    let namespaces = root::furnish_alone().map_err(|e| said("furnish", &e))?;
    let attacker = if unfiltered::is_wanted() {
        Attacker::Chromium(unfiltered::Chromium::start(require_landlock)?)
    } else {
        let program = Spare::copy(Class::Browser, true, &Copy);
        let pipes =
            program.and_then(|program| program.wait().and_then(|()| program.start(require_landlock, None)));
        let pipes = pipes.map_err(|e| said("program", &e))?;
        let mut attacker = Attacker::meet(pipes);
        attacker.attack(HELLO).map_err(|e| said("hello", &e))?;
        attacker
    };
    namespaces.close().map_err(|e| said("namespaces", &e))?;
    Ok((attacker, listener))
}

/// … and from the commit on.
fn lock_up(commit: &Commit, [files, workspace]: &[OwnedFd; 2]) -> Result<Walls, String> {
    root::put_workspace(workspace).map_err(|e| said("workspace", &e))?;
    let restricted = lock::restrict(Class::Browser, commit, files.as_fd()).map_err(|e| e.to_string())?;
    restricted.seal().map_err(|e| e.to_string())
}

/// What the attacker is: this program.
struct Copy;

impl Copies for Copy {
    fn get_ready(&self) -> bool {
        true
    }

    fn go_on(&self) {
        be_the_program();
    }
}

/// The driver's end of the attacker.
enum Attacker {
    /// A program in Chromium's place.
    Program { orders: File, reports: BufReader<File> },
    /// Chromium itself, which does whatever it is told.
    Chromium(unfiltered::Chromium),
}

impl Attacker {
    fn meet(pipes: Pipes) -> Self {
        Self::Program { orders: pipes.to.into(), reports: BufReader::new(pipes.from.into()) }
    }

    /// What came of the attack that the actions name.
    fn attack(&mut self, actions: &str) -> io::Result<String> {
        let order = actions.split("\"expression\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let order = order.unwrap_or_default();
        if let Some(attack) = order.strip_prefix("driver ") {
            return Ok(walls::report(attack));
        }
        let (orders, reports) = match self {
            Self::Program { orders, reports } => (orders, reports),
            Self::Chromium(chromium) => return chromium.order(order),
        };
        orders.write_all(order.as_bytes())?;
        orders.write_all(&[END])?;
        let mut report = Vec::new();
        reports.read_until(END, &mut report)?;
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
