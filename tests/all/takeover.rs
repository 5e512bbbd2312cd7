//! The walls of a browser cell, attacked by a program in Chromium's place and looked at from outside.
//!
//! The attacker (`tests/evil`) is started as Chromium is: the same user, Landlock rules and filter. It is what somebody
//! has who took the browser's own process over; a renderer has Chromium's sandbox around it besides.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host, program};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

tests!(
    the_filters_let_through_what_the_golden_files_say,
    a_renderer_may_do_less_than_a_program,
    nothing_of_the_kernel_is_gained,
    nobody_else_is_seen_or_reached,
    files_are_those_of_the_image_and_the_session,
    there_is_no_way_out_but_the_proxy,
    what_listens_inside_is_reached_by_nobody,
    a_fork_bomb_stays_in_its_cell,
    a_memory_bomb_stays_in_its_cell,
    what_the_filter_refuses_gains_nothing,
);

fn evil(options: Options) -> Result<(Server, Client)> {
    let server = Server::start(options.evil())?;
    let client = server.client()?;
    Ok((server, client))
}

fn session(client: &Client, extra: Value) -> Result<String> {
    let mut request = json!({"browser": {}});
    if let (Some(request), Value::Object(extra)) = (request.as_object_mut(), extra) {
        request.extend(extra);
    }
    client.session(&request)
}

/// What the attacker reports.
fn attack(client: &Client, session: &str, order: &str) -> Result<String> {
    let actions = json!({"actions": [{"type": "evaluate", "expression": order}], "timeout_seconds": 60});
    let answer = client.post(&format!("/v1/sessions/{session}/browser/actions"), &actions)?.expect(200);
    let report = answer["results"][0]["value"].as_str();
    report.map(str::to_owned).with_context(|| format!("{order}: {answer:#}"))
}

/// What one attempt came to.
fn outcome<'a>(report: &'a str, name: &str) -> Result<&'a str> {
    let found = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.with_context(|| format!("no {name:?} in {report}"))
}

/// Compares with a reviewed file, or writes it.
fn golden(name: &str, shown: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, shown)?;
    }
    let golden = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    assert_eq!(shown, golden, "{name}");
    Ok(())
}

/// The processes of a session's cells, from outside: the driver first.
fn pids(session: &str) -> Vec<u32> {
    host::cell_processes(session.trim_start_matches("ses_"))
}

/// The cell as the host sees it: every process is as powerless as it was.
fn assert_powerless(session: &str) -> Result<()> {
    let processes = pids(session);
    ensure!(processes.len() >= 2, "a driver and a program: {processes:?}");
    for &process in &processes {
        let status = |field: &str| host::status(process, field).unwrap_or_default();
        assert_eq!((&*status("NoNewPrivs"), &*status("Seccomp")), ("1", "2"), "process {process}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(set), "0000000000000000", "{process} {set}");
        }
        let users = status("Uid");
        ensure!(users.split_whitespace().all(|uid| uid.parse::<u32>().is_ok_and(|uid| uid >= 1_000_000_000)));
        for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
            let its = host::namespace(process, kind).context("a namespace")?;
            assert_ne!(
                Some(&its),
                host::namespace(std::process::id(), kind).as_ref(),
                "{kind} is the host's"
            );
            assert_eq!(
                Some(&its),
                host::namespace(processes[0], kind).as_ref(),
                "{kind} is another than pid 1's"
            );
        }
    }
    Ok(())
}

