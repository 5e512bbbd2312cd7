//! Commands that talk to a running server, and how its answers are shown: tables for people, JSON for programs.

mod client;
mod image;
mod key;
mod mcp;
mod run;
mod show;
mod tenant;
mod usage;

pub use image::list as image_list;
pub use key::{KeyCommand, key};
pub use mcp::{McpArguments, mcp};
pub use run::{RunArguments, run};
pub use tenant::{TenantCommand, tenant};
pub use usage::{UsageArguments, usage};

use clap::Args;
use std::path::PathBuf;

/// A server, and how its answers are shown.
#[derive(Debug, Args)]
pub struct Remote {
    #[command(flatten)]
    server: Server,
    /// Prints what the server answers, as JSON
    #[arg(long)]
    json: bool,
}

/// Where the server is, and who asks.
#[derive(Debug, Args)]
pub struct Server {
    /// The server
    #[arg(long, value_name = "URL", env = "ANCHORHOLD_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A file that holds the key [default: the key in $ANCHORHOLD_API_KEY, else the data directory's admin.key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Where a server of this machine keeps its admin.key
    #[arg(long, value_name = "DIR", env = "ANCHORHOLD_DATA_DIR", default_value = "/var/lib/anchorhold")]
    data_dir: PathBuf,
}
