//! Metrics: on the operator's door only.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result};
use serde_json::json;

tests!(metrics_are_told_to_the_operator_only);

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
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
