//! The browser's own protocol, from outside: who is let in, what a client may do, and how its connection ends.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

tests!(
    a_link_is_for_one_session_one_role_and_a_while,
    pages_and_names_from_elsewhere_are_refused,
    a_connection_is_an_execution,
    one_client_drives_at_a_time,
    the_cell_has_nothing_for_a_client,
    a_hostile_client_ends_its_connection_and_nothing_else,
    downloads_land_in_the_workspace,
    no_token_is_written_down,
);

/// A client that speaks for itself.
pub struct Cdp {
    socket: WebSocket<TcpStream>,
    last_id: u64,
}

/// Opens a WebSocket; `Err` is the status of a refusal.
pub fn open(url: &str, headers: &[(&str, &str)]) -> Result<std::result::Result<WebSocket<TcpStream>, u16>> {
    let mut request = url.into_client_request()?;
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(tungstenite::http::HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
    }
    let address = request.uri().authority().context("an address")?.as_str().to_owned();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
    match tungstenite::client::client_with_config(request, stream, Some(config)) {
        Ok((socket, _)) => Ok(Ok(socket)),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Ok(Err(answer.status().as_u16()))
        }
        Err(error) => bail!("{error}"),
    }
}

impl Cdp {
    /// Through a new link.
    pub fn connect(client: &Client, session: &str) -> Result<Self> {
        let socket = open(&link(client, session, "cdp")?, &[])?;
        Ok(Self { socket: socket.map_err(|status| anyhow::anyhow!("refused: {status}"))?, last_id: 0 })
    }

    /// Calls, and waits for nothing.
    pub fn say(&mut self, session: &str, method: &str, params: &Value) -> Result<()> {
        self.last_id += 1;
        let call = json!({"id": self.last_id, "sessionId": session, "method": method, "params": params});
        self.send(call.to_string())
    }

    /// The next event.
    pub fn event(&mut self) -> Result<Value> {
        loop {
            let said = self.next()?.map_err(|code| anyhow::anyhow!("closed: {code}"))?;
            if said["method"].is_string() {
                return Ok(said);
            }
        }
    }

    fn send(&mut self, text: impl Into<String>) -> Result<()> {
        Ok(self.socket.send(Message::text(text.into()))?)
    }

    /// The next message, or the code that the connection is closed with.
    fn next(&mut self) -> Result<std::result::Result<Value, u16>> {
        loop {
            match self.socket.read()? {
                Message::Text(text) => return Ok(Ok(serde_json::from_str(&text)?)),
                Message::Close(frame) => return Ok(Err(frame.map_or(1005, |frame| frame.code.into()))),
                _ => {}
            }
        }
    }

    /// With which code it is closed; what is said before is passed over.
    pub fn closed(&mut self) -> Result<u16> {
        loop {
            if let Err(code) = self.next()? {
                return Ok(code);
            }
        }
    }

    /// The whole answer to a call.
    pub fn call(&mut self, session: &str, method: &str, params: &Value) -> Result<Value> {
        self.last_id += 1;
        let mut call = json!({"id": self.last_id, "method": method, "params": params});
        if !session.is_empty() {
            call["sessionId"] = session.into();
        }
        self.send(call.to_string())?;
        loop {
            let said = self.next()?.map_err(|code| anyhow::anyhow!("closed: {code}"))?;
            if said["id"] == self.last_id {
                return Ok(said);
            }
        }
    }

    /// The session of the first page.
    pub fn page(&mut self) -> Result<String> {
        let targets = self.call("", "Target.getTargets", &json!({}))?;
        let pages = targets["result"]["targetInfos"].as_array().context("targets")?;
        let page = pages.iter().find(|target| target["type"] == "page").context("a page")?;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = self.call("", "Target.attachToTarget", &attach)?;
        Ok(attached["result"]["sessionId"].as_str().context("a session")?.to_owned())
    }

    /// What an expression comes to, or its error.
    pub fn js(&mut self, page: &str, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call(page, "Runtime.evaluate", &params)?;
        let result = &answer["result"];
        Ok(if result["exceptionDetails"].is_null() { result["result"]["value"].clone() } else { answer })
    }
}

fn session(client: &Client) -> Result<String> {
    client.session(&json!({"browser": {}}))
}