/// security.md 15–18, 20, 23 for a program and for its driver.
fn the_filters_let_through_what_the_golden_files_say(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let session = session(&client, json!({}))?;
    for (order, file) in [("syscalls", "syscalls_program.txt"), ("driver syscalls", "syscalls_driver.txt")] {
        let report = attack(&client, &session, order)?;
        let allowed: BTreeSet<u32> = report.lines().filter_map(|line| line.parse().ok()).collect();
        ensure!(allowed.len() > 30, "the prober ended early: {allowed:?}");
        golden(file, &allowed.iter().map(|number| format!("{number}\n")).collect::<String>())?;
    }
    assert_powerless(&session)?;
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// A renderer of the real Chromium, which is the process that reads what sites send: the calls that Chromium's sandbox leaves
/// it are fewer, and none that the cell's filter refuses.
fn a_renderer_may_do_less_than_a_program(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = session(&client, json!({}))?;
    let actions = json!({"actions": [{"type": "navigate", "url": "data:text/html,<title>Victim</title>x"}]});
    client.post(&format!("/v1/sessions/{session}/browser/actions"), &actions)?.expect(200);
    let is_renderer = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("--type=renderer")
    };
    let renderer = pids(&session).into_iter().find(is_renderer).context("no renderer")?;
    let traced =
        Command::new(program("anchorhold-evil")).args(["take-over", &renderer.to_string()]).output()?;
    let shown = String::from_utf8(traced.stdout)?;
    ensure!(traced.stderr.is_empty(), "{}", String::from_utf8_lossy(&traced.stderr));
    let allowed: BTreeSet<&str> = shown.lines().collect();
    ensure!(allowed.len() > 20, "the prober ended early: {allowed:?}");
    golden("syscalls_renderer.txt", &shown)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let of_program = std::fs::read_to_string(folder.join("syscalls_program.txt"))?;
    let of_program: BTreeSet<&str> = of_program.lines().collect();
    let more: Vec<_> = allowed.difference(&of_program).collect();
    ensure!(more.is_empty() && allowed.len() < of_program.len(), "more than a program: {more:?}");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// Mounts, namespaces, tracing, io_uring, bpf, keys and the like. What is allowed is nothing.
fn nothing_of_the_kernel_is_gained(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let session = session(&client, json!({}))?;
    attack(&client, &session, "hello")?;
    let mounts = |session: &str| std::fs::read_to_string(format!("/proc/{}/mountinfo", pids(session)[0]));
    let before = mounts(&session)?;
    let report = attack(&client, &session, "kernel")?;
    ensure!(!report.contains(": done"), "{report}");
    golden("takeover_kernel.txt", &report)?;
    assert_eq!(mounts(&session)?, before);
    assert_powerless(&session)?;
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 62, for a program among those of other sessions.
fn nobody_else_is_seen_or_reached(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let victim = session(&client, json!({}))?;
    attack(&client, &victim, "hello")?;
    let processes = pids(&victim);
    let session = session(&client, json!({}))?;
    let report = attack(&client, &session, "neighbours")?;
    // Not even the driver, which has the same user: it is not to be read.
    let own = outcome(&report, "self")?;
    assert_eq!(
        (outcome(&report, "seen")?, outcome(&report, "reached")?),
        (&*format!("[{own}]"), "0"),
        "{report}"
    );
    ensure!(
        report.lines().filter(|line| line.starts_with("/proc/1/")).all(|line| !line.ends_with("done")),
        "{report}"
    );
    assert_eq!(pids(&victim), processes);
    assert_eq!(attack(&client, &victim, "hello")?, "hello\n");
    for session in [victim, session] {
        client.close(&session)?;
    }
    server.stop()?;
    Ok(())
}

/// security.md 1, 8, 13: nothing of the host, the image read-only, no devices, no programs of its own from files.
fn files_are_those_of_the_image_and_the_session(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let session = session(&client, json!({}))?;
    let canary = tempfile::NamedTempFile::new()?;
    let report = attack(&client, &session, &format!("files {}", canary.path().display()))?;
    golden("takeover_files.txt", &report)?;
    assert_powerless(&session)?;
    let listed = client.get(&format!("/v1/sessions/{session}/files"))?.expect(200);
    let names: Vec<_> =
        listed["items"].as_array().context("items")?.iter().map(|item| &item["path"]).collect();
    assert_eq!(names, ["made", "program"], "what it made is in its own workspace");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 69, 75, 78: every family, address and protocol, with and without a network; and by a relay in the cell.
fn there_is_no_way_out_but_the_proxy(_: &Shared) -> Result<()> {
    let open = TcpListener::bind("127.0.0.1:0")?;
    let closed = TcpListener::bind("127.0.0.1:0")?;
    let (open_port, closed_port) = (open.local_addr()?.port(), closed.local_addr()?.port());
    let name = format!("anchorhold-takeover-{}", std::process::id());
    let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    closed.set_nonblocking(true)?;
    unix.set_nonblocking(true)?;
    let private = format!("[\"127.0.0.1:{open_port}\"]");
    let (server, client) = evil(Options::default().with("egress", "allow_private", &private))?;
    let warden = server.data_dir().join("run/warden.sock");
    let order = format!("network {closed_port} {name} {}", warden.display());
    let without = session(&client, json!({}))?;
    let begun = Instant::now();
    golden("takeover_network_none.txt", &attack(&client, &without, &order)?)?;
    ensure!(begun.elapsed() < Duration::from_secs(20), "attempts fail at once, not in {:?}", begun.elapsed());
    let network = json!({"mode": "allow", "hosts": [format!("127.0.0.1:{open_port}")]});
    let with = session(&client, json!({ "network": network }))?;
    golden("takeover_network_allow.txt", &attack(&client, &with, &order)?)?;
    // The way out itself, by another process of the cell: what is listed, and nothing else.
    let api = server.base().rsplit(':').next().context("a port")?.to_owned();
    let targets = format!(
        "127.0.0.1:{open_port} 127.0.0.1:{closed_port} 127.0.0.1:{api} 169.254.169.254:80 [::1]:{open_port} unlisted.example:443"
    );
    let report = attack(&client, &with, &format!("ask {targets}"))?;
    let statuses: Vec<_> =
        targets.split(' ').map(|target| outcome(&report, target)).collect::<Result<_>>()?;
    assert_eq!(statuses, ["200", "502", "502", "403", "502", "403"], "{report}");
    let report = attack(&client, &without, &format!("ask 127.0.0.1:{open_port}"))?;
    ensure!(!report.contains("200"), "{report}");
    open.accept()?;
    ensure!(closed.accept().is_err() && unix.accept().is_err(), "somebody came in");
    // Its network has one interface, which leads nowhere.
    for session in [&without, &with] {
        let process = pids(session)[0];
        let interfaces = std::fs::read_to_string(format!("/proc/{process}/net/dev"))?;
        let names: Vec<_> =
            interfaces.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
        assert_eq!(names, ["lo"]);
        let routes = std::fs::read_to_string(format!("/proc/{process}/net/route"))?;
        assert_eq!(routes.lines().count(), 1, "{routes}");
        assert_powerless(session)?;
        client.close(session)?;
    }
    server.stop()?;
    Ok(())
}

/// security.md 77: not by the host, not by another cell, not by egress.
fn what_listens_inside_is_reached_by_nobody(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let listening = session(&client, json!({}))?;
    let report = attack(&client, &listening, "listen")?;
    assert_eq!(outcome(&report, "listen")?, "done", "{report}");
    let port = outcome(&report, "port")?;
    ensure!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "the host reaches it");
    let other = session(&client, json!({}))?;
    let report = attack(&client, &other, &format!("network {port} nobody /nowhere"))?;
    assert_eq!(outcome(&report, "the host's loopback")?, "EACCES", "{report}");
    for session in [listening, other] {
        client.close(&session)?;
    }
    server.stop()?;
    Ok(())
}

/// security.md 30, 39: as many processes as its session may have, and others do not notice.
fn a_fork_bomb_stays_in_its_cell(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let other = session(&client, json!({}))?;
    attack(&client, &other, "hello")?;
    let session = session(&client, json!({"limits": {"processes": 64}}))?;
    for _ in 0..3 {
        let report = attack(&client, &session, "fork")?;
        let children: u32 = outcome(&report, "children")?.parse()?;
        // Those that the session asked for, and 64 that every session has for what is ours: here the driver and the program.
        ensure!((120..128).contains(&children), "{report}");
        assert_eq!(outcome(&report, "then")?, "EAGAIN", "{report}");
    }
    assert_eq!(attack(&client, &other, "hello")?, "hello\n");
    assert_powerless(&session)?;
    for session in [other, session] {
        client.close(&session)?;
    }
    server.stop()?;
    Ok(())
}

/// security.md 29, 30: the kernel ends the program, not the host's processes nor another session's.
fn a_memory_bomb_stays_in_its_cell(_: &Shared) -> Result<()> {
    let (server, client) = evil(Options::default())?;
    let other = session(&client, json!({}))?;
    attack(&client, &other, "hello")?;
    let session = session(&client, json!({"limits": {"memory_bytes": 256 << 20, "disk_bytes": 16 << 20}}))?;
    let before = host::memory("MemAvailable");
    let actions = json!({"actions": [{"type": "evaluate", "expression": format!("memory {}", 4u64 << 30)}]});
    let answer = client.post(&format!("/v1/sessions/{session}/browser/actions"), &actions)?.expect(200);
    assert_eq!(
        (&answer["status"], &answer["state_lost"]),
        (&json!("limit_exceeded"), &json!(true)),
        "{answer:#}"
    );
    ensure!(before.saturating_sub(host::memory("MemAvailable")) < 512 << 20);
    assert_eq!(attack(&client, &other, "hello")?, "hello\n");
    for session in [other, session] {
        client.close(&session)?;
    }
    server.stop()?;
    Ok(())
}

/// Chromium itself, which a driver tells whatever it is asked to, without a filter.
fn unfiltered(client: &Client, session: &str, call: &str) -> Result<Value> {
    let answer = attack(client, session, call)?;
    serde_json::from_str(&answer).with_context(|| format!("{call}: {answer}"))
}

/// The text of the page, after a while in which it may load.
fn page_text(client: &Client, session: &str) -> Result<String> {
    std::thread::sleep(Duration::from_millis(300));
    let answer =
        unfiltered(client, session, "Runtime.evaluate expression=document.documentElement.innerText")?;
    Ok(answer["result"]["result"]["value"].as_str().unwrap_or_default().to_owned())
}

/// The walls stand without the filter of the protocol: each call here is one that it refuses or rewrites.
fn what_the_filter_refuses_gains_nothing(_: &Shared) -> Result<()> {
    let inside = TcpListener::bind("127.0.0.1:0")?;
    inside.set_nonblocking(true)?;
    let port = inside.local_addr()?.port();
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), "a secret of the host")?;
    let (server, client) = evil(Options::default().fault("unfiltered"))?;
    let session = session(&client, json!({}))?;
    client.put(&format!("/v1/sessions/{session}/files/own.txt"), "the session's own")?.expect(201);
    let call = |call: &str| unfiltered(&client, &session, call);
    let text = |url: &str| -> Result<String> {
        call(&format!("Page.navigate url={url}"))?;
        page_text(&client, &session)
    };
    // Files: those of the image and of the session.
    ensure!(text("file:///workspace/own.txt")?.contains("the session's own"), "it reads no files at all");
    for path in [secret.path().to_string_lossy().as_ref(), "/etc/shadow", "/root", "/home", "/proc/1/environ"]
    {
        let shown = text(&format!("file://{path}"))?;
        ensure!(!shown.contains("secret") && !shown.contains("root:"), "{path}: {shown}");
    }
    let upload = "DOM.setFileInputFiles nodeId=2 files=[/etc/shadow]";
    call("DOM.getDocument depth=1")?;
    ensure!(call(upload)?.get("error").is_some(), "an upload from the host");
    // Downloads go nowhere but to the session's files and the browser's own.
    for place in ["/", "/usr/lib", "/etc", "/proc", "/dev"] {
        let there = || -> Result<BTreeSet<_>> {
            // The cell of the session's files has another root.
            let mut all = pids(&session).into_iter().map(|pid| format!("/proc/{pid}/root"));
            let inside = all.find(|root| Path::new(root).join("session").exists()).context("a root")? + place;
            let listed = std::fs::read_dir(&inside).with_context(|| inside.clone())?.flatten();
            let names = listed.map(|entry| entry.file_name().to_string_lossy().into_owned());
            Ok(names.filter(|name| name.parse::<u32>().is_err()).collect())
        };
        let before = there()?;
        call(&format!("Browser.setDownloadBehavior behavior=allow downloadPath={place}"))?;
        call("Page.navigate url=data:application/octet-stream,hello")?;
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(there()?, before, "{place} was written to");
    }
    // The network: a context without a proxy reaches the cell's own loopback, where nothing is.
    let direct = "Target.createBrowserContext proxyServer=direct:// proxyBypassList=*";
    let context = call(direct)?["result"]["browserContextId"].as_str().context("a context")?.to_owned();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://[::1]:{port}/"),
        "http://169.254.169.254/".into(),
    ] {
        call(&format!("Target.createTarget url={url} browserContextId={context}"))?;
    }
    call("Tethering.bind port=9222")?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(inside.accept().is_err(), "somebody came in");
    ensure!(TcpStream::connect("127.0.0.1:9222").is_err(), "it listens on the host");
    // And what is for developers tells nothing of the host that the cell does not show anyway.
    for url in ["chrome://version", "chrome://gpu", "chrome://sandbox", "view-source:file:///etc/shadow"] {
        let shown = text(url)?;
        ensure!(!shown.contains("root:"), "{url}: {shown}");
    }
    // As powerless as ever; its sandbox's helper has the capabilities of its own nested namespace alone.
    for process in pids(&session) {
        let status = |field: &str| host::status(process, field).unwrap_or_default();
        assert_eq!((&*status("NoNewPrivs"), &*status("Seccomp")), ("1", "2"), "process {process}");
        assert_ne!(host::namespace(process, "net"), host::namespace(std::process::id(), "net"));
    }
    let _answered_or_gone = call("Browser.close");
    client.close(&session)?;
    ensure!(pids(&session).is_empty(), "left behind");
    server.stop()?;
    Ok(())
}
