//! A client of the HTTP API, as plain as possible: paths and JSON, as in the contract.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use reqwest::blocking::{Body, Client as Http, RequestBuilder};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The JSON body of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The problem's code of an answer that must have this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let body = self.expect(status);
        assert!(self.header("x-request-id").is_some(), "no request id");
        assert_eq!(body["status"], status);
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A client with a key.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    base: String,
    key: Option<String>,
}

impl Client {
    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What it shows the server.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// A client of the server at `base` (`http://127.0.0.1:8080`).
    pub fn new(base: &str, key: Option<&str>) -> Result<Self> {
        let http = Http::builder().timeout(Duration::from_secs(120)).no_proxy().tcp_nodelay(true).build()?;
        Ok(Self { http, base: base.to_owned(), key: key.map(str::to_owned) })
    }

    /// The same server with another key, or none.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    fn answer(request: RequestBuilder) -> Result<Answer> {
        let response = request.send()?;
        let status = response.status().as_u16();
        let text = |v: &reqwest::header::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
        Ok(Answer { status, headers, bytes: response.bytes()?.to_vec() })
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer> {
        Self::answer(self.request(Method::GET, path))
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        Self::answer(self.request(Method::POST, path).json(body))
    }

    /// POST of JSON with an idempotency key.
    pub fn post_once(&self, path: &str, key: &str, body: &Value) -> Result<Answer> {
        Self::answer(self.request(Method::POST, path).header("Idempotency-Key", key).json(body))
    }

    /// PATCH of JSON.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        Self::answer(self.request(Method::PATCH, path).json(body))
    }

    /// PUT of bytes.
    pub fn put(&self, path: &str, body: impl Into<Body>) -> Result<Answer> {
        Self::answer(self.request(Method::PUT, path).body(body))
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<Answer> {
        Self::answer(self.request(Method::DELETE, path))
    }

    /// Any method, with headers and a raw body.
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer> {
        let mut request = self.request(Method::from_bytes(method.as_bytes())?, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::answer(request.body(body))
    }

    /// A new session; returns its id.
    pub fn session(&self, request: &Value) -> Result<String> {
        let answer = self.post("/v1/sessions", request)?;
        ensure!(answer.status == 201, "create: {} {}", answer.status, answer.text());
        Ok(answer.json()["id"].as_str().context("no id")?.to_owned())
    }

    /// Runs code in a session; the answer must be 200.
    pub fn execute(&self, session: &str, language: &str, code: &str) -> Result<Value> {
        self.execute_with(session, &json!({"language": language, "code": code}))
    }

    /// Runs an execution request in a session; the answer must be 200.
    pub fn execute_with(&self, session: &str, request: &Value) -> Result<Value> {
        let answer = self.post(&format!("/v1/sessions/{session}/executions"), request)?;
        ensure!(answer.status == 200, "execute: {} {}", answer.status, answer.text());
        Ok(answer.json())
    }

    /// Ends a session.
    pub fn close(&self, session: &str) -> Result<Value> {
        let answer = self.delete(&format!("/v1/sessions/{session}"))?;
        ensure!(answer.status == 200, "close: {} {}", answer.status, answer.text());
        Ok(answer.json())
    }
}

/// A server-sent event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its type.
    pub name: String,
    /// Its `id`.
    pub id: u64,
    /// Its data.
    pub data: Value,
}

/// Events as they arrive.
#[derive(Debug)]
pub struct EventStream(BufReader<reqwest::blocking::Response>);

impl Client {
    /// Runs an execution request and reads what it says.
    pub fn stream(&self, path: &str, request: &Value) -> Result<EventStream> {
        let request = self.request(Method::POST, path).header("Accept", "text/event-stream").json(request);
        EventStream::open(request)
    }

    /// Reads what an execution says behind a position.
    pub fn events(&self, session: &str, execution: &str, after: u64) -> Result<EventStream> {
        let path = format!("/v1/sessions/{session}/executions/{execution}/events?after={after}");
        EventStream::open(self.request(Method::GET, &path))
    }
}

impl EventStream {
    fn open(request: RequestBuilder) -> Result<Self> {
        let response = request.send()?;
        let status = response.status();
        ensure!(status == 200, "events: {status} {}", response.text()?);
        Ok(Self(BufReader::new(response)))
    }
}

impl Iterator for EventStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        let (mut name, mut id, mut data) = (String::new(), 0, None);
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error.into())),
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = value.parse().unwrap_or_default(),
                Some(("data", value)) => data = serde_json::from_str(value).ok(),
                // A comment, or the end of an event.
                _ => {
                    if let Some(data) = data.take() {
                        return Some(Ok(Event { name, id, data }));
                    }
                }
            }
        }
    }
}
