//! Who steers a session's browser, and by which links strangers come to it.
//!
//! ```text
//!   requests for actions ─┐
//!   one outside client  ──┼─► one at a time: while a client is connected, actions are refused
//!   one person ───────────┘   while a person has taken over, both are; what a connected client asks waits
//! ```
//!
//! All of it is in memory: a restart of the service ends every connection, and with them who steered. A link is good for
//! minutes; after a restart another one is asked for.

use super::Refusal;
use super::live::lock;
use crate::tenant::{Tenant, digest};
use crate::words::words;
use anchorhold_sandbox::{Boottime, Id};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Links of a session that are good at a time; the oldest goes.
const LINKS_MAX: usize = 128;
/// How long a client that has hung up may take to be gone.
const LEAVING: Duration = Duration::from_secs(1);

words!(
    /// What a link is for.
    LinkRole {
        /// Speaking the browser's protocol.
        Cdp = "cdp",
        /// Watching.
        View = "view",
        /// Watching and taking over.
        Control = "control",
    }
);

/// The helm of one browser.
#[derive(Debug)]
pub(super) struct Helm {
    client: watch::Sender<bool>,
    person: watch::Sender<bool>,
    links: Mutex<Vec<Link>>,
}

impl Default for Helm {
    fn default() -> Self {
        Self { client: watch::Sender::new(false), person: watch::Sender::new(false), links: Mutex::default() }
    }
}

#[derive(Debug)]
struct Link {
    digest: [u8; 32],
    role: LinkRole,
    /// Who made it, and pays.
    tenant: Tenant,
    until: Boottime,
}

/// Who can hold the helm for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Client,
    Person,
}

/// The helm is held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    helm: Arc<Helm>,
    who: Who,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.helm.holder(self.who).send_replace(false);
    }
}

impl Helm {
    fn holder(&self, who: Who) -> &watch::Sender<bool> {
        match who {
            Who::Client => &self.client,
            Who::Person => &self.person,
        }
    }

    /// Whether a person has taken over; and whenever that changes.
    pub(super) fn persons(&self) -> watch::Receiver<bool> {
        self.person.subscribe()
    }

    /// Whether actions may be run now.
    pub(super) async fn may_act(&self) -> Result<(), Refusal> {
        if *self.person.borrow() {
            return Err(Refusal::Conflict("paused: a person has taken over the browser"));
        }
        // Who has just hung up is not in the way.
        let mut client = self.client.subscribe();
        match tokio::time::timeout(LEAVING, client.wait_for(|held| !held)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::Conflict("a CDP client drives the browser")),
        }
    }

    /// Gives the helm to a client.
    pub(super) async fn let_client(self: &Arc<Self>) -> Result<Held, Refusal> {
        self.may_act().await?;
        self.take(Who::Client).ok_or(Refusal::Conflict("a CDP client drives the browser"))
    }

    /// Gives the helm to a person, also while a client has it: the client waits. `None`: another person has.
    pub(super) fn let_person(self: &Arc<Self>) -> Option<Held> {
        self.take(Who::Person)
    }

    fn take(self: &Arc<Self>, who: Who) -> Option<Held> {
        let free = |held: &mut bool| !std::mem::replace(held, true);
        self.holder(who).send_if_modified(free).then(|| Held { helm: self.clone(), who })
    }

    /// A new link; its text is known to the caller alone.
    pub(super) fn link(&self, tenant: &Tenant, role: LinkRole, ttl_us: u64) -> String {
        let token = format!("lnk_{}{}", Id::random(), Id::random());
        let now = Boottime::now();
        let mut links = lock(&self.links);
        links.retain(|link| link.until > now);
        if links.len() >= LINKS_MAX {
            links.remove(0);
        }
        let link = Link { digest: digest(&token), role, tenant: tenant.clone(), until: now.plus_us(ttl_us) };
        links.push(link);
        token
    }

    /// What the link is for and whose, while it is good. How long a look takes says something about digests only.
    pub(super) fn by_link(&self, token: &str) -> Option<(Tenant, LinkRole)> {
        let (digest, now) = (digest(token), Boottime::now());
        let links = lock(&self.links);
        let link = links.iter().find(|link| link.digest == digest && link.until > now)?;
        Some((link.tenant.clone(), link.role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_steers_at_a_time_and_a_person_comes_first() {
        let helm = Arc::new(Helm::default());
        let client = helm.let_client().await.unwrap();
        assert!(helm.may_act().await.is_err() && helm.let_client().await.is_err());
        let person = helm.let_person().unwrap();
        assert!(helm.let_person().is_none());
        drop(client);
        assert!(helm.may_act().await.is_err() && helm.let_client().await.is_err());
        drop(person);
        assert!(helm.may_act().await.is_ok());
        let client = helm.let_client().await.unwrap();
        // It hangs up while another waits.
        let (next, ()) = tokio::join!(helm.let_client(), async move {
            tokio::time::sleep(LEAVING / 10).await;
            drop(client);
        });
        assert!(next.is_ok());
    }
}
