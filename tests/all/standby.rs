//! Browsers that wait: for a session that takes them, and for somebody who uses them again; and what many of them leave.

use crate::Shared;
use crate::cdp::{link, open};
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

tests!(
    a_browser_is_ready_before_its_session,
    a_ready_browser_is_not_its_sessions_user,
    every_window_is_as_large_as_was_asked_for,
    an_unused_browser_is_frozen_and_wakes,
    who_watches_a_browser_keeps_it_awake,
    a_frozen_browser_survives_the_api,
    two_hundred_browsers_leave_nothing,
);

/// A page that counts for as long as it runs.
const COUNTING: &str =
    "data:text/html,<title>0</title><script>setInterval(() => document.title++, 20)</script>";

pub fn act(client: &Client, session: &str, actions: &Value) -> Result<Value> {
    let path = format!("/v1/sessions/{session}/browser/actions");
    let answer = client.post(&path, &json!({"actions": actions, "timeout_seconds": 20}))?.expect(200);
    ensure!(answer["status"] == "succeeded", "{answer:#}");
    Ok(answer)
}

fn evaluate(client: &Client, session: &str, expression: &str) -> Result<Value> {
    let answer = act(client, session, &json!([{"type": "evaluate", "expression": expression}]))?;
    Ok(answer["results"][0]["value"].clone())
}

pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        match ask() {
            Some(answer) => return Ok(answer),
            None => ensure!(Instant::now() < end, "{what}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn pids(session: &str) -> Vec<u32> {
    host::cell_processes(session.trim_start_matches("ses_"))
}

pub fn uid(pid: u32) -> Option<u32> {
    host::status(pid, "Uid")?.split_whitespace().next()?.parse().ok()
}

/// The processes of browsers that wait, once one is ready and they stay the same.
fn spares(server: &Server) -> Result<Vec<u32>> {
    let mut last = (Vec::new(), Instant::now());
    until("no browser gets ready", || {
        let taken = host::cell_processes(&server.cgroup());
        let mut now = host::waiting_cells(&server.cgroup());
        // The interpreters that wait have the host's user of zygotes.
        now.retain(|pid| !taken.contains(pid) && uid(*pid).is_some_and(|uid| uid >= 1_000_000_000));
        if now != last.0 {
            last = (now, Instant::now());
        }
        let ready = last.0.len() > 3 && last.1.elapsed() > Duration::from_millis(500);
        ready.then(|| last.0.clone())
    })
}

/// A page gets a file of the session's, and what the browser makes is the session's: other cells of it read, change and
/// delete it.
pub fn files_go_in_and_out(client: &Client, session: &str) -> Result<()> {
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/in.txt"), "hello")?.expect(201);
    let page = "data:text/html,<input type=file><a download=out.txt href='data:text/plain,bye'>Get</a>";
    let answer = act(
        client,
        session,
        &json!([
            {"type": "navigate", "url": page},
            {"type": "upload", "target": {"selector": "input"}, "paths": ["in.txt"]},
            {"type": "evaluate", "expression": "document.querySelector('input').files[0].text()"},
            {"type": "click", "target": {"text": "Get"}},
            {"type": "screenshot", "path": "page.png"},
        ]),
    )?;
    assert_eq!(answer["results"][2]["value"], "hello");
    until("no download", || {
        client.get(&format!("{files}/downloads/out.txt")).ok().filter(|file| file.status == 200)
    })?;
    let owners =
        json!({"command": ["sh", "-c", "stat -c %u page.png downloads/out.txt && rm page.png && id -u"]});
    let owners = client.execute_with(session, &owners)?;
    assert_eq!(owners["stdout"], "1000\n1000\n1000\n", "{owners}");
    Ok(())
}

fn a_browser_is_ready_before_its_session(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("pool", "browser", "1"))?;
    let client = server.client()?;
    let waiting = spares(&server)?;
    let session = client.session(&json!({"browser": {}}))?;
    files_go_in_and_out(&client, &session)?;
    let taken: BTreeSet<_> = pids(&session).into_iter().collect();
    ensure!(waiting.iter().all(|pid| taken.contains(pid)), "{waiting:?} waited, {taken:?} serve");
    // And there is one for the next session.
    let next = spares(&server)?;
    ensure!(next.iter().all(|pid| !waiting.contains(pid)), "{next:?} are the session's");
    client.close(&session)?;
    ensure!(pids(&session).is_empty(), "left behind");
    server.stop()?;
    Ok(())
}

