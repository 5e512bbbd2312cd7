//! Pages that want too much: what becomes of them is told, the browser goes on, and its neighbour does not notice.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

tests!(
    a_page_that_allocates_without_end_crashes_alone,
    a_page_that_loops_costs_its_time,
    a_page_opens_only_so_many_windows,
    a_download_without_end_fills_the_sessions_files_and_no_more,
    a_renderer_that_dies_is_told,
    whichever_process_dies_nothing_is_left,
    chromiums_own_sandbox_is_on,
);

const CALM: &str = "data:text/html,<title>calm</title><button>Press</button>";

fn act(client: &Client, session: &str, actions: &Value, seconds: u32) -> Result<Value> {
    let path = format!("/v1/sessions/{session}/browser/actions");
    let body = json!({"actions": actions, "timeout_seconds": seconds});
    Ok(client.post(&path, &body)?.expect(200))
}

/// A session whose browser works.
struct Neighbour<'a>(&'a Client, String);

impl<'a> Neighbour<'a> {
    fn new(client: &'a Client) -> Result<Self> {
        let neighbour = Self(client, client.session(&json!({"browser": {}}))?);
        neighbour.works()?;
        Ok(neighbour)
    }

    fn works(&self) -> Result<()> {
        let begun = Instant::now();
        let answer =
            act(self.0, &self.1, &json!([{"type": "navigate", "url": CALM}, {"type": "snapshot"}]), 20)?;
        ensure!(answer["status"] == "succeeded", "the neighbour: {answer:#}");
        // Two processors, and other tests.
        ensure!(begun.elapsed() < Duration::from_secs(8), "the neighbour waited {:?}", begun.elapsed());
        Ok(())
    }

    fn leaves(self) -> Result<()> {
        self.works()?;
        self.0.close(&self.1)?;
        Ok(())
    }
}

/// The same browser shows another page.
fn goes_on(client: &Client, session: &str) -> Result<()> {
    let answer = act(client, session, &json!([{"type": "navigate", "url": CALM}, {"type": "snapshot"}]), 20)?;
    ensure!(answer["status"] == "succeeded" && answer["page"]["title"] == "calm", "{answer:#}");
    let listed = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    let lost = listed["items"].as_array().context("items")?.iter().any(|item| item["state_lost"] == true);
    ensure!(!lost, "another browser: {listed:#}");
    Ok(())
}

fn a_page_that_allocates_without_end_crashes_alone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let neighbour = Neighbour::new(&client)?;
    let limits = json!({"memory_bytes": 400 << 20, "disk_bytes": 64 << 20});
    let session = client.session(&json!({"browser": {}, "limits": limits}))?;
    let page = "data:text/html,<script>const all = []; \
        setInterval(() => { for (let i = 0; i < 16; i++) all.push(new Uint8Array(1 << 20).fill(1)) }, 1)</script>";
    let actions =
        json!([{"type": "navigate", "url": page}, {"type": "wait_for", "target": {"selector": "p"}}]);
    let answer = act(&client, &session, &actions, 30)?;
    assert_eq!(answer["status"], "failed", "{answer:#}");
    let error = answer["results"][1]["error"].as_str().context("an error")?;
    ensure!(error.contains("crashed"), "{answer:#}");
    neighbour.works()?;
    goes_on(&client, &session)?;
    client.close(&session)?;
    neighbour.leaves()
}

fn a_page_that_loops_costs_its_time(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let neighbour = Neighbour::new(&client)?;
    let session = client.session(&json!({"browser": {}}))?;
    let page = "data:text/html,<title>busy</title><script>setTimeout(() => { for (;;); }, 300)</script>";
    act(&client, &session, &json!([{"type": "navigate", "url": page}]), 20)?;
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let answer = act(&client, &session, &json!([{"type": "snapshot"}]), 2)?;
    assert_eq!(answer["status"], "timed_out", "{answer:#}");
    ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    neighbour.works()?;
    goes_on(&client, &session)?;
    client.close(&session)?;
    neighbour.leaves()
}

