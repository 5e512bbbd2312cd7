//! The browser: what it is asked, what is around it, and what is left of it.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

tests!(
    a_form_is_filled_sent_and_looked_at,
    pictures_and_pdf_land_in_the_workspace,
    actions_stop_at_the_first_that_fails,
    mistakes_are_told_before_anything_is_done,
    nothing_is_reached_without_a_network,
    pages_are_reached_by_the_sessions_list,
    localhost_is_the_sessions_own,
    its_window_is_as_large_as_was_asked_for,
    what_a_session_shall_reach_is_checked,
    the_walls_of_a_browser_stand,
    a_browser_that_dies_begins_anew,
    actions_are_cancelled_and_time_out,
    files_go_in_and_out_by_the_workspace,
);

/// A page that shows what was sent with its form, in the page itself.
const FORM: &str = "data:text/html,<title>Order</title><form onsubmit=\"event.preventDefault();\
    document.querySelector('output').textContent='Thanks, '+who.value+(gift.checked?' (gift)':'')\">\
    <label>Name <input id=who></label><label><input type=checkbox id=gift>Gift</label>\
    <button>Order</button></form><output></output>";

fn session(client: &Client) -> Result<String> {
    client.session(&json!({"browser": {}}))
}

fn act(client: &Client, session: &str, actions: Value) -> Result<Value> {
    let body = json!({"actions": actions, "timeout_seconds": 20});
    Ok(client.post(&format!("/v1/sessions/{session}/browser/actions"), &body)?.expect(200))
}

/// The processes of a session's cells, found from outside by its groups.
fn pids(session: &str) -> Vec<u32> {
    host::cell_processes(session.trim_start_matches("ses_"))
}

/// Runs actions that must all be done; what each returned.
fn done(client: &Client, session: &str, actions: Value) -> Result<Vec<Value>> {
    let answer = act(client, session, actions)?;
    ensure!(answer["status"] == "succeeded", "{answer:#}");
    Ok(answer["results"].as_array().context("results")?.clone())
}

