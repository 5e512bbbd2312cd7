//! The service's program.

#![forbid(unsafe_code)]

use anchorhold::config::{Flags, Raw};
use anchorhold::{cli, egress};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. rmcp writes a line about every message of a client, and at the
/// level of errors where it was the client's mistake; the door for agents tells us what we need to know.
const LOGS: &str = "info,rmcp=off";

/// Runs code that nobody trusts, keeps it apart, and bills what it used.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Settings: one TOML file (--config), over which \
    ANCHORHOLD_SECTION_KEY from the environment goes, over which the command line goes. `anchorhold config` prints \
    what holds. Logs go to standard error; RUST_LOG chooses them (RUST_LOG=anchorhold=debug: a line per request)."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the HTTP API. As root it starts the warden, then becomes unprivileged; otherwise it needs --warden
    Serve {
        #[command(flatten)]
        settings: Settings,
        /// Where to listen [default: 127.0.0.1:8080]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<String>,
        /// Where people see what listens in sessions; without it they do not
        #[arg(long, value_name = "ADDRESS")]
        preview_listen: Option<String>,
        /// Allows listening beyond loopback without TLS
        #[arg(long)]
        insecure: bool,
        /// The socket of a running warden, instead of starting one
        #[arg(long, value_name = "SOCKET")]
        warden: Option<PathBuf>,
    },
    /// Serves the network of sessions; the only process that has one. Normally started by `serve`
    #[command(
        after_help = "Settings: [egress] of the configuration file, and ANCHORHOLD_EGRESS_KEY from the \
        environment: hosts, public, allow_private, resolvers, upstream, connections, requests_per_second, bytes, \
        idle_seconds, uid, threads."
    )]
    Egress {
        /// Where the warden connects (its --egress)
        #[arg(long, value_name = "SOCKET", required_unless_present = "kept_by")]
        socket: Option<PathBuf>,
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "ANCHORHOLD_CONFIG")]
        config: Option<PathBuf>,
        /// Ends when the warden does
        #[arg(long)]
        with_warden: bool,
        /// Is the process that this one keeps up, with the socket as its standard input
        #[arg(long, value_name = "PID", hide = true, conflicts_with = "socket")]
        kept_by: Option<i32>,
    },
    /// Says which walls stand on this machine; exit code 1 when a required one does not
    Doctor {
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "ANCHORHOLD_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Prints the resolved configuration, with every default
    Config {
        #[command(flatten)]
        settings: Settings,
    },
    /// Runs a program on a running server; its output is printed, and its end is this command's
    #[command(after_help = "Examples: anchorhold run hello.py\n          \
                            echo 'print(6 * 7)' | anchorhold run --language python -\n\
                            Exit code: the program's own; 124 when its time was over, 125 when a limit ended it.")]
    Run(cli::RunArguments),
    /// Gives the tools of a running server to an agent's client, by MCP on standard input and output
    #[command(after_help = "The server also speaks MCP itself, at /mcp (streamable HTTP).")]
    Mcp(cli::McpArguments),
    /// Shows what was used and what it cost
    #[command(after_help = "Example: anchorhold usage --group-by day --from 2026-01-01T00:00:00Z")]
    Usage(cli::UsageArguments),
    /// Makes, lists and changes tenants of a running server
    #[command(subcommand)]
    Tenant(cli::TenantCommand),
    /// Makes, lists and revokes keys of a running server
    #[command(subcommand)]
    Key(cli::KeyCommand),
    /// Looks at the images of this machine
    #[command(subcommand)]
    Image(ImageCommand),
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Lists images, after the same checks as the warden's
    List {
        #[command(flatten)]
        settings: Settings,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Settings {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "ANCHORHOLD_CONFIG")]
    config: Option<PathBuf>,
    /// Keeps the key, the ledger and the warden's memory [default: /var/lib/anchorhold]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Holds the images [default: /usr/lib/anchorhold/images]
    #[arg(long, value_name = "DIR")]
    image_dir: Option<PathBuf>,
}

impl Settings {
    fn flags(self) -> Flags {
        Flags { file: self.config, data_dir: self.data_dir, image_dir: self.image_dir, ..Flags::default() }
    }
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGS));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    match run(CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("anchorhold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { settings, listen, preview_listen, insecure, warden } => {
            let flags = Flags { listen, preview_listen, insecure, ..settings.flags() };
            let config = Raw::load(&flags, std::env::vars())?.resolve(flags.file)?;
            anchorhold::serve::serve(config, warden)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Egress { socket, config, with_warden, kept_by } => {
            match (socket, kept_by) {
                (Some(socket), _) => egress::keep(&egress::Arguments { socket, config, with_warden })?,
                (None, Some(keeper)) => egress::serve(config.as_deref(), with_warden, keeper)?,
                (None, None) => anyhow::bail!("where the warden connects is not said: --socket"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { json, config } => anchorhold::doctor::doctor(json, config.as_deref()),
        Command::Config { settings } => {
            let raw = Raw::load(&settings.flags(), std::env::vars())?;
            print!("{}", raw.to_toml()?);
            raw.resolve(None)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(arguments) => cli::run(&arguments),
        Command::Mcp(arguments) => cli::mcp(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Usage(arguments) => cli::usage(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Tenant(command) => cli::tenant(&command).map(|()| ExitCode::SUCCESS),
        Command::Key(command) => cli::key(&command).map(|()| ExitCode::SUCCESS),
        Command::Image(ImageCommand::List { settings, json }) => {
            let config = Raw::load(&settings.flags(), std::env::vars())?.resolve(None)?;
            cli::image_list(&config.image_dir, json).map(|()| ExitCode::SUCCESS)
        }
    }
}
