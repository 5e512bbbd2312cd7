//! `anchorhold key`

use super::Remote;
use super::client::Client;
use super::show::{Table, field, print, show};
use super::tenant::{find, id};
use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes a key of a tenant and prints it: this once
    #[command(after_help = "Example: anchorhold key create acme ci > acme.key")]
    Create {
        /// The tenant's name or id
        tenant: String,
        /// The key's name: letters, digits, `_`, `.`, `-`
        name: String,
        /// Where the server is, and who asks.
        #[command(flatten)]
        remote: Remote,
    },
    /// Lists the keys of a tenant, revoked ones too
    List {
        /// The tenant's name or id
        tenant: String,
        /// Where the server is, and who asks.
        #[command(flatten)]
        remote: Remote,
    },
    /// Makes a key worthless, at once
    #[command(after_help = "Example: anchorhold key revoke acme ci")]
    Revoke {
        /// The tenant's name or id
        tenant: String,
        /// The key's name or id
        key: String,
        /// Where the server is, and who asks.
        #[command(flatten)]
        remote: Remote,
    },
}

/// Does it.
pub fn key(command: &KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { tenant, name, remote } => {
            let client = Client::new(remote)?;
            let path = keys_of(&client, tenant)?;
            let made = client.post(&path, &json!({ "name": name }))?;
            if remote.json {
                return print(&format!("{made:#}\n"));
            }
            print(&format!("{}\n", made["key"].as_str().context("the server answered no key")?))
        }
        KeyCommand::List { tenant, remote } => {
            let client = Client::new(remote)?;
            let all = client.all(&keys_of(&client, tenant)?, &[])?;
            show(remote.json, &json!(all), || table(&all))
        }
        KeyCommand::Revoke { tenant, key, remote } => {
            let client = Client::new(remote)?;
            let path = keys_of(&client, tenant)?;
            let all = client.all(&path, &[])?;
            // A name may have been used before: the one that holds is meant.
            let holds = |held: &&Value| held["revoked_at"].is_null() && held["name"] == key.as_str();
            let found = all.iter().find(|held| held["id"] == key.as_str()).or_else(|| all.iter().find(holds));
            let found =
                found.with_context(|| format!("there is no key {key}; `anchorhold key list` shows all"))?;
            let revoked = client.delete(&format!("{path}/{}", id(found)?))?;
            show(remote.json, &revoked, || table([&revoked]))
        }
    }
}

fn keys_of(client: &Client, tenant: &str) -> anyhow::Result<String> {
    Ok(format!("/v1/tenants/{}/keys", id(&find(client, tenant)?)?))
}

fn table<'v>(keys: impl IntoIterator<Item = &'v Value>) -> Table {
    let mut table = Table::new(&["ID", "NAME", "MAY", "CREATED", "REVOKED"]);
    for key in keys {
        table.line([
            field(key, "id"),
            field(key, "name"),
            if key["admin"] == true { "administer" } else { "use" }.to_owned(),
            field(key, "created_at"),
            field(key, "revoked_at"),
        ]);
    }
    table
}