/// security.md: no two live sessions share a user, and neither does a browser share one with programs.
fn a_ready_browser_is_not_its_sessions_user(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("pool", "browser", "2"))?;
    let client = server.client()?;
    let sessions: Vec<String> =
        (0..3).map(|_| client.session(&json!({"browser": {}}))).collect::<Result<_>>()?;
    let mut users = BTreeSet::new();
    for session in &sessions {
        evaluate(&client, session, "1")?;
        let browser: BTreeSet<_> = pids(session).into_iter().filter_map(uid).collect();
        // Its driver is no root any more, so all have one.
        assert_eq!(browser.len(), 1, "{browser:?}");
        client.execute(session, "python", "1")?;
        let all: BTreeSet<_> = pids(session).into_iter().filter_map(uid).collect();
        assert_eq!(all.len(), 2, "the interpreter has the browser's user: {all:?}");
        ensure!(all.iter().all(|uid| users.insert(*uid)), "{all:?} are others', too");
    }
    for session in &sessions {
        client.close(session)?;
    }
    server.stop()?;
    Ok(())
}

fn every_window_is_as_large_as_was_asked_for(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let viewport = json!({"width": 1600, "height": 500});
    let session = client.session(&json!({"browser": {"viewport": viewport}}))?;
    const SIZE: &str = "[innerWidth, innerHeight].join()";
    assert_eq!(evaluate(&client, &session, SIZE)?, "1600,500");
    let open = "data:text/html,<button id=a onclick=\"window.open('about:blank')\">A</button>\
        <button id=b onclick=\"window.open('about:blank','','width=300,height=200')\">B</button>";
    act(&client, &session, &json!([{"type": "navigate", "url": open}]))?;
    for (button, size) in [("%23a", "1600,500"), ("%23b", "300,200")] {
        let selector = button.replace("%23", "#");
        let answer = act(
            &client,
            &session,
            &json!([
                {"type": "click", "target": {"selector": selector}},
                {"type": "wait_for", "seconds": 0.3},
                {"type": "tabs", "op": "list"},
            ]),
        )?;
        let tabs = answer["results"][2]["tabs"].as_array().context("tabs")?;
        let newest = tabs.iter().filter_map(|tab| tab["id"].as_u64()).max().context("a tab")?;
        let first = tabs.iter().filter_map(|tab| tab["id"].as_u64()).min().context("a tab")?;
        act(&client, &session, &json!([{"type": "tabs", "op": "select", "id": newest}]))?;
        assert_eq!(evaluate(&client, &session, SIZE)?, size, "{button}");
        act(&client, &session, &json!([{"type": "tabs", "op": "select", "id": first}]))?;
    }
    client.close(&session)?;
    Ok(())
}

/// Whether the kernel has stopped a session's browser, and all that it told the kernel to do so.
fn is_frozen(session: &str) -> bool {
    let Some(pid) = pids(session).into_iter().next() else { return false };
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else { return false };
    let name = group.trim_start_matches('/');
    let found = host::cgroups(name.rsplit('/').next().unwrap_or_default());
    found.iter().any(|path| {
        let events = std::fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    })
}

fn cpu_ticks(session: &str) -> u64 {
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    pids(session).into_iter().filter_map(of).sum()
}

