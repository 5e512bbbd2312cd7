//! Watching a session's browser, taking it over, and looking at it once.
//!
//! Who watches is no execution: what it costs is the browser's own, and in the record of its cell. Whoever has taken over
//! keeps the session from ending for idleness.

use super::execution::context_key;
use super::helm::Held;
use super::live::{Live, lock};
use super::{Await, OnDisconnect, Refusal, Service, browser, context_id};
use crate::tenant::Tenant;
use crate::words::{Language, Runtime};
use anchorhold_sandbox::{Line, SessionId, Watching, wires};
use serde::Deserialize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// How long the browser may take to be seen.
const GLANCE_WAIT: Duration = Duration::from_secs(5);
/// The longest message that is looked at here. A picture has some hundred kilobytes.
const GLANCE_BYTES_MAX: u32 = 4 << 20;

/// Somebody who watches a browser. Dropping it gives back what was taken over.
#[derive(Debug)]
pub struct Watch {
    /// What there is to see, and what is done.
    pub line: Line,
    /// What the watcher may do.
    pub hand: Hand,
    _watching: Watching,
    _stream: OwnedSemaphorePermit,
}

/// What a watcher may do.
#[derive(Debug)]
pub struct Hand {
    live: Arc<Live>,
    may_take: bool,
    held: Mutex<Option<Held>>,
}

/// Who has taken over, as a watcher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The watcher.
    You,
    /// Another person.
    Other,
}

/// What can be seen of a browser. A cell said it: it is of bounded length, and no more is known of it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Sight {
    /// Its tabs.
    Page {
        /// In the order of their opening.
        tabs: Vec<Tab>,
    },
    /// The selected tab, as it looks.
    Frame {
        /// JPEG in base64.
        data: String,
    },
}

/// A tab, as a cell says.
#[derive(Debug, Deserialize)]
pub struct Tab {
    /// Its number.
    pub id: u32,
    /// Where it is.
    pub url: String,
    /// The page's title.
    pub title: String,
    /// Actions go there.
    pub selected: bool,
    /// Its page has crashed.
    pub crashed: bool,
}

impl Service {
    /// Lets somebody watch the session's browser, which starts if need be.
    pub async fn watch(&self, tenant: &Tenant, session: SessionId, may_take: bool) -> Result<Watch, Refusal> {
        let stream = self.0.streams.clone().try_acquire_owned().map_err(|_| Refusal::Streams)?;
        let live = self.find(tenant, session).await?;
        let (line, watching) = match self.line(&live)? {
            Some(seen) => seen,
            None => {
                // No action makes it begin.
                let nothing = browser::actions(Vec::new(), None, OnDisconnect::Continue);
                self.execute(tenant, session, nothing, None, Await::End).await?;
                self.line(&live)?.ok_or(Refusal::NotRunning)?
            }
        };
        let hand = Hand { live, may_take, held: Mutex::default() };
        Ok(Watch { line, hand, _watching: watching, _stream: stream })
    }

    /// The first that is seen of the session's browser and `wanted`; nothing when it is not open.
    pub async fn glance<T>(
        &self,
        tenant: &Tenant,
        session: SessionId,
        wanted: impl Fn(Sight) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let live = self.find(tenant, session).await?;
        let Some((mut line, _watching)) = self.line(&live)? else { return Ok(None) };
        let seen = async {
            loop {
                let sight = sight(&mut line).await?;
                if let Some(seen) = wanted(sight) {
                    return Some(seen);
                }
            }
        };
        let seen = tokio::time::timeout(GLANCE_WAIT, seen).await.ok().flatten();
        seen.map(Some).ok_or(Refusal::Capacity("the browser does not answer".into()))
    }

    /// Ends the session's browser with its pages and cookies; the next actions begin with a new one.
    pub async fn close_browser(&self, tenant: &Tenant, session: SessionId) -> Result<(), Refusal> {
        let live = self.find(tenant, session).await?;
        let mut contexts = live.contexts().into_iter();
        let browser = contexts.find(|(place, _)| place.language == Language::Browser);
        match browser.and_then(|(place, _)| context_id(session, &place)) {
            Some(id) => self.delete_context(tenant, session, id).await,
            None => Ok(()),
        }
    }

    /// A line to the session's browser, if that is open.
    fn line(&self, live: &Live) -> Result<Option<(Line, Watching)>, Refusal> {
        let place = self.place_named(browser::CONTEXT.into(), Language::Browser, None, Runtime::Native)?;
        let (wires, line) = wires()?;
        Ok(live.cells.watch(&context_key(&place), wires).map(|watching| (line, watching)))
    }
}

/// The next thing that a cell says. `None`: it has ended, or says what is none.
async fn sight(line: &mut Line) -> Option<Sight> {
    let length = line.from.read_u32_le().await.ok().filter(|length| *length <= GLANCE_BYTES_MAX)?;
    let mut said = Vec::new();
    (&mut line.from).take(length.into()).read_to_end(&mut said).await.ok()?;
    serde_json::from_slice(&said).ok()
}

impl Hand {
    /// Whether it may take over.
    pub fn may_take(&self) -> bool {
        self.may_take
    }

    /// Takes over. `false`: it may not, or another person has.
    pub fn take(&self) -> bool {
        let mut held = lock(&self.held);
        if held.is_none() && self.may_take {
            *held = self.live.helm.let_person();
        }
        held.is_some()
    }

    /// Gives back.
    pub fn release(&self) {
        // Not under the lock: who is told looks at it.
        let held = lock(&self.held).take();
        drop(held);
    }

    /// Whether it has taken over; then something happens in the session.
    pub fn acts(&self) -> bool {
        let holds = lock(&self.held).is_some();
        holds && self.live.touch().is_ok()
    }

    /// Who has taken over.
    pub fn holder(&self) -> Option<Holder> {
        if lock(&self.held).is_some() {
            return Some(Holder::You);
        }
        self.changes().borrow().then_some(Holder::Other)
    }

    /// Rings when somebody takes over or gives back.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.live.helm.persons()
    }
}
