//! One session's way out: what it may still do, and how a target becomes a connection.

use crate::Shared;
use crate::caps::{Caps, Rate};
use crate::decision::{Decision, Rule, Way};
use crate::dial::dial;
use crate::home::{Home, is_home};
use crate::host::{Host, Target};
use crate::meter::{Activity, Counted, Gauge, Meter};
use crate::policy::{Mode, Policy};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// A session that is attached.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    pub(crate) caps: Caps,
    rate: Rate,
    connections: Arc<Semaphore>,
    gauge: Gauge,
    home: Option<Box<dyn Home>>,
    events: mpsc::Sender<Decision>,
    /// Decisions that found no room among the events.
    missed: AtomicU64,
}

/// Where a connection from inside has got to, as long as it is open.
#[derive(Debug, Default)]
pub(crate) struct Reached(Mutex<Option<(Way, Target, SocketAddr)>>);

impl Reached {
    fn set(&self, way: Way, target: Target, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((way, target, address));
    }

    fn get(&self) -> Option<(Way, Target, SocketAddr)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A connection to outside, counted, and its place among the session's.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) stream: Counted<TcpStream>,
    pub(crate) place: OwnedSemaphorePermit,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        policy: Policy,
        meter: Arc<dyn Meter>,
        home: Option<Box<dyn Home>>,
        events: mpsc::Sender<Decision>,
    ) -> Self {
        let caps = policy.caps.under(shared.ceiling.caps);
        Self {
            rate: Rate::new(caps.requests_per_second),
            connections: Arc::new(Semaphore::new(caps.connections as usize)),
            gauge: Gauge::new(meter, caps.bytes),
            shared,
            mode: watch::Sender::new(policy.mode),
            caps,
            home,
            events,
            missed: AtomicU64::new(0),
        }
    }

    /// Decides on a target, and connects to it. Either way the decision is noted.
    pub(crate) async fn reach(
        &self,
        way: Way,
        target: Target,
        activity: Arc<Activity>,
        place: &Reached,
    ) -> Result<Outside, Rule> {
        let told = target.to_string();
        if let Some(home) = self.home.as_deref().filter(|_| self.means_home(&target)) {
            let reached = self.go_home(home, target.port, activity).await;
            self.note(Some(way), Some(told), None, reached.as_ref().map(|_| ()).map_err(|rule| *rule));
            return reached;
        }
        let reached = self.connect(target.clone(), activity).await.and_then(|(outside, address)| {
            // In this order: a change of the mode finds it here, or is found.
            place.set(way, target.clone(), address);
            self.still_admits(&target, address).map(|()| (outside, address))
        });
        let address = reached.as_ref().ok().map(|(_, address)| *address);
        let reached = reached.map(|(outside, _)| outside);
        self.note(Some(way), Some(told), address, reached.as_ref().map(|_| ()).map_err(|rule| *rule));
        reached
    }

    /// Whether a target is the session's own machine: unless it lists an address of ours, and the operator lets it.
    fn means_home(&self, target: &Target) -> bool {
        let ours = match target.host {
            Host::Address(address) => {
                self.shared.ceiling.still_admits(&self.mode.borrow(), target, address).is_ok()
            }
            Host::Name(_) => false,
        };
        is_home(target) && !ours
    }

    /// Connects to a program of the session's own. What is carried does not leave this machine, and is not counted.
    async fn go_home(&self, home: &dyn Home, port: u16, activity: Arc<Activity>) -> Result<Outside, Rule> {
        if !self.rate.take() {
            return Err(Rule::Rate);
        }
        let place = self.connections.clone().try_acquire_owned().map_err(|_| Rule::Connections)?;
        let stream = home.dial(port).await.ok_or(Rule::Unreachable)?;
        Ok(Outside { stream: Counted::inside(stream, activity), place })
    }

    async fn connect(&self, target: Target, activity: Arc<Activity>) -> Result<(Outside, SocketAddr), Rule> {
        if !self.rate.take() {
            return Err(Rule::Rate);
        }
        let admitted = self.shared.ceiling.admit(&self.mode.borrow(), target)?;
        if self.gauge.is_full() {
            return Err(Rule::Bytes);
        }
        let place = self.connections.clone().try_acquire_owned().map_err(|_| Rule::Connections)?;
        let checked = self.shared.resolver.resolve(admitted).await?;
        let dialled = dial(&checked, self.shared.upstream).await?;
        let stream = Counted::outside(dialled.stream, dialled.early, activity, self.gauge.clone());
        Ok((Outside { stream, place }, dialled.address))
    }

    fn still_admits(&self, target: &Target, address: SocketAddr) -> Result<(), Rule> {
        self.shared.ceiling.still_admits(&self.mode.borrow(), target, address.ip())
    }

    /// What changes the mode.
    pub(crate) fn mode(&self) -> watch::Sender<Mode> {
        self.mode.clone()
    }

    /// Ends when a connection has got to where the session may not be any more.
    pub(crate) async fn forbids(&self, place: &Reached) {
        let mut changes = self.mode.subscribe();
        // The other end is in `self`.
        while changes.changed().await.is_ok() {
            if let Some((way, target, address)) = place.get()
                && let Err(rule) = self.still_admits(&target, address)
            {
                self.note_end(way, &target.to_string(), rule);
                return;
            }
        }
    }

    /// Notes that a connection that was allowed was ended by a rule after all.
    pub(crate) fn note_end(&self, way: Way, target: &str, rule: Rule) {
        self.note(Some(way), Some(target.to_owned()), None, Err(rule));
    }

    /// Notes a request that nothing could be made of.
    pub(crate) fn note_malformed(&self) {
        self.note(None, None, None, Err(Rule::BadRequest));
    }

    pub(crate) fn has_no_bytes_left(&self) -> bool {
        self.gauge.is_full()
    }

    fn note(
        &self,
        way: Option<Way>,
        target: Option<String>,
        address: Option<SocketAddr>,
        verdict: Result<(), Rule>,
    ) {
        let Ok(room) = self.events.try_reserve() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let missed = self.missed.swap(0, Ordering::Relaxed);
        room.send(Decision { way, target, address, verdict, missed });
    }
}