fn an_unused_browser_is_frozen_and_wakes(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("session", "browser_standby_seconds", "0.5"))?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    act(
        &client,
        &session,
        &json!([{"type": "navigate", "url": COUNTING}, {"type": "wait_for", "seconds": 1}]),
    )?;
    until("it is not frozen", || is_frozen(&session).then_some(()))?;
    let ticks = cpu_ticks(&session);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(cpu_ticks(&session), ticks, "a frozen browser computes");
    // Two seconds are a hundred counts of a page that runs.
    let woken = Instant::now();
    let count: f64 = evaluate(&client, &session, "+document.title")?.as_f64().context("a number")?;
    ensure!(!is_frozen(&session) || woken.elapsed() > Duration::from_millis(400), "it is used");
    std::thread::sleep(Duration::from_millis(300));
    let later: f64 = evaluate(&client, &session, "+document.title")?.as_f64().context("a number")?;
    ensure!(later > count + 3.0, "{count}, then {later}: the page does not go on");
    until("it is not frozen again", || is_frozen(&session).then_some(()))?;
    // A frozen one is ended like any other.
    client.close(&session)?;
    ensure!(pids(&session).is_empty(), "left behind");
    let usage = client.get(&format!("/v1/sessions/{session}/usage"))?.expect(200);
    let records = usage["items"].as_array().context("items")?;
    let browsers: Vec<_> = records.iter().filter(|record| record["kind"] == "browser").collect();
    assert_eq!(browsers.len(), 1, "{usage:#}");
    let us = |field: &str| browsers[0][field].as_u64().unwrap_or(0);
    ensure!(us("browser_standby_us") > 1_900_000, "{usage:#}");
    ensure!(us("browser_active_us") > 1_500_000, "{usage:#}");
    ensure!(records.iter().all(|record| record["kind"] != "standing"), "billed twice: {usage:#}");
    let price = client.get("/v1/prices")?.expect(200);
    let hour = |name: &str| price[name].as_str().and_then(|picos| picos.parse::<u128>().ok()).unwrap_or(0);
    let cost = [
        ("browser_active_us", "browser_active_hour_picos"),
        ("browser_standby_us", "browser_standby_hour_picos"),
        ("cpu_us", "cpu_core_hour_picos"),
    ];
    let cost: u128 = cost.iter().map(|(used, rate)| u128::from(us(used)) * hour(rate)).sum();
    let cost = (cost + 1_800_000_000) / 3_600_000_000;
    assert_eq!(browsers[0]["cost_picos"], cost.to_string());
    server.stop()?;
    Ok(())
}

fn who_watches_a_browser_keeps_it_awake(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("session", "browser_standby_seconds", "0.5"))?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    act(&client, &session, &json!([{"type": "navigate", "url": COUNTING}]))?;
    until("it is not frozen", || is_frozen(&session).then_some(()))?;
    // A look wakes it, and lasts until it has answered.
    let shown = client.get(&format!("/v1/sessions/{session}/browser"))?.expect(200);
    ensure!(shown["tabs"][0]["url"].as_str().is_some_and(|url| url.starts_with("data:")), "{shown:#}");
    let picture = client.get(&format!("/v1/sessions/{session}/browser/screenshot"))?;
    assert_eq!(picture.status, 200);
    let url = link(&client, &session, "view")?.replacen("http", "ws", 1);
    let mut watcher = open(&url, &[])?.map_err(|status| anyhow::anyhow!("refused: {status}"))?;
    let seen = Instant::now();
    let mut last = Instant::now();
    while seen.elapsed() < Duration::from_secs(3) {
        watcher.read()?;
        ensure!(last.elapsed() < Duration::from_secs(2), "it fell asleep");
        last = Instant::now();
        ensure!(!is_frozen(&session), "it is frozen under its watcher");
    }
    drop(watcher);
    until("it is not frozen when nobody watches", || is_frozen(&session).then_some(()))?;
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