fn a_form_is_filled_sent_and_looked_at(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let answer = act(
        &client,
        &session,
        json!([
            {"type": "navigate", "url": FORM},
            {"type": "fill", "target": {"label": "Name"}, "value": "Ada"},
            {"type": "check", "target": {"label": "Gift"}},
            {"type": "click", "target": {"role": "button", "name": "Order"}},
            {"type": "wait_for", "text": "Thanks, Ada (gift)"},
            {"type": "snapshot"},
            {"type": "screenshot"},
        ]),
    )?;
    ensure!(answer["status"] == "succeeded", "{answer:#}");
    assert_eq!(answer["page"]["title"], "Order");
    let results = answer["results"].as_array().context("results")?;
    let snapshot = results[5]["text"].as_str().context("a snapshot")?;
    ensure!(snapshot.contains("Thanks, Ada (gift)"), "{snapshot}");
    let picture = results[6]["base64"].as_str().context("a picture")?;
    let picture = base64::engine::general_purpose::STANDARD.decode(picture)?;
    ensure!(picture.starts_with(b"\x89PNG"), "no PNG");
    assert_eq!((&results[6]["width"], &results[6]["height"]), (&json!(1280), &json!(720)));
    // The page is still there for the next request, and a ref of the snapshot means the same.
    let button = snapshot.lines().find(|line| line.contains("- button \"Order\"")).context("a button")?;
    let button = button.split("[ref=").nth(1).and_then(|rest| rest.split(']').next());
    let results = done(
        &client,
        &session,
        json!([
            {"type": "fill", "target": {"label": "Name"}, "value": "Grace"},
            {"type": "click", "target": {"ref": button.context("a ref")?}},
            {"type": "evaluate", "expression": "document.querySelector('output').textContent"},
        ]),
    )?;
    assert_eq!(results[2]["value"], "Thanks, Grace (gift)");
    let records = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    assert_eq!(records["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&records["items"][0]["language"], &records["items"][0]["runtime"]),
        (&json!("browser"), &json!("native"))
    );
    client.close(&session)?;
    Ok(())
}

fn pictures_and_pdf_land_in_the_workspace(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let results = done(
        &client,
        &session,
        json!([
            {"type": "navigate", "url": "data:text/html,<body style='height:3000px'>%E4%BD%A0%E5%A5%BD"},
            {"type": "screenshot", "full_page": true, "path": "page.png"},
            {"type": "pdf", "path": "/workspace/page.pdf"},
        ]),
    )?;
    assert_eq!(results[1]["path"], "page.png");
    ensure!(results[1].get("base64").is_none(), "twice");
    for (path, magic) in [("page.png", &b"\x89PNG"[..]), ("page.pdf", b"%PDF-")] {
        let file = client.get(&format!("/v1/sessions/{session}/files/{path}"))?;
        ensure!(file.status == 200 && file.bytes.starts_with(magic), "{path}: {}", file.status);
    }
    // Beyond the workspace is nothing.
    for path in ["../escaped.png", "/etc/passwd", "/tmp/x.png", "a/../../escaped.png"] {
        let answer = act(&client, &session, json!([{"type": "screenshot", "path": path}]))?;
        assert_eq!(answer["results"][0]["outcome"], "failed", "{path}: {answer:#}");
    }
    client.close(&session)?;
    Ok(())
}

fn actions_stop_at_the_first_that_fails(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let answer = client
        .post(
            &format!("/v1/sessions/{session}/browser/actions"),
            &json!({"actions": [
                {"type": "navigate", "url": FORM},
                {"type": "click", "target": {"text": "no such thing"}},
                {"type": "snapshot"},
            ], "timeout_seconds": 4}),
        )?
        .expect(200);
    assert_eq!(answer["status"], "failed");
    ensure!(
        answer["results"][1]["error"].as_str().is_some_and(|why| why.contains("no such element")),
        "{answer:#}"
    );
    let outcomes: Vec<_> = (0..3).map(|at| answer["results"][at]["outcome"].as_str()).collect();
    assert_eq!(outcomes, [Some("done"), Some("failed"), Some("not_sent")]);
    let answer = act(
        &client,
        &session,
        json!([{"type": "evaluate", "expression": "nothing.here"}, {"type": "back"}]),
    )?;
    assert_eq!(answer["status"], "failed");
    ensure!(
        answer["error"]["message"].as_str().is_some_and(|text| text.contains("nothing is not defined")),
        "{answer:#}"
    );
    client.close(&session)?;
    Ok(())
}

fn mistakes_are_told_before_anything_is_done(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let path = format!("/v1/sessions/{session}/browser/actions");
    for (body, field) in [
        (json!({}), "actions"),
        (json!({"actions": [{"type": "snapshot"}, {"type": "fly"}]}), "actions.1"),
        (json!({"actions": [{"type": "click", "target": {"colour": "red"}}]}), "actions.0"),
        (json!({"actions": [{"type": "snapshot", "extra": 1}]}), "actions.0"),
    ] {
        let answer = client.post(&path, &body)?.expect(422);
        assert_eq!(answer["errors"][0]["field"], field, "{answer:#}");
    }
    let answer = client
        .post(&format!("/v1/sessions/{session}/executions"), &json!({"language": "browser", "code": "[]"}))?;
    assert_eq!(answer.expect(422)["errors"][0]["field"], "language");
    let listed = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    assert_eq!(listed["items"], json!([]));
    client.close(&session)?;
    Ok(())
}

/// A listener on this machine hears nothing, and what is not for the network is not opened either.
fn nothing_is_reached_without_a_network(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    // The first two are the session's own, where nobody listens.
    for (url, status) in [
        (format!("http://127.0.0.1:{port}/"), 502),
        (format!("http://localhost:{port}/"), 502),
        ("http://example.test/".into(), 403),
    ] {
        let answer = act(&client, &session, json!([{"type": "navigate", "url": url}]))?;
        assert_eq!(answer["results"][0]["status"], status, "{url}: {answer:#}");
    }
    let answer = act(&client, &session, json!([{"type": "navigate", "url": "https://example.test/"}]))?;
    assert_eq!(answer["results"][0]["outcome"], "failed", "{answer:#}");
    for url in ["file:///etc/passwd", "chrome://version", "view-source:data:text/html,x", "javascript:1"] {
        let answer = act(&client, &session, json!([{"type": "navigate", "url": url}]))?;
        assert_eq!(answer["results"][0]["outcome"], "failed", "{url}: {answer:#}");
    }
    let heard = listener.accept();
    ensure!(heard.is_err(), "somebody connected: {heard:?}");
    client.close(&session)?;
    Ok(())
}

/// A site on this machine: a form, what was sent with it, and a way to somewhere else.
fn site(elsewhere: u16) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || answer(connection, elsewhere));
        }
    });
    Ok(port)
}

