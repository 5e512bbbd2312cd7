//! `make load`: how much a server does, how fast, at what cost, and where it refuses.
//!
//! Scenarios run one after another against a fresh server, or a running one of this machine. Each has a tenant of its
//! own, which is disabled at the end, so that it leaves nothing alive. Figures come as lines while it runs, as a table,
//! as a page and as JSON.

mod attack;
mod probe;
mod report;
mod scenarios;
mod tally;
mod target;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use scenarios::{Bench, Scenario};
use std::path::PathBuf;
use target::Target;

/// Load on an anchorhold server of this machine
#[derive(Debug, Parser)]
#[command(
    name = "anchorhold-load",
    after_help = "Examples: anchorhold-load                                  (everything, a fresh server, 2 minutes)\n          \
                            anchorhold-load --only idle --idle 1000\n          \
                            anchorhold-load --base http://127.0.0.1:8080 --key ah_… --json load.json"
)]
struct Arguments {
    /// A running server, http://127.0.0.1:PORT; a fresh one is started where none is named
    #[arg(long, value_name = "URL", requires = "key")]
    base: Option<String>,
    /// Its admin key
    #[arg(long, value_name = "KEY", env = "ANCHORHOLD_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Which scenarios; all where none is named
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<Scenario>,
    /// How long each phase lasts; the ramp takes what it needs, a minute at most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=300))]
    seconds: u64,
    /// How many idle sessions, half Python, half JavaScript
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(2..=2000))]
    idle: u16,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "anchorhold-load.html")]
    html: PathBuf,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let target = match (&arguments.base, &arguments.key) {
        (Some(base), Some(key)) => Target::running(base, key)?,
        _ => Target::start()?,
    };
    let all = Scenario::value_variants();
    let chosen = if arguments.only.is_empty() { all } else { &arguments.only };
    let bench = Bench { target: &target, seconds: arguments.seconds, idle: arguments.idle.into() };
    let mut book = report::Book::new(target.describe());
    println!("{}\n{}", book.machine, book.target);
    for scenario in chosen {
        target.rest();
        book.scenarios.push(scenario.run(&bench).with_context(|| scenario.name())?);
    }
    target.stop()?;
    print!("\n{}", book.table());
    write(&arguments.html, book.html())?;
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&book)?)?;
    }
    let faults = book.faults();
    ensure!(faults.is_empty(), "the server failed, which no load excuses: {}", faults.join(", "));
    Ok(())
}

fn write(path: &PathBuf, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}
