//! Previews: what listens inside of a session, for people with a browser.
//!
//! Who has the link gets a cookie by it; who has the cookie is let in. Both are in memory, as their digests: after a restart
//! the port is opened again. Nothing listens for anybody outside of the session before its owner has opened the port.

use super::live::{Live, lock};
use super::{Refusal, Service, later, now_us};
use crate::tenant::{Tenant, digest};
use anchorhold_sandbox::{Boottime, Id, SessionId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Ports of a session that are open at a time.
const PORTS_MAX: usize = 64;
/// Links of a port, and visitors, that are good at a time; the oldest goes.
const KEPT_MAX: usize = 64;
/// Requests to a session's programs that are under way.
const VISITS_MAX: usize = 64;

/// The open ports of one session.
#[derive(Debug)]
pub(super) struct Previews {
    ports: Mutex<BTreeMap<u16, Port>>,
    visits: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Port {
    links: Vec<Kept>,
    visitors: Vec<Kept>,
    /// The latest end that was said of it.
    until_us: i64,
    closed: CancellationToken,
}

/// A secret, as it is known here.
#[derive(Debug)]
struct Kept {
    digest: [u8; 32],
    until: Boottime,
}

/// A port that was opened.
#[derive(Debug)]
pub struct OpenPort {
    /// Which one.
    pub port: u16,
    /// Until when, in microseconds since 1970.
    pub until_us: i64,
}

/// Somebody who was let in.
#[derive(Debug)]
pub struct Visit {
    /// To the program that listens.
    pub stream: TcpStream,
    /// Held as long as the visit lasts.
    pub stay: Stay,
}

/// A place among the visitors of a session.
#[derive(Debug)]
pub struct Stay {
    closed: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Stay {
    /// Returns when the port is closed.
    pub async fn over(&self) {
        self.closed.cancelled().await;
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unvisited {
    /// Without a cookie that is good.
    Stranger,
    /// Nothing listens at the port.
    Nothing,
    /// Too many are under way, or the service cannot.
    Busy,
}

impl Default for Previews {
    fn default() -> Self {
        Self { ports: Mutex::default(), visits: Arc::new(Semaphore::new(VISITS_MAX)) }
    }
}

impl Previews {
    /// A new link to a port, which is open from now on.
    fn open(&self, port: u16, ttl_us: u64) -> Result<(String, i64), Refusal> {
        let mut ports = lock(&self.ports);
        let now = now_us();
        ports.retain(|_, open| open.until_us > now);
        if ports.len() >= PORTS_MAX && !ports.contains_key(&port) {
            return Err(Refusal::Conflict("as many ports are open as may"));
        }
        let open = ports.entry(port).or_default();
        let until_us = later(now, ttl_us);
        open.until_us = open.until_us.max(until_us);
        Ok((keep(&mut open.links, "prv", Boottime::now().plus_us(ttl_us)), until_us))
    }

    fn all(&self) -> Vec<OpenPort> {
        let (ports, now) = (lock(&self.ports), now_us());
        let open = ports.iter().filter(|(_, open)| open.until_us > now);
        open.map(|(&port, open)| OpenPort { port, until_us: open.until_us }).collect()
    }

    fn close(&self, port: u16) {
        if let Some(open) = lock(&self.ports).remove(&port) {
            open.closed.cancel();
        }
    }

    /// A visitor's secret for a link's.
    fn enter(&self, port: u16, link: &str) -> Option<String> {
        let mut ports = lock(&self.ports);
        let open = ports.get_mut(&port)?;
        let until = known(&open.links, link)?;
        Some(keep(&mut open.visitors, "vis", until))
    }

    fn admits(&self, port: u16, visitor: &str) -> Option<CancellationToken> {
        let ports = lock(&self.ports);
        let open = ports.get(&port)?;
        known(&open.visitors, visitor).map(|_| open.closed.clone())
    }
}

fn keep(all: &mut Vec<Kept>, what: &str, until: Boottime) -> String {
    let secret = format!("{what}_{}{}", Id::random(), Id::random());
    let now = Boottime::now();
    all.retain(|kept| kept.until > now);
    if all.len() >= KEPT_MAX {
        all.remove(0);
    }
    all.push(Kept { digest: digest(&secret), until });
    secret
}

/// Until when it is good. How long a look takes says something about digests only.
fn known(all: &[Kept], secret: &str) -> Option<Boottime> {
    let (digest, now) = (digest(secret), Boottime::now());
    all.iter().find(|kept| kept.digest == digest && kept.until > now).map(|kept| kept.until)
}

impl Service {
    /// Opens a port of the session for whoever has the link, whose secret is returned with its end.
    pub async fn open_port(
        &self,
        tenant: &Tenant,
        session: SessionId,
        port: u16,
        ttl_us: u64,
    ) -> Result<(String, i64), Refusal> {
        let live = self.find(tenant, session).await?;
        live.touch()?;
        live.previews.open(port, ttl_us)
    }

    /// The session's open ports.
    pub async fn ports(&self, tenant: &Tenant, session: SessionId) -> Result<Vec<OpenPort>, Refusal> {
        Ok(self.find(tenant, session).await?.previews.all())
    }

    /// Closes a port; who is in is shown out.
    pub async fn close_port(&self, tenant: &Tenant, session: SessionId, port: u16) -> Result<(), Refusal> {
        self.find(tenant, session).await?.previews.close(port);
        Ok(())
    }

    /// A visitor's secret for a link's. `None`: the link is not good.
    pub fn enter_port(&self, session: SessionId, port: u16, link: &str) -> Option<String> {
        self.0.live.get(session)?.previews.enter(port, link)
    }

    /// Lets somebody in who has one of these visitor's secrets.
    pub async fn visit(
        &self,
        session: SessionId,
        port: u16,
        mut secrets: impl Iterator<Item = &str>,
    ) -> Result<Visit, Unvisited> {
        let live: Arc<Live> = self.0.live.get(session).ok_or(Unvisited::Stranger)?;
        let closed = secrets.find_map(|secret| live.previews.admits(port, secret));
        let closed = closed.ok_or(Unvisited::Stranger)?;
        live.touch().map_err(|_| Unvisited::Nothing)?;
        let permit = live.previews.visits.clone().try_acquire_owned().map_err(|_| Unvisited::Busy)?;
        match live.cells.dial(port).await {
            Ok(Some(stream)) => Ok(Visit { stream, stay: Stay { closed, _permit: permit } }),
            Ok(None) => Err(Unvisited::Nothing),
            Err(_) => Err(Unvisited::Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_lets_in_by_a_cookie_and_only_to_its_port() {
        let previews = Previews::default();
        let (link, _) = previews.open(3000, 60_000_000).unwrap();
        let (other, _) = previews.open(3001, 60_000_000).unwrap();
        let visitor = previews.enter(3000, &link).unwrap();
        assert!(previews.admits(3000, &visitor).is_some());
        for (port, secret) in [(3000, &link), (3001, &visitor), (3000, &other), (3002, &visitor)] {
            assert!(previews.admits(port, secret).is_none(), "{port} {secret}");
        }
        assert!(previews.enter(3001, &link).is_none() && previews.enter(3000, &visitor).is_none());
        let closed = previews.admits(3000, &visitor).unwrap();
        previews.close(3000);
        assert!(closed.is_cancelled() && previews.admits(3000, &visitor).is_none());
    }

    #[test]
    fn secrets_end_and_are_bounded() {
        let previews = Previews::default();
        let (link, _) = previews.open(80, 0).unwrap();
        assert!(previews.enter(80, &link).is_none() && previews.all().is_empty());
        let (first, _) = previews.open(80, 60_000_000).unwrap();
        for _ in 0..KEPT_MAX {
            previews.open(80, 60_000_000).unwrap();
        }
        assert!(previews.enter(80, &first).is_none());
        for port in 1..=u16::try_from(PORTS_MAX).unwrap() {
            assert_eq!(previews.open(1000 + port, 60_000_000).is_ok(), usize::from(port) < PORTS_MAX);
        }
    }
}
