//! Programs that speak the protocol themselves: what they can do, and what not.

use crate::chromium::Chromium;
use anchorhold_browser::{Departure, MAX_CLIENT_MESSAGE_BYTES, Reply};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// An outside client, which keeps what it was told meanwhile.
struct Client {
    wire: DuplexStream,
    last_id: i64,
    events: Vec<Value>,
}

impl Client {
    async fn send(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap();
        self.wire.write_all(&length.to_le_bytes()).await.unwrap();
        self.wire.write_all(message).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let mut length = [0; 4];
        self.wire.read_exact(&mut length).await.unwrap();
        let mut message = vec![0; u32::from_le_bytes(length) as usize];
        self.wire.read_exact(&mut message).await.unwrap();
        serde_json::from_slice(&message).unwrap()
    }

    /// The whole answer, of a session or (`""`) of the browser.
    async fn ask(&mut self, session: &str, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut call = json!({"id": self.last_id, "method": method, "params": params});
        if !session.is_empty() {
            call["sessionId"] = session.into();
        }
        self.send(call.to_string().as_bytes()).await;
        loop {
            let said = tokio::time::timeout(Duration::from_secs(20), self.next()).await.expect(method);
            if said["id"] == self.last_id {
                assert_eq!(said["sessionId"].as_str().unwrap_or_default(), session, "{said}");
                return said;
            }
            self.events.push(said);
        }
    }

