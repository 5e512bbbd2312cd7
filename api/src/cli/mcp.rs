//! `anchorhold mcp`: MCP over standard input and output, for clients that start their servers.
//!
//! A relay: every line that the client writes goes to the server's `/mcp`, and what comes back is written as lines. The
//! server does the rest, so that there is one set of tools and one way to a cell.
//!
//! ```text
//! client ──line──► POST /mcp ──► JSON, or events ──line──► client
//!                  GET  /mcp ──► what belongs to no request (log messages), while there is an MCP session
//! ```

use super::Server;
use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

/// The longest line that is taken from the client; the server takes less.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// The longest answer, or event of one, that is taken from the server.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a client that went away is waited for with what it still asked.
const FINISH_MAX: Duration = Duration::from_secs(5);
const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// Which tools, and of which server.
#[derive(Debug, Args)]
pub struct McpArguments {
    /// Which groups of tools, as code,files [default: all]
    #[arg(long)]
    tools: Option<String>,
    #[command(flatten)]
    server: Server,
}

/// Relays until the client closes its end.
pub fn mcp(arguments: &McpArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let relay = Arc::new(Relay::new(arguments)?);
    runtime.block_on(relay.run())
}

struct Relay {
    authority: String,
    path: String,
    authorization: String,
    state: Mutex<State>,
}

/// What the server gave this client.
#[derive(Default)]
struct State {
    /// The client's own first message, by which the server knows it again after it forgot it.
    initialize: Option<Bytes>,
    session: Option<String>,
    version: Option<String>,
    /// Requests that wait for their answers.
    waiting: HashMap<String, AbortHandle>,
}