fn answer(mut connection: TcpStream, elsewhere: u16) -> Option<()> {
    let mut request = vec![0; 16 * 1024];
    let read = connection.read(&mut request).ok()?;
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let path = request.split(' ').nth(1)?;
    let away = format!("Location: http://127.0.0.1:{elsewhere}/\r\n");
    let (status, head, body) = match path.split_once('?') {
        Some(("/sent", query)) => ("200 OK", "", format!("<title>Sent</title><p>{query}</p>")),
        _ if path == "/away" => ("302 Found", &*away, String::new()),
        _ if path == "/" => (
            "200 OK",
            "",
            "<title>Site</title><form action=/sent><label>Name <input name=who></label>\
            <button>Send</button></form>"
                .to_owned(),
        ),
        _ => ("404 Not Found", "", String::new()),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n{head}\r\n{body}"
    );
    connection.write_all(answer.as_bytes()).ok()
}

/// A real site, by a real proxy: what is listed opens, what is not does not, also by way of a redirection.
fn pages_are_reached_by_the_sessions_list(_: &Shared) -> Result<()> {
    let elsewhere = TcpListener::bind("127.0.0.1:0")?;
    elsewhere.set_nonblocking(true)?;
    let unlisted = elsewhere.local_addr()?.port();
    let port = site(unlisted)?;
    let private = format!("[\"127.0.0.1:{port}\", \"127.0.0.1:{unlisted}\"]");
    let server = Server::start(Options::default().with("egress", "allow_private", &private))?;
    let client = server.client()?;
    let network = json!({"mode": "allow", "hosts": [format!("127.0.0.1:{port}")]});
    let session = client.session(&json!({"browser": {}, "network": network}))?;
    let shown = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
    assert_eq!(shown["network"], network);
    let results = done(
        &client,
        &session,
        json!([
            {"type": "navigate", "url": format!("http://127.0.0.1:{port}/")},
            {"type": "fill", "target": {"label": "Name"}, "value": "Ada Lovelace"},
            {"type": "click", "target": {"role": "button", "name": "Send"}},
            {"type": "wait_for", "text": "who=Ada+Lovelace"},
        ]),
    )?;
    assert_eq!((&results[0]["status"], &results[0]["title"]), (&json!(200), &json!("Site")));
    for path in [format!("http://127.0.0.1:{port}/away"), format!("http://127.0.0.1:{unlisted}/")] {
        let answer = act(
            &client,
            &session,
            json!([{"type": "navigate", "url": path}, {"type": "extract", "format": "text"}]),
        )?;
        let text = answer["results"].to_string();
        // It is taken for the session's own.
        ensure!(text.contains("502") && text.contains("unreachable"), "{path}: {answer:#}");
    }
    let heard = elsewhere.accept();
    ensure!(heard.is_err(), "what is not listed was reached: {heard:?}");
    // The way out does not end with its session, and belongs to it alone.
    let other = client.session(&json!({"browser": {}}))?;
    let url = format!("http://127.0.0.1:{port}/");
    let answer = act(&client, &other, json!([{"type": "navigate", "url": url}]))?;
    assert_eq!(answer["results"][0]["status"], 502, "{answer:#}");
    client.close(&session)?;
    client.close(&other)?;
    server.stop()?;
    Ok(())
}

fn its_window_is_as_large_as_was_asked_for(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let size = json!({"type": "evaluate", "expression": "[innerWidth, innerHeight, devicePixelRatio]"});
    for (browser, expected) in [
        (json!({}), json!([1280, 720, 1])),
        (json!({"viewport": {"width": 390, "height": 844}}), json!([390, 844, 1])),
        (json!({"viewport": {"width": 4096, "height": 1}}), json!([4096, 1, 1])),
    ] {
        let session = client.session(&json!({"browser": browser}))?;
        let actions = json!([size, {"type": "tabs", "op": "new", "url": "about:blank"}, size]);
        let results = done(&client, &session, actions)?;
        assert_eq!((&results[0]["value"], &results[2]["value"]), (&expected, &expected), "{browser}");
        client.close(&session)?;
    }
    for (viewport, field) in [
        (json!({"width": 390}), "browser.viewport.height"),
        (json!({"width": 0, "height": 1}), "browser.viewport.width"),
        (json!({"width": 1, "height": 4097}), "browser.viewport.height"),
        (json!({"width": 1, "height": 1, "depth": 1}), "browser.viewport.depth"),
    ] {
        let answer = client.post("/v1/sessions", &json!({"browser": {"viewport": viewport}}))?.expect(422);
        assert_eq!(answer["errors"][0]["field"], field, "{viewport}: {answer:#}");
    }
    Ok(())
}

