//! `anchorhold usage`

use super::Remote;
use super::client::Client;
use super::show::{Table, dollars, field, show};
use clap::Args;
use serde_json::{Value, json};

/// Which usage to show.
#[derive(Debug, Args)]
pub struct UsageArguments {
    /// What ended at or after this, as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// What ended before this
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// One line for each
    #[arg(long, value_name = "WHAT", value_parser = ["session", "day", "kind"])]
    group_by: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Shows what the key's tenant used and what that cost.
pub fn usage(arguments: &UsageArguments) -> anyhow::Result<()> {
    let named = [("from", &arguments.from), ("to", &arguments.to), ("group_by", &arguments.group_by)];
    let query: Vec<(&str, &str)> =
        named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let lines = Client::new(&arguments.remote)?.all("/v1/usage", &query)?;
    show(arguments.remote.json, &json!(lines), || table(&lines))
}

fn table(lines: &[Value]) -> Table {
    let mut table = Table::new(&[
        "GROUP",
        "RECORDS",
        "WALL S",
        "CPU S",
        "MEMORY GIB·S",
        "BROWSER S",
        "STANDBY S",
        "COST",
    ]);
    for line in lines {
        table.line([
            if line["group"].is_null() { "all".to_owned() } else { field(line, "group") },
            field(line, "records"),
            thousandths(&line["wall_us"], 1000),
            thousandths(&line["cpu_us"], 1000),
            thousandths(&line["memory_mib_ms"], 1024),
            thousandths(&line["browser_active_us"], 1000),
            thousandths(&line["browser_standby_us"], 1000),
            dollars(&field(line, "cost_picos")),
        ]);
    }
    table
}

/// A number in thousandths of a unit, when so many of what is counted are a thousandth.
fn thousandths(value: &Value, each: u64) -> String {
    let thousandths = value.as_u64().unwrap_or(0) / each;
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units() {
        assert_eq!(thousandths(&json!(1_234_567), 1000), "1.234");
        // 2 GiB for half a second.
        assert_eq!(thousandths(&json!(2048 * 500), 1024), "1.000");
    }
}