fn a_page_opens_only_so_many_windows(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let neighbour = Neighbour::new(&client)?;
    let session = client.session(&json!({"browser": {}}))?;
    let page = "data:text/html,<title>many</title><button onclick=\"for (let i = 0; i < 1000; i++) window.open('about:blank')\">Open</button>";
    act(&client, &session, &json!([{"type": "navigate", "url": page}]), 20)?;
    let _done_or_late = act(&client, &session, &json!([{"type": "click", "target": {"text": "Open"}}]), 20)?;
    neighbour.works()?;
    let listed = act(&client, &session, &json!([{"type": "tabs", "op": "list"}]), 20)?;
    let tabs = listed["results"][0]["tabs"].as_array().context("tabs")?.len();
    ensure!((2..=32).contains(&tabs), "{tabs} tabs");
    goes_on(&client, &session)?;
    client.close(&session)?;
    neighbour.leaves()
}

/// Serves as many zeros as anybody takes, 10 GB of them. Its port, and how many it has sent when nobody took more.
fn endless_file() -> Result<(u16, mpsc::Receiver<u64>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (over, sent) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let over = over.clone();
            std::thread::spawn(move || serve(stream, &over));
        }
    });
    Ok((port, sent))
}

fn serve(mut stream: std::net::TcpStream, over: &mpsc::Sender<u64>) {
    let mut request = [0; 2048];
    let Ok(read) = stream.read(&mut request) else { return };
    let endless = request[..read].starts_with(b"GET /file");
    let head = if endless {
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=big.bin\r\n\
         Content-Length: 10000000000\r\n\r\n"
    } else {
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<a href=/file>Get</a>"
    };
    if stream.write_all(head.as_bytes()).is_err() || !endless {
        return;
    }
    let zeros = vec![0; 1 << 16];
    let mut sent = 0;
    while sent < 10_000_000_000 && stream.write_all(&zeros).is_ok() {
        sent += zeros.len() as u64;
    }
    // The test may be over.
    let _nobody_waits = over.send(sent);
}

