//! `anchorhold-warden`: the privileged process that builds, watches and kills cells.

use anchorhold_jail::warden::config::{Arguments, Config};
use anchorhold_jail::warden::{closer, doctor, instance_name, keeper};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Builds, watches and kills the cells of anchorhold. Normally started by `anchorhold serve`.
#[derive(Parser)]
#[command(name = "anchorhold-warden", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Subcommand)]
enum Verb {
    /// What the warden has closed elsewhere.
    #[command(name = closer::VERB, hide = true)]
    Close,
    /// Build a cell here and say which walls stand; exit status 1 when a required one does not.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// The configuration file.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Serve {
    /// Unix socket (SEQPACKET) for the API.
    #[arg(long)]
    socket: PathBuf,
    /// Directory whose path names this instance; one warden for each.
    #[arg(long)]
    data_dir: PathBuf,
    /// The image store; belongs to root.
    #[arg(long)]
    image_dir: PathBuf,
    /// The user that may connect, besides root.
    #[arg(long)]
    client_uid: u32,
    /// The socket of egress; without it no cell has a network.
    #[arg(long)]
    egress: Option<PathBuf>,
    /// The configuration file; belongs to root.
    #[arg(long)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (cli.command, cli.serve) {
        (Some(Verb::Doctor { json, config }), _) => examine(json, config),
        (Some(Verb::Close), _) => closer::run().map(|()| ExitCode::SUCCESS).map_err(Into::into),
        (None, Some(serve)) => run(serve),
        (None, None) => Err("nothing to do: see --help".into()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("anchorhold-warden: {error}");
        ExitCode::FAILURE
    })
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn run(serve: Serve) -> Outcome {
    std::fs::create_dir_all(&serve.data_dir)?;
    let lock = std::fs::File::create(serve.data_dir.join("lock"))?;
    lock.try_lock().map_err(|_| format!("another warden uses {}", serve.data_dir.display()))?;
    let arguments = Arguments {
        instance: instance_name(&serve.data_dir.canonicalize()?),
        socket: serve.socket,
        image_dir: serve.image_dir,
        client_uid: serve.client_uid,
        egress: serve.egress,
    };
    keeper::run(&Config::read(arguments, serve.config.as_deref())?)?;
    Ok(ExitCode::SUCCESS)
}

fn examine(json: bool, config: Option<PathBuf>) -> Outcome {
    let arguments = Arguments {
        instance: "doctor".into(),
        socket: PathBuf::new(),
        image_dir: PathBuf::from("/nonexistent"),
        client_uid: 0,
        egress: None,
    };
    let findings = doctor::examine(&Config::read(arguments, config.as_deref())?);
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let state = if finding.standing { "standing" } else { "ABSENT" };
            let weight = if finding.required { "required" } else { "advice" };
            println!("{:<28} {state:<10} {weight:<10} {}", finding.name, finding.detail);
        }
    }
    let fine = findings.iter().all(|f| f.standing || !f.required);
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
