//! The live view: watched, taken over, given back; and the page that shows it, in a real Chromium.

use crate::Shared;
use crate::cdp::{Cdp, link, open};
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

tests!(
    a_person_watches_takes_over_and_gives_back,
    a_link_to_watch_is_for_watching,
    one_person_at_a_time,
    a_client_waits_for_a_person,
    actions_stop_when_a_person_takes_over,
    the_page_works_in_a_browser,
    a_browser_is_shown_and_closed,
);

/// A page that takes what is typed and says what was clicked.
const PAGE: &str = "data:text/html,<title>Desk</title><body style='margin:0'><input id=i onfocus=\"document.title='ready'\" oninput='document.title=value' style='width:100%25'>\
    <button id=b style='width:100%25;height:600px' onclick=\"document.title='clicked'\">Press</button>";

/// Somebody who watches.
struct Watcher(WebSocket<TcpStream>);

impl Watcher {
    fn new(client: &Client, session: &str, role: &str) -> Result<Self> {
        let url = link(client, session, role)?.replacen("http", "ws", 1);
        let socket = open(&url, &[])?.map_err(|status| anyhow::anyhow!("refused: {status}"))?;
        let mut watcher = Self(socket);
        assert_eq!(watcher.next("hello")?["role"], role);
        Ok(watcher)
    }

    fn say(&mut self, word: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(word.to_string()))?)
    }

    /// The next thing of a kind that is told.
    fn next(&mut self, kind: &str) -> Result<Value> {
        self.until(|told| told["type"] == kind)
    }

    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            if let Message::Text(text) = self.0.read()? {
                let told: Value = serde_json::from_str(&text)?;
                if wanted(&told) {
                    return Ok(told);
                }
            }
        }
        anyhow::bail!("not told")
    }

    /// The first tab has this title.
    fn titled(&mut self, title: &str) -> Result<()> {
        self.until(|told| told["type"] == "page" && told["tabs"][0]["title"] == title).map(drop)
    }

    /// Who has taken over, when that is the case.
    fn holder(&mut self, holder: &Value) -> Result<()> {
        self.until(|told| told["type"] == "control" && told["holder"] == *holder).map(drop)
    }
}

fn act(client: &Client, session: &str, actions: &Value) -> Result<Value> {
    let body = json!({"actions": actions, "timeout_seconds": 20});
    Ok(client.post(&format!("/v1/sessions/{session}/browser/actions"), &body)?.expect(200))
}

/// A session whose browser shows [`PAGE`].
fn desk(client: &Client) -> Result<String> {
    let session = client.session(&json!({"browser": {}}))?;
    let answer = act(client, &session, &json!([{"type": "navigate", "url": PAGE}]))?;
    assert_eq!(answer["status"], "succeeded", "{answer:#}");
    Ok(session)
}

fn js(client: &Client, session: &str, expression: &str) -> Result<Value> {
    let answer = act(client, session, &json!([{"type": "evaluate", "expression": expression}]))?;
    assert_eq!(answer["status"], "succeeded", "{answer:#}");
    Ok(answer["results"][0]["value"].clone())
}

/// Actions are refused as long as a person has the browser.
fn paused(client: &Client, session: &str) -> Result<()> {
    let body = json!({"actions": [{"type": "snapshot"}]});
    let answer = client.post(&format!("/v1/sessions/{session}/browser/actions"), &body)?;
    assert_eq!(answer.problem(409), "conflict");
    ensure!(answer.text().contains("paused"), "{}", answer.text());
    Ok(())
}