fn a_download_without_end_fills_the_sessions_files_and_no_more(_: &Shared) -> Result<()> {
    let (port, sent) = endless_file()?;
    let site = format!("127.0.0.1:{port}");
    let server = Server::start(Options::default().with("egress", "allow_private", &format!("[\"{site}\"]")))?;
    let client = server.client()?;
    let neighbour = Neighbour::new(&client)?;
    let session = client.session(&json!({
        "browser": {},
        "network": {"mode": "allow", "hosts": [site]},
        "limits": {"disk_bytes": 32 << 20},
    }))?;
    let url = format!("http://{site}/");
    let actions = json!([{"type": "navigate", "url": url}, {"type": "click", "target": {"text": "Get"}}]);
    let answer = act(&client, &session, &actions, 20)?;
    ensure!(answer["status"] == "succeeded", "{answer:#}");
    // Chromium gives it up when nothing more fits, and takes back what it has written.
    let files = format!("/v1/sessions/{session}/files?path=downloads&recursive=true");
    let most = 32 << 20;
    let kept = || -> Result<u64> {
        let listed = client.get(&files)?;
        let listed = if listed.status == 200 { listed.json() } else { json!({"items": []}) };
        let items = listed["items"].as_array().context("items")?;
        Ok(items.iter().filter_map(|item| item["size"].as_u64()).sum())
    };
    let end = Instant::now() + Duration::from_secs(30);
    let sent = loop {
        ensure!(kept()? <= most, "more than its workspace holds");
        match sent.try_recv() {
            Ok(sent) => break sent,
            Err(_) => ensure!(Instant::now() < end, "the download does not end"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // What is on its way is in buffers, of which there are a few.
    ensure!((most / 2..8 * most).contains(&sent), "{sent} bytes were taken");
    while kept()? > 0 {
        ensure!(Instant::now() < end, "what was written stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    neighbour.works()?;
    goes_on(&client, &session)?;
    client.put(&format!("/v1/sessions/{session}/files/after.txt"), "room again")?.expect(201);
    client.close(&session)?;
    neighbour.leaves()?;
    server.stop()?;
    Ok(())
}

fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

fn a_renderer_that_dies_is_told(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    goes_on(&client, &session)?;
    let all = host::cell_processes(session.trim_start_matches("ses_"));
    for pid in all.into_iter().filter(|pid| command_line(*pid).contains("--type=renderer")) {
        let _gone = rustix::process::Pid::from_raw(pid.cast_signed())
            .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
    }
    std::thread::sleep(Duration::from_millis(300));
    let answer = act(&client, &session, &json!([{"type": "snapshot"}]), 20)?;
    let error = answer["results"][0]["error"].as_str().context("an error")?;
    ensure!(answer["status"] == "failed" && error.contains("crashed"), "{answer:#}");
    goes_on(&client, &session)?;
    client.close(&session)?;
    Ok(())
}

/// Each of a browser's processes in turn, in a session of its own: the browser goes on or is lost, and says which.
fn whichever_process_dies_nothing_is_left(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mut ends = Vec::new();
    for turn in 0.. {
        let session = client.session(&json!({"browser": {}}))?;
        goes_on(&client, &session)?;
        let name = session.trim_start_matches("ses_");
        let all = host::cell_processes(name);
        let Some(&victim) = all.get(turn) else {
            client.close(&session)?;
            break;
        };
        let line = command_line(victim);
        if let Some(pid) = rustix::process::Pid::from_raw(victim.cast_signed()) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let begun = Instant::now();
        let path = format!("/v1/sessions/{session}/browser/actions");
        let actions = json!([{"type": "navigate", "url": CALM}, {"type": "snapshot"}]);
        let answer = client.post(&path, &json!({"actions": actions, "timeout_seconds": 5}))?;
        ensure!(begun.elapsed() < Duration::from_secs(10), "{line}: no answer for {:?}", begun.elapsed());
        ensure!([200, 503].contains(&answer.status), "{line}: {}", answer.text());
        let end = Instant::now() + Duration::from_secs(10);
        // With the browser's own process or its driver all of its cell goes; a new one may have begun.
        client.close(&session)?;
        while !host::cell_processes(name).is_empty() || !host::cgroups(name).is_empty() {
            ensure!(Instant::now() < end, "{line}: left behind {:?}", host::cell_processes(name));
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = all.iter().filter(|pid| command_line(**pid).contains("chromium-headless-shell"));
        ensure!(left.count() == 0, "{line}: Chromium left behind");
        ends.push(answer.status);
    }
    ensure!(ends.len() >= 5, "{} processes are no browser", ends.len());
    Ok(())
}

/// security.md 27: on for every renderer, by namespaces and filters of its own, and no argument that turns it off.
fn chromiums_own_sandbox_is_on(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    goes_on(&client, &session)?;
    let all = host::cell_processes(session.trim_start_matches("ses_"));
    let (mut renderers, mut browsers) = (0, Vec::new());
    for &pid in &all {
        let line = command_line(pid);
        for off in ["--no-sandbox", "--disable-seccomp-filter-sandbox", "--single-process", "--no-zygote"] {
            ensure!(line.split(' ').all(|word| word != off), "{line}");
        }
        if line.contains("chromium-headless-shell") && !line.contains("--type=") {
            browsers.push(pid);
        }
    }
    let browser = *browsers.first().context("a browser")?;
    for &pid in all.iter().filter(|pid| command_line(**pid).contains("--type=renderer")) {
        renderers += 1;
        for kind in ["user", "pid", "net"] {
            ensure!(host::namespace(pid, kind).is_some());
            assert_ne!(
                host::namespace(pid, kind),
                host::namespace(browser, kind),
                "{kind} of a renderer is the browser's"
            );
        }
        assert_eq!(host::status(pid, "Seccomp").as_deref(), Some("2"));
        let filters: u32 = host::status(pid, "Seccomp_filters").context("a count")?.parse()?;
        let of_the_browser: u32 = host::status(browser, "Seccomp_filters").context("a count")?.parse()?;
        ensure!(filters > of_the_browser, "{filters} filters, as the browser has");
        assert_eq!(host::status(pid, "CapEff").as_deref(), Some("0000000000000000"));
    }
    ensure!(renderers >= 1, "no renderer among {all:?}");
    client.close(&session)?;
    Ok(())
}
