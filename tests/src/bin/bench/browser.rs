//! Sessions with a browser. There are no warm ones: each starts when it is first asked for.

use crate::{Sample, Wire, weigh};
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const PAGE: &str = "<title>Page</title><h1>A page</h1><p>with some text, and <a href=/>a link</a>.";

/// From creation until a page of this machine is loaded, and what is done with one that is; many at once.
pub fn rows() -> Result<()> {
    println!();
    let port = site()?;
    let private = format!("[\"127.0.0.1:{port}\"]");
    let server = Server::start(Options::default().with("egress", "allow_private", &private))?;
    let request =
        json!({"browser": {}, "network": {"mode": "allow", "hosts": [format!("127.0.0.1:{port}")]}});
    let load = json!([{"type": "navigate", "url": format!("http://127.0.0.1:{port}/")}]);
    let mut wire = Wire::open(&server)?;
    let (mut loaded, mut again, mut shot, mut seen) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..13 {
        let (answer, create) = wire.json("POST", "/v1/sessions", &request)?;
        let session = answer["id"].as_str().context("id")?.to_owned();
        let first = act(&mut wire, &session, &load)?;
        // The first finds nothing in the page cache.
        if n > 0 {
            loaded.push(create + first);
        }
        for _ in 0..5 {
            again.push(act(&mut wire, &session, &load)?);
            shot.push(act(&mut wire, &session, &json!([{"type": "screenshot"}]))?);
            seen.push(act(&mut wire, &session, &json!([{"type": "snapshot"}]))?);
        }
        wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
    }
    Sample::of(loaded).show("browser session until its first page is loaded, cold", "p50 ≤ 150");
    Sample::of(again).show("a page loaded in a browser that is there", "p50 ≤ 25");
    Sample::of(shot).show("a screenshot of it, 1280 × 720", "");
    Sample::of(seen).show("a snapshot of it", "");
    at_once(&server, &request, &load)?;
    let client: Client = server.client()?;
    let open = |session: &str| -> Result<()> {
        let path = format!("/v1/sessions/{session}/browser/actions");
        let answer = client.post(&path, &json!({ "actions": load }))?.expect(200);
        ensure!(answer["results"][0]["status"] == 200, "{answer}");
        Ok(())
    };
    weigh(&client, "browser", &request, open, "≤ 90")?;
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
fn at_once(server: &Server, request: &Value, load: &Value) -> Result<()> {
    const BROWSERS: usize = 20;
    let start = Instant::now();
    let workers: Vec<_> = (0..BROWSERS)
        .map(|_| {
            let (mut wire, request, load) = (Wire::open(server)?, request.clone(), load.clone());
            Ok(std::thread::spawn(move || -> Result<String> {
                let (answer, _) = wire.json("POST", "/v1/sessions", &request)?;
                let session = answer["id"].as_str().context("id")?.to_owned();
                act(&mut wire, &session, &load)?;
                Ok(session)
            }))
        })
        .collect::<Result<_>>()?;
    let done =
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
    let sessions = done.collect::<Result<Vec<_>>>()?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    println!(
        "{:<58} {took:>8.0} ms  ≤ 1500",
        format!("{BROWSERS} browsers at once, until the last has its page")
    );
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