/// The URL of a new link.
pub fn link(client: &Client, session: &str, role: &str) -> Result<String> {
    let made = client.post(&format!("/v1/sessions/{session}/browser/links"), &json!({ "role": role }))?;
    Ok(made.expect(201)["url"].as_str().context("a URL")?.to_owned())
}

fn a_link_is_for_one_session_one_role_and_a_while(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let (session, other) = (session(&client)?, session(&client)?);
    let url = link(&client, &session, "cdp")?;
    let (endpoint, token) = url.split_once("?token=").context("a token")?;
    let elsewhere = endpoint.replace(&session, &other);
    let key = shared.with(|server| Ok(std::fs::read_to_string(server.data_dir().join("admin.key"))?))?;
    let bearer = format!("Bearer {}", key.trim());
    let short = client.post(
        &format!("/v1/sessions/{session}/browser/links"),
        &json!({"role": "cdp", "ttl_seconds": 0.05}),
    )?;
    let short = short.expect(201)["url"].as_str().context("a URL")?.to_owned();
    std::thread::sleep(Duration::from_millis(100));
    for (url, headers, status) in [
        (endpoint.to_owned(), vec![], 401),
        (endpoint.to_owned(), vec![("authorization", "Bearer ah_wrong")], 401),
        (format!("{endpoint}?token=lnk_wrong"), vec![], 401),
        // A wrong link is not mended by a key: who sends both is asked what it meant.
        (format!("{endpoint}?token=lnk_wrong"), vec![("authorization", &*bearer)], 401),
        (format!("{elsewhere}?token={token}"), vec![], 401),
        (link(&client, &session, "view")?.replace("http:", "ws:").replace("/live?", "/cdp?"), vec![], 401),
        (short, vec![], 401),
        (
            endpoint.replace(&session, "ses_00000000000000000000000000"),
            vec![("authorization", &*bearer)],
            404,
        ),
        (format!("{url}&more=1"), vec![], 422),
    ] {
        assert_eq!(open(&url, &headers)?.err(), Some(status), "{url}");
    }
    for (body, field) in [
        (json!({}), "role"),
        (json!({"role": "all"}), "role"),
        (json!({"role": "cdp", "ttl_seconds": 3601}), "ttl_seconds"),
    ] {
        let answer = client.post(&format!("/v1/sessions/{session}/browser/links"), &body)?.expect(422);
        assert_eq!(answer["errors"][0]["field"], field, "{body}");
    }
    // Without an upgrade it is no request; with one, a link or a key opens.
    let plain = client.get(&format!("/v1/sessions/{session}/browser/cdp"))?;
    assert_eq!(plain.problem(400), "malformed");
    for (url, headers) in [(url.clone(), vec![]), (endpoint.to_owned(), vec![("authorization", &*bearer)])] {
        let mut socket = open(&url, &headers)?.map_err(|status| anyhow::anyhow!("{status}"))?;
        socket.close(None)?;
        while socket.read().is_ok() {}
    }
    client.close(&session)?;
    assert_eq!(open(&url, &[])?.err(), Some(401), "the session is over");
    client.close(&other)?;
    Ok(())
}

