//! Sessions' bytes and where they may go, from the browser to the bill: what is counted, who is told, what changes.

use crate::Shared;
use crate::audit::is_noted;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

tests!(
    every_byte_is_billed_once_whatever_is_killed,
    a_transfer_that_a_crash_cuts_costs_no_more_than_was_carried,
    what_a_session_is_refused_is_noted,
    a_network_is_changed_under_a_running_browser,
);

/// A site on this machine that counts what goes through its connections.
struct Site {
    port: u16,
    bytes: Arc<AtomicU64>,
}

impl Site {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let bytes = Arc::new(AtomicU64::new(0));
        let count = bytes.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let count = count.clone();
                std::thread::spawn(move || answer(connection, &count));
            }
        });
        Ok(Self { port, bytes })
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host())
    }

    fn carried(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// What it carried, once nothing moves any more.
    fn settled(&self) -> u64 {
        let mut before = self.carried();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.carried();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// A server whose sessions may list the site.
    fn server(&self) -> Result<Server> {
        Server::start(Options::default().with("egress", "allow_private", &format!("[\"{}\"]", self.host())))
    }

    fn allow(&self) -> Value {
        json!({"mode": "allow", "hosts": [self.host()]})
    }
}

/// One request per connection. `/bytes/N` answers with as many; everything else is a small page.
fn answer(mut connection: TcpStream, count: &AtomicU64) -> Option<()> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        let read = connection.read(&mut piece).ok().filter(|read| *read > 0)?;
        count.fetch_add(read as u64, Ordering::SeqCst);
        request.extend_from_slice(&piece[..read]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1)?;
    let length: usize = path.strip_prefix("/bytes/").and_then(|length| length.parse().ok()).unwrap_or(11);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let body = vec![b'x'; length];
    let whole = [head.as_bytes(), &body].concat();
    let mut rest = &whole[..];
    while !rest.is_empty() {
        // What was taken of it is counted, also when the other side is gone in the middle.
        let written = connection.write(rest).ok()?;
        count.fetch_add(written as u64, Ordering::SeqCst);
        rest = &rest[written..];
    }
    Some(())
}

fn act(client: &Client, session: &str, actions: Value) -> Result<Value> {
    let body = json!({"actions": actions, "timeout_seconds": 30});
    Ok(client.post(&format!("/v1/sessions/{session}/browser/actions"), &body)?.expect(200))
}

fn open(client: &Client, session: &str, url: &str) -> Result<Value> {
    act(client, session, json!([{"type": "navigate", "url": url}]))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn kill(pid: Option<u32>) -> Result<()> {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())).context("no such process")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

