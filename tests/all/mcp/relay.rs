//! `anchorhold mcp`, as a client on this machine starts it.

use super::client::{Mcp, OLD, execution, id_of, initialize, python, soon, status};
use crate::Shared;
use anchorhold_tests::{Options, Server, program};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

tests!(a_local_client_is_relayed, a_relay_outlives_its_server, a_killed_relay_ends_its_call);

/// The program.
struct Relay {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Relay {
    fn start(server: &Server, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program("anchorhold"));
        command
            .arg("mcp")
            .args(arguments)
            .args(["--url", server.base()])
            .arg("--data-dir")
            .arg(server.data_dir());
        command
            .env_remove("ANCHORHOLD_API_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, input, output })
    }

    fn say(&mut self, message: &Value) -> Result<()> {
        writeln!(self.input, "{message}")?;
        Ok(())
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "it ended");
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, message: &Value) -> Result<Value> {
        self.say(message)?;
        let answer = self.hear()?;
        ensure!(answer["id"] == message["id"], "{answer}");
        Ok(answer)
    }

    fn begin(&mut self) -> Result<()> {
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize(OLD)});
        ensure!(self.ask(&hello)?["result"]["protocolVersion"] == OLD);
        self.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
    }

    /// Closes its input; what it wrote to standard error, which must be nothing.
    fn end(self) -> Result<()> {
        let Self { mut child, input, .. } = self;
        drop(input);
        let mut errors = String::new();
        child.stderr.take().context("stderr")?.read_to_string(&mut errors)?;
        let status = child.wait()?;
        ensure!(status.success() && errors.is_empty(), "{status}: {errors}");
        Ok(())
    }
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

fn a_local_client_is_relayed(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let mut relay = Relay::start(&server, &[])?;
    relay.begin()?;
    let tools = relay.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}))?;
    let direct = Mcp::begin(&client)?.request("tools/list", &json!({}))?;
    assert_eq!(tools["result"], direct.last()?["result"]);
    // A slow call holds up no other, and is cancelled.
    let session =
        id_of(&relay.ask(&call(2, "execute_code", &python("x = 1")))?["result"]["structuredContent"])?;
    let mut slow = python("while True: pass");
    slow["context"] = "slow".into();
    relay.say(&call(3, "execute_code", &slow))?;
    let quick = relay.ask(&call(4, "execute_code", &python("x + 1")))?;
    assert_eq!(quick["result"]["structuredContent"]["value"], "2");
    soon("it runs", || Ok(execution(&client, &session)?.is_some()))?;
    relay.say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}}))?;
    soon("it is cancelled", || {
        let items = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
        Ok(items["items"].as_array().is_some_and(|all| all.iter().any(|e| e["status"] == "cancelled")))
    })?;
    relay.say(&json!("nonsense"))?;
    assert_eq!(relay.hear()?["error"]["code"], -32700);
    relay.end()?;
    soon("the session ends with its client", || Ok(status(&client, &session)? == "closed"))?;

    // The newer revision: no handshake; hanging up cancels.
    let mut relay = Relay::start(&server, &["--tools", "code,session"])?;
    let new = Mcp::without_session(&client);
    let listed = relay.ask(&new.message(1, "tools/list", &json!({})))?;
    assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(9));
    let params = json!({"name": "session_create", "arguments": {}});
    let session = id_of(&relay.ask(&new.message(2, "tools/call", &params))?["result"]["structuredContent"])?;
    let arguments = json!({"language": "python", "code": "while True: pass", "session_id": session});
    relay.say(&new.message(3, "tools/call", &json!({"name": "execute_code", "arguments": arguments})))?;
    soon("it runs", || Ok(execution(&client, &session)?.as_deref() == Some("running")))?;
    relay.say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}}))?;
    soon("it is cancelled", || Ok(execution(&client, &session)?.as_deref() == Some("cancelled")))?;
    relay.end()?;
    server.stop()?;
    Ok(())
}

fn a_relay_outlives_its_server(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let mut relay = Relay::start(&server, &[])?;
    relay.begin()?;
    let first =
        id_of(&relay.ask(&call(1, "execute_code", &python("x = 1")))?["result"]["structuredContent"])?;
    server.kill()?;
    let away = relay.ask(&call(2, "execute_code", &python("x")))?;
    assert_eq!(away["error"]["code"], -32603, "{away}");
    server.launch()?;
    // The server forgot the client, not its sessions.
    let named = json!({"language": "python", "code": "x + 1", "session_id": first});
    let again = relay.ask(&call(3, "execute_code", &named))?;
    assert_eq!(again["result"]["structuredContent"]["value"], "2", "{again}");
    let Relay { mut child, input, .. } = relay;
    drop(input);
    child.wait()?;
    server.stop()?;
    Ok(())
}

/// As when the client's whole machine goes: nothing is said, the connection is just gone.
fn a_killed_relay_ends_its_call(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let mut relay = Relay::start(&server, &[])?;
    let arguments = json!({"language": "python", "code": "while True: pass", "session_id": session});
    let params = json!({"name": "execute_code", "arguments": arguments});
    relay.say(&Mcp::without_session(&client).message(1, "tools/call", &params))?;
    soon("it runs", || Ok(execution(&client, &session)?.as_deref() == Some("running")))?;
    relay.child.kill()?;
    relay.child.wait()?;
    soon("it is cancelled", || Ok(execution(&client, &session)?.as_deref() == Some("cancelled")))?;
    server.stop()?;
    Ok(())
}