fn pages_and_names_from_elsewhere_are_refused(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let url = link(&client, &session, "cdp")?;
    for (name, value) in [
        ("host", "evil.example"),
        ("host", "127.0.0.1.evil.example:80"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        assert_eq!(open(&url, &[(name, value)])?.err(), Some(403), "{name}: {value}");
    }
    let listed = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    assert_eq!(listed["items"], json!([]));
    client.close(&session)?;
    Ok(())
}

fn a_connection_is_an_execution(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let listed = || -> Result<Vec<Value>> {
        let listed = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
        Ok(listed["items"].as_array().context("items")?.clone())
    };
    let ended = |id: &Value| -> Result<Value> {
        let path = format!("/v1/sessions/{session}/executions/{}", id.as_str().context("an id")?);
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let shown = client.get(&path)?.expect(200);
            if shown["status"] != "running" {
                return Ok(shown);
            }
            ensure!(Instant::now() < until, "still running");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    assert_eq!(
        cdp.js(&page, "let sum = 0; for (let i = 0; i < 3e8; i++) sum += i; window.mark = 5; 6 * 7")?,
        42
    );
    let running = listed()?;
    assert_eq!((running.len(), &running[0]["status"]), (1, &json!("running")));
    assert_eq!((&running[0]["language"], &running[0]["runtime"]), (&json!("browser"), &json!("native")));
    std::thread::sleep(Duration::from_millis(300));
    drop(cdp);
    let record = ended(&running[0]["id"])?;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let usage = &record["usage"];
    ensure!(usage["wall_us"].as_u64() > Some(300_000) && usage["cpu_us"].as_u64() > Some(50_000), "{usage}");
    ensure!(record["cost_picos"] != "0", "for nothing: {record:#}");
    // The browser outlives the connection.
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    assert_eq!(cdp.js(&page, "window.mark")?, 5);
    let id = listed()?[0]["id"].clone();
    let cancel = format!("/v1/sessions/{session}/executions/{}/cancel", id.as_str().context("an id")?);
    client.post(&cancel, &json!({}))?.expect(200);
    assert_eq!((cdp.closed()?, &ended(&id)?["status"]), (1001, &json!("cancelled")));
    // `Browser.close` is the client's own end.
    let mut cdp = Cdp::connect(&client, &session)?;
    assert_eq!(cdp.call("", "Browser.close", &json!({}))?["result"], json!({}));
    assert_eq!(cdp.closed()?, 1000);
    // And the session's end is the connection's.
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    assert_eq!(cdp.js(&page, "window.mark")?, 5);
    client.close(&session)?;
    assert_eq!(cdp.closed()?, 1001);
    let brief = client.session(&json!({"browser": {}, "ttl_seconds": 3}))?;
    let mut cdp = Cdp::connect(&client, &brief)?;
    cdp.page()?;
    assert_eq!(cdp.closed()?, 1001, "its time is over");
    Ok(())
}

fn one_client_drives_at_a_time(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let actions = format!("/v1/sessions/{session}/browser/actions");
    let snapshot = json!({"actions": [{"type": "snapshot"}]});
    let mut cdp = Cdp::connect(&client, &session)?;
    cdp.page()?;
    assert_eq!(open(&link(&client, &session, "cdp")?, &[])?.err(), Some(409));
    assert_eq!(client.post(&actions, &snapshot)?.problem(409), "conflict");
    drop(cdp);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = client.post(&actions, &snapshot)?;
        if answer.status == 200 {
            assert_eq!(answer.json()["status"], "succeeded");
            break;
        }
        ensure!(Instant::now() < until, "still driven: {}", answer.text());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Actions that run already are waited for.
    let waits = json!({"actions": [{"type": "wait_for", "seconds": 1}], "background": true});
    client.post(&actions, &waits)?.expect(202);
    let mut cdp = Cdp::connect(&client, &session)?;
    let begun = Instant::now();
    cdp.page()?;
    ensure!(begun.elapsed() > Duration::from_millis(500), "beside the actions");
    client.close(&session)?;
    Ok(())
}

/// By the protocol, and by scripts in pages, which Chromium itself keeps from what is not the web's.
fn the_cell_has_nothing_for_a_client(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    for (session, method, params) in [
        (&*page, "Page.navigate", json!({"url": "file:///etc/passwd"})),
        (&*page, "Page.navigate", json!({"url": "view-source:file:///proc/self/environ"})),
        ("", "Target.createTarget", json!({"url": "chrome://version"})),
        ("", "Target.createBrowserContext", json!({"proxyServer": "direct://"})),
        (&*page, "Network.loadNetworkResource", json!({"url": "file:///etc/passwd", "options": {}})),
        (&*page, "DOM.setFileInputFiles", json!({"files": ["/etc/passwd"], "nodeId": 1})),
        ("", "Browser.crash", json!({})),
        ("", "SystemInfo.getProcessInfo", json!({})),
        ("", "Target.exposeDevToolsProtocol", json!({"targetId": "x"})),
        ("", "Target.sendMessageToTarget", json!({"message": "{}", "targetId": "x"})),
    ] {
        let answer = cdp.call(session, method, &params)?;
        ensure!(answer["error"]["message"].is_string(), "{method}: {answer}");
    }
    let tries = [
        "fetch('file:///etc/passwd').then(r => r.text()).catch(() => 'kept')",
        "new Promise(done => { const x = new XMLHttpRequest(); x.onload = () => done(x.response); \
            x.onerror = () => done('kept'); x.open('GET', 'file:///etc/passwd'); x.send() })",
        "new Promise(done => { const f = document.createElement('iframe'); f.src = 'file:///etc/passwd'; \
            f.onload = () => { try { done(f.contentDocument.body.innerText || 'kept') } catch { done('kept') } }; \
            document.body.append(f); setTimeout(() => done('kept'), 2000) })",
    ];
    for expression in tries {
        assert_eq!(cdp.js(&page, expression)?, "kept", "{expression}");
    }
    cdp.js(&page, "open('file:///etc/passwd'); open('chrome://version'); 0")?;
    let targets = cdp.call("", "Target.getTargets", &json!({}))?.to_string();
    ensure!(!targets.contains("file:") && !targets.contains("chrome:"), "{targets}");
    client.close(&session)?;
    Ok(())
}

fn a_hostile_client_ends_its_connection_and_nothing_else(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let (session, neighbour) = (session(&client)?, session(&client)?);
    let mut beside = Cdp::connect(&client, &neighbour)?;
    let theirs = beside.page()?;
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    cdp.js(&page, "window.mark = 9")?;
    // Nonsense is answered.
    for nonsense in ["", "{", "null", "{\"id\":true,\"method\":\"x\"}", "\u{0}", &"[".repeat(1 << 20)] {
        cdp.send(nonsense)?;
        let said = cdp.next()?.map_err(|code| anyhow::anyhow!("closed: {code}"))?;
        assert_eq!(said["error"]["code"], -32700, "{said}");
    }
    // A flood is taken as fast as it is worked off, and the neighbour does not wait for it.
    for id in 1000..6000 {
        cdp.send(format!("{{\"id\":{id},\"method\":\"Target.getTargets\"}}"))?;
        if id % 1000 == 0 {
            let begun = Instant::now();
            assert_eq!(beside.js(&theirs, "1")?, 1);
            ensure!(begun.elapsed() < Duration::from_secs(2), "the neighbour waited {:?}", begun.elapsed());
        }
    }
    for _ in 1000..6000 {
        ensure!(cdp.next()?.is_ok(), "closed");
    }
    // A message that is too long, and one that is no text, are the last.
    cdp.send("x".repeat((16 << 20) + 1)).ok();
    assert_eq!(cdp.closed()?, 1009);
    drop(cdp);
    let mut cdp = Cdp::connect(&client, &session)?;
    cdp.socket.send(Message::binary(vec![1, 2, 3]))?;
    assert_eq!(cdp.closed()?, 1003);
    drop(cdp);
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    assert_eq!(cdp.js(&page, "window.mark")?, 9, "the browser goes on");
    // Who ends the browser's own processes from within has a browser less, as with actions.
    client.close(&session)?;
    client.close(&neighbour)?;
    Ok(())
}

fn downloads_land_in_the_workspace(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    let theirs = json!({"behavior": "allowAndName", "downloadPath": "/tmp/elsewhere", "eventsEnabled": true});
    ensure!(cdp.call("", "Browser.setDownloadBehavior", &theirs)?["error"].is_null(), "refused");
    cdp.js(
        &page,
        "{ const a = document.createElement('a'); a.href = 'data:text/csv,1,2'; a.download = 'list.csv'; a.click() }",
    )?;
    let path = format!("/v1/sessions/{session}/files/downloads/list.csv");
    let until = Instant::now() + Duration::from_secs(10);
    while client.get(&path)?.status != 200 {
        ensure!(Instant::now() < until, "no download");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.get(&path)?.text(), "1,2");
    client.close(&session)?;
    Ok(())
}

fn no_token_is_written_down(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = session(&client)?;
    drop(Cdp::connect(&client, &session)?);
    let url = link(&client, &session, "cdp")?;
    open(&url.replace("/cdp", "/actions"), &[])?.err().context("no such door")?;
    client.close(&session)?;
    let audit = server.data_dir().join("audit");
    let mut written = String::new();
    for file in std::fs::read_dir(&audit)? {
        written.push_str(&String::from_utf8_lossy(&std::fs::read(file?.path())?));
    }
    ensure!(written.contains("/browser/cdp"), "no audit: {written}");
    written.push_str(&server.stop()?);
    ensure!(!written.contains("lnk_") && !written.contains("token="), "a token in a log: {written}");
    Ok(())
}