/// Kills egress, and returns when another one serves the session.
fn kill_egress(server: &Server, client: &Client, session: &str, site: &Site) -> Result<()> {
    let before = server.egress_pid();
    kill(before)?;
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let is_new = server.egress_pid().is_some_and(|pid| Some(pid) != before);
        if is_new && open(client, session, &site.url("/again"))?["status"] == "succeeded" {
            return Ok(());
        }
        ensure!(Instant::now() < end, "egress does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Records of a session: of executions' bytes, of other bytes, and the sum of all costs.
fn records(client: &Client, session: &str) -> Result<(u64, u64, u128)> {
    let page = client.get(&format!("/v1/sessions/{session}/usage?limit=1000"))?.expect(200);
    let (mut of_executions, mut of_rest, mut cost) = (0, 0, 0);
    for record in page["items"].as_array().context("items")? {
        cost += record["cost_picos"].as_str().context("a cost")?.parse::<u128>()?;
        if record["kind"] != "egress" {
            assert_eq!(record["bytes"], 0, "{record}");
        } else if record["execution_id"].is_null() {
            of_rest += number(&record["bytes"]);
        } else {
            of_executions += number(&record["bytes"]);
        }
    }
    Ok((of_executions, of_rest, cost))
}

/// security.md 91, 93, 101: the site counts on its side; egress, the API, and both are killed between transfers, and in the
/// end every byte is in one record.
fn every_byte_is_billed_once_whatever_is_killed(_: &Shared) -> Result<()> {
    let site = Site::start()?;
    let mut server = site.server()?;
    let mut client = server.client()?;
    let session = client.session(&json!({"browser": {}, "network": site.allow()}))?;
    let mut last = 0;
    for round in 0..6 {
        let answer = open(&client, &session, &site.url(&format!("/bytes/{}", 20_000 + round)))?;
        assert_eq!(answer["status"], "succeeded", "{answer:#}");
        // Something that goes on by itself, after its execution.
        let later = format!("setTimeout(() => fetch('/bytes/{}'), 100); 0", 5_000 + round);
        act(&client, &session, json!([{"type": "evaluate", "expression": later}]))?;
        site.settled();
        if round % 2 == 0 {
            kill_egress(&server, &client, &session, &site)?;
            site.settled();
        }
        if round >= 2 {
            server.kill()?;
            server.launch()?;
            client = server.client()?;
        }
        let answer = act(&client, &session, json!([{"type": "evaluate", "expression": "1"}]))?;
        assert_eq!(
            (&answer["status"], &answer["state_lost"]),
            (&json!("succeeded"), &json!(false)),
            "{answer:#}"
        );
        // What came between is this one's.
        let billed =
            number(&client.get(&format!("/v1/sessions/{session}"))?.expect(200)["usage"]["egress_bytes"]);
        assert_eq!(billed, site.settled(), "round {round}");
        ensure!(billed > last, "nothing moved");
        last = billed;
    }
    // After the last execution there is nobody to bill but the session.
    act(
        &client,
        &session,
        json!([{"type": "evaluate", "expression": "setTimeout(() => fetch('/bytes/7000'), 200); 0"}]),
    )?;
    std::thread::sleep(Duration::from_millis(500));
    let carried = site.settled();
    let closed = client.delete(&format!("/v1/sessions/{session}"))?.expect(200);
    let (of_executions, of_rest, cost) = records(&client, &session)?;
    assert_eq!((number(&closed["usage"]["egress_bytes"]), of_executions + of_rest), (carried, carried));
    ensure!(of_rest > 7_000, "what came last belongs to no execution: {of_rest}");
    let listed = client.get(&format!("/v1/sessions/{session}/executions?limit=100"))?.expect(200);
    let executions = listed["items"].as_array().context("items")?;
    let said: u64 = executions.iter().map(|execution| number(&execution["usage"]["egress_bytes"])).sum();
    assert_eq!(said, of_executions);
    assert_eq!(closed["usage"]["cost_picos"], cost.to_string());
    let prices = client.get("/v1/prices")?.expect(200);
    let per_gib: u128 = prices["egress_gib_picos"].as_str().context("a price")?.parse()?;
    ensure!(per_gib > 0 && cost >= u128::from(carried) * per_gib / (1 << 30), "{cost}");
    let by_kind = client.get("/v1/usage?group_by=kind")?.expect(200);
    let line = by_kind["items"].as_array().context("items")?.iter().find(|line| line["group"] == "egress");
    assert_eq!(line.context("no line of egress")?["egress_bytes"], carried);
    server.stop()?;
    Ok(())
}

/// In the middle of a transfer egress may have got bytes that it did not count yet: then they were passed on to nobody. What
/// is billed is at most what the site's connections carried, and at least what the page got.
fn a_transfer_that_a_crash_cuts_costs_no_more_than_was_carried(_: &Shared) -> Result<()> {
    let site = Site::start()?;
    let mut server = site.server()?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}, "network": site.allow()}))?;
    open(&client, &session, &site.url("/"))?;
    let count = "globalThis.got = 0; (async () => { const body = (await fetch('/bytes/400000000')).body.getReader(); \
        for (;;) { const piece = await body.read(); if (piece.done) break; got += piece.value.length } })().catch(() => {}); 0";
    let egress = server.egress_pid();
    act(&client, &session, json!([{"type": "evaluate", "expression": count}]))?;
    let end = Instant::now() + Duration::from_secs(20);
    while site.carried() < 4_000_000 {
        ensure!(Instant::now() < end, "the transfer does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(egress)?;
    let carried = site.settled();
    server.kill()?;
    server.launch()?;
    let client = server.client()?;
    let answer = act(&client, &session, json!([{"type": "evaluate", "expression": "got"}]))?;
    let got = number(&answer["results"][0]["value"]);
    let closed = client.delete(&format!("/v1/sessions/{session}"))?.expect(200);
    let billed = number(&closed["usage"]["egress_bytes"]);
    ensure!(got > 0 && got <= billed && billed <= carried, "got {got}, billed {billed}, carried {carried}");
    println!("cut in the middle: the page got {got}, billed {billed}, the site wrote {carried}");
    server.stop()?;
    Ok(())
}

/// security.md 115, for the way out: refusals with their rule and host, a bounded number of them, the rest counted.
fn what_a_session_is_refused_is_noted(_: &Shared) -> Result<()> {
    let site = Site::start()?;
    let server = site.server()?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}, "network": site.allow()}))?;
    open(&client, &session, &site.url("/"))?;
    open(&client, &session, "http://unlisted.example/%0a%1b[31m?{\"seq\":1}")?;
    let path = server.data_dir().join("audit/audit.jsonl");
    is_noted(&path, "host_not_listed")?;
    let lines = |text: &str| -> Vec<Value> {
        let parsed = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["action"] == "egress").collect()
    };
    let noted = lines(&std::fs::read_to_string(&path)?);
    let first = &noted[0];
    assert_eq!(
        (&first["target"], &first["code"], &first["subject"], &first["key"]),
        (&json!("unlisted.example:80"), &json!("host_not_listed"), &json!(session), &Value::Null)
    );
    let text = std::fs::read_to_string(&path)?;
    let mut all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = all.find(|line| line["action"] == "POST /v1/sessions").context("the session's creation")?;
    assert_eq!(first["tenant"], made["tenant"]);
    // A flood of refusals is a bounded number of lines, which say how many they stand for.
    let flood = "(async () => { for (let i = 0; i < 20; i++) await Promise.all([...Array(20)].map((_, j) => \
        fetch('http://h' + i + '-' + j + '.example/').catch(() => {}))); return 'over' })()";
    let begun = Instant::now();
    let answer = act(&client, &session, json!([{"type": "evaluate", "expression": flood}]))?;
    assert_eq!(answer["results"][0]["value"], "over", "{answer:#}");
    // Egress tells of them at its own pace. One more, when that is over, brings the rest of the count.
    let mut before = 0;
    loop {
        let now = lines(&std::fs::read_to_string(&path)?).len();
        if now == before {
            break;
        }
        before = now;
        std::thread::sleep(Duration::from_secs(2));
    }
    open(&client, &session, "http://last.example/")?;
    is_noted(&path, "last.example:80")?;
    let seconds = begun.elapsed().as_secs() + 1;
    let noted = lines(&std::fs::read_to_string(&path)?);
    ensure!((noted.len() as u64) < 10 + 6 * seconds, "{} lines in {seconds} s", noted.len());
    let told: u64 = noted.iter().map(|line| 1 + number(&line["suppressed"])).sum();
    ensure!(told >= 400, "only {told} of 400 are told of");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// The same browser, with its pages, before and after.
