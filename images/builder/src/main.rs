//! `anchorhold-image`: builds guests into loadable images, checks them, keeps them in the store.
//!
//! - `recipe`: an image folder and the hash of everything that goes into the image
//! - `build`: recipe → wasm → snapshot → native code → smoke programs → store
//! - `guest`: one instance of a guest in this process, without any walls
//! - `smoke`: programs with their expected transcripts
//! - `tree`: images that are a directory
//! - `store`: blobs and trees by digest and one manifest per image

mod build;
mod guest;
mod recipe;
mod smoke;
mod store;
mod tree;

/// The same file that the cell compiles: what is built here must load there.
#[path = "../../../sandbox/cell/src/engine.rs"]
mod engine;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::{
    guest::Guest,
    recipe::{Processor, Recipe},
    store::Store,
};

/// Builds, checks, lists and runs anchorhold's wasm images.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// The image store [default: $XDG_CACHE_HOME/anchorhold/images or ~/.cache/anchorhold/images]
    #[arg(long, global = true, env = "ANCHORHOLD_IMAGE_DIR", value_name = "DIR")]
    store: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image folder and store it, unless the store already holds exactly this recipe
    Build {
        /// The folder with image.toml
        folder: PathBuf,
        /// Make native code that runs on every x86-64, not only on machines that can do what this one can
        #[arg(long)]
        any_processor: bool,
        /// Take what the smoke programs print as the new expectation, instead of comparing
        #[arg(long)]
        bless: bool,
    },
    /// List the images in the store
    List,
    /// Run a program in a stored image, in this process and WITHOUT ANY WALLS: for developers only
    ///
    /// Cells of the program are separated by lines that start with `#%%` or `//%%`;
    /// each is one execution of the same session.
    Run(Run),
    /// Run an image folder's smoke programs against the stored image
    Smoke {
        /// The folder with image.toml
        folder: PathBuf,
        /// Write what happened as the new expectation, instead of comparing
        #[arg(long)]
        bless: bool,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Name of the image
    image: String,
    /// The program
    file: PathBuf,
    /// The directory that the guest sees as /workspace [default: an empty one]
    #[arg(long)]
    workspace: Option<PathBuf>,
    /// Environment of the session
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    environment: Vec<(String, String)>,
    /// Interrupt an execution after this long
    #[arg(long, default_value = "60000", value_name = "MILLISECONDS")]
    timeout_ms: u64,
    /// Run the program in this many sessions, one after the other, and show the last: the code is
    /// mapped by then, as in a zygote
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Run the program's last cell this many times more, and print the median time
    #[arg(long, default_value = "0", value_name = "N")]
    repeat: u32,
}

fn pair(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match on_large_stack(move || dispatch(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("anchorhold-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Guests recurse deeper than the main thread's stack allows.
fn on_large_stack(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .stack_size(engine::HOST_STACK_BYTES)
        .spawn(work)?
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn dispatch(arguments: Arguments) -> Result<()> {
    let store = Store::open(arguments.store)?;
    match arguments.command {
        Command::Build { folder, any_processor, bless } => {
            let processor = if any_processor { Processor::Any } else { Processor::This };
            build::build(&Recipe::read(&folder, processor)?, &store, bless)
        }
        Command::List => list(&store),
        Command::Run(run) => run_program(&run, &store),
        Command::Smoke { folder, bless } => {
            let recipe = Recipe::read(&folder, Processor::This)?;
            let image = store.load(&recipe.name)?;
            smoke::run(&recipe, &image, bless)
        }
    }
}

fn list(store: &Store) -> Result<()> {
    let manifests = store.list()?;
    if manifests.is_empty() {
        bail!("no image in {}: run `make images`", store.directory().display());
    }
    for m in manifests {
        let mib = m.size_bytes as f64 / f64::from(1 << 20);
        println!("{:<18} {:<12} {mib:>6.1} MiB  {}  {}", m.name, m.language, &m.digest[..19], m.version);
    }
    Ok(())
}

fn run_program(run: &Run, store: &Store) -> Result<()> {
    let text = std::fs::read_to_string(&run.file).with_context(|| format!("{}", run.file.display()))?;
    let cells = smoke::cells(&text)?;
    let image = store.load(&run.image)?;
    let environment: BTreeMap<_, _> = run.environment.iter().cloned().collect();
    for _ in 1..run.sessions {
        session(run, &image, &cells, &environment)?;
    }
    let (mut guest, finished) = session(run, &image, &cells, &environment)?;
    eprintln!("load {:?}, instantiate {}, start {}", image.load_time, guest.instantiate, guest.start_cost);
    let mut failed = false;
    for finished in finished {
        print!("{finished}");
        eprintln!("execute {}", finished.cost);
        failed |= finished.status != 0;
    }
    if run.repeat > 0
        && let Some(last) = cells.last()
    {
        let mut times = Vec::new();
        for _ in 0..run.repeat {
            times.push(guest.execute(last)?.cost.time);
        }
        times.sort();
        eprintln!("repeated {} times: median {:?}, least {:?}", run.repeat, times[times.len() / 2], times[0]);
    }
    if failed {
        bail!("the program failed");
    }
    Ok(())
}

fn session(
    run: &Run,
    image: &store::Image,
    cells: &[smoke::Cell],
    environment: &BTreeMap<String, String>,
) -> Result<(Guest, Vec<guest::Finished>)> {
    let mut guest = Guest::new(image, run.workspace.as_deref())?;
    guest.start(environment)?;
    let mut finished = Vec::new();
    for cell in cells {
        let mut cell = cell.clone();
        cell.timeout.get_or_insert(Duration::from_millis(run.timeout_ms));
        finished.push(guest.execute(&cell)?);
    }
    Ok((guest, finished))
}
