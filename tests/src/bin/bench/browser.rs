//! Sessions with a browser: one that waits, one that has to be started, and many at once; beside them the same Chromium
//! launched by stock Playwright.

use crate::{Sample, Wire, weigh};
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const PAGE: &str = "<title>Page</title><h1>A page</h1><p>with some text, and <a href=/>a link</a>.";
/// In this time the next browser gets ready, on a machine that does nothing else.
const READY: Duration = Duration::from_millis(1500);

/// A site, what asks for a session that may go there, and the action that does.
struct Errand {
    private: String,
    request: Value,
    load: Value,
}

impl Errand {
    fn new() -> Result<Self> {
        let host = format!("127.0.0.1:{}", site()?);
        Ok(Self {
            private: format!("[\"{host}\"]"),
            request: json!({"browser": {}, "network": {"mode": "allow", "hosts": [host]}}),
            load: json!([{"type": "navigate", "url": format!("http://{host}/")}]),
        })
    }

    /// A server that keeps so many browsers ready.
    fn server(&self, ready: usize) -> Result<Server> {
        let options = Options::default().with("egress", "allow_private", &self.private);
        let server = Server::start(options.with("pool", "browser", &ready.to_string()))?;
        std::thread::sleep(READY * u32::try_from(1 + ready / 4)?);
        Ok(server)
    }

    /// A session from its creation until its page is loaded.
    fn begin(&self, wire: &mut Wire) -> Result<(String, Duration)> {
        let (answer, create) = wire.json("POST", "/v1/sessions", &self.request)?;
        let session = answer["id"].as_str().context("id")?.to_owned();
        let first = act(wire, &session, &self.load)?;
        Ok((session, create + first))
    }
}

/// From creation until a page of this machine is loaded, and what is done with one that is; many at once.
pub fn rows() -> Result<()> {
    println!();
    let errand = Errand::new()?;
    let (mut ready, mut cold) = (Vec::new(), Vec::new());
    let (mut again, mut shot, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for (browsers, taken) in [(1, &mut ready), (0, &mut cold)] {
        let server = errand.server(browsers)?;
        let mut wire = Wire::open(&server)?;
        for n in 0..13 {
            let (session, took) = errand.begin(&mut wire)?;
            // The first finds nothing in the page cache.
            if n > 0 {
                taken.push(took);
            }
            for _ in 0..5 {
                again.push(act(&mut wire, &session, &errand.load)?);
                shot.push(act(&mut wire, &session, &json!([{"type": "screenshot"}]))?);
                seen.push(act(&mut wire, &session, &json!([{"type": "snapshot"}]))?);
            }
            wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
            if browsers > 0 {
                std::thread::sleep(READY);
            }
        }
        server.stop()?;
    }
    Sample::of(ready).show("browser session until its page is loaded, one is ready", "");
    Sample::of(cold).show("browser session until its page is loaded, none is", "p50 ≤ 150");
    Sample::of(again).show("a page loaded in a browser that is there", "p50 ≤ 25");
    Sample::of(shot).show("a screenshot of it, 1280 × 720", "");
    Sample::of(seen).show("a snapshot of it", "");
    for ready in [0, 8, 20] {
        let server = errand.server(ready)?;
        at_once(&server, &errand, ready)?;
        server.stop()?;
    }
    let server = errand.server(1)?;
    let client: Client = server.client()?;
    let open = |session: &str| -> Result<()> {
        let path = format!("/v1/sessions/{session}/browser/actions");
        let answer = client.post(&path, &json!({ "actions": errand.load }))?.expect(200);
        ensure!(answer["results"][0]["status"] == 200, "{answer}");
        Ok(())
    };
    weigh(&client, "browser", &errand.request, open, "≤ 90")?;
    server.stop()?;
    Ok(())
}

fn act(wire: &mut Wire, session: &str, actions: &Value) -> Result<Duration> {
    let path = format!("/v1/sessions/{session}/browser/actions");
    let (answer, took) = wire.json("POST", &path, &json!({ "actions": actions }))?;
    ensure!(answer["status"] == "succeeded", "{answer}");
    Ok(took)
}

/// Twenty sessions that want a browser in the same moment, until the last has its page.
fn at_once(server: &Server, errand: &Errand, ready: usize) -> Result<()> {
    const BROWSERS: usize = 20;
    let wires = (0..BROWSERS).map(|_| Wire::open(server)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let sessions = std::thread::scope(|scope| {
        let begin = |mut wire: Wire| scope.spawn(move || errand.begin(&mut wire).map(|(session, _)| session));
        let workers: Vec<_> = wires.into_iter().map(begin).collect();
        let done = workers.into_iter();
        done.map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    let what = format!("{BROWSERS} browsers at once, {ready} ready, until the last has its page");
    println!("{what:<58} {took:>8.0} ms  ≤ 1500");
    let client = server.client()?;
    sessions.iter().try_for_each(|session| client.close(session).map(drop))
}

/// A site with one page.
fn site() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&connection);
                loop {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n",
                        PAGE.len()
                    );
                    if (&connection).write_all((head + PAGE).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(port)
}
