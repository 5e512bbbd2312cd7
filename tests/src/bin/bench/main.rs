//! `make bench`: the numbers of SPECIFICATION.md, from outside, on this machine.
//!
//! The client is a bare HTTP/1.1 speaker on a blocking socket, so that little of what is measured is its own. It
//! shares the machine with the server, as the goals say.

mod browser;
mod native;

use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One kept connection.
struct Wire {
    socket: TcpStream,
    host: String,
    key: String,
    /// More of them, each a line with its end.
    headers: String,
    buffer: Vec<u8>,
}

impl Wire {
    fn open(server: &Server) -> Result<Self> {
        let host = server.base().replace("http://", "");
        let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?.trim().to_owned();
        let socket = TcpStream::connect(&host)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, host, key, headers: String::new(), buffer: Vec::with_capacity(64 << 10) })
    }

    /// One request; returns its status, its body, and how long it took.
    fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>, Duration)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.host,
            self.key,
            self.headers,
            body.len()
        );
        let start = Instant::now();
        self.socket.write_all(request.as_bytes())?;
        self.buffer.clear();
        let mut chunk = [0; 16 << 10];
        let (head, end) = loop {
            let n = self.socket.read(&mut chunk)?;
            ensure!(n > 0, "the server hung up");
            self.buffer.extend_from_slice(&chunk[..n]);
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
                let length =
                    head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
                break (head, length.map(|length| end + 4 + length));
            }
        };
        // Without a length it comes in chunks, the last of which is empty.
        while end.map_or(!self.buffer.ends_with(b"\r\n0\r\n\r\n"), |end| self.buffer.len() < end) {
            let n = self.socket.read(&mut chunk)?;
            ensure!(n > 0, "the server hung up");
            self.buffer.extend_from_slice(&chunk[..n]);
        }
        let took = start.elapsed();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("status")?;
        Ok((status, self.buffer[head.len() + 4..].to_vec(), took))
    }

    fn json(&mut self, method: &str, path: &str, body: &Value) -> Result<(Value, Duration)> {
        let (status, bytes, took) = self.send(method, path, &body.to_string())?;
        ensure!(status < 300, "{method} {path}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok((serde_json::from_slice(&bytes)?, took))
    }

    fn session(&mut self) -> Result<(String, Duration)> {
        let (answer, took) = self.json("POST", "/v1/sessions", &json!({}))?;
        Ok((answer["id"].as_str().context("id")?.to_owned(), took))
    }
}

/// Something that runs code.
struct Guest {
    name: &'static str,
    language: &'static str,
    engine: Option<&'static str>,
    /// A program that prints 2.
    print: &'static str,
}

const GUESTS: [Guest; 3] = [
    Guest { name: "python", language: "python", engine: None, print: "print(1+1)" },
    Guest { name: "javascript", language: "javascript", engine: None, print: "console.log(1+1)" },
    Guest { name: "boa", language: "javascript", engine: Some("boa"), print: "console.log(1+1)" },
];

impl Guest {
    fn asks(&self, code: &str) -> Value {
        json!({"language": self.language, "engine": self.engine, "code": code})
    }
}

/// Durations of one thing, in order of size.
struct Sample(Vec<Duration>);

impl Sample {
    fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort();
        Self(durations)
    }

    fn at(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    }

    fn show(&self, what: &str, goal: &str) {
        let max = self.0.last().map_or(0.0, |d| d.as_secs_f64() * 1e3);
        println!(
            "{what:<58} {:>8.3} {:>8.3} {:>8.3} {max:>8.3}  {goal}",
            self.at(50),
            self.at(90),
            self.at(99)
        );
    }
}

fn main() -> Result<()> {
    if std::env::args().len() > 1 {
        println!(
            "Measures a server of its own on this machine, for some minutes: `make bench` has all there is."
        );
        return Ok(());
    }
    println!("{}", host::machine());
    let server = Server::start(Options::default())?;
    println!("\n{:<58} {:>8} {:>8} {:>8} {:>8}  goal", "milliseconds", "p50", "p90", "p99", "max");
    whole_runs(&server)?;
    warm(&server)?;
    tool_calls(&server)?;
    budget(&server)?;
    stops(&server)?;
    println!();
    sustained(&server)?;
    memory(&server)?;
    metering(&server)?;
    server.stop()?;
    native::rows()?;
    browser::rows()
}

