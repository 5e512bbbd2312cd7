//! The door for agents: the use cases as tools of the Model Context Protocol, at `/mcp`.
//!
//! rmcp speaks the protocol: its revisions, MCP sessions, streams, and which `Host` and `Origin` are let in. Ours is who
//! asks (the same keys as everywhere), what the tools are, and which session a call means:
//!
//! ```text
//! with an MCP session (up to 2025-11-25):  sessions made in it end with it; the newest is meant where none is named
//! without (2026-07-28):                    a call that names no session makes one and answers its id
//! ```
//!
//! Each tenant has MCP sessions of its own, so another's id is as unknown as any.

mod answer;
mod browser;
mod code;
mod conversation;
mod files;
mod session;
mod tool;
mod watch;

use crate::audit::Audit;
use crate::config::McpPolicy;
use crate::http::error::Problem;
use crate::ledger::TenantId;
use crate::service::Service;
use crate::tenant::Tenant;
use axum::body::{Body, Bytes};
use axum::http::{Request, header, request::Parts};
use axum::response::Response;
use conversation::Conversation;
use http_body_util::Full;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tool::Selection;

/// An MCP session in which nothing is asked for as long is over, with every session made in it.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// The most MCP sessions of a tenant.
const CONVERSATIONS_MAX: usize = 1024;
/// Files that are read into memory at a time, of all callers.
const READS_MAX: usize = 32;

/// One tenant's side of the protocol.
type Protocol = StreamableHttpService<Conversation, LocalSessionManager>;

/// What every conversation works with.
#[derive(Debug)]
struct House {
    service: Service,
    audit: Audit,
    reads: Semaphore,
}

/// The door; cheap to clone.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    house: Arc<House>,
    config: StreamableHttpServerConfig,
    tenants: Mutex<HashMap<TenantId, Protocol>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("house", &self.0.house).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// A door to this service.
    pub fn new(service: Service, audit: Audit, policy: &McpPolicy) -> Self {
        let config = StreamableHttpServerConfig::default()
            .with_allowed_hosts(&policy.hosts)
            .with_allowed_origins(&policy.origins)
            // Also where none is allowed.
            .enforce_origin_validation()
            .with_json_response(true);
        let house = Arc::new(House { service, audit, reads: Semaphore::new(READS_MAX) });
        Self(Arc::new(Inner { house, config, tenants: Mutex::default() }))
    }

    /// Answers one HTTP request of a caller that showed its key.
    pub(crate) async fn answer(
        &self,
        tenant: Tenant,
        mut head: Parts,
        body: Bytes,
    ) -> Result<Response, Problem> {
        let selection = Selection::of(&head.uri)?;
        let protocol = self.protocol(&tenant);
        // The key has done its work; what is kept of the request is seen by logs.
        head.headers.remove(header::AUTHORIZATION);
        head.extensions.insert(tenant);
        head.extensions.insert(selection);
        Ok(protocol.handle(Request::from_parts(head, Full::new(body))).await.map(Body::new))
    }

    /// Ends all MCP sessions and streams, for good.
    pub fn close(&self) {
        self.0.config.cancellation_token.cancel();
    }

    fn protocol(&self, tenant: &Tenant) -> Protocol {
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let id = tenant.account().id();
        tenants.entry(id).or_insert_with(|| self.0.new_protocol(tenant.clone())).clone()
    }
}

impl Inner {
    fn new_protocol(&self, tenant: Tenant) -> Protocol {
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.keep_alive = Some(IDLE_MAX);
        let (house, places) = (self.house.clone(), Arc::new(Semaphore::new(CONVERSATIONS_MAX)));
        let begin = move || Ok(Conversation::new(house.clone(), tenant.clone(), places.clone()));
        StreamableHttpService::new(begin, Arc::new(sessions), self.config.clone())
    }
}
