//! How calls, and what was made for a client, come to an end.

use super::client::{Mcp, OLD, execution, id_of, initialize, python, soon, status};
use crate::Shared;
use crate::tenants::tenant;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

tests!(
    the_end_of_an_mcp_session_ends_what_it_made,
    without_an_mcp_session_answers_name_their_session,
    a_cancelled_call_ends_its_execution,
    a_client_that_dies_ends_its_execution,
    a_dead_clients_call_ends_at_its_time,
    fifty_clients_at_once,
    a_stop_does_not_wait_for_listeners,
    a_tenant_has_so_many_mcp_sessions,
    an_mcp_session_ends_when_nothing_is_asked,
    a_call_that_runs_keeps_its_mcp_session,
);

fn the_end_of_an_mcp_session_ends_what_it_made(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::begin(&client)?;
    let first = id_of(&mcp.done("execute_code", &python("1"))?)?;
    let second = id_of(&mcp.done("session_create", &json!({}))?)?;
    // One that was made elsewhere is none of its own.
    let own = client.session(&json!({}))?;
    let named = json!({"language": "python", "code": "1", "session_id": own});
    assert_eq!(id_of(&mcp.done("execute_code", &named)?)?, own);
    let known = mcp.clone();
    mcp.end()?;
    for session in [&first, &second] {
        soon("the session is closed", || Ok(status(&client, session)? == "closed"))?;
    }
    assert_eq!(status(&client, &own)?, "active");
    let said = known.request("tools/list", &json!({}))?;
    assert_eq!(said.answer.status, 404, "{}", said.answer.text());
    client.close(&own)?;
    Ok(())
}

fn without_an_mcp_session_answers_name_their_session(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::without_session(&client);
    let first = id_of(&mcp.done("execute_code", &python("x = 1"))?)?;
    let named = json!({"language": "python", "code": "x + 1", "session_id": first});
    assert_eq!(mcp.done("execute_code", &named)?["value"], "2");
    let other = id_of(&mcp.done("list_files", &json!({}))?)?;
    assert_ne!(first, other);
    assert!(mcp.refused("session_get", &json!({}))?.starts_with("session_not_found"));
    for session in [&first, &other] {
        assert_eq!(mcp.done("session_close", &json!({"session_id": session}))?["status"], "closed");
    }
    assert!(mcp.refused("execute_code", &named)?.starts_with("session_closed"));
    Ok(())
}

fn a_cancelled_call_ends_its_execution(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::begin(&client)?;
    let session = client.session(&json!({}))?;
    let arguments = json!({"language": "python", "code": "while True: pass", "session_id": session});
    let caller = mcp.clone();
    let message = mcp.message(99, "tools/call", &json!({"name": "execute_code", "arguments": arguments}));
    let begun = Instant::now();
    let call = std::thread::spawn(move || caller.post("tools/call", &message));
    soon("it runs", || Ok(execution(&client, &session)?.as_deref() == Some("running")))?;
    mcp.notify("notifications/cancelled", &json!({"requestId": 99, "reason": "enough"}))?;
    soon("it is cancelled", || Ok(execution(&client, &session)?.as_deref() == Some("cancelled")))?;
    let said = call.join().map_err(|_| anyhow::anyhow!("the caller panicked"))??;
    assert!(begun.elapsed() < Duration::from_secs(10));
    // A cancelled request is not answered.
    assert!(said.messages.iter().all(|message| message.get("result").is_none()), "{:?}", said.messages);
    // Variables and session are still there.
    let next = json!({"language": "python", "code": "1 + 1", "session_id": session});
    assert_eq!(mcp.done("execute_code", &next)?["value"], "2");
    client.close(&session)?;
    mcp.end()
}

