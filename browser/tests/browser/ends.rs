use crate::chromium::{Chromium, within};
use anchorhold_browser::{CallError, Failure, Outcome};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_renderer_that_dies_is_said_at_once_and_can_be_replaced() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    // The call in flight is never answered by Chromium.
    let waiting = json!([{"type": "evaluate", "expression": "await fetch('/begun'); await new Promise(done => { globalThis.done = done })"}, {"type": "press", "key": "a"}]);
    let actions: Vec<anchorhold_browser::Action> = serde_json::from_value(waiting).unwrap();
    let deadline = within(60);
    let (outcomes, killed) = {
        let (victim, browser) = chromium.parts();
        let kill = async {
            while !crate::site::was_asked("/begun") && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            victim.kill("renderer");
            Instant::now()
        };
        tokio::join!(browser.run(&actions, deadline), kill)
    };
    assert_eq!(outcomes, [Outcome::Unknown(Failure::Call(CallError::Crashed)), Outcome::NotSent]);
    assert!(killed.elapsed() < Duration::from_secs(20));
    let dead = chromium.failed(5.0, json!({"type": "snapshot"})).await;
    assert_eq!(dead, Failure::Call(CallError::Crashed));
    chromium.open("/form").await;
    assert_eq!(chromium.js("document.title").await, "Form");
    chromium.process.kill("renderer");
    while chromium.failed(5.0, json!({"type": "hover", "target": {"selector": "#none"}})).await
        != Failure::Call(CallError::Crashed)
    {}
    chromium.one(json!({"type": "reload"})).await;
    assert_eq!(chromium.js("document.title").await, "Form");
    chromium.end().await;
}

#[tokio::test]
async fn a_browser_that_dies_ends_everything() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    chromium.process.kill_browser();
    let outcome = chromium
        .run(
            10.0,
            json!([{"type": "evaluate", "expression": "await new Promise(done => { globalThis.done = done })"}]),
        )
        .await
        .remove(0);
    assert!(
        matches!(&outcome, Outcome::Unknown(Failure::Call(_)) | Outcome::Failed(Failure::Call(_))),
        "{outcome:?}"
    );
    let outcome = chromium.run(10.0, json!([{"type": "tabs", "op": "list"}])).await.remove(0);
    assert!(matches!(&outcome, Outcome::Failed(_)), "{outcome:?}");
    chromium.end().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_busy_browser() {
    let mut chromium = Chromium::start().await;
    chromium.open("/frames").await;
    chromium.one(json!({"type": "tabs", "op": "new", "url": crate::site::url("/huge")})).await;
    chromium.js("setTimeout(() => { for (;;); }); 0").await;
    chromium.end().await;
}
