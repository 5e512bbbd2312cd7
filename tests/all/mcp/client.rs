//! A client of the protocol, as plain as possible: it shows what is sent.

use anchorhold_tests::{Answer, Client};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const OLD: &str = "2025-11-25";

pub const NEW: &str = "2026-07-28";

/// What one request was answered: every message of it, in order.
pub struct Said {
    pub answer: Answer,
    pub messages: Vec<Value>,
}

impl Said {
    /// The response or error to the request itself.
    pub fn last(&self) -> Result<&Value> {
        self.messages.last().with_context(|| format!("{} {}", self.answer.status, self.answer.text()))
    }

    /// The notifications before it, of one method.
    pub fn told(&self, method: &str) -> Vec<&Value> {
        self.messages.iter().filter(|message| message["method"] == method).collect()
    }
}

/// A client of the protocol, as plain as possible.
#[derive(Clone)]
pub struct Mcp {
    pub http: Client,
    pub path: String,
    pub session: Option<String>,
    pub version: &'static str,
}

impl Mcp {
    /// In an MCP session.
    pub fn begin(http: &Client) -> Result<Self> {
        let mut mcp = Self { http: http.clone(), path: "/mcp".to_owned(), session: None, version: OLD };
        let answered = mcp.request("initialize", &initialize(OLD))?;
        let result = &answered.last()?["result"];
        ensure!(result["protocolVersion"] == OLD, "{result}");
        mcp.session = answered.answer.header("mcp-session-id").map(str::to_owned);
        ensure!(mcp.session.is_some(), "no MCP session");
        mcp.notify("notifications/initialized", &json!({}))?;
        Ok(mcp)
    }

    /// Each call for itself.
    pub fn without_session(http: &Client) -> Self {
        Self { http: http.clone(), path: "/mcp".to_owned(), session: None, version: NEW }
    }

    pub fn headers(&self, method: &str, name: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("accept", "application/json, text/event-stream".to_owned()),
            ("content-type", "application/json".to_owned()),
        ];
        headers.extend(self.session.clone().map(|id| ("mcp-session-id", id)));
        if self.version == NEW {
            headers.push(("mcp-method", method.to_owned()));
            headers.extend(name.map(|name| ("mcp-name", name.to_owned())));
        }
        if method != "initialize" {
            headers.push(("mcp-protocol-version", self.version.to_owned()));
        }
        headers
    }

    pub fn post(&self, method: &str, message: &Value) -> Result<Said> {
        let params = &message["params"];
        let name = params["name"].as_str().or(params["uri"].as_str());
        let headers = self.headers(method, name);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self.http.raw("POST", &self.path, &headers, message.to_string().into_bytes())?;
        let text = answer.text();
        let messages = match answer.header("content-type") {
            Some("text/event-stream") => text
                .lines()
                .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
                .collect(),
            _ => serde_json::from_str(&text).into_iter().collect(),
        };
        Ok(Said { answer, messages })
    }

    pub fn message(&self, id: u64, method: &str, params: &Value) -> Value {
        let mut params = params.clone();
        if self.version == NEW {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": NEW,
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            });
            let more = params["_meta"].take();
            params["_meta"] = meta;
            for (name, value) in more.as_object().into_iter().flatten() {
                params["_meta"][name] = value.clone();
            }
        }
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    }

    pub fn request(&self, method: &str, params: &Value) -> Result<Said> {
        self.post(method, &self.message(7, method, params))
    }

    pub fn notify(&self, method: &str, params: &Value) -> Result<()> {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        let said = self.post(method, &message)?;
        ensure!(said.answer.status == 202, "{} {}", said.answer.status, said.answer.text());
        Ok(())
    }

    /// A tool's result, whatever it is.
    pub fn call(&self, tool: &str, arguments: &Value) -> Result<Value> {
        let said = self.request("tools/call", &json!({"name": tool, "arguments": arguments}))?;
        let result = said.last()?["result"].clone();
        ensure!(result.is_object(), "{tool}: {}", said.last()?);
        Ok(result)
    }

    /// What a tool answers that does what it is asked. The text is the same as what is structured.
    pub fn done(&self, tool: &str, arguments: &Value) -> Result<Value> {
        let result = self.call(tool, arguments)?;
        ensure!(result["isError"] != true, "{tool}: {result}");
        let structured = result["structuredContent"].clone();
        let text = result["content"][0]["text"].as_str().context("no text")?;
        ensure!(serde_json::from_str::<Value>(text)? == structured, "{text}");
        Ok(structured)
    }

    /// Why a tool does not do what it is asked.
    pub fn refused(&self, tool: &str, arguments: &Value) -> Result<String> {
        let result = self.call(tool, arguments)?;
        ensure!(result["isError"] == true, "{tool}: {result}");
        Ok(result["content"][0]["text"].as_str().context("no text")?.to_owned())
    }

    pub fn end(self) -> Result<()> {
        let id = self.session.context("no MCP session")?;
        let headers = [("mcp-session-id", id.as_str()), ("mcp-protocol-version", OLD)];
        let answer = self.http.raw("DELETE", "/mcp", &headers, Vec::new())?;
        ensure!(answer.status == 204, "{} {}", answer.status, answer.text());
        Ok(())
    }
}

pub fn initialize(version: &str) -> Value {
    json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}})
}

pub fn python(code: &str) -> Value {
    json!({"language": "python", "code": code})
}

pub fn id_of(answer: &Value) -> Result<String> {
    Ok(answer["session_id"].as_str().context("no session_id")?.to_owned())
}

pub fn status(client: &Client, session: &str) -> Result<String> {
    let answer = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
    Ok(answer["status"].as_str().context("status")?.to_owned())
}

/// Waits until something is so, for a while.
pub fn soon(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !so()? {
        ensure!(Instant::now() < end, "not so after 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The status of a session's only execution, as soon as there is one.
pub fn execution(client: &Client, session: &str) -> Result<Option<String>> {
    let items = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    Ok(items["items"][0]["status"].as_str().map(str::to_owned))
}