/// A page that a program of the session serves, by name and by address; whatever its network.
fn localhost_is_the_sessions_own(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    // The host's own, which it must not be.
    let host = TcpListener::bind("127.0.0.1:0")?;
    host.set_nonblocking(true)?;
    let port = host.local_addr()?.port();
    for network in [json!({"mode": "none"}), json!({"mode": "allow", "hosts": ["allowed.example"]})] {
        let session = client.session(&json!({"browser": {}, "network": network}))?;
        let navigate = |to: &str| json!([{"type": "navigate", "url": to}]);
        let nobody = act(&client, &session, navigate(&format!("http://localhost:{port}/")))?;
        ensure!(nobody["status"] == "succeeded", "{nobody:#}");
        assert_eq!(nobody["results"][0]["status"], 502, "{nobody:#}");
        let page = "<title>Mine</title><script>fetch('/data').then(r => r.text()).then(t => document.title += ' ' + t)</script>";
        client.put(&format!("/v1/sessions/{session}/files/index.html"), page)?.expect(201);
        client.put(&format!("/v1/sessions/{session}/files/data"), "fetched")?.expect(201);
        let command =
            json!({"command": ["python3", "-m", "http.server", port.to_string()], "background": true});
        client.post(&format!("/v1/sessions/{session}/executions"), &command)?.expect(202);
        let end = Instant::now() + Duration::from_secs(20);
        for to in ["localhost", "127.0.0.1"] {
            let url = format!("http://{to}:{port}/");
            while act(&client, &session, navigate(&url))?["results"][0]["status"] != 200 {
                ensure!(Instant::now() < end, "{url} is not served");
                std::thread::sleep(Duration::from_millis(50));
            }
            let looked = done(
                &client,
                &session,
                json!([{"type": "navigate", "url": url}, {"type": "evaluate", "expression":
                    "new Promise(r => { const w = () => document.title.endsWith('fetched') ? r(document.title) : setTimeout(w, 10); w() })"}]),
            )?;
            assert_eq!(looked[1]["value"], "Mine fetched");
        }
        // Another session's is not.
        let other = client.session(&json!({"browser": {}}))?;
        let nobody = act(&client, &other, navigate(&format!("http://localhost:{port}/")))?;
        assert_eq!(nobody["results"][0]["status"], 502, "{nobody:#}");
        let usage = client.close(&session)?;
        assert_eq!(usage["usage"]["egress_bytes"], 0, "{usage:#}");
        client.close(&other)?;
    }
    ensure!(host.accept().is_err(), "the host's own was reached");
    Ok(())
}

fn what_a_session_shall_reach_is_checked(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    for (network, field) in [
        (json!({"mode": "allow"}), "network.hosts"),
        (json!({"mode": "allow", "hosts": []}), "network.hosts"),
        (json!({"mode": "allow", "hosts": ["ok.example.org", "user@example.org"]}), "network.hosts.1"),
        (json!({"mode": "allow", "hosts": ["*.com"]}), "network.hosts.0"),
        (json!({"mode": "allow", "hosts": [7]}), "network.hosts.0"),
        (json!({"mode": "public", "hosts": ["example.org"]}), "network.hosts"),
    ] {
        let answer = client.post("/v1/sessions", &json!({ "network": network }))?.expect(422);
        assert_eq!(answer["errors"][0]["field"], field, "{network}: {answer:#}");
        assert_eq!(answer["errors"].as_array().map(Vec::len), Some(1), "{network}: {answer:#}");
    }
    Ok(())
}