fn whole_runs(server: &Server) -> Result<()> {
    let mut wire = Wire::open(server)?;
    for (guest, goal) in GUESTS.iter().zip(["p50 ≤ 1.0, p99 ≤ 5", "", ""]) {
        let body = guest.asks(guest.print);
        let mut took = Vec::new();
        for n in 0..1_100 {
            let (answer, t) = wire.json("POST", "/v1/run", &body)?;
            ensure!(answer["stdout"] == "2\n", "{answer}");
            if n >= 100 {
                took.push(t);
            }
        }
        Sample::of(took).show(&format!("POST /v1/run, {}, sequential", guest.name), goal);
    }
    Ok(())
}

fn warm(server: &Server) -> Result<()> {
    let mut wire = Wire::open(server)?;
    for (guest, goal) in GUESTS.iter().zip(["p50 ≤ 0.4", "p50 ≤ 0.4", ""]) {
        let (session, _) = wire.session()?;
        let path = format!("/v1/sessions/{session}/executions");
        let body = guest.asks("1+1");
        let mut took = Vec::new();
        for n in 0..2_100 {
            let (answer, t) = wire.json("POST", &path, &body)?;
            ensure!(answer["status"] == "succeeded", "{answer}");
            if n >= 100 {
                took.push(t);
            }
        }
        Sample::of(took).show(&format!("warm execution, {}", guest.name), goal);
        wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
    }
    Ok(())
}

/// A tool call by MCP against the same execution by plain HTTP, in turns.
fn tool_calls(server: &Server) -> Result<()> {
    let mut plain = Wire::open(server)?;
    let (session, _) = plain.session()?;
    let path = format!("/v1/sessions/{session}/executions");
    let body = json!({"language": "python", "code": "1+1"});
    let arguments = json!({"language": "python", "code": "1+1", "session_id": session});
    for (revision, mut wire, call) in
        [with_mcp_session(server, &arguments)?, without_one(server, &arguments)?]
    {
        let (mut direct, mut called) = (Vec::new(), Vec::new());
        for n in 0..1_100 {
            let (_, t) = plain.json("POST", &path, &body)?;
            let (status, answer, u) = wire.send("POST", "/mcp", &call)?;
            ensure!(
                status == 200 && String::from_utf8_lossy(&answer).contains("\"value\":\"2\""),
                "{status}"
            );
            if n >= 100 {
                direct.push(t);
                called.push(u);
            }
        }
        let (direct, called) = (Sample::of(direct), Sample::of(called));
        direct.show("the same execution by plain HTTP, python", "");
        called.show(&format!("MCP tool call, python, {revision}"), "");
        println!("{:<58} {:>8.3}  p50 ≤ 0.3", "  added by MCP", called.at(50) - direct.at(50));
    }
    plain.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
    Ok(())
}

/// As clients of revisions up to 2025-11-25 call.
fn with_mcp_session(server: &Server, arguments: &Value) -> Result<(&'static str, Wire, String)> {
    let mut wire = Wire::open(server)?;
    wire.headers = "Accept: application/json, text/event-stream\r\n".into();
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}});
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}).to_string();
    wire.send("POST", "/mcp", &hello)?;
    let head = String::from_utf8_lossy(&wire.buffer).to_ascii_lowercase();
    let id = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).context("no MCP session")?;
    wire.headers.push_str(&format!("Mcp-Session-Id: {id}\r\nMcp-Protocol-Version: 2025-11-25\r\n"));
    wire.send("POST", "/mcp", &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string())?;
    let params = json!({"name": "execute_code", "arguments": arguments});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    Ok(("2025-11-25", wire, call.to_string()))
}

/// As clients of revision 2026-07-28 call.
fn without_one(server: &Server, arguments: &Value) -> Result<(&'static str, Wire, String)> {
    let mut wire = Wire::open(server)?;
    wire.headers = "Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: execute_code\r\n".into();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "execute_code", "arguments": arguments, "_meta": meta});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    Ok(("2026-07-28", wire, call.to_string()))
}

/// Where the time of a session's life goes.
fn budget(server: &Server) -> Result<()> {
    let mut wire = Wire::open(server)?;
    let mut parts: [Vec<Duration>; 6] = Default::default();
    for _ in 0..500 {
        let (_, _, floor) = wire.send("GET", "/healthz", "")?;
        let (session, create) = wire.session()?;
        let path = format!("/v1/sessions/{session}/executions");
        let (first, first_took) =
            wire.json("POST", &path, &json!({"language": "python", "code": "print(1+1)"}))?;
        let (second, second_took) =
            wire.json("POST", &path, &json!({"language": "python", "code": "print(1+1)"}))?;
        let (_, delete) = wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
        let inside = |answer: &Value| Duration::from_micros(answer["usage"]["wall_us"].as_u64().unwrap_or(0));
        for (part, took) in
            parts.iter_mut().zip([floor, create, first_took, inside(&first), inside(&second), delete])
        {
            part.push(took);
        }
        let _warm = second_took;
    }
    let names = [
        "budget: HTTP alone (GET /healthz)",
        "budget: create a session (HTTP, ledger)",
        "budget: first execution (take and lock a cell, run, ledger)",
        "budget:   of which running, as billed",
        "budget:   of which running, second time",
        "budget: end the session (kill, reap, give back, ledger)",
    ];
    for (name, part) in names.iter().zip(parts) {
        Sample::of(part).show(name, "");
    }
    Ok(())
}