/// A call of a client that dies as soon as its program runs.
fn call_and_die(shared: &Shared, mcp: &Mcp, arguments: &Value) -> Result<()> {
    let (host, key) = shared.with(|server| {
        let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?;
        Ok((server.base().replace("http://", ""), key.trim().to_owned()))
    })?;
    let session = arguments["session_id"].as_str().context("a session")?;
    let call = json!({"name": "execute_code", "arguments": arguments});
    let body = mcp.message(1, "tools/call", &call).to_string();
    let headers: String = mcp
        .headers("tools/call", Some("execute_code"))
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut socket = TcpStream::connect(&host)?;
    write!(
        socket,
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    soon("it runs", || Ok(execution(&mcp.http, session)?.as_deref() == Some("running")))
}

fn a_client_that_dies_ends_its_execution(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::without_session(&client);
    let session = client.session(&json!({}))?;
    let arguments = json!({"language": "python", "code": "while True: pass", "session_id": session});
    call_and_die(shared, &mcp, &arguments)?;
    soon("it is cancelled", || Ok(execution(&client, &session)?.as_deref() == Some("cancelled")))?;
    client.close(&session)?;
    Ok(())
}

/// In an MCP session a lost connection is no cancellation: the client may come back for its answer.
fn a_dead_clients_call_ends_at_its_time(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::begin(&client)?;
    let session = client.session(&json!({}))?;
    let code = "while True: pass";
    let arguments =
        json!({"language": "python", "code": code, "timeout_seconds": 1.5, "session_id": session});
    call_and_die(shared, &mcp, &arguments)?;
    soon("it is over", || Ok(execution(&client, &session)?.as_deref() == Some("timed_out")))?;
    client.close(&session)?;
    mcp.end()
}

fn fifty_clients_at_once(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let clients: Vec<_> = (0..50)
        .map(|n| {
            let client = client.clone();
            std::thread::spawn(move || -> Result<String> {
                let mcp = Mcp::begin(&client)?;
                let first = mcp.done("execute_code", &python(&format!("n = {n}\nprint(n)")))?;
                assert_eq!(first["stdout"], format!("{n}\n"));
                mcp.done("write_files", &json!({"files": [{"path": "n.txt", "content": n.to_string()}]}))?;
                let second = mcp.done("execute_code", &python("n == int(open('n.txt').read())"))?;
                assert_eq!(second["value"], "True");
                mcp.end()?;
                id_of(&first)
            })
        })
        .collect();
    let sessions: Vec<String> = clients
        .into_iter()
        .map(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
        .collect::<Result<_>>()?;
    for session in &sessions {
        soon("the session is closed", || Ok(status(&client, session)? == "closed"))?;
    }
    Ok(())
}

fn a_stop_does_not_wait_for_listeners(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let mcp = Mcp::begin(&client)?;
    let id = mcp.session.clone().context("no MCP session")?;
    let listener = std::thread::spawn(move || {
        client.raw("GET", "/mcp", &[("mcp-session-id", &id), ("accept", "text/event-stream")], Vec::new())
    });
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    let log = server.stop()?;
    assert!(
        begun.elapsed() < Duration::from_secs(4) && !log.contains("cut off"),
        "{:?} {log}",
        begun.elapsed()
    );
    let heard = listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    assert_eq!((heard.status, heard.header("content-type")), (200, Some("text/event-stream")));
    Ok(())
}

/// What one more is answered.
fn begin_one_more(client: &Client) -> Result<Value> {
    let mcp = Mcp { version: OLD, ..Mcp::without_session(client) };
    Ok(mcp.request("initialize", &initialize(OLD))?.last()?.clone())
}

fn a_tenant_has_so_many_mcp_sessions(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("mcp", "sessions", "3"))?;
    let admin = server.client()?;
    let mut three = (0..3).map(|_| Mcp::begin(&admin)).collect::<Result<Vec<_>>>()?;
    for _ in 0..2 {
        let refused = begin_one_more(&admin)?;
        assert_eq!(refused["error"]["message"], "quota_exceeded: too many MCP sessions are open");
    }
    // Those that are open go on, and so do clients that need none, and other tenants.
    let (_, other) = tenant(&admin, "other", &json!({}))?;
    Mcp::begin(&other)?.done("execute_code", &python("1"))?;
    let without = Mcp::without_session(&admin);
    let made = id_of(&without.done("execute_code", &python("1"))?)?;
    admin.close(&made)?;
    three[0].done("execute_code", &python("1"))?;
    // An end makes room for one, and what was refused took none.
    three.swap_remove(1).end()?;
    soon("there is room", || Ok(begin_one_more(&admin)?["result"].is_object()))?;
    assert!(begin_one_more(&admin)?["error"].is_object());
    server.stop()?;
    Ok(())
}

fn an_mcp_session_ends_when_nothing_is_asked(_: &Shared) -> Result<()> {
    let options = Options::default().with("mcp", "idle_seconds", "1.5").with("mcp", "sessions", "1");
    let server = Server::start(options)?;
    let client = server.client()?;
    let mcp = Mcp::begin(&client)?;
    let session = id_of(&mcp.done("execute_code", &python("x = 1"))?)?;
    // Whoever calls now and then keeps it for longer than that.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(mcp.done("execute_code", &python("x"))?["value"], "1");
        std::thread::sleep(Duration::from_millis(200));
    }
    let silent = Instant::now();
    soon("the session is closed", || Ok(status(&client, &session)? == "closed"))?;
    assert!(silent.elapsed() > Duration::from_secs(1), "{:?}", silent.elapsed());
    assert_eq!(mcp.request("tools/list", &json!({}))?.answer.status, 404);
    // Its place is free.
    soon("there is room", || Ok(begin_one_more(&client)?["result"].is_object()))?;
    server.stop()?;
    Ok(())
}

/// Nothing is asked meanwhile, and nothing is said; but somebody waits.
fn a_call_that_runs_keeps_its_mcp_session(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("mcp", "idle_seconds", "1"))?;
    let mcp = Mcp::begin(&server.client()?)?;
    let slow = mcp.done("execute_code", &python("import time\ntime.sleep(3)\nx = 6 * 7\nx"))?;
    assert_eq!(slow["value"], "42");
    assert_eq!(mcp.done("execute_code", &python("x"))?["value"], "42");
    server.stop()?;
    Ok(())
}
