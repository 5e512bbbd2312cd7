use crate::chromium::Chromium;
use crate::site::url;
use anchorhold_browser::{Failure, Navigated, Reply};
use serde_json::json;

fn went(reply: &Reply) -> &Navigated {
    match reply {
        Reply::Navigated(navigated) => navigated,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn navigation_says_where_it_ended() {
    let mut chromium = Chromium::start().await;
    for (path, end, status, title) in [
        ("/form", "/form", Some(200), "Form"),
        ("/redirect", "/form", Some(200), "Form"),
        ("/missing", "/missing", Some(404), "Lost"),
        // Chromium shows a page of its own instead of nothing.
        ("/empty404", "/empty404", Some(404), "127.0.0.1:PORT/empty404"),
        ("/form#part", "/form#part", Some(200), "Form"),
    ] {
        let reply = chromium.one(json!({"type": "navigate", "url": url(path)})).await;
        let expected = Navigated {
            url: url(end),
            status,
            title: title.replace("PORT", &crate::site::port().to_string()),
        };
        assert_eq!(went(&reply), &expected, "{path}");
    }
    // Only the part behind # changes: there is no new document to wait for.
    let reply = chromium.one(json!({"type": "navigate", "url": url("/form#other")})).await;
    assert_eq!(went(&reply).url, url("/form#other"));
    // A page that sends everybody elsewhere at once.
    let reply = chromium.one(json!({"type": "navigate", "url": url("/bounce")})).await;
    assert!([url("/bounce"), url("/form")].contains(&went(&reply).url));
    chromium.one(json!({"type": "wait_for", "url": "/form"})).await;
    chromium.end().await;
}

#[tokio::test]
async fn navigation_says_why_it_failed() {
    let mut chromium = Chromium::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (target, why) in [
        (format!("http://{closed}/"), "net::ERR_CONNECTION_REFUSED"),
        ("http://nowhere.test/".to_owned(), "net::ERR_NAME_NOT_RESOLVED"),
        (url("/nothing"), "net::ERR_ABORTED (HTTP 204)"),
        (url("/file"), "the URL is a download, not a page: it lands in /workspace/downloads"),
    ] {
        let failure = chromium.failed(10.0, json!({"type": "navigate", "url": target})).await;
        assert_eq!(failure, Failure::Navigation(why.into()), "{target}");
    }
    let failure = chromium.failed(10.0, json!({"type": "navigate", "url": "file:///etc/passwd"})).await;
    assert_eq!(failure, Failure::Url("file: URLs are not opened here".into()));
    chromium.end().await;
}

#[tokio::test]
async fn waiting_ends_as_early_as_asked() {
    let mut chromium = Chromium::start().await;
    let complete = "document.readyState";
    let there = url("/late-image");
    chromium.one(json!({"type": "navigate", "url": there, "wait_until": "domcontentloaded"})).await;
    assert_eq!(chromium.js(complete).await, "interactive");
    chromium.one(json!({"type": "wait_for", "load": "load"})).await;
    assert_eq!(chromium.js(complete).await, "complete");
    chromium.one(json!({"type": "navigate", "url": there})).await;
    assert_eq!(chromium.js(complete).await, "complete");
    let busy = chromium.one(json!({"type": "navigate", "url": url("/late-fetch")})).await;
    assert_eq!(went(&busy).title, "Busy");
    let idle = chromium
        .one(json!({"type": "navigate", "url": url("/late-fetch"), "wait_until": "networkidle"}))
        .await;
    assert_eq!(went(&idle).title, "Idle");
    chromium.end().await;
}

#[tokio::test]
async fn history_goes_back_and_forward() {
    let mut chromium = Chromium::start().await;
    let nowhere = chromium.failed(5.0, json!({"type": "forward"})).await;
    assert_eq!(nowhere, Failure::Absent("no page in this direction"));
    chromium.open("/form").await;
    chromium.open("/missing").await;
    chromium.open("/missing#down").await;
    let replies = chromium
        .done(json!([{"type": "back"}, {"type": "back"}, {"type": "forward"}, {"type": "reload"}]))
        .await;
    let urls: Vec<_> = replies.iter().map(|reply| (went(reply).url.clone(), went(reply).status)).collect();
    let expected = [("/missing", 404), ("/form", 200), ("/missing", 404), ("/missing", 404)];
    assert_eq!(urls, expected.map(|(path, status)| (url(path), Some(status))));
    chromium.end().await;
}

#[tokio::test]
async fn input_waits_for_the_page_that_it_loads() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    chromium.js("document.body.innerHTML = '<a href=/slow?500>Slow</a>'").await;
    chromium.one(json!({"type": "click", "target": {"text": "Slow"}})).await;
    assert_eq!(chromium.js("document.title").await, "Slow");

    // What loads no page must not be waited for.
    chromium.open("/download").await;
    let before = std::time::Instant::now();
    chromium
        .done(json!([
            {"type": "click", "target": {"text": "get"}},
            {"type": "click", "target": {"text": "stay"}},
        ]))
        .await;
    assert!(before.elapsed().as_secs() < 10, "{:?}", before.elapsed());
    assert_eq!(chromium.js("location.pathname").await, "/download");
    chromium.end().await;
}