/// From the request to end a session until its groups are gone.
fn stops(server: &Server) -> Result<()> {
    let mut wire = Wire::open(server)?;
    let mut took = Vec::new();
    for _ in 0..100 {
        let (session, _) = wire.session()?;
        wire.json(
            "POST",
            &format!("/v1/sessions/{session}/executions"),
            &json!({"language": "python", "code": "x = bytearray(50_000_000)"}),
        )?;
        let pids = host::cell_processes(session.trim_start_matches("ses_"));
        let start = Instant::now();
        wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
        while pids.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            std::thread::sleep(Duration::from_micros(200));
        }
        took.push(start.elapsed());
    }
    Sample::of(took).show("a session's whole tree gone after DELETE (50 MB held)", "p99 ≤ 250");
    Ok(())
}

fn sustained(server: &Server) -> Result<()> {
    let body = json!({"language": "python", "code": "print(1+1)"});
    crowd(server, "python", &body, 16, "≥ 500")
}

/// As many whole sessions as so many clients get in ten seconds.
fn crowd(server: &Server, what: &str, body: &Value, clients: usize, goal: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    let start = Instant::now();
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            let mut wire = Wire::open(server)?;
            let body = body.to_string();
            Ok(std::thread::spawn(move || -> Result<(Vec<Duration>, usize)> {
                let (mut took, mut refused) = (Vec::new(), 0);
                while Instant::now() < end {
                    let (status, _, t) = wire.send("POST", "/v1/run", &body)?;
                    if status == 200 { took.push(t) } else { refused += 1 }
                }
                Ok((took, refused))
            }))
        })
        .collect::<Result<_>>()?;
    let (mut took, mut refused) = (Vec::new(), 0);
    for worker in workers {
        let (t, r) = worker.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        took.extend(t);
        refused += r;
    }
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    Sample::of(took).show(&format!("POST /v1/run, {what}, {clients} clients, 10 s"), "");
    println!("{:<58} {rate:>8.0} per second, {refused} refused  {goal}", "  whole sessions");
    Ok(())
}

fn memory(server: &Server) -> Result<()> {
    GUESTS.iter().try_for_each(|guest| memory_of(server, guest.name, &json!({}), &guest.asks("1 + 1"), "≤ 4"))
}

fn memory_of(server: &Server, name: &str, session: &Value, program: &Value, goal: &str) -> Result<()> {
    let client: Client = server.client()?;
    let start = |session: &str| client.execute_with(session, program).map(drop);
    weigh(&client, name, session, start, goal)
}

/// What ten sessions take of memory that are alive and do nothing.
fn weigh(
    client: &Client,
    name: &str,
    session: &Value,
    start: impl Fn(&str) -> Result<()>,
    goal: &str,
) -> Result<()> {
    let sessions = (0..10).map(|_| client.session(session)).collect::<Result<Vec<_>>>()?;
    sessions.iter().try_for_each(|session| start(session))?;
    let mut pss = 0;
    for session in &sessions {
        for pid in host::cell_processes(session.trim_start_matches("ses_")) {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            pss += rollup
                .lines()
                .find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    println!(
        "{:<58} {:>8.2} MiB  {goal}",
        format!("idle memory per {name} session (PSS, 10 alive)"),
        pss as f64 / 1024.0 / 10.0
    );
    sessions.iter().try_for_each(|session| client.close(session).map(drop))
}

/// The bill against the program's own clocks.
fn metering(server: &Server) -> Result<()> {
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "import time")?;
    let mut worst = 0i64;
    for _ in 0..20 {
        let code = "s = time.perf_counter()\nwhile time.perf_counter() - s < 0.1: pass\nint((time.perf_counter() - s) * 1e6)";
        let answer = client.execute(&session, "python", code)?;
        let own: i64 = answer["results"][0]["mime"]["text/plain"]
            .as_str()
            .and_then(|t| t.parse().ok())
            .context("value")?;
        let billed = answer["usage"]["wall_us"].as_i64().context("wall")?;
        worst = worst.max((billed - own).abs());
    }
    println!(
        "{:<58} {:>8.2} ms  ≤ 20",
        "billed wall time against the program's clock, worst of 20",
        worst as f64 / 1e3
    );
    client.close(&session)?;
    Ok(())
}
