use crate::chromium::{Chromium, within};
use anchorhold_browser::{Failure, MAX_TABS, Outcome, Reply, TabInfo};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_dialog_holds_the_page_until_it_is_answered() {
    let mut chromium = Chromium::start().await;
    chromium.open("/dialogs").await;
    for (button, answer, said) in [
        ("Alert", json!({"type": "dialog", "accept": true}), "alerted"),
        ("Confirm", json!({"type": "dialog", "accept": true}), "true"),
        ("Confirm", json!({"type": "dialog", "accept": false}), "false"),
        ("Prompt", json!({"type": "dialog", "accept": true, "text": "me"}), "me"),
        ("Prompt", json!({"type": "dialog", "accept": false}), ""),
    ] {
        chromium.done(json!([{"type": "click", "target": {"text": button}}, answer])).await;
        assert_eq!(chromium.js("out.textContent").await, said, "{button}");
    }
    let none = chromium.failed(5.0, json!({"type": "dialog", "accept": true})).await;
    assert_eq!(none, Failure::Absent("no dialog is open"));

    chromium.one(json!({"type": "click", "target": {"text": "Confirm"}})).await;
    let summary = chromium.browser().summary(within(5)).await.unwrap();
    let dialog = summary.dialog.unwrap();
    assert_eq!(
        (dialog.kind.as_str(), dialog.message.as_str(), summary.title.as_str()),
        ("confirm", "Sure?", "Dialogs")
    );
    let held = chromium.failed(5.0, json!({"type": "snapshot"})).await;
    assert_eq!(held, Failure::Dialog { kind: "confirm".into(), message: "Sure?".into() });
    assert_eq!(chromium.one(json!({"type": "snapshot", "optional": true})).await, Reply::Nothing);
    chromium.one(json!({"type": "dialog", "accept": true})).await;

    let alerted =
        chromium.run(5.0, json!([{"type": "evaluate", "expression": "alert('x'); 5"}])).await.remove(0);
    assert_eq!(alerted, Outcome::Unknown(Failure::Dialog { kind: "alert".into(), message: "x".into() }));
    chromium.one(json!({"type": "dialog", "accept": true})).await;
    chromium.end().await;
}

#[tokio::test]
async fn a_page_may_greet_with_a_dialog_and_may_not_hold_anybody() {
    let mut chromium = Chromium::start().await;
    chromium.open("/dialogs").await;
    // Leaving is not asked about.
    chromium.one(json!({"type": "click", "target": {"text": "Hold"}})).await;
    chromium.open("/form").await;
    let reply = chromium.one(json!({"type": "navigate", "url": "data:text/html,<title>T</title><script>alert('hi')</script>x"})).await;
    let Reply::Navigated(there) = reply else { panic!("{reply:?}") };
    assert!(there.url.starts_with("data:"));
    chromium.done(json!([{"type": "dialog", "accept": true}, {"type": "wait_for", "load": "load"}])).await;
    assert_eq!(chromium.js("document.title").await, "T");
    chromium.end().await;
}

/// The tabs, once they are as they should come to be.
async fn tabs_when(chromium: &mut Chromium, wanted: impl Fn(&[TabInfo]) -> bool) -> Vec<TabInfo> {
    let deadline = within(20);
    loop {
        let open = tabs(chromium).await;
        if wanted(&open) {
            return open;
        }
        assert!(Instant::now() < deadline, "{open:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn tabs(chromium: &mut Chromium) -> Vec<TabInfo> {
    match chromium.one(json!({"type": "tabs", "op": "list"})).await {
        Reply::Tabs(tabs) => tabs,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tabs_are_listed_selected_and_closed() {
    let mut chromium = Chromium::start().await;
    chromium.open("/tabs").await;
    chromium
        .done(json!([{"type": "click", "target": {"text": "Blank"}}, {"type": "click", "target": {"text": "Window"}}]))
        .await;
    let open = tabs_when(&mut chromium, |open| {
        let described: Vec<_> = open.iter().map(|tab| (tab.title.as_str(), tab.selected)).collect();
        described == [("Tabs", true), ("Form", false), ("Inner", false)]
    })
    .await;
    let (first, form) = (open[0].id, open[1].id);
    chromium
        .done(json!([{"type": "tabs", "op": "select", "id": form}, {"type": "fill", "target": {"label": "Name"}, "value": "tab two"}]))
        .await;
    assert_eq!(chromium.js("document.querySelector('[name=name]').value").await, "tab two");
    chromium.one(json!({"type": "tabs", "op": "close", "id": form})).await;
    assert_eq!(chromium.js("document.title").await, "Inner");
    let gone = chromium.failed(5.0, json!({"type": "tabs", "op": "select", "id": form})).await;
    assert_eq!(gone, Failure::Absent("no such tab"));
    chromium.one(json!({"type": "tabs", "op": "new", "url": crate::site::url("/form")})).await;
    assert_eq!(chromium.js("document.title").await, "Form");
    // Closed one after the other, the browser stays.
    chromium.one(json!({"type": "tabs", "op": "select", "id": first})).await;
    for tab in tabs(&mut chromium).await {
        chromium.one(json!({"type": "tabs", "op": "close", "id": tab.id})).await;
    }
    let none = chromium.failed(5.0, json!({"type": "snapshot"})).await;
    assert_eq!(none, Failure::Absent("no tab is open"));
    chromium.one(json!({"type": "tabs", "op": "new"})).await;
    assert_eq!(chromium.js("1 + 1").await, 2);
    chromium.end().await;
}

#[tokio::test]
async fn a_flood_of_windows_is_dammed() {
    let mut chromium = Chromium::start().await;
    chromium.open("/tabs").await;
    chromium.one(json!({"type": "click", "target": {"text": "Flood"}})).await;
    tabs_when(&mut chromium, |open| open.len() == MAX_TABS).await;
    // And it stays so.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(tabs(&mut chromium).await.len(), MAX_TABS);
    assert_eq!(chromium.js("document.title").await, "Tabs");
    chromium.end().await;
}
