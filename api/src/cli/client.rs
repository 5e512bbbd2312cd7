//! A client of the HTTP API: JSON there and back, problems as errors.

use super::show::inert;
use super::{Remote, Server};
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::time::Duration;
use ureq::http::{Request, Response};
use ureq::{Agent, Body, SendBody};

/// How long a server may take to take the connection. What it takes to answer is the request's own affair.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// The items of a page.
const PAGE: &str = "limit=1000";

/// A server, and a key for it.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    base: String,
    authorization: String,
}

impl Client {
    pub(super) fn new(remote: &Remote) -> anyhow::Result<Self> {
        let base = remote.server.base()?.to_owned();
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_MAX))
            .http_status_as_error(false)
            // The key goes to the server that was named and nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .build();
        Ok(Self {
            agent: config.new_agent(),
            base,
            authorization: format!("Bearer {}", remote.server.key()?),
        })
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send("GET", path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send("POST", path, Some(body))
    }

    pub(super) fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send("PATCH", path, Some(body))
    }

    pub(super) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.send("DELETE", path, None)
    }

    /// All items of a list, page after page. `query` has a value for every parameter but limit and cursor.
    pub(super) fn all(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
        let fixed: String = query.iter().map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}?{PAGE}{fixed}{cursor}"))?;
            match page["items"].take() {
                Value::Array(some) => items.extend(some),
                _ => bail!("the server's answer has no items"),
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encoded(next)),
                None => return Ok(items),
            }
        }
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", &self.authorization);
        let answer = match body {
            None => self.agent.run(request.body(SendBody::none())?),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(serde_json::to_vec(body)?)?)
            }
        };
        read(answer.with_context(|| format!("no answer from {}", self.base))?)
    }
}

fn read(answer: Response<Body>) -> anyhow::Result<Value> {
    let status = answer.status();
    let bytes = answer.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
    let body: Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("the server answered {status} and no JSON: is this an anchorhold?"))?;
    if status.is_success() {
        return Ok(body);
    }
    let text = |name: &str| inert(body[name].as_str().unwrap_or("?"));
    bail!("{} ({}, {})", text("detail"), text("code"), text("request_id"))
}

impl Server {
    /// Its address, without a slash at the end.
    pub(super) fn base(&self) -> anyhow::Result<&str> {
        let base = self.url.trim_end_matches('/');
        ensure!(
            base.starts_with("http://"),
            "{base}: only http:// is spoken here; use a tunnel to what is beyond"
        );
        Ok(base)
    }

    /// From the file that was named, else from the environment, else the one of a server on this machine.
    pub(super) fn key(&self) -> anyhow::Result<String> {
        let file = match (&self.key_file, std::env::var("ANCHORHOLD_API_KEY")) {
            (None, Ok(key)) if !key.is_empty() => return Ok(key),
            (Some(file), _) => file.clone(),
            (None, _) => self.data_dir.join("admin.key"),
        };
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "no key: {} cannot be read; name another with --key-file or ANCHORHOLD_API_KEY",
                file.display()
            )
        })?;
        Ok(text.trim().to_owned())
    }
}

/// For a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded("2026-01-31T00:00:00+01:00"), "2026-01-31T00%3A00%3A00%2B01%3A00");
        assert_eq!(encoded("a&b=ä"), "a%26b%3D%C3%A4");
    }
}