/// What /proc says of every process of the cell, from outside.
fn the_walls_of_a_browser_stand(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    done(&client, &session, json!([{"type": "navigate", "url": FORM}]))?;
    let processes = pids(&session);
    ensure!(processes.len() >= 5, "a browser is several processes, not {}", processes.len());
    let host_network = host::namespace(std::process::id(), "net");
    let cell = host::namespace(processes[0], "user");
    for &process in &processes {
        let status = |field: &str| host::status(process, field).unwrap_or_default();
        assert_eq!((&*status("NoNewPrivs"), &*status("Seccomp")), ("1", "2"), "process {process}");
        let uid: u32 = status("Uid").split_whitespace().next().context("a uid")?.parse()?;
        ensure!(uid >= 1_000_000_000, "user {uid} of the host");
        ensure!(host::namespace(process, "net") != host_network, "the host's network");
        // Chromium's own helper has the capabilities of its own nested namespace, and of nothing else.
        let capable = status("CapEff") != "0000000000000000";
        ensure!(!capable || host::namespace(process, "user") != cell, "capable in the cell's own namespace");
    }
    let shown = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
    for wall in ["root", "landlock", "seccomp", "capabilities", "user_namespace", "network_namespace"] {
        assert_eq!(shown["isolation"][wall], "standing", "{wall}");
    }
    client.close(&session)?;
    ensure!(
        processes.iter().all(|process| !std::path::Path::new(&format!("/proc/{process}")).exists()),
        "left behind"
    );
    Ok(())
}

fn a_browser_that_dies_begins_anew(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    done(&client, &session, json!([{"type": "navigate", "url": FORM}]))?;
    // pid 1 drives it; the next one is Chromium.
    let processes = pids(&session);
    let killed = std::process::Command::new("kill").args(["-9", &processes[1].to_string()]).status()?;
    ensure!(killed.success(), "kill");
    let answer = act(&client, &session, json!([{"type": "snapshot"}]));
    // Before or after the cell was seen to have ended: it says that it died, or a new one answers.
    if let Ok(answer) = answer {
        ensure!(answer["status"] == "succeeded" || answer["state_lost"] == true, "{answer:#}");
    }
    let results = done(&client, &session, json!([{"type": "evaluate", "expression": "location.href"}]))?;
    assert_eq!(results[0]["value"], "about:blank");
    client.close(&session)?;
    Ok(())
}

fn actions_are_cancelled_and_time_out(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let path = format!("/v1/sessions/{session}/browser/actions");
    let begun = client.post(
        &path,
        &json!({"actions": [{"type": "wait_for", "seconds": 60}], "timeout_seconds": 90, "background": true}),
    )?;
    let begun = begun.expect(202);
    let execution = begun["id"].as_str().context("an id")?;
    let base = format!("/v1/sessions/{session}/executions/{execution}");
    client.post(&format!("{base}/cancel"), &json!({}))?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let ended = loop {
        let shown = client.get(&base)?.expect(200);
        if shown["status"] != "running" {
            break shown;
        }
        ensure!(std::time::Instant::now() < until, "still running");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!((&ended["status"], &ended["state_lost"]), (&json!("cancelled"), &json!(false)));
    done(&client, &session, json!([{"type": "snapshot"}]))?;
    client.close(&session)?;
    Ok(())
}

fn files_go_in_and_out_by_the_workspace(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/in/notes.txt"), "hello")?.expect(201);
    client.put(&format!("{files}/in/%E4%BA%8C.txt"), "two")?.expect(201);
    let page = "data:text/html;charset=utf-8,<input type=file multiple>\
        <a download=%E5%A0%B1%E5%91%8A.txt href='data:text/plain,bye'>Get</a>";
    let results = done(
        &client,
        &session,
        json!([
            {"type": "navigate", "url": page},
            {"type": "upload", "target": {"selector": "input"}, "paths": ["in/notes.txt", "/workspace/in/notes.txt", "in/二.txt"]},
            {"type": "evaluate", "expression": "const { files } = document.querySelector('input'); \
                files.length + await files[1].text() + files[2].name"},
            {"type": "click", "target": {"text": "Get"}},
        ]),
    )?;
    assert_eq!(results[2]["value"], "3hello二.txt", "{results:?}");
    let path = format!("{files}/downloads/%E5%A0%B1%E5%91%8A.txt");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while client.get(&path)?.status != 200 {
        ensure!(std::time::Instant::now() < until, "no download");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(client.get(&path)?.text(), "bye");
    for (target, paths, why) in [
        ("input", json!(["none.txt"]), "is no file"),
        ("input", json!(["../out"]), "is not in /workspace"),
        ("a", json!(["in/notes.txt"]), "takes no files"),
    ] {
        let upload = json!([{"type": "upload", "target": {"selector": target}, "paths": paths}]);
        let answer = act(&client, &session, upload)?;
        ensure!(answer["results"][0]["error"].as_str().is_some_and(|said| said.contains(why)), "{answer:#}");
    }
    client.close(&session)?;
    Ok(())
}
