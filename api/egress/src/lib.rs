//! A network without a network: what `anchorhold egress`, the only process with outbound network, does.
//!
//! A cell has an empty network namespace. A listening socket made in it is passed out and [attached](Egress::attach)
//! here with the session's policy and counters; the session is known by the socket, not by anything it says. Who
//! connects to it speaks to an HTTP proxy, which decides, resolves, checks, dials and counts.
//!
//! | room | what is in it |
//! |---|---|
//! | `host` | text becomes a host and a port, once, in one form |
//! | `policy` | modes, patterns, the operator's ceiling; the three types that lead out |
//! | `address` | which addresses are global |
//! | `resolve`, `dial` | the only places that send anything to outside |
//! | `proxy`, `tunnel` | HTTP requests passed on; `CONNECT`, and what TLS says first |
//! | `home` | what leads back into a session, to programs of its own |
//! | `hello` | the server name in a TLS greeting |
//! | `caps`, `meter` | how much; bytes counted in the caller's memory |
//! | `decision` | rules, answers, events |
//!
//! Everything that comes from a session, from a resolver or from outside is hostile: it is bounded before it is kept.

mod address;
mod caps;
mod decision;
mod dial;
mod hello;
mod home;
mod host;
mod meter;
mod policy;
mod proxy;
mod resolve;
mod session;
mod tunnel;

pub use address::is_global;
pub use caps::Caps;
pub use decision::{Decision, Rule, Way};
pub use home::{Dialling, Home};
pub use host::{Host, HostError, Name, Target};
pub use meter::{Counters, Meter};
pub use policy::{Ceiling, Listable, Mode, Pattern, PatternError, Policy, Private, Public};

use resolve::Resolver;
use session::Session;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

/// Decisions that wait to be taken from a [`Handle`]; further ones are only counted.
const DECISIONS_MAX: usize = 256;

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What any session may do at most.
    pub ceiling: Ceiling,
    /// Who resolves names: asked over UDP, and over TCP where UDP is not enough. Without any, only addresses are
    /// reached.
    pub resolvers: Vec<SocketAddr>,
    /// An HTTP proxy that all connections go through. It is asked for addresses, which were resolved and checked here,
    /// and must let `CONNECT` to them pass.
    pub upstream: Option<SocketAddr>,
}

/// Why there is no way out: the resolver's settings make none.
#[derive(Debug, thiserror::Error)]
#[error("the resolver cannot be set up: {0}")]
pub struct Error(String);

/// The way out, for all sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ceiling: Ceiling,
    resolver: Resolver,
    upstream: Option<SocketAddr>,
}

impl Egress {
    /// Sends nothing yet.
    ///
    /// # Errors
    ///
    /// When the resolver cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let resolver = Resolver::new(&settings.resolvers).map_err(|error| Error(error.to_string()))?;
        Ok(Self(Arc::new(Shared { ceiling: settings.ceiling, resolver, upstream: settings.upstream })))
    }

    /// The operator's caps: what a session may do at most.
    pub fn caps(&self) -> Caps {
        self.0.ceiling.caps
    }

    /// Serves a session: everything that connects to this listener is of the session, and nothing else is.
    ///
    /// Must be called within a tokio runtime. Bytes are counted on top of what the counters hold, and so is the cap on
    /// them: a session that is attached again, after a restart, goes on where it was.
    ///
    /// `home`: to the session `localhost` is what its own programs listen at, and that is reached whatever the policy.
    pub fn attach(
        &self,
        listener: TcpListener,
        policy: Policy,
        counters: Arc<dyn Meter>,
        home: Option<Box<dyn Home>>,
    ) -> Handle {
        let (events, decisions) = mpsc::channel(DECISIONS_MAX);
        let session = Session::new(self.0.clone(), policy, counters, home, events);
        let switch = Switch(session.mode());
        let serving = tokio::spawn(proxy::serve(listener, Arc::new(session)));
        Handle { decisions, switch, _serving: AbortOnDropHandle::new(serving) }
    }
}

/// Changes what a session may reach. Cheap to clone; says nothing once the session is not served any more.
#[derive(Debug, Clone)]
pub struct Switch(watch::Sender<Mode>);

impl Switch {
    /// From now on this holds. Connections that are open and that it does not admit are cut; others go on.
    pub fn change(&self, mode: Mode) {
        self.0.send_replace(mode);
    }
}

/// A session's way out. When it is dropped, its listener and all of its connections are closed.
#[derive(Debug)]
pub struct Handle {
    decisions: mpsc::Receiver<Decision>,
    switch: Switch,
    _serving: AbortOnDropHandle<()>,
}

impl Handle {
    /// What changes where the session may go.
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }

    /// The next decision about the session. They need not be taken: what waits is bounded.
    ///
    /// Cancel safe.
    pub async fn decision(&mut self) -> Option<Decision> {
        self.decisions.recv().await
    }
}
