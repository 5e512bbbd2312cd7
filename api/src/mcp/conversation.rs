//! One client's side of the protocol: what it is told of the server, its calls, and the sessions made for it.

use super::House;
use super::answer::{Done, arguments, refused};
use super::files::{self, Location};
use super::tool::{Selection, Tool};
use super::watch::{Loudness, SetLevel, Watch};
use crate::audit::Event;
use crate::http::RequestName;
use crate::http::error::{Code, Problem};
use crate::service::{Refusal, Service, SessionRequest, browser};
use crate::tenant::Tenant;
use anchorhold_sandbox::{RequestedLimits, SessionId};
use axum::http::request::Parts;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ErrorCode, Implementation, InitializeRequestParams,
    InitializeResult, JsonObject, ListResourceTemplatesResult, ListToolsResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a model is told once.
const INSTRUCTIONS: &str = "\
    Runs untrusted Python, JavaScript and TypeScript, and drives a browser, in isolated sessions. A session has files in \
    /workspace, interpreters whose variables stay between calls, and a browser whose pages stay. Answers name their session_id: give it back to stay in it; a call \
    without one means the current session, or makes one. Write what is long to a file and read what you need.";

/// A client. Between its calls it is remembered only where the client opened an MCP session.
pub(super) struct Conversation {
    house: Arc<House>,
    owner: Tenant,
    places: Arc<Semaphore>,
    known: Arc<LocalSessionManager>,
    memory: tokio::sync::Mutex<Memory>,
    loudness: Mutex<Loudness>,
}

/// What is known of earlier calls.
enum Memory {
    /// Nothing: each call is for itself.
    Without,
    /// An MCP session: the sessions that were made in it, the current one last.
    Lasting { sessions: Vec<SessionId>, _place: OwnedSemaphorePermit },
}

impl Memory {
    fn current(&self) -> Option<SessionId> {
        match self {
            Self::Without => None,
            Self::Lasting { sessions, .. } => sessions.last().copied(),
        }
    }
}

impl Drop for Conversation {
    /// Ends what was made for the client: it cannot be meant any more.
    fn drop(&mut self) {
        if let Memory::Lasting { sessions, .. } = self.memory.get_mut() {
            for id in sessions.drain(..) {
                self.house.service.give_up(&self.owner, id);
            }
        }
    }
}

/// One request, by whom, and what it chose.
pub(super) struct Call<'a> {
    conversation: &'a Conversation,
    tenant: Tenant,
    request: String,
    selection: Selection,
    pub(super) watch: Watch,
}

impl Conversation {
    /// Of a tenant, with its places for MCP sessions and those that there are.
    pub(super) fn new(
        house: Arc<House>,
        owner: Tenant,
        places: Arc<Semaphore>,
        known: Arc<LocalSessionManager>,
    ) -> Self {
        let memory = tokio::sync::Mutex::new(Memory::Without);
        Self { house, owner, places, known, memory, loudness: Mutex::default() }
    }

    /// Keeps the MCP session while a call runs in it: the protocol's side ends one in which nothing is said for a while,
    /// and a program may say nothing for longer.
    async fn stay(&self, context: &RequestContext<RoleServer>) -> Infallible {
        let head = context.extensions.get::<Parts>();
        let id = head.and_then(|head| head.headers.get("mcp-session-id")?.to_str().ok());
        loop {
            tokio::time::sleep(self.house.idle / 4).await;
            let Some(id) = id else { continue };
            let session = self.known.sessions.read().await.get(id).cloned();
            if let Some(session) = session {
                // There is no such stream. That something is asked is all that counts.
                let _gone = session.close_request_wise_channel(u64::MAX).await;
            }
        }
    }

    pub(super) fn call(&self, context: &RequestContext<RoleServer>) -> Result<Call<'_>, ErrorData> {
        let known = context.extensions.get::<Parts>().map(|head| &head.extensions).and_then(|known| {
            Some((known.get::<Tenant>()?, known.get::<RequestName>()?, known.get::<Selection>()?))
        });
        let Some((tenant, request, selection)) = known else {
            tracing::error!("a request came past the door");
            return Err(ErrorData::internal_error("internal error", None));
        };
        let loudness = *self.loudness.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Call {
            conversation: self,
            tenant: tenant.clone(),
            request: request.0.clone(),
            selection: selection.clone(),
            watch: Watch::of(context, loudness),
        })
    }
}

