//! The server under load: a fresh one, or one that runs already. Always on this machine.

use crate::probe::Probe;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long the server may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(20);
/// It rests when the number of its processes has not changed for so long.
const REST: Duration = Duration::from_secs(1);

/// The server under load.
#[derive(Debug)]
pub struct Target {
    base: String,
    admin: Client,
    probe: Probe,
    /// Stopped at the end, if it was started here.
    fresh: Option<Server>,
}

/// Who loads it: a tenant made for a scenario.
#[derive(Debug)]
pub struct Tenant {
    id: String,
    /// Its key.
    pub key: String,
    /// A client with that key, for what is prepared before the load.
    pub client: Client,
}

impl Target {
    /// Starts a server of its own, with the defaults that everybody has.
    pub fn start() -> Result<Self> {
        let server = Server::start(Options::default())?;
        let mut roots = server.warden_pids();
        roots.push(server.pid());
        Ok(Self {
            base: server.base().to_owned(),
            admin: server.client()?,
            probe: Probe::of(roots),
            fresh: Some(server),
        })
    }

    /// The server that listens at `base`; the key must be one that administers.
    ///
    /// # Errors
    ///
    /// When `base` is not an address of this machine's loopback: load is for nobody else.
    pub fn running(base: &str, key: &str) -> Result<Self> {
        let base = loopback(base)?;
        let admin = Client::new(&base, Some(key))?;
        let asked = admin.get("/v1/tenants?limit=1").with_context(|| format!("nothing answers at {base}"))?;
        ensure!(asked.status == 200, "the key does not administer: {} {}", asked.status, asked.text());
        Ok(Self { base, admin, probe: Probe::of_all(), fresh: None })
    }

    /// Where it listens: `http://127.0.0.1:8080`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// In words.
    pub fn describe(&self) -> String {
        let kind = if self.fresh.is_some() { "a fresh server" } else { "a running server" };
        format!("{kind} at {}", self.base)
    }

    /// What it costs.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// A new tenant with these quotas; the server's defaults where they say nothing.
    pub fn tenant(&self, name: &str, quotas: &Value) -> Result<Tenant> {
        // A running server keeps the tenants of earlier loads.
        let name = format!("load-{name}-{}", jiff::Timestamp::now().as_millisecond());
        let made = self.admin.post("/v1/tenants", &json!({"name": name, "quotas": quotas}))?;
        let id = field(made, "id")?;
        let made = self.admin.post(&format!("/v1/tenants/{id}/keys"), &json!({"name": "load"}))?;
        let key = field(made, "key")?;
        Ok(Tenant { id, client: self.admin.with_key(Some(&key)), key })
    }

    /// Disables a tenant, which ends whatever it has, and waits until that is gone.
    pub fn retire(&self, tenant: &Tenant) -> Result<()> {
        let path = format!("/v1/tenants/{}", tenant.id);
        let answer = self.admin.patch(&path, &json!({"disabled": true}))?;
        ensure!(answer.status == 200, "retire a tenant: {} {}", answer.status, answer.text());
        self.rest();
        Ok(())
    }

    /// Waits until pools are full and what ended is gone, but not for ever: a running server may have other clients.
    pub fn rest(&self) {
        let end = Instant::now() + REST_MAX;
        let (mut count, mut since) = (self.probe.count(), Instant::now());
        while since.elapsed() < REST && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.probe.count();
            if now != count {
                (count, since) = (now, Instant::now());
            }
        }
    }

    /// Stops the server if it was started here.
    pub fn stop(self) -> Result<()> {
        self.fresh.map_or(Ok(()), |server| server.stop().map(drop))
    }
}

fn field(answer: anchorhold_tests::Answer, name: &str) -> Result<String> {
    ensure!(answer.status == 201, "make a tenant: {} {}", answer.status, answer.text());
    Ok(answer.json()[name].as_str().with_context(|| format!("no {name}"))?.to_owned())
}

/// A name may mean any address, so that only an address will do.
fn loopback(base: &str) -> Result<String> {
    let url: Url = base.parse().with_context(|| format!("{base} is no URL"))?;
    let address: Option<std::net::IpAddr> =
        url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    if url.scheme() != "http" || !address.is_some_and(|address| address.is_loopback()) {
        bail!("{base} is not on this machine: load goes to http://127.0.0.1:PORT or http://[::1]:PORT only");
    }
    ensure!(url.path() == "/" && url.query().is_none(), "{base} has a path");
    Ok(url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_stays_on_this_machine() {
        for (base, origin) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.9.9.9:1/", "http://127.9.9.9:1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(loopback(base).ok().as_deref(), Some(origin));
        }
        for base in [
            "http://localhost:8080",
            "http://example.org",
            "http://10.0.0.1:8080",
            "http://0.0.0.0:8080",
            "http://[::]:8080",
            "http://[::ffff:127.0.0.1]:8080",
            "http://127.0.0.1@example.org",
            "http://127.0.0.1.example.org",
            "https://127.0.0.1:8080",
            "http://127.0.0.1:8080/v1",
            "127.0.0.1:8080",
            "",
        ] {
            assert!(loopback(base).is_err(), "{base}");
        }
    }
}