fn a_network_is_changed_under_a_running_browser(_: &Shared) -> Result<()> {
    let site = Site::start()?;
    let mut server = site.server()?;
    let mut client = server.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    let path = format!("/v1/sessions/{session}");
    let reached = |client: &Client| -> Result<bool> {
        Ok(open(client, &session, &site.url("/"))?["results"][0]["status"] == 200)
    };
    ensure!(!reached(&client)?, "without a network");
    let pids =
        || anchorhold_tests::host::cell_processes(session.trim_start_matches("ses_")).into_iter().min();
    let driver = pids();
    let changed = client.patch(&path, &json!({ "network": site.allow() }))?.expect(200);
    assert_eq!(changed["network"], site.allow());
    ensure!(reached(&client)?, "with one");
    let elsewhere = json!({"mode": "allow", "hosts": ["elsewhere.example"]});
    client.patch(&path, &json!({ "network": elsewhere }))?.expect(200);
    let answer = open(&client, &session, &site.url("/"))?;
    ensure!(answer["results"][0]["status"] == 502 || answer["status"] == "failed", "{answer:#}");
    // It is what the next process of the API says, too, and other changes leave it.
    server.kill()?;
    server.launch()?;
    client = server.client()?;
    let shown = client.patch(&path, &json!({"metadata": {"a": "b"}}))?.expect(200);
    assert_eq!((&shown["network"], &shown["metadata"]["a"]), (&elsewhere, &json!("b")));
    let answer = open(&client, &session, &site.url("/"))?;
    ensure!(answer["results"][0]["status"] == 502 || answer["status"] == "failed", "{answer:#}");
    client.patch(&path, &json!({ "network": site.allow() }))?.expect(200);
    ensure!(reached(&client)?, "again");
    // A transfer that is under way ends with its permission.
    let count = "globalThis.ended = ''; new Promise(begun => fetch('/bytes/400000000').then(r => { begun(r.status); return r.blob() })\
        .then(() => { ended = 'whole' }, () => { ended = 'cut' }))";
    let answer = act(&client, &session, json!([{"type": "evaluate", "expression": count}]))?;
    assert_eq!(answer["results"][0]["value"], 200, "{answer:#}");
    client.patch(&path, &json!({"network": {"mode": "none"}}))?.expect(200);
    let ended =
        "(async () => { while (!ended) await new Promise(done => setTimeout(done, 20)); return ended })()";
    let answer = act(&client, &session, json!([{"type": "evaluate", "expression": ended}]))?;
    assert_eq!(answer["results"][0]["value"], "cut", "{answer:#}");
    ensure!(!reached(&client)?, "without a network again");
    assert_eq!(pids(), driver, "the browser is another one");
    for wrong in
        [json!({"mode": "allow"}), json!({"mode": "allow", "hosts": ["*.com"]}), json!({"mode": "wide"})]
    {
        client.patch(&path, &json!({ "network": wrong }))?.problem(422);
    }
    client.close(&session)?;
    client.patch(&path, &json!({ "network": site.allow() }))?.problem(410);
    server.stop()?;
    Ok(())
}