fn a_frozen_browser_survives_the_api(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default().with("session", "browser_standby_seconds", "0.5"))?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    act(&client, &session, &json!([{"type": "navigate", "url": COUNTING}]))?;
    until("it is not frozen", || is_frozen(&session).then_some(()))?;
    server.kill()?;
    until("nobody is there who would wake it", || (!is_frozen(&session)).then_some(()))?;
    server.launch()?;
    let client = server.client()?;
    ensure!(evaluate(&client, &session, "+document.title")?.as_f64() > Some(0.0), "another page");
    until("it is not frozen by the next API", || is_frozen(&session).then_some(()))?;
    ensure!(evaluate(&client, &session, "+document.title")?.as_f64() > Some(0.0), "another page");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// What a server holds: groups, processes in them, descriptors of its processes and the namespaces of all of them.
fn held(server: &Server) -> (usize, usize, [usize; 3], usize) {
    let groups = host::cgroups(&server.cgroup());
    let procs = |path: &std::path::PathBuf| std::fs::read_to_string(path.join("cgroup.procs")).ok();
    let members: BTreeSet<u32> = groups.iter().filter_map(procs).flat_map(|text| numbers(&text)).collect();
    let namespaces: BTreeSet<String> = members
        .iter()
        .flat_map(|pid| ["user", "pid", "mnt", "net", "ipc", "uts"].map(|kind| host::namespace(*pid, kind)))
        .flatten()
        .collect();
    let own = [server.pid(), server.warden_pid().unwrap_or(0), server.egress_pid().unwrap_or(0)];
    (groups.len(), members.len(), own.map(host::descriptors), namespaces.len())
}

fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Memory that no process shares, of the API, the warden and egress, in KiB.
fn private_kib(server: &Server) -> u64 {
    let own = [server.pid(), server.warden_pid().unwrap_or(0), server.egress_pid().unwrap_or(0)];
    own.iter()
        .filter_map(|pid| host::status(*pid, "RssAnon")?.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// The same again and again, until it is the same for a second: pools are filled, connections of clients closed.
fn settled<T: PartialEq + Clone>(take: impl Fn() -> T) -> T {
    let (mut last, mut since, end) = (take(), Instant::now(), Instant::now() + Duration::from_secs(20));
    while since.elapsed() < Duration::from_secs(1) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        let now = take();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// security.md 98: 200 sessions in a row, and 10 at once.
fn two_hundred_browsers_leave_nothing(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("pool", "browser", "1"))?;
    let one = |client: &Client| -> Result<()> {
        let session = client.session(&json!({"browser": {}}))?;
        act(client, &session, &json!([{"type": "navigate", "url": "data:text/html,hello"}]))?;
        client.close(&session)?;
        Ok(())
    };
    let ten_at_once = || -> Result<()> {
        std::thread::scope(|scope| {
            let each: Vec<_> = (0..10).map(|_| scope.spawn(|| one(&server.client()?))).collect();
            each.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("panicked"))?)
        })
    };
    // What is there after the first ones is what stays: caches, pools, threads.
    ten_at_once()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let (before, before_kib) = (settled(|| held(&server)), private_kib(&server));
    let client = server.client()?;
    for _ in 0..200 {
        one(&client)?;
    }
    ten_at_once()?;
    drop(client);
    let (after, after_kib) = (settled(|| held(&server)), private_kib(&server));
    // A client's connection that is kept is a descriptor of the server's.
    let kept = |now: usize, before: usize| now <= before + 2;
    ensure!(
        (before.0, before.1, before.3) == (after.0, after.1, after.3)
            && after.2.iter().zip(before.2).all(|(now, before)| kept(*now, before)),
        "groups, processes, descriptors, namespaces: before {before:?}, after {after:?}"
    );
    println!("210 browsers: {before:?}, private memory {before_kib} KiB before, {after_kib} KiB after");
    ensure!(after_kib < before_kib + 16 * 1024, "memory grew from {before_kib} to {after_kib} KiB");
    assert_eq!(mounts, std::fs::read_to_string("/proc/self/mounts")?);
    server.stop()?;
    Ok(())
}
