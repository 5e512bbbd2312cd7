//! Every promise, against real servers. One program, so that most tests share one server and it is stopped at the end.
//!
//! `cargo test -p anchorhold-tests -- NAME` runs a part; `--list` shows all.

use anchorhold_tests::{Client, Options, Server, host::Footprint};
use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::{Arc, Mutex};

/// The server that tests share which do not need one of their own; started by the first that asks.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Option<Server>>>);

impl Shared {
    /// A client of it.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.with(|server| server.client())
    }

    /// Does something with it.
    pub fn with<T>(&self, act: impl FnOnce(&Server) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if shared.is_none() {
            *shared = Some(Server::start(Options::default())?);
        }
        act(shared.as_ref().ok_or_else(|| anyhow::anyhow!("no server"))?)
    }
}

/// A table of tests: `tests!(shared; a, b)` names functions `fn(&Shared) -> anyhow::Result<()>` of the module.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        /// The tests of this room.
        pub fn all(shared: &$crate::Shared) -> Vec<libtest_mimic::Trial> {
            let module = module_path!().split_once("::").map_or("", |(_, module)| module);
            vec![$($crate::trial(module, stringify!($name), shared, $name)),+]
        }
    };
}

mod architecture;
mod archives;
mod audit;
mod billing;
mod boa;
mod browser;
mod cdp;
mod cli;
mod contexts;
mod egress;
mod executions;
mod faults;
mod files;
mod hostile;
mod http2;
mod inputs;
mod isolation;
mod kernels;
mod limits;
mod live;
mod machine;
mod mcp;
mod metrics;
mod native;
mod neighbours;
mod once;
mod openapi;
mod preview;
mod restart;
mod sessions;
mod standby;
mod streams;
mod takeover;
mod tenants;
mod terminal;
mod transfers;
mod typescript;
mod unruly;

/// A room of tests.
type Room = fn(&Shared) -> Vec<Trial>;

const ROOMS: &[Room] = &[
    architecture::all,
    sessions::all,
    executions::all,
    contexts::all,
    typescript::all,
    boa::all,
    streams::all,
    files::all,
    http2::all,
    archives::all,
    limits::all,
    inputs::all,
    openapi::all,
    browser::all,
    standby::all,
    hostile::all,
    native::all,
    native::packages::all,
    native::ready::all,
    native::walls::all,
    machine::all,
    unruly::all,
    preview::all,
    terminal::all,
    egress::all,
    cdp::all,
    live::all,
    billing::all,
    once::all,
    tenants::all,
    transfers::all,
    cli::all,
    audit::all,
    mcp::all,
    mcp::pages::all,
    mcp::ends::all,
    mcp::relay::all,
    metrics::all,
    neighbours::all,
    isolation::all,
    kernels::all,
    takeover::all,
    faults::all,
    restart::all,
];

fn trial(module: &str, name: &str, shared: &Shared, test: fn(&Shared) -> anyhow::Result<()>) -> Trial {
    let shared = shared.clone();
    Trial::test(format!("{module}::{name}"), move || {
        test(&shared).map_err(|e| Failed::from(format!("{e:?}")))
    })
}

fn main() {
    let mut own = std::env::args().skip(1);
    if own.next().as_deref() == Some(neighbours::ATTACK) {
        return neighbours::attack(own).unwrap_or_else(|error| fail(&format!("{error:?}")));
    }
    let mut arguments = Arguments::from_args();
    // Two processors, and tests that count time.
    arguments.test_threads.get_or_insert(2);
    let before = Footprint::take();
    let shared = Shared::default();
    let mut trials = Vec::new();
    for room in ROOMS {
        trials.extend(room(&shared));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let server = shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(server) = server {
        match server.stop() {
            Ok(log) => check_log(&log),
            Err(error) => fail(&format!("the shared server does not stop well: {error:?}")),
        }
    }
    let after = Footprint::take();
    if before != after && !arguments.list {
        fail(&format!("the suite left something on the host:\nbefore {before:?}\nafter  {after:?}"));
    }
    conclusion.exit();
}

/// A clean log is a promise too: nothing above information was logged unless a test asked for trouble.
fn check_log(log: &str) {
    for line in log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")) {
        fail(&format!("the shared server logged: {line}"));
    }
}

fn fail(text: &str) {
    eprintln!("{text}");
    std::process::exit(101);
}