    async fn call(&mut self, session: &str, method: &str, params: Value) -> Value {
        let answer = self.ask(session, method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    async fn refused(&mut self, session: &str, method: &str, params: Value) -> String {
        let answer = self.ask(session, method, params).await;
        answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{method}: {answer}")).to_owned()
    }

    /// Attaches to the first page as Playwright and Puppeteer do.
    async fn attach(&mut self) -> String {
        let auto = json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": false});
        self.call("", "Target.setAutoAttach", auto).await;
        let attached = self.events.iter().find(|said| said["method"] == "Target.attachedToTarget");
        let attached = attached.expect("a page is open")["params"].clone();
        assert_eq!(attached["targetInfo"]["type"], "page");
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        self.call(&session, "Runtime.runIfWaitingForDebugger", json!({})).await;
        session
    }

    async fn js(&mut self, session: &str, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call(session, "Runtime.evaluate", params).await["result"]["value"].clone()
    }
}

/// Runs a client's script beside the browser; the client leaves at its end.
async fn with_client(chromium: &mut Chromium, script: impl AsyncFnOnce(&mut Client)) -> Departure {
    let (wire, browsers) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(browsers);
    let mut client = Client { wire, last_id: 0, events: Vec::new() };
    let scripted = async {
        script(&mut client).await;
        drop(client);
    };
    tokio::join!(chromium.browser().converse(reader, writer), scripted).0
}

#[tokio::test]
async fn a_client_drives_beside_us_and_leaves_its_pages() {
    let mut chromium = Chromium::start().await;
    chromium.open("/plain").await;
    let left = with_client(&mut chromium, async |client| {
        let page = client.attach().await;
        assert_eq!(client.js(&page, "1 + 1").await, 2);
        client.js(&page, "document.title = 'theirs'; window.mark = 7; 0").await;
        let url = crate::site::url("/plain");
        client.call("", "Target.createTarget", json!({ "url": url })).await;
        let context = client.call("", "Target.createBrowserContext", json!({"disposeOnDetach": true})).await;
        let inside = json!({"url": "about:blank", "browserContextId": context["browserContextId"]});
        client.call("", "Target.createTarget", inside).await;
        let targets = client.call("", "Target.getTargets", json!({})).await;
        let pages = targets["targetInfos"].as_array().unwrap();
        assert_eq!(pages.iter().filter(|target| target["type"] == "page").count(), 3, "{targets}");
        // Its emulation ends with it.
        let small = json!({"width": 300, "height": 200, "deviceScaleFactor": 1, "mobile": false});
        client.call(&page, "Emulation.setDeviceMetricsOverride", small).await;
        assert_eq!(client.js(&page, "innerWidth").await, 300);
    })
    .await;
    assert_eq!(left, Departure::Left);
    let Reply::Tabs(tabs) = chromium.one(json!({"type": "tabs", "op": "list"})).await else { panic!() };
    assert_eq!(tabs.len(), 2, "{tabs:?}");
    assert_eq!(tabs[0].title, "theirs");
    assert_eq!(chromium.js("window.mark").await, 7);
    assert_eq!(chromium.js("innerWidth").await, 1280);
    // The next one finds what the last has left.
    with_client(&mut chromium, async |client| {
        let targets = client.call("", "Target.getTargets", json!({})).await;
        let known = |target: &&Value| target["title"] == "theirs";
        let target = targets["targetInfos"].as_array().unwrap().iter().find(known).expect("its page");
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let page = client.call("", "Target.attachToTarget", attach).await["sessionId"].clone();
        assert_eq!(client.js(page.as_str().unwrap(), "window.mark").await, 7);
    })
    .await;
    chromium.end().await;
}

#[tokio::test]
async fn a_client_finds_a_page_open() {
    let mut chromium = Chromium::start().await;
    chromium.one(json!({"type": "tabs", "op": "close", "id": 1})).await;
    with_client(&mut chromium, async |client| drop(client.attach().await)).await;
    assert_eq!(chromium.js("location.href").await, "about:blank");
    chromium.end().await;
}

#[tokio::test]
async fn what_would_reach_out_of_the_pages_is_refused() {
    let mut chromium = Chromium::start().await;
    with_client(&mut chromium, async |client| {
        let page = client.attach().await;
        for url in
            ["file:///etc/passwd", "view-source:file:///etc/passwd", "chrome://version", "devtools://x"]
        {
            client.refused(&page, "Page.navigate", json!({ "url": url })).await;
            client.refused("", "Target.createTarget", json!({ "url": url })).await;
        }
        for method in
            ["Browser.crash", "SystemInfo.getInfo", "Target.exposeDevToolsProtocol", "Tethering.bind"]
        {
            let why = client.refused("", method, json!({})).await;
            assert!(why.contains("not offered"), "{why}");
        }
        let document = client.call(&page, "DOM.getDocument", json!({})).await;
        let input = json!({"files": ["/etc/passwd"], "nodeId": document["root"]["nodeId"]});
        client.refused(&page, "DOM.setFileInputFiles", input).await;
        assert_eq!(client.js(&page, "location.href").await, "about:blank");
        // Another's session, or one that is none, is as unknown as any.
        for session in ["0123456789ABCDEF0123456789ABCDEF", "x"] {
            let why = client.refused(session, "Runtime.evaluate", json!({"expression": "1"})).await;
            assert!(why.contains("not found"), "{why}");
            client.refused("", "Target.detachFromTarget", json!({ "sessionId": session })).await;
        }
    })
    .await;
    chromium.end().await;
}

/// Everything that the driver has enabled for itself is reported to it alone.
#[tokio::test]
async fn a_client_hears_nothing_of_our_sessions() {
    let mut chromium = Chromium::start().await;
    with_client(&mut chromium, async |client| {
        client.call("", "Target.getTargets", json!({})).await;
        assert!(client.events.is_empty(), "{:?}", client.events);
        let page = client.attach().await;
        client.events.clear();
        client.js(&page, "location.hash = 'x'; alert = 1; 0").await;
        client.js(&page, "document.body.append(document.createElement('iframe')); 0").await;
        assert!(client.events.is_empty(), "{:?}", client.events);
        client.call(&page, "Page.enable", json!({})).await;
        client.js(&page, "document.body.append(document.createElement('iframe')); 0").await;
        assert!(client.events.iter().all(|said| said["sessionId"] == page.as_str()), "{:?}", client.events);
        assert!(!client.events.is_empty());
    })
    .await;
    chromium.end().await;
}

#[tokio::test]
async fn closing_the_browser_closes_the_connection() {
    let mut chromium = Chromium::start().await;
    chromium.js("window.mark = 1").await;
    let left = with_client(&mut chromium, async |client| {
        assert_eq!(client.call("", "Browser.close", json!({})).await, json!({}));
        assert_eq!(client.wire.read(&mut [0]).await.unwrap(), 0, "closed");
    })
    .await;
    assert_eq!(left, Departure::Left);
    assert_eq!(chromium.js("window.mark").await, 1);
    chromium.end().await;
}

#[tokio::test]
async fn nonsense_is_answered_and_too_much_ends_the_connection() {
    let mut chromium = Chromium::start().await;
    let left = with_client(&mut chromium, async |client| {
        let deep = format!("{{\"id\":1,\"method\":\"X.y\",\"params\":{}", "[".repeat(100_000));
        for nonsense in ["", "{", "[]", "{\"id\":\"x\",\"method\":\"Page.enable\"}", "{\"id\":1}", &*deep] {
            client.send(nonsense.as_bytes()).await;
            let said = client.next().await;
            assert_eq!(said["error"]["code"], -32700, "{said}");
        }
        client.send(b"\xff\xfe\0").await;
        assert_eq!(client.next().await["error"]["code"], -32700);
        for _ in 0..2000 {
            client.send(b"{\"id\":5,\"method\":\"Browser.getVersion\"}").await;
            assert_eq!(client.next().await["id"], 5);
        }
        let length = u32::try_from(MAX_CLIENT_MESSAGE_BYTES).unwrap() + 1;
        client.wire.write_all(&length.to_le_bytes()).await.unwrap();
        assert_eq!(client.wire.read(&mut [0]).await.unwrap(), 0, "closed");
    })
    .await;
    assert_eq!(left, Departure::TooLong);
    assert_eq!(chromium.js("2 + 2").await, 4);
    chromium.end().await;
}

#[tokio::test]
async fn who_does_not_read_is_dismissed() {
    let mut chromium = Chromium::start().await;
    let left = with_client(&mut chromium, async |client| {
        let page = client.attach().await;
        let long = json!({"expression": "'x'.repeat(8 << 20)", "returnByValue": true});
        let call =
            json!({"id": 100, "sessionId": page, "method": "Runtime.evaluate", "params": long}).to_string();
        let length = u32::try_from(call.len()).unwrap();
        let message = [&length.to_le_bytes()[..], call.as_bytes()].concat();
        while client.wire.write_all(&message).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(left, Departure::Deaf);
    assert_eq!(chromium.js("2 + 2").await, 4);
    chromium.end().await;
}