impl ServerHandler for Conversation {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(super::watch::capabilities())
            .with_server_info(
                Implementation::new("anchorhold", env!("CARGO_PKG_VERSION")).with_title("anchorhold"),
            )
            .with_instructions(INSTRUCTIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(error(&Problem::new(Code::QuotaExceeded, "too many MCP sessions are open")));
        };
        *self.memory.lock().await = Memory::Lasting { sessions: Vec::new(), _place: place };
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn set_level(&self, request: SetLevel, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        *self.loudness.lock().unwrap_or_else(PoisonError::into_inner) = Loudness::of(&request);
        Ok(())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.call(&context)?.selection.tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = self.call(&context)?;
        let Some(tool) = call.selection.tool(&request.name) else {
            return Err(ErrorData::invalid_params("no such tool", None));
        };
        let outcome = tokio::select! {
            outcome = call.run(tool, request.arguments.unwrap_or_default()) => outcome,
            // Dropping the call has cancelled what it waited for.
            () = context.ct.cancelled() => Err(Problem::new(Code::Conflict, "the call was cancelled")),
            never = self.stay(&context) => match never {},
        };
        call.note(tool.as_str(), &outcome);
        Ok(match outcome {
            Ok(done) => done.into_result(),
            Err(problem) => refused(&problem),
        }
        .into())
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(vec![files::template()]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let call = self.call(&context)?;
        let outcome = match request.uri.parse::<Location>() {
            Ok(location) => call.resource(&location).await,
            Err(problem) => Err(problem),
        };
        outcome.map(Into::into).map_err(|problem| match problem.code {
            Code::SessionNotFound | Code::FileNotFound => {
                ErrorData::resource_not_found(problem.detail, Some(json!({ "uri": request.uri })))
            }
            _ => error(&problem),
        })
    }
}

/// Told to the client, where the protocol knows no other way.
fn error(problem: &Problem) -> ErrorData {
    let code = match problem.code {
        Code::Internal => ErrorCode::INTERNAL_ERROR,
        _ => ErrorCode::INVALID_REQUEST,
    };
    ErrorData::new(code, format!("{}: {}", problem.code, problem.detail), None)
}

impl Call<'_> {
    pub(super) fn service(&self) -> &Service {
        &self.conversation.house.service
    }

    pub(super) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// A turn to read a file into memory.
    pub(super) fn reads(&self) -> &Semaphore {
        &self.conversation.house.reads
    }

    async fn run(&self, tool: Tool, given: JsonObject) -> Result<Done, Problem> {
        match tool {
            Tool::ExecuteCode => self.execute_code(arguments(given)?).await,
            Tool::RunCommand => self.run_command(arguments(given)?).await,
            Tool::StartCommand => self.start_command(arguments(given)?).await,
            Tool::GetTask => self.get_task(arguments(given)?).await,
            Tool::StopTask => self.stop_task(arguments(given)?).await,
            Tool::ReadFiles => self.read_files(arguments(given)?).await,
            Tool::WriteFiles => self.write_files(arguments(given)?).await,
            Tool::ListFiles => self.list_files(arguments(given)?).await,
            Tool::RemoveFiles => self.remove_files(arguments(given)?).await,
            Tool::BrowserNavigate => self.browser_navigate(arguments(given)?).await,
            Tool::BrowserNavigateBack => self.browser_navigate_back(arguments(given)?).await,
            Tool::BrowserSnapshot => self.browser_snapshot(arguments(given)?).await,
            Tool::BrowserClick => self.browser_click(arguments(given)?).await,
            Tool::BrowserType => self.browser_type(arguments(given)?).await,
            Tool::BrowserFillForm => self.browser_fill_form(arguments(given)?).await,
            Tool::BrowserSelectOption => self.browser_select_option(arguments(given)?).await,
            Tool::BrowserPressKey => self.browser_press_key(arguments(given)?).await,
            Tool::BrowserTakeScreenshot => self.browser_take_screenshot(arguments(given)?).await,
            Tool::BrowserWaitFor => self.browser_wait_for(arguments(given)?).await,
            Tool::BrowserTabs => self.browser_tabs(arguments(given)?).await,
            Tool::BrowserEvaluate => self.browser_evaluate(arguments(given)?).await,
            Tool::BrowserHandleDialog => self.browser_handle_dialog(arguments(given)?).await,
            Tool::BrowserFileUpload => self.browser_file_upload(arguments(given)?).await,
            Tool::BrowserClose => self.browser_close(arguments(given)?).await,
            Tool::SessionCreate => self.session_create(arguments(given)?).await,
            Tool::SessionGet => self.session_get(arguments(given)?).await,
            Tool::SessionClose => self.session_close(arguments(given)?).await,
            Tool::UsageGet => self.usage_get(arguments(given)?).await,
        }
    }

