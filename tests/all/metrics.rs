//! Metrics: on the operator's door only.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result};
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};

tests!(metrics_are_told_to_the_operator_only, a_collector_gets_the_steps_of_executions);

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// security.md 114.
fn metrics_are_told_to_the_operator_only(_: &Shared) -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let server = Server::start(Options::default().with("admin", "listen", &address))?;
    let client = server.client()?;
    let operator = Client::new(&format!("http://{address}"), None)?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "1/0")?;
    client.post("/v1/run", &json!({"language": "javascript", "code": "1"}))?.expect(200);
    client.get("/v1/sessions/x")?.problem(404);
    let value = |name: &str| -> Result<f64> {
        let answer = operator.get("/metrics")?;
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.with_context(|| format!("no {name} in {text}"))
    };
    let executions = |language: &str, status: &str| {
        let labels = format!("language=\"{language}\",runtime=\"wasm\",status=\"{status}\"");
        value(&format!("anchorhold_executions_total{{{labels}}}"))
    };
    assert_eq!((executions("python", "failed")?, executions("javascript", "succeeded")?), (1.0, 1.0));
    assert_eq!(value("anchorhold_refusals_total{code=\"session_not_found\"}")?, 1.0);
    assert_eq!(value("anchorhold_execution_step_seconds_count{step=\"settle\"}")?, 2.0);
    assert!(value("anchorhold_ledger_writes_total{outcome=\"written\"}")? >= 4.0);
    assert!(value("anchorhold_sessions")? >= 1.0);
    // Neither door has what the other has.
    assert_eq!(client.get("/metrics")?.problem(404), "not_found");
    assert_eq!(operator.get("/v1/sessions")?.status, 404);
    server.stop()?;
    Ok(())
}

/// Takes what is posted and answers it, until the channel's other end is gone.
fn collect(listener: std::net::TcpListener, got: std::sync::mpsc::Sender<(String, Vec<u8>)>) -> Result<()> {
    for stream in listener.incoming() {
        let mut stream = BufReader::new(stream?);
        loop {
            let (mut head, mut length) = (String::new(), 0);
            while stream.read_line(&mut head)? > 2 {
                let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse()?;
                }
            }
            if head.is_empty() {
                break;
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            got.send((head, body))?;
        }
    }
    Ok(())
}

/// A program that runs twice in a context takes one cell; its text is in no span.
fn a_collector_gets_the_steps_of_executions(_: &Shared) -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let (tell, got) = std::sync::mpsc::channel();
    std::thread::spawn(move || collect(listener, tell));
    let server = Server::start(Options::default().with("traces", "otlp", &address))?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let first = client.execute(&session, "python", "'not for the' + ' operator'")?;
    client.execute(&session, "python", "2")?;
    server.stop()?;
    let posts: Vec<_> = got.try_iter().collect();
    assert!(!posts.is_empty() && posts.iter().all(|(head, _)| head.starts_with("POST /v1/traces ")));
    let bytes: Vec<u8> = posts.into_iter().flat_map(|(_, body)| body).collect();
    let count = |needle: &[u8]| bytes.windows(needle.len()).filter(|window| *window == needle).count();
    // opentelemetry/proto/trace/v1/trace.proto: `string name = 5` of a span.
    let spans =
        |name: &str| count(&[&[5 << 3 | 2, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat());
    let names = ["execution", "queue", "take", "commit", "run", "settle"];
    assert_eq!(names.map(spans), [2, 2, 1, 1, 2, 2]);
    assert_eq!(count(first["id"].as_str().context("id")?.as_bytes()), 1);
    assert_eq!(count(b"not for the"), 0);
    Ok(())
}
