//! `anchorhold tenant`

use super::Remote;
use super::client::Client;
use super::show::{Table, dollars, field, show};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::str::FromStr;

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Makes a tenant; it has no key yet (`anchorhold key create`)
    #[command(
        after_help = "Example: anchorhold tenant create acme --sessions 20 --memory-bytes 16GiB --budget 25.00"
    )]
    Create {
        /// Its name: letters, digits, `_`, `.`, `-`
        name: String,
        /// What it may have.
        #[command(flatten)]
        quotas: QuotaArguments,
        /// Where the server is, and who asks.
        #[command(flatten)]
        remote: Remote,
    },
    /// Lists tenants with their quotas and what they spent
    List {
        /// Where the server is, and who asks.
        #[command(flatten)]
        remote: Remote,
    },
    /// Changes a tenant; what is not named stays
    #[command(after_help = "Examples: anchorhold tenant set acme --budget 100 --sessions none\n          \
                            anchorhold tenant set acme --disable")]
    Set {
        /// Its name or id
        tenant: String,
        /// What it is called from now on
        #[arg(long)]
        name: Option<String>,
        /// It may do nothing from now on; its live sessions end
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// It may do things again
        #[arg(long)]
        enable: bool,
        /// What it may have.
        #[command(flatten)]
        quotas: QuotaArguments,
        /// Where the server is, and who asks.
        #[command(flatten)]
        remote: Remote,
    },
}

/// Quotas; `none` takes one away, so that the server's default holds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quotas (a number, or `none` for the server's default)")]
pub struct QuotaArguments {
    /// Live sessions
    #[arg(long, value_name = "COUNT")]
    sessions: Option<Most>,
    /// Cells of live sessions: interpreters, commands, browsers, and what serves their files
    #[arg(long, value_name = "COUNT")]
    cells: Option<Most>,
    /// Open browsers
    #[arg(long, value_name = "COUNT")]
    browsers: Option<Most>,
    /// Executions that wait and run
    #[arg(long, value_name = "COUNT")]
    concurrent_executions: Option<Most>,
    /// Executions that begin within a second
    #[arg(long, value_name = "COUNT")]
    executions_per_second: Option<Most>,
    /// The sum of the memory limits of live sessions, as 512MiB
    #[arg(long, value_name = "SIZE")]
    memory_bytes: Option<Most>,
    /// The sum of the workspace limits of live sessions, as 10GiB
    #[arg(long, value_name = "SIZE")]
    workspace_bytes: Option<Most>,
    /// Bytes to and from the network of everything it ever ran, as 100GiB
    #[arg(long, value_name = "SIZE")]
    egress_bytes: Option<Most>,
    /// What everything it ever used may cost, in dollars, as 12.50
    #[arg(long, value_name = "DOLLARS")]
    budget: Option<Budget>,
}

/// A quota as it is written: a number, a size, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Most(Option<u64>);

impl FromStr for Most {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err("expected a number, a size as 512MiB, or none"),
        };
        let number: u64 = number.parse().map_err(|_| "expected a number, a size as 512MiB, or none")?;
        number.checked_mul(1 << shift).map(|number| Self(Some(number))).ok_or("too large")
    }
}

/// Dollars as they are written, in pico-dollars, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget(Option<i64>);

impl FromStr for Budget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 12 {
            return Err("expected dollars as 12.50, or none");
        }
        format!("{whole}{part:0<12}").parse().map(|picos| Self(Some(picos))).map_err(|_| "too large")
    }
}

impl QuotaArguments {
    /// Lays what was named over these quotas.
    fn lay_over(&self, quotas: &mut Map<String, Value>) {
        let counts = [
            ("sessions", self.sessions),
            ("cells", self.cells),
            ("browsers", self.browsers),
            ("concurrent_executions", self.concurrent_executions),
            ("executions_per_second", self.executions_per_second),
            ("memory_bytes", self.memory_bytes),
            ("workspace_bytes", self.workspace_bytes),
            ("egress_bytes", self.egress_bytes),
        ];
        for (name, most) in counts.into_iter().filter_map(|(name, most)| Some((name, most?))) {
            quotas.insert(name.to_owned(), most.0.into());
        }
        if let Some(budget) = self.budget {
            quotas.insert("budget_picos".to_owned(), budget.0.map(|picos| picos.to_string()).into());
        }
    }
}

