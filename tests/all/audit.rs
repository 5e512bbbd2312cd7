//! The audit log, as an operator finds it.

use crate::Shared;
use crate::metrics::free_port;
use crate::tenants::tenant;
use anchorhold_tests::{Options, Server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

tests!(everything_that_is_done_is_noted, what_clients_write_is_data_and_nothing_else);

/// Waits until the log has this in it.
pub fn is_noted(path: &Path, what: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(path)?.contains(what) {
        ensure!(Instant::now() < end, "{what} is not noted");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// security.md 115: who, when, what, and what came of it; a restart goes on with the numbers.
fn everything_that_is_done_is_noted(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let path = server.data_dir().join("audit/audit.jsonl");
    let admin = server.client()?;
    let (id, client) = tenant(&admin, "noted", &json!({"sessions": 1}))?;
    let session = client.session(&json!({"name": "\u{202e}<script>"}))?;
    let execution = client.execute(&session, "python", "1")?;
    client.put(&format!("/v1/sessions/{session}/files/a%0Ab%1B%5B31m.txt"), "x")?.expect(201);
    client.post("/v1/sessions", &json!({}))?.problem(429);
    admin.with_key(Some("ah_wrong")).get("/v1/sessions")?.problem(401);
    // Every line of what was answered is there at once or soon.
    is_noted(&path, "\"code\":\"unauthorized\"")?;
    server.kill()?;
    server.launch()?;
    server.client()?.get("/v1/prices")?.expect(200);
    is_noted(&path, "GET /v1/prices")?;
    let metadata = std::fs::metadata(&path)?;
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.uid() != 0), (0o600, true));
    let text = std::fs::read_to_string(&path)?;
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for (n, line) in (1u64..).zip(&lines) {
        assert_eq!(line["seq"], n, "{text}");
        assert_eq!(line["prev"].as_str().map(str::len), Some(64));
    }
    let find = |action: &str, status: u16| {
        let found = lines.iter().find(|line| line["action"] == action && line["status"] == status);
        found.with_context(|| format!("no {action} {status} in {text}"))
    };
    let made = find("POST /v1/sessions", 201)?;
    assert_eq!((&made["tenant"], &made["subject"]), (&json!(id), &json!(session)));
    assert!(made["key"].as_str().is_some_and(|key| key.starts_with("key_")));
    assert!(made["request"].as_str().is_some_and(|request| request.starts_with("req_")));
    assert_eq!(find("POST /v1/sessions/{id}/executions", 200)?["subject"], execution["id"]);
    let file = find("PUT /v1/sessions/{id}/files/{*path}", 201)?;
    assert_eq!(file["target"], format!("/v1/sessions/{session}/files/a%0Ab%1B%5B31m.txt"));
    assert_eq!(find("POST /v1/sessions", 429)?["code"], "quota_exceeded");
    let wrong = find("GET /v1/sessions", 401)?;
    assert_eq!(
        (&wrong["tenant"], &wrong["key"], &wrong["code"]),
        (&json!(null), &json!(null), &json!("unauthorized"))
    );
    find("POST /v1/tenants/{id}/keys", 201)?;
    assert!(!text.contains("ah_"), "a key is in the log");
    server.stop()?;
    Ok(())
}

/// security.md 116: names and tags come back exactly, as JSON, to who wrote them. They are in no log, no metric and on no
/// page, and what is too long is refused.
fn what_clients_write_is_data_and_nothing_else(_: &Shared) -> Result<()> {
    const HOSTILE: [&str; 4] =
        ["<script>alert(7)</script>", "=cmd()|' /C calc'!A0", "\u{202e}gnp.exe", "%0d%0aERROR forged"];
    let address = format!("127.0.0.1:{}", free_port()?);
    let server = Server::start(Options::default().with("admin", "listen", &address))?;
    let path = server.data_dir().join("audit/audit.jsonl");
    let admin = server.client()?;
    let (_, client) = tenant(&admin, "writes", &json!({}))?;
    for text in HOSTILE {
        let metadata = json!({"tag": text});
        let session = client.session(&json!({"name": text, "metadata": metadata, "env": {"TEXT": text}}))?;
        client.execute(&session, "python", &format!("print({text:?})"))?;
        let run = json!({"language": "python", "code": "1/0", "context": text});
        let refused = client.post(&format!("/v1/sessions/{session}/executions"), &run)?;
        assert_eq!(refused.problem(422), "invalid_request", "{text}");
        let answer = client.get(&format!("/v1/sessions/{session}"))?;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let shown = answer.expect(200);
        assert_eq!((&shown["name"], &shown["metadata"]["tag"]), (&json!(text), &json!(text)));
        client.raw("GET", "/v1/sessions", &[("user-agent", "<script>alert(7)</script>")], Vec::new())?;
        client.close(&session)?;
    }
    for (name, value) in [("name", json!("x".repeat(10_240))), ("name", json!("a\nb"))] {
        assert_eq!(client.post("/v1/sessions", &json!({name: value}))?.problem(422), "invalid_request");
    }
    admin.get("/v1/prices")?.expect(200);
    is_noted(&path, "GET /v1/prices")?;
    let operator = anchorhold_tests::Client::new(&format!("http://{address}"), None)?;
    let places = [
        ("audit log", std::fs::read_to_string(&path)?),
        ("metrics", operator.get("/metrics")?.text()),
        ("page", client.get("/docs")?.text()),
        ("log", server.stop()?),
    ];
    for (place, told) in &places {
        ensure!(told.len() > 100, "{place} says nothing");
        for text in HOSTILE {
            ensure!(!told.contains(text), "{text:?} is in the {place}");
        }
    }
    Ok(())
}