impl Relay {
    fn new(arguments: &McpArguments) -> anyhow::Result<Self> {
        let base = arguments.server.base()?;
        let authority = base.strip_prefix("http://").unwrap_or_default();
        ensure!(!authority.contains('/'), "{base}: must be http://host:port");
        let path = match &arguments.tools {
            None => "/mcp".to_owned(),
            Some(tools) => {
                let plain = tools.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b',');
                ensure!(plain, "--tools: must be names as code,files");
                format!("/mcp?tools={tools}")
            }
        };
        let authorization = format!("Bearer {}", arguments.server.key()?);
        Ok(Self { authority: authority.to_owned(), path, authorization, state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut input = BufReader::new(tokio::io::stdin());
        let mut tasks = JoinSet::new();
        loop {
            let mut line = Vec::new();
            let read = (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
            if read == 0 {
                break;
            }
            ensure!(line.ends_with(b"\n") || (read as u64) < LINE_BYTES_MAX, "a message is too long");
            let line = Bytes::from(line.trim_ascii().to_vec());
            if !line.is_empty() {
                self.take(line, &mut tasks).await?;
            }
            while tasks.try_join_next().is_some() {}
        }
        let finished =
            async { while !self.state().waiting.is_empty() && tasks.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(FINISH_MAX, finished).await;
        tasks.abort_all();
        self.end().await;
        Ok(())
    }

    /// One message of the client. Only requests may take long: they are waited for beside each other.
    async fn take(self: &Arc<Self>, line: Bytes, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let Ok(message @ Value::Object(_)) = serde_json::from_slice(&line) else {
            return write(&failure(&Value::Null, -32700, "not a JSON object"));
        };
        let method = message["method"].as_str().unwrap_or_default();
        if message.get("id").is_none() || method.is_empty() {
            if method == "notifications/cancelled" && self.hang_up(&message["params"]["requestId"]) {
                return Ok(());
            }
            if let Err(error) = self.send(&message, line).await {
                eprintln!("anchorhold mcp: {error:#}");
            }
            return Ok(());
        }
        let (relay, id) = (self.clone(), message["id"].to_string());
        if method == "initialize" {
            self.state().initialize = Some(line.clone());
            // What follows needs what this is answered.
            relay.request(&message, line).await;
            if self.state().session.is_some() {
                tasks.spawn(async move { relay.listen().await });
            }
            return Ok(());
        }
        let task = tasks.spawn(async move {
            relay.request(&message, line).await;
            relay.state().waiting.remove(&message["id"].to_string());
        });
        self.state().waiting.insert(id, task);
        Ok(())
    }

    /// Without an MCP session a call is cancelled by hanging up; `false`: with one, the server must be told.
    fn hang_up(&self, id: &Value) -> bool {
        let mut state = self.state();
        if state.session.is_some() {
            return false;
        }
        if let Some(task) = state.waiting.remove(&id.to_string()) {
            task.abort();
        }
        true
    }

    /// A request: whatever happens, the client gets an answer.
    async fn request(&self, message: &Value, line: Bytes) {
        if let Err(error) = self.send(message, line).await {
            let answer = failure(&message["id"], -32603, &format!("{error:#}"));
            if let Err(error) = write(&answer) {
                eprintln!("anchorhold mcp: {error:#}");
            }
        }
    }

    /// Sends a message and writes what the server answers.
    async fn send(&self, message: &Value, line: Bytes) -> anyhow::Result<()> {
        let mut response = self.post(message, line.clone()).await?;
        let had_session = self.state().session.is_some();
        if response.status() == StatusCode::NOT_FOUND && had_session && message["method"] != "initialize" {
            // It was restarted, or nothing was asked for long. Sessions are gone, as their next answers will show.
            self.begin_again().await?;
            response = self.post(message, line).await?;
        }
        self.deliver(response).await
    }

    /// A new MCP session in place of one that the server forgot; the client need not know.
    async fn begin_again(&self) -> anyhow::Result<()> {
        let first = {
            let mut state = self.state();
            state.session = None;
            state.initialize.clone().context("the server does not know this client any more")?
        };
        let message = serde_json::from_slice(&first)?;
        let response = self.post(&message, first).await?;
        ensure!(response.status().is_success(), "the server answered {}", response.status());
        let _answered_before = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.post(&message, message.to_string().into()).await?;
        Ok(())
    }

    async fn post(&self, message: &Value, line: Bytes) -> anyhow::Result<Response<Incoming>> {
        let mut request = self.head(Method::POST, "application/json, text/event-stream");
        request = request.header(header::CONTENT_TYPE, "application/json");
        let params = &message["params"];
        let named = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        if let Some(version) = named {
            request = request.header(VERSION, version);
        } else if message["method"] != "initialize"
            && let Some(version) = self.state().version.clone()
        {
            request = request.header(VERSION, version);
        }
        // From 2026-07-28 on, for whoever routes without reading bodies.
        for (name, value) in [
            ("mcp-method", message["method"].as_str()),
            ("mcp-name", params["name"].as_str().or(params["uri"].as_str())),
        ] {
            if let Some(value) = value.filter(|_| named.is_some()) {
                request = request.header(name, shown(value));
            }
        }
        let response = self.exchange(request.body(Full::new(line))?).await?;
        if message["method"] == "initialize" && response.status().is_success() {
            let session = response.headers().get(SESSION).and_then(|id| id.to_str().ok());
            self.state().session = session.map(str::to_owned);
        }
        Ok(response)
    }

    /// What the server says beside its answers, as long as it does.
    async fn listen(&self) {
        let request = self.head(Method::GET, "text/event-stream");
        let heard = async { self.deliver(self.exchange(request.body(Full::default())?).await?).await };
        if let Err(error) = heard.await {
            eprintln!("anchorhold mcp: {error:#}");
        }
    }

    /// Ends the MCP session, and with it what was made in it.
    async fn end(&self) {
        if self.state().session.is_some() {
            let request = self.head(Method::DELETE, "application/json");
            let ended = async { self.exchange(request.body(Full::default())?).await };
            if let Err(error) = ended.await {
                eprintln!("anchorhold mcp: {error:#}");
            }
        }
    }

    /// Writes the messages of an answer.
    async fn deliver(&self, response: Response<Incoming>) -> anyhow::Result<()> {
        let (head, body) = response.into_parts();
        let kind =
            head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.starts_with("text/event-stream") {
            return self.deliver_events(body).await;
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        let bytes = body.to_bytes();
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(message) if message["jsonrpc"] == "2.0" => self.hand_on(&message),
            Ok(problem) if problem["detail"].is_string() => {
                bail!("{} ({})", problem["detail"].as_str().unwrap_or_default(), problem["code"])
            }
            _ if head.status.is_success() => Ok(()),
            _ => bail!("the server answered {}: {}", head.status, String::from_utf8_lossy(&bytes)),
        }
    }

    /// The messages of server-sent events as they come. One event is one line of data.
    async fn deliver_events(&self, mut body: Incoming) -> anyhow::Result<()> {
        let (mut buffer, mut searched) = (BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(searched + end + 1);
                searched = 0;
                if let Some(data) = line.strip_prefix(b"data:")
                    && let Ok(message) = serde_json::from_slice::<Value>(data)
                {
                    self.hand_on(&message)?;
                }
            }
            searched = buffer.len();
            ensure!(searched <= ANSWER_BYTES_MAX, "the server's answer is too long");
        }
        Ok(())
    }

    /// Gives the client a message of the server's. The answer to its first one says which revision they speak.
    fn hand_on(&self, message: &Value) -> anyhow::Result<()> {
        if let Some(version) = message["result"]["protocolVersion"].as_str() {
            self.state().version = Some(version.to_owned());
        }
        write(message)
    }

    fn head(&self, method: Method, accept: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(&method).uri(&self.path);
        let request = request.header(header::HOST, &self.authority).header(header::ACCEPT, accept);
        let request = request.header(header::AUTHORIZATION, &self.authorization);
        match &self.state().session {
            Some(id) => request.header(SESSION, id),
            None => request,
        }
    }

    /// One request on a connection of its own, which ends when the answer is dropped.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let connect = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&self.authority));
        let stream = connect.await.map_err(anyhow::Error::from).and_then(|stream| Ok(stream?));
        let stream = stream.with_context(|| format!("no answer from http://{}", self.authority))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

/// One line for the client. JSON has no line breaks of its own.
fn write(message: &Value) -> anyhow::Result<()> {
    let mut line = message.to_string();
    line.push('\n');
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes()).and_then(|()| output.flush()).context("the client is gone")
}

fn failure(id: &Value, code: i32, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

/// A text as a header's value, as the protocol has it: in base64 where it must be.
fn shown(text: &str) -> String {
    use base64::Engine as _;
    let plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.trim() == text;
    if plain && !text.starts_with("=?") {
        return text.to_owned();
    }
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
}
