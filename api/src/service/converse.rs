//! An outside client of a session's browser, or a person at a terminal: an execution that converses for as long as they do.
//!
//! So it is recorded, paid for, cancelled and listed like any other, and ends with its session. What is said is read in
//! the cell; here are only the ends of two pipes.

use super::execution::Opened;
use super::helm::Held;
use super::live::Live;
use super::once::{Answer, Await};
use super::{ExecutionRequest, OnDisconnect, Refusal, Service, browser, now_us};
use crate::ledger::ExecutionRow;
use crate::service::helm::LinkRole;
use crate::tenant::Tenant;
use crate::words::{ExecutionStatus, Language};
use anchorhold_sandbox::{ExecutionId, Finished, Line, SessionId, Wires, wires};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Before the session's end the client is told.
const BEFORE_THE_END_US: u64 = 1_000_000;
/// How long the cell may take to notice that the client has left.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// What a terminal begins with, as a command …
const SHELL: &str = r#"["bash","-i"]"#;
/// … and what it finds.
const SHELL_ENVIRONMENT: [(&str, &str); 3] =
    [("TERM", "xterm-256color"), ("PS1", r"\w \$ "), ("COLORTERM", "truecolor")];

/// A link to a session's browser.
#[derive(Debug)]
pub struct NewLink {
    /// Its secret.
    pub token: String,
    /// Until when it is good, in microseconds since 1970.
    pub expires_us: i64,
}

/// A conversation with a cell. Dropping it hangs up.
#[derive(Debug)]
pub struct Conversation {
    /// What is said.
    pub line: Line,
    service: Service,
    live: Arc<Live>,
    id: ExecutionId,
    _stream: OwnedSemaphorePermit,
}

/// What an execution needs to converse.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) wires: Wires,
    /// Of the browser.
    _helm: Option<Held>,
}

impl Service {
    /// A link by which somebody without a key may come to a session's browser.
    pub async fn link(
        &self,
        tenant: &Tenant,
        session: SessionId,
        role: LinkRole,
        ttl_us: u64,
    ) -> Result<NewLink, Refusal> {
        let live = self.find(tenant, session).await?;
        let token = live.helm.link(tenant, role, ttl_us);
        Ok(NewLink { token, expires_us: super::later(now_us(), ttl_us) })
    }

    /// Who made the link, and what for; nothing of a link that is not good, or of another session.
    pub fn by_link(&self, session: SessionId, token: &str) -> Option<(Tenant, LinkRole)> {
        self.0.live.get(session)?.helm.by_link(token)
    }

    /// Lets a client speak to the session's browser, which starts if need be.
    pub async fn converse(&self, tenant: &Tenant, session: SessionId) -> Result<Conversation, Refusal> {
        let live = self.find(tenant, session).await?;
        let helm = live.helm.let_client().await?;
        let request = browser::actions(Vec::new(), None, OnDisconnect::Continue);
        self.talk(tenant, live, request, Some(helm)).await
    }

    /// A shell at a terminal, in a cell of its own.
    pub async fn terminal(&self, tenant: &Tenant, session: SessionId) -> Result<Conversation, Refusal> {
        let live = self.find(tenant, session).await?;
        let request = ExecutionRequest {
            env: SHELL_ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..ExecutionRequest::new(Language::Terminal, SHELL.to_owned())
        };
        self.talk(tenant, live, request, None).await
    }

    async fn talk(
        &self,
        tenant: &Tenant,
        live: Arc<Live>,
        request: ExecutionRequest,
        helm: Option<Held>,
    ) -> Result<Conversation, Refusal> {
        let stream = self.0.streams.clone().try_acquire_owned().map_err(|_| Refusal::Streams)?;
        let (wires, line) = wires()?;
        let talk = Talk { wires, _helm: helm };
        let timeout_us = live.left_us().saturating_sub(BEFORE_THE_END_US).max(1);
        let request = ExecutionRequest { background: true, timeout_us: Some(timeout_us), ..request };
        let session = live.id;
        let (service, tenant, id) = (self.clone(), tenant.clone(), ExecutionId::random());
        // In a task of its own: what is recorded comes to its end, whatever becomes of the caller.
        let begun = self.at_most_once(None, Await::Record, async move {
            let work = service.open(&tenant, session, id, request, None).await?;
            service.go_on(work.talking(talk), Await::Record).await
        });
        match begun.await? {
            Answer::Execution(_) => {
                Ok(Conversation { line, service: self.clone(), live, id, _stream: stream })
            }
            Answer::Made(_) => Err(Refusal::Internal),
        }
    }
}

impl Conversation {
    /// Hangs up, and says how the conversation ended. One that does not end by that is cancelled.
    pub async fn end(self) -> Ending {
        let Self { line, service, live, id, .. } = self;
        drop(line);
        if tokio::time::timeout(LEAVE_WAIT, live.execution_ended(id)).await.is_err() {
            live.cells.cancel(id);
            return Ending::default();
        }
        match service.0.ledger.execution(live.id, id).await {
            Ok(Some(row)) => Ending::of(&row),
            Ok(None) | Err(_) => Ending::default(),
        }
    }
}

/// How a conversation ended, for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// As the client could have expected.
    pub well: bool,
    /// For people.
    pub why: String,
}

impl Default for Ending {
    fn default() -> Self {
        Self { well: false, why: "the cell does not answer".to_owned() }
    }
}

impl Ending {
    fn of(row: &ExecutionRow) -> Self {
        let error = row.output.as_ref().and_then(|output| output.error.as_ref());
        let why = match (row.status, error) {
            (ExecutionStatus::Succeeded, _) => "closed",
            (ExecutionStatus::Cancelled, _) => "cancelled, or the session has ended",
            (ExecutionStatus::TimedOut, _) => "the session's time is over",
            (_, Some(error)) => &error.message,
            _ => "the program has ended",
        };
        Self { well: row.status == ExecutionStatus::Succeeded, why: why.to_owned() }
    }
}

impl Opened {
    /// Runs it: what it says goes to its cell, or to its client.
    pub(super) async fn run(
        &self,
        execution: anchorhold_sandbox::Execution,
        talk: Option<Talk>,
    ) -> Result<Finished, anchorhold_sandbox::Error> {
        match talk {
            None => self.live.cells.execute(execution).await,
            Some(Talk { wires, _helm }) => self.live.cells.converse(execution, wires).await,
        }
    }
}