    /// One line of the audit log for each call; what the door notes of the request does not say which tool it was.
    fn note(&self, tool: &str, outcome: &Result<Done, Problem>) {
        let code = outcome.as_ref().err().map(|problem| problem.code);
        self.conversation.house.audit.note(Event {
            who: Some((self.tenant.account().id(), self.tenant.key())),
            request: self.request.clone(),
            action: format!("tool {tool}"),
            target: "/mcp".to_owned(),
            subject: outcome.as_ref().ok().map(|done| done.subject.clone()).filter(|id| !id.is_empty()),
            status: code.map_or(200, |code| code.answer().0.as_u16()),
            code: code.map(Code::as_str),
        });
    }

    /// The session that a call names, or else the current one; a new one where there is none.
    pub(super) async fn session(&self, named: Option<&str>) -> Result<SessionId, Problem> {
        if let Some(text) = named {
            return session_id(text);
        }
        let mut memory = self.conversation.memory.lock().await;
        if let Some(id) = memory.current() {
            if !self.is_over(id).await? {
                return Ok(id);
            }
            memory.forget(id);
            let detail = "the current session is over, and its variables and files are gone; \
                          the next call without session_id makes a new one";
            return Err(Problem::new(Code::SessionClosed, detail));
        }
        let (service, tenant) = (self.service(), self.tenant());
        let request = SessionRequest {
            ttl_us: Some(service.policy().ttl_us_max),
            // Without an MCP session nothing else tells that its client is gone.
            idle_timeout_us: u64::try_from(self.conversation.house.idle.as_micros()).ok(),
            // Nobody knows yet whether it will have one.
            limits: browser::limits(RequestedLimits::default()),
            ..SessionRequest::default()
        };
        let id = service.create_session(tenant, request, None).await?.id;
        memory.keep(id);
        Ok(id)
    }

    /// As [`Call::session`], but where there is none, none is made.
    pub(super) async fn known_session(&self, named: Option<&str>) -> Result<SessionId, Problem> {
        match named {
            Some(text) => session_id(text),
            None => self.conversation.memory.lock().await.current().ok_or_else(|| {
                Problem::new(Code::SessionNotFound, "there is no current session; name one by session_id")
            }),
        }
    }

    /// A new session, which is the current one from now on.
    pub(super) async fn make_session(&self, request: SessionRequest) -> Result<SessionId, Problem> {
        let mut memory = self.conversation.memory.lock().await;
        let id = self.service().create_session(self.tenant(), request, None).await?.id;
        memory.keep(id);
        Ok(id)
    }

    pub(super) async fn forget_session(&self, id: SessionId) {
        self.conversation.memory.lock().await.forget(id);
    }

    async fn is_over(&self, id: SessionId) -> Result<bool, Problem> {
        match self.service().look_up(self.tenant(), id).await {
            Ok(()) => Ok(false),
            Err(Refusal::SessionClosed | Refusal::SessionNotFound) => Ok(true),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl Memory {
    fn keep(&mut self, id: SessionId) {
        if let Self::Lasting { sessions, .. } = self {
            sessions.push(id);
        }
    }

    fn forget(&mut self, id: SessionId) {
        if let Self::Lasting { sessions, .. } = self {
            sessions.retain(|known| *known != id);
        }
    }
}

/// What is no id is answered like an unknown one.
pub(super) fn session_id(text: &str) -> Result<SessionId, Problem> {
    let id = text.strip_prefix("ses_").and_then(|id| id.parse().ok());
    id.ok_or_else(|| Refusal::SessionNotFound.into())
}
