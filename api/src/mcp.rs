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

#[cfg(test)]
mod tests;

use crate::audit::Audit;
use crate::config::McpPolicy;
use crate::http::error::Problem;
use crate::ledger::TenantId;
use crate::service::Service;
use crate::tenant::Tenant;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header, request::Parts};
use axum::response::Response;
use conversation::Conversation;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tool::Selection;

/// Files that are read into memory at a time, of all callers.
const READS_MAX: usize = 32;

/// One tenant's side of the protocol: it answers requests.
type Protocol = Arc<dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, Response> + Send + Sync>;

/// What every conversation works with.
#[derive(Debug)]
struct House {
    service: Service,
    audit: Audit,
    reads: Semaphore,
    sessions_max: usize,
    idle: Duration,
}

/// The door; cheap to clone.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    house: Arc<House>,
    /// Makes the protocol of a tenant.
    open: Box<dyn Fn(Tenant) -> Protocol + Send + Sync>,
    tenants: Mutex<HashMap<TenantId, Protocol>>,
    end: CancellationToken,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("house", &self.0.house).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// A door to this service.
    pub fn new(service: Service, audit: Audit, policy: &McpPolicy) -> Self {
        Self::with(service, audit, policy, |conversation| conversation)
    }

    /// A door whose clients speak to what is made of each conversation.
    fn with<H: ServerHandler>(
        service: Service,
        audit: Audit,
        policy: &McpPolicy,
        handler: fn(Conversation) -> H,
    ) -> Self {
        let config = StreamableHttpServerConfig::default()
            .with_allowed_hosts(&policy.hosts)
            .with_allowed_origins(&policy.origins)
            // Also where none is allowed.
            .enforce_origin_validation()
            .with_json_response(true);
        let end = config.cancellation_token.clone();
        let reads = Semaphore::new(READS_MAX);
        let (sessions_max, idle) = (policy.sessions_max, policy.idle);
        let house = Arc::new(House { service, audit, reads, sessions_max, idle });
        let known = house.clone();
        let open = Box::new(move |tenant| protocol(&known, tenant, config.clone(), handler));
        Self(Arc::new(Inner { house, open, tenants: Mutex::default(), end }))
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
        let ends = head.method == Method::DELETE;
        let mut response = protocol(Request::from_parts(head, Full::new(body))).await;
        if ends && response.status() == StatusCode::ACCEPTED {
            // It is done, and the official clients take 202 for a failure.
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        Ok(response)
    }

    /// Ends all MCP sessions and streams, for good.
    pub fn close(&self) {
        self.0.end.cancel();
    }

    fn protocol(&self, tenant: &Tenant) -> Protocol {
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let id = tenant.account().id();
        tenants.entry(id).or_insert_with(|| (self.0.open)(tenant.clone())).clone()
    }
}

fn protocol<H: ServerHandler>(
    house: &Arc<House>,
    tenant: Tenant,
    config: StreamableHttpServerConfig,
    handler: fn(Conversation) -> H,
) -> Protocol {
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(house.idle);
    let (house, sessions) = (house.clone(), Arc::new(sessions));
    let (places, known) = (Arc::new(Semaphore::new(house.sessions_max)), sessions.clone());
    let begin = move || {
        let (places, known) = (places.clone(), known.clone());
        Ok(handler(Conversation::new(house.clone(), tenant.clone(), places, known)))
    };
    let protocol = StreamableHttpService::new(begin, sessions, config);
    Arc::new(move |request| {
        let protocol = protocol.clone();
        Box::pin(async move { protocol.handle(request).await.map(Body::new) })
    })
}
