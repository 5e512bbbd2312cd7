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

use super::live::lock;
use super::Refusal;
use crate::tenant::{Tenant, digest};
use crate::words::words;
use anchorhold_sandbox::{Boottime, Id};
use std::sync::{Arc, Mutex};

/// Links of a session that are good at a time; the oldest goes.
const LINKS_MAX: usize = 128;

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
#[derive(Debug, Default)]
pub(super) struct Helm(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    client: bool,
    person: bool,
    links: Vec<Link>,
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
pub(super) enum Who {
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
        *lock(&self.helm.0).holder(self.who) = false;
    }
}

impl State {
    fn holder(&mut self, who: Who) -> &mut bool {
        match who {
            Who::Client => &mut self.client,
            Who::Person => &mut self.person,
        }
    }
}

impl Helm {
    /// Whether actions may be run now.
    pub(super) fn may_act(&self) -> Result<(), Refusal> {
        let state = lock(&self.0);
        if state.person {
            return Err(Refusal::Conflict("paused: a person has taken over the browser"));
        }
        if state.client {
            return Err(Refusal::Conflict("a CDP client drives the browser"));
        }
        Ok(())
    }

    /// Gives the helm to a client or a person. A person takes it from a client, who waits.
    pub(super) fn take(self: &Arc<Self>, who: Who) -> Result<Held, Refusal> {
        if who == Who::Client {
            self.may_act()?;
        }
        let mut state = lock(&self.0);
        if std::mem::replace(state.holder(who), true) {
            return Err(Refusal::Conflict(match who {
                Who::Client => "a CDP client drives the browser",
                Who::Person => "another person has taken over the browser",
            }));
        }
        Ok(Held { helm: self.clone(), who })
    }

    /// A new link; its text is known to the caller alone.
    pub(super) fn link(&self, tenant: &Tenant, role: LinkRole, ttl_us: u64) -> String {
        let token = format!("lnk_{}{}", Id::random(), Id::random());
        let now = Boottime::now();
        let mut state = lock(&self.0);
        state.links.retain(|link| link.until > now);
        if state.links.len() >= LINKS_MAX {
            state.links.remove(0);
        }
        let link =
            Link { digest: digest(&token), role, tenant: tenant.clone(), until: now.plus_us(ttl_us) };
        state.links.push(link);
        token
    }

    /// What the link is for and whose, while it is good. How long a look takes says something about digests only.
    pub(super) fn by_link(&self, token: &str) -> Option<(Tenant, LinkRole)> {
        let (digest, now) = (digest(token), Boottime::now());
        let state = lock(&self.0);
        let link = state.links.iter().find(|link| link.digest == digest && link.until > now)?;
        Some((link.tenant.clone(), link.role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_steers_at_a_time_and_a_person_comes_first() {
        let helm = Arc::new(Helm::default());
        let client = helm.take(Who::Client).unwrap();
        assert!(helm.may_act().is_err() && helm.take(Who::Client).is_err());
        let person = helm.take(Who::Person).unwrap();
        assert!(helm.take(Who::Person).is_err());
        drop(client);
        assert!(helm.may_act().is_err() && helm.take(Who::Client).is_err());
        drop(person);
        assert!(helm.may_act().is_ok() && helm.take(Who::Client).is_ok());
    }
}