fn a_person_watches_takes_over_and_gives_back(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = desk(&client)?;
    let mut watcher = Watcher::new(&client, &session, "control")?;
    let page = watcher.next("page")?;
    assert_eq!((&page["tabs"][0]["title"], &page["tabs"][0]["selected"]), (&json!("Desk"), &json!(true)));
    let frame = watcher.next("frame")?;
    assert_eq!((&frame["width"], &frame["height"]), (&json!(1280.0), &json!(720.0)));
    let picture =
        base64::engine::general_purpose::STANDARD.decode(frame["data"].as_str().context("data")?)?;
    ensure!(picture.starts_with(b"\xff\xd8"), "no JPEG");
    // Before it has taken over, what it does is nothing.
    watcher.say(&json!({"type": "text", "text": "too early"}))?;
    watcher.say(&json!({"type": "take"}))?;
    watcher.holder(&json!("you"))?;
    paused(&client, &session)?;
    let mouse = |event: &str, y: u32, buttons: u32| json!({"type": "mouse", "event": event, "x": 40, "y": y, "button": "left", "buttons": buttons, "clicks": 1});
    watcher.say(&mouse("down", 8, 1))?;
    watcher.say(&mouse("up", 8, 0))?;
    watcher.titled("ready")?;
    watcher.say(&json!({"type": "text", "text": "pasted "}))?;
    for (key, code, number) in [("H", "KeyH", 72), ("i", "KeyI", 73)] {
        for event in ["down", "up"] {
            watcher
                .say(&json!({"type": "key", "event": event, "key": key, "code": code, "number": number}))?;
        }
    }
    // Moves without end do not hold up what comes behind them.
    for x in 0..300 {
        watcher.say(&json!({"type": "mouse", "event": "move", "x": x, "y": 100}))?;
    }
    watcher.say(&mouse("down", 100, 1))?;
    watcher.say(&mouse("up", 100, 0))?;
    watcher.titled("clicked")?;
    watcher.say(&json!({"type": "release"}))?;
    watcher.holder(&Value::Null)?;
    assert_eq!(js(&client, &session, "document.querySelector('#i').value")?, "pasted Hi");
    // Going away gives back, too.
    watcher.say(&json!({"type": "take"}))?;
    watcher.holder(&json!("you"))?;
    drop(watcher);
    let end = Instant::now() + Duration::from_secs(10);
    let body = json!({"actions": [{"type": "snapshot"}]});
    while client.post(&format!("/v1/sessions/{session}/browser/actions"), &body)?.status != 200 {
        ensure!(Instant::now() < end, "not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.close(&session)?;
    Ok(())
}

fn a_link_to_watch_is_for_watching(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = desk(&client)?;
    let mut watcher = Watcher::new(&client, &session, "view")?;
    watcher.next("frame")?;
    for word in [
        json!({"type": "take"}),
        json!({"type": "text", "text": "no"}),
        json!({"type": "go", "url": "about:blank"}),
        json!({"type": "release"}),
        json!("nonsense"),
    ] {
        watcher.say(&word)?;
    }
    assert_eq!(js(&client, &session, "document.title + document.querySelector('#i').value")?, "Desk");
    // What is too long is the last that is heard of it.
    watcher.say(&json!({"type": "text", "text": "x".repeat(100_000)}))?;
    while watcher.0.read().is_ok() {}
    // A browser that is not open is opened for who watches it.
    let other = client.session(&json!({"browser": {}}))?;
    let mut watcher = Watcher::new(&client, &other, "view")?;
    assert_eq!(watcher.next("page")?["tabs"][0]["url"], "about:blank");
    client.close(&session)?;
    client.close(&other)?;
    while watcher.0.read().is_ok() {}
    Ok(())
}

fn one_person_at_a_time(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = desk(&client)?;
    let mut first = Watcher::new(&client, &session, "control")?;
    let mut second = Watcher::new(&client, &session, "control")?;
    first.say(&json!({"type": "take"}))?;
    first.holder(&json!("you"))?;
    second.holder(&json!("other"))?;
    second.say(&json!({"type": "take"}))?;
    second.say(&json!({"type": "text", "text": "second"}))?;
    second.say(&json!({"type": "release"}))?;
    for (event, buttons) in [("down", 1), ("up", 0)] {
        first.say(&json!({"type": "mouse", "event": event, "x": 40, "y": 8, "button": "left", "buttons": buttons, "clicks": 1}))?;
    }
    first.titled("ready")?;
    first.say(&json!({"type": "text", "text": "first"}))?;
    first.titled("first")?;
    paused(&client, &session)?;
    drop(first);
    second.holder(&Value::Null)?;
    assert_eq!(js(&client, &session, "document.querySelector('#i').value")?, "first");
    second.say(&json!({"type": "take"}))?;
    second.holder(&json!("you"))?;
    client.close(&session)?;
    Ok(())
}

fn a_client_waits_for_a_person(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = desk(&client)?;
    let mut cdp = Cdp::connect(&client, &session)?;
    let page = cdp.page()?;
    let mut watcher = Watcher::new(&client, &session, "control")?;
    watcher.next("frame")?;
    watcher.say(&json!({"type": "take"}))?;
    watcher.holder(&json!("you"))?;
    assert_eq!(cdp.event()?["method"], "Anchorhold.paused");
    cdp.say(&page, "Runtime.evaluate", &json!({"expression": "document.title = 'client'"}))?;
    watcher.say(&json!({"type": "text", "text": "person"}))?;
    std::thread::sleep(Duration::from_millis(300));
    let shown = client.get(&format!("/v1/sessions/{session}/browser"))?.expect(200);
    assert_eq!(shown["tabs"][0]["title"], "Desk", "the client did not wait");
    watcher.say(&json!({"type": "release"}))?;
    assert_eq!(cdp.event()?["method"], "Anchorhold.resumed");
    watcher.titled("client")?;
    client.close(&session)?;
    Ok(())
}

fn actions_stop_when_a_person_takes_over(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = desk(&client)?;
    let mut watcher = Watcher::new(&client, &session, "control")?;
    watcher.next("frame")?;
    let waits = json!({"actions": [{"type": "wait_for", "seconds": 15}, {"type": "snapshot"}], "background": true,
        "timeout_seconds": 20});
    let begun = client.post(&format!("/v1/sessions/{session}/browser/actions"), &waits)?.expect(202);
    std::thread::sleep(Duration::from_millis(200));
    watcher.say(&json!({"type": "take"}))?;
    let path = format!("/v1/sessions/{session}/executions/{}", begun["id"].as_str().context("an id")?);
    let end = Instant::now() + Duration::from_secs(5);
    let ended = loop {
        let shown = client.get(&path)?.expect(200);
        if shown["status"] != "running" {
            break shown;
        }
        ensure!(Instant::now() < end, "the actions go on");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended["status"], "failed");
    ensure!(ended["error"]["message"].as_str().is_some_and(|why| why.contains("paused")), "{ended:#}");
    client.close(&session)?;
    Ok(())
}

/// One browser shows the page, in which another browser is seen and taken over.
fn the_page_works_in_a_browser(_: &Shared) -> Result<()> {
    // Its address must be known before it starts, so there is something in front of it.
    let door = TcpListener::bind("127.0.0.1:0")?;
    let host = door.local_addr()?.to_string();
    let server = Server::start(Options::default().with("egress", "allow_private", &format!("[{host:?}]")))?;
    let inner = server.base().trim_start_matches("http://").to_owned();
    relay(door, inner.clone());
    let client = server.client()?;
    let watched = desk(&client)?;
    let url = link(&client, &watched, "control")?.replace(&inner, &host);
    let page = page_of(&client, &url)?;
    for element in ["http://", "https://", "<link", "<iframe", "url("] {
        ensure!(!page.contains(element), "{element} in the page");
    }
    let network = json!({"mode": "allow", "hosts": [host]});
    let watcher = client.session(&json!({"browser": {}, "network": network}))?;
    let answer = act(
        &client,
        &watcher,
        &json!([
            {"type": "navigate", "url": url},
            {"type": "wait_for", "text": "Live"},
            {"type": "evaluate", "expression": "new Promise(done => { const look = () => screen_.hidden ? \
                setTimeout(look, 50) : done(true); const screen_ = document.getElementById('screen'); look() })"},
            {"type": "evaluate", "expression": "document.getElementById('address').value.slice(0, 14)"},
            {"type": "screenshot", "path": "before.png"},
            {"type": "click", "target": {"text": "Take over"}},
            {"type": "wait_for", "text": "You have control"},
            {"type": "screenshot", "path": "after.png"},
            {"type": "click", "target": {"selector": "#screen"}},
            {"type": "wait_for", "seconds": 1},
            {"type": "evaluate", "expression": "document.title"},
        ]),
    )?;
    assert_eq!(answer["status"], "succeeded", "{answer:#}");
    assert_eq!(answer["results"][3]["value"], "data:text/html", "{answer:#}");
    assert_eq!(answer["results"][10]["value"], "clicked – live", "{answer:#}");
    paused(&client, &watched)?;
    if let Some(folder) = std::env::var_os("ANCHORHOLD_PICTURES") {
        for name in ["before.png", "after.png"] {
            let picture = client.get(&format!("/v1/sessions/{watcher}/files/{name}"))?;
            std::fs::write(std::path::Path::new(&folder).join(name), &picture.bytes)?;
        }
    }
    let answer = act(
        &client,
        &watcher,
        &json!([
            {"type": "evaluate", "expression": "document.getElementById('keys').focus()"},
            {"type": "press", "key": "Tab"},
            {"type": "press", "key": "Shift+Tab"},
            {"type": "click", "target": {"text": "Hand back"}},
            {"type": "wait_for", "text": "Live"},
        ]),
    )?;
    assert_eq!(answer["status"], "succeeded", "{answer:#}");
    assert_eq!(js(&client, &watched, "document.title")?, "clicked");
    client.close(&watched)?;
    client.close(&watcher)?;
    server.stop()?;
    Ok(())
}

/// Carries connections to another address.
fn relay(door: TcpListener, to: String) {
    std::thread::spawn(move || {
        for mut outside in door.incoming().flatten() {
            let Ok(mut inside) = TcpStream::connect(&to) else { continue };
            let (Ok(mut back), Ok(mut forth)) = (inside.try_clone(), outside.try_clone()) else { continue };
            std::thread::spawn(move || std::io::copy(&mut forth, &mut back));
            std::thread::spawn(move || std::io::copy(&mut inside, &mut outside));
        }
    });
}

/// What the page is, for whoever has the link.
fn page_of(client: &Client, url: &str) -> Result<String> {
    let path = url.splitn(4, '/').nth(3).context("a path")?;
    let answer = client.with_key(None).get(&format!("/{path}"))?;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    ensure!(
        answer
            .header("content-security-policy")
            .is_some_and(|policy| policy.starts_with("default-src 'none'; script-src 'nonce-")),
        "no policy"
    );
    Ok(answer.text())
}

fn a_browser_is_shown_and_closed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    let path = format!("/v1/sessions/{session}/browser");
    assert_eq!(client.get(&path)?.expect(200), json!({"open": false, "tabs": []}));
    assert_eq!(client.get(&format!("{path}/screenshot"))?.problem(409), "conflict");
    let answer = act(
        &client,
        &session,
        &json!([
            {"type": "navigate", "url": PAGE},
            {"type": "tabs", "op": "new", "url": "data:text/html,<title>Two</title>two"},
        ]),
    )?;
    assert_eq!(answer["status"], "succeeded", "{answer:#}");
    let shown = client.get(&path)?.expect(200);
    assert_eq!(shown["open"], true);
    let titles: Vec<_> =
        (0..2).map(|at| (&shown["tabs"][at]["title"], &shown["tabs"][at]["selected"])).collect();
    assert_eq!(titles, [(&json!("Desk"), &json!(false)), (&json!("Two"), &json!(true))]);
    let picture = client.get(&format!("{path}/screenshot"))?;
    assert_eq!((picture.status, picture.header("content-type")), (200, Some("image/jpeg")));
    ensure!(picture.bytes.starts_with(b"\xff\xd8"), "no JPEG");
    let listed = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "looking is no execution");
    // Also what a client does ends with it.
    let mut cdp = Cdp::connect(&client, &session)?;
    cdp.page()?;
    for _ in 0..2 {
        assert_eq!(client.delete(&path)?.status, 204);
    }
    assert_eq!(cdp.closed()?, 1001);
    assert_eq!(client.get(&path)?.expect(200)["open"], false);
    assert_eq!(js(&client, &session, "location.href")?, "about:blank");
    client.close(&session)?;
    Ok(())
}