/// Does it.
pub fn tenant(command: &TenantCommand) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create { name, quotas, remote } => {
            let mut body = Map::new();
            quotas.lay_over(&mut body);
            let made = Client::new(remote)?.post("/v1/tenants", &json!({ "name": name, "quotas": body }))?;
            show(remote.json, &made, || table([&made]))
        }
        TenantCommand::List { remote } => {
            let all = Client::new(remote)?.all("/v1/tenants", &[])?;
            show(remote.json, &json!(all), || table(&all))
        }
        TenantCommand::Set { tenant, name, disable, enable, quotas, remote } => {
            let client = Client::new(remote)?;
            let before = find(&client, tenant)?;
            let mut body = Map::new();
            body.insert("name".to_owned(), name.clone().into());
            if *disable || *enable {
                body.insert("disabled".to_owned(), (*disable).into());
            }
            let mut kept = before["quotas"].as_object().cloned().unwrap_or_default();
            quotas.lay_over(&mut kept);
            body.insert("quotas".to_owned(), kept.into());
            let after = client.patch(&format!("/v1/tenants/{}", id(&before)?), &body.into())?;
            show(remote.json, &after, || table([&after]))
        }
    }
}

/// The tenant of this name or id.
pub(super) fn find(client: &Client, wanted: &str) -> anyhow::Result<Value> {
    let all = client.all("/v1/tenants", &[])?;
    let found = all.into_iter().find(|tenant| tenant["name"] == wanted || tenant["id"] == wanted);
    found.with_context(|| format!("there is no tenant {wanted}; `anchorhold tenant list` shows all"))
}

/// What the server calls it, as a part of a path.
pub(super) fn id(value: &Value) -> anyhow::Result<&str> {
    match value["id"].as_str() {
        Some(id) if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => Ok(id),
        _ => bail!("the server answered no id"),
    }
}

fn table<'v>(tenants: impl IntoIterator<Item = &'v Value>) -> Table {
    let mut table = Table::new(&[
        "ID",
        "NAME",
        "STATE",
        "SESSIONS",
        "CELLS",
        "BROWSERS",
        "RUNNING",
        "PER SECOND",
        "MEMORY",
        "WORKSPACE",
        "EGRESS",
        "BUDGET",
        "SPENT",
    ]);
    for tenant in tenants {
        let quotas = &tenant["quotas"];
        table.line([
            field(tenant, "id"),
            field(tenant, "name"),
            if tenant["disabled"] == true { "disabled" } else { "enabled" }.to_owned(),
            field(quotas, "sessions"),
            field(quotas, "cells"),
            field(quotas, "browsers"),
            field(quotas, "concurrent_executions"),
            field(quotas, "executions_per_second"),
            field(quotas, "memory_bytes"),
            field(quotas, "workspace_bytes"),
            field(quotas, "egress_bytes"),
            quotas["budget_picos"].as_str().map_or_else(|| "-".to_owned(), dollars),
            dollars(&field(tenant, "spent_picos")),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_as_people_write_them() {
        let most = |text: &str| text.parse::<Most>().map(|most| most.0);
        assert_eq!(most("7"), Ok(Some(7)));
        assert_eq!(most("512MiB"), Ok(Some(512 << 20)));
        assert_eq!(most("none"), Ok(None));
        for text in ["", "-1", "MiB", "1MB", "1.5GiB", "99999999999TiB"] {
            assert!(most(text).is_err(), "{text}");
        }
        let budget = |text: &str| text.parse::<Budget>().map(|budget| budget.0);
        assert_eq!(budget("12.50"), Ok(Some(12_500_000_000_000)));
        assert_eq!(budget("3"), Ok(Some(3_000_000_000_000)));
        assert_eq!(budget("0.000000000001"), Ok(Some(1)));
        for text in ["", ".5", "-1", "1e3", "1.0000000000001", "9300000", "$1"] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}
