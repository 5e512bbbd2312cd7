use crate::chromium::Chromium;
use anchorhold_browser::{CallError, Failure, Obstacle, Outcome, Reply};
use serde_json::{Value, json};

/// What a form would send.
const SENT: &str = "JSON.stringify([...new FormData(f)].filter(([, value]) => value !== ''))";

async fn obstacle(chromium: &mut Chromium, action: Value) -> Obstacle {
    match chromium.failed(1.5, action).await {
        Failure::Target { obstacle, .. } => obstacle,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_kind_of_field_is_filled() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    chromium
        .done(json!([
            {"type": "fill", "target": {"label": "Name"}, "value": "Zoë 日本"},
            {"type": "fill_form", "fields": [
                {"target": {"label": "Email"}, "value": "a@b.example"},
                {"target": {"selector": "[name=pass]"}, "value": "hunter2"},
                {"target": {"role": "spinbutton", "name": "Age"}, "value": "41"},
                {"target": {"label": "Born"}, "value": "1990-05-17"},
                {"target": {"label": "Colour"}, "value": "#aa00ff"},
                {"target": {"label": "Size"}, "value": "Medium"},
                {"target": {"label": "Newsletter"}, "value": false},
                {"target": {"label": "Cash"}, "value": true},
                {"target": {"label": "Notes"}, "value": "new"},
            ]},
            {"type": "clear", "target": {"label": "About"}},
            {"type": "type", "target": {"label": "About"}, "text": "one\ntwo é"},
            {"type": "select", "target": {"label": "Toppings"}, "value": ["Ham", "Olive"]},
        ]))
        .await;
    let expected = json!([
        ["name", "Zoë 日本"],
        ["mail", "a@b.example"],
        ["pass", "hunter2"],
        ["age", "41"],
        ["born", "1990-05-17"],
        ["colour", "#aa00ff"],
        ["about", "one\r\ntwo é"],
        ["size", "m"],
        ["toppings", "Ham"],
        ["toppings", "Olive"],
        ["pay", "cash"],
        ["fixed", "1"],
    ]);
    let sent: Value = serde_json::from_str(chromium.js(SENT).await.as_str().unwrap()).unwrap();
    let about = |value: &Value| value.to_string().replace("\\r\\n", "\\n");
    assert_eq!(about(&sent), about(&expected));
    assert_eq!(chromium.js("rich.textContent").await, "new");

    chromium
        .done(json!([
            {"type": "check", "target": {"label": "Newsletter"}},
            {"type": "uncheck", "target": {"label": "Newsletter"}},
            {"type": "check", "target": {"text": "Newsletter"}},
            {"type": "fill", "target": {"label": "Name"}, "value": ""},
            {"type": "fill", "target": {"label": "Your name"}, "value": "Bo"},
            {"type": "press", "key": "Enter"},
        ]))
        .await;
    assert_eq!(chromium.js("document.title").await, "Posted");
    let posted = chromium.js("document.body.innerText").await;
    assert!(posted.as_str().unwrap().contains("name=Bo&"), "{posted}");
    assert!(posted.as_str().unwrap().contains("news=on"), "{posted}");
    chromium.end().await;
}

#[tokio::test]
async fn what_a_field_does_not_take_is_said() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    for (field, value, why) in [
        ("Age", json!("forty"), "takes numbers only"),
        ("Born", json!("17 May"), "does not take this value"),
        ("Newsletter", json!("yes"), "takes true or false"),
        ("Name", json!(true), "is no checkbox"),
        ("Size", json!("Enormous"), "no option \"Enormous\""),
        ("Size", json!("Huge"), "no option \"Huge\""),
    ] {
        let failure =
            chromium.failed(5.0, json!({"type": "fill", "target": {"label": field}, "value": value})).await;
        assert!(matches!(&failure, Failure::Unfit { why: said, .. } if said == why), "{field}: {failure:?}");
    }
    let fixed = json!({"type": "fill", "target": {"label": "Fixed"}, "value": "2"});
    assert_eq!(obstacle(&mut chromium, fixed).await, Obstacle::ReadOnly);
    let stubborn = json!({"type": "uncheck", "target": {"label": "Card"}});
    chromium.one(json!({"type": "check", "target": {"label": "Card"}})).await;
    assert!(matches!(chromium.failed(5.0, stubborn).await, Failure::Unfit { .. }));
    chromium.end().await;
}

#[tokio::test]
async fn a_click_waits_until_it_can_be_done() {
    let mut chromium = Chromium::start().await;
    for (start, button, said) in [
        ("late", json!({"role": "button", "name": "late"}), "late;"),
        ("enable", json!({"text": "Enables"}), "off;"),
        ("cover", json!({"text": "Covered"}), "under;"),
        ("move", json!({"selector": "#run"}), "run;"),
        ("show", json!({"selector": "#ghost"}), "ghost;"),
    ] {
        chromium.open("/waits").await;
        chromium.js(&format!("start('{start}')")).await;
        chromium.one(json!({"type": "click", "target": button})).await;
        assert_eq!(chromium.js("out.textContent").await, said, "{start}");
    }
    // Far down: scrolled to.
    chromium.one(json!({"type": "click", "target": {"text": "Far"}})).await;
    assert_eq!(chromium.js("out.textContent").await, "ghost;far;");
    chromium.end().await;
}

#[tokio::test]
async fn a_click_that_cannot_be_done_says_what_is_in_the_way() {
    let mut chromium = Chromium::start().await;
    chromium.open("/waits").await;
    let click = |target: Value| json!({"type": "click", "target": target});
    let found = obstacle(&mut chromium, click(json!({"text": "Enables"}))).await;
    assert_eq!(found, Obstacle::Disabled);
    let found = obstacle(&mut chromium, click(json!({"selector": "#ghost"}))).await;
    assert_eq!(found, Obstacle::Hidden);
    let found = obstacle(&mut chromium, click(json!({"text": "Nowhere"}))).await;
    assert_eq!(found, Obstacle::Missing);
    let found = obstacle(&mut chromium, click(json!({"ref": "e999"}))).await;
    assert_eq!(found, Obstacle::Stale);
    let found = obstacle(&mut chromium, click(json!({"selector": "a >> b"}))).await;
    assert!(matches!(found, Obstacle::Invalid(_)), "{found:?}");
    let found = obstacle(&mut chromium, click(json!({"role": "button"}))).await;
    assert!(matches!(found, Obstacle::Ambiguous { count: 4, .. }), "{found:?}");
    chromium.js("start('cover'); document.getElementById('cover').remove = () => {}; 0").await;
    let found = obstacle(&mut chromium, click(json!({"text": "Covered"}))).await;
    assert_eq!(found, Obstacle::Covered("<div#cover>".into()));
    chromium.js("setInterval(() => { run.style.left = Math.random() * 300 + 'px' }, 1); 0").await;
    let found = obstacle(&mut chromium, json!({"type": "hover", "target": {"selector": "#run"}})).await;
    assert_eq!(found, Obstacle::Moving);
    assert_eq!(chromium.js("out.textContent").await, "");
    chromium.end().await;
}

#[tokio::test]
async fn mouse_and_keyboard_are_real() {
    let mut chromium = Chromium::start().await;
    chromium.open("/events").await;
    let seen = "seen.splice(0).join(' ')";
    chromium.one(json!({"type": "hover", "target": {"text": "Pad"}})).await;
    assert_eq!(chromium.js(seen).await, "mouseover0");
    chromium
        .one(json!({"type": "click", "target": {"text": "Pad"}, "modifiers": ["Shift", "Control"]}))
        .await;
    assert_eq!(chromium.js(seen).await, "mousedown0SC mouseup0SC click0SC");
    chromium.one(json!({"type": "click", "target": {"x": 20, "y": 20}, "button": "right"})).await;
    assert_eq!(chromium.js(seen).await, "mousedown2 contextmenu2 mouseup2");
    chromium.one(json!({"type": "double_click", "target": {"selector": "#pad"}})).await;
    assert_eq!(chromium.js(seen).await, "mousedown0 mouseup0 click0 mousedown0 mouseup0 click0 dblclick0");
    chromium.one(json!({"type": "drag", "from": {"selector": "#pad"}, "to": {"selector": "#drop"}})).await;
    let dragged = chromium.js(seen).await;
    assert!(dragged.as_str().unwrap().starts_with("mousedown0"), "{dragged}");
    assert!(
        dragged.as_str().unwrap().contains("over1") && dragged.as_str().unwrap().ends_with("dropped"),
        "{dragged}"
    );

    chromium
        .done(json!([
            {"type": "type", "target": {"label": "Text"}, "text": "aB5%é", "delay_ms": 1},
            {"type": "press", "key": "Shift+x"},
            {"type": "press", "key": "ArrowLeft"},
            {"type": "press", "key": "Backspace"},
        ]))
        .await;
    assert_eq!(chromium.js("text.value").await, "aB5%X");
    let expected = "a/KeyA/65 B/KeyB/66 5/Digit5/53 %/Digit5/53 Shift/ShiftLeft/16 X/KeyX/88 ArrowLeft/ArrowLeft/37 \
                    Backspace/Backspace/8";
    assert_eq!(chromium.js(seen).await, expected);
    chromium.done(json!([{"type": "press", "key": "Control+a"}, {"type": "press", "key": "Delete"}])).await;
    assert_eq!(chromium.js("text.value").await, "");
    chromium.done(json!([{"type": "press", "key": "Shift+Tab"}])).await;
    assert_eq!(chromium.js("document.activeElement.id").await, "pad");
    chromium.end().await;
}

#[tokio::test]
async fn scrolling_and_waiting() {
    let mut chromium = Chromium::start().await;
    chromium.open("/waits").await;
    chromium.one(json!({"type": "scroll", "dy": 500})).await;
    // Scrolling is smooth; what ends this when it goes wrong is the deadline.
    let there = "new Promise(done => { const look = () => scrollY < 500 ? requestAnimationFrame(look) : done(scrollY); look() })";
    assert_eq!(chromium.js(there).await, 500);
    chromium.one(json!({"type": "scroll", "target": {"text": "Far"}})).await;
    assert!(chromium.js("scrollY").await.as_f64().unwrap() > 2000.0);
    chromium.js("start('late'); 0").await;
    chromium.done(json!([{"type": "wait_for", "text": "late"}, {"type": "wait_for", "target": {"role": "button", "name": "Late"}}])).await;
    let outcomes = chromium
        .run(1.5, json!([{"type": "wait_for", "text": "never"}, {"type": "press", "key": "a"}]))
        .await;
    assert!(matches!(&outcomes[0], Outcome::Failed(Failure::Target { obstacle: Obstacle::Missing, .. })));
    assert_eq!(outcomes[1], Outcome::NotSent);
    let before = std::time::Instant::now();
    chromium.one(json!({"type": "wait_for", "seconds": 0.2})).await;
    assert!(before.elapsed().as_millis() >= 200);
    let late = chromium.failed(0.2, json!({"type": "wait_for", "seconds": 5})).await;
    assert_eq!(late, Failure::Call(CallError::Deadline));
    chromium.end().await;
}

#[tokio::test]
async fn values_come_back_bounded() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    assert_eq!(
        chromium.js("const a = await Promise.resolve(6); ({b: [a * 7, null, 'é']})").await,
        json!({"b": [42, null, "é"]})
    );
    assert_eq!(chromium.js("undefined").await, Value::Null);
    // Promises are awaited, as Playwright does: returned, nested, of a kind of the page's own; not when thrown away.
    for (expression, value) in [
        ("Promise.resolve({a: 1})", json!({"a": 1})),
        ("new Promise(done => setTimeout(() => done('late'), 50))", json!("late")),
        ("(async () => [await Promise.resolve(1), 2])()", json!([1, 2])),
        ("({then(done) { done('thenable') }})", json!("thenable")),
        ("Promise.reject(0).catch(() => {}); 7", json!(7)),
        ("[1, {b: null}]", json!([1, {"b": null}])),
        ("document.title", json!("Form")),
    ] {
        assert_eq!(chromium.js(expression).await, value, "{expression}");
    }
    let rejected = json!({"type": "evaluate", "expression": "Promise.reject(new RangeError('far'))"});
    let rejected = chromium.failed(5.0, rejected).await;
    assert!(
        matches!(&rejected, Failure::Script(said) if said.starts_with("RangeError: far")),
        "{rejected:?}"
    );
    let never = json!([{"type": "evaluate", "expression": "new Promise(() => {})"}]);
    assert_eq!(chromium.run(0.5, never).await, [Outcome::Unknown(Failure::Call(CallError::Deadline))]);
    let thrown =
        chromium.failed(5.0, json!({"type": "evaluate", "expression": "throw new TypeError('no')"})).await;
    assert!(matches!(&thrown, Failure::Script(said) if said.starts_with("TypeError: no")), "{thrown:?}");
    let syntax = chromium.failed(5.0, json!({"type": "evaluate", "expression": "1 +"})).await;
    assert!(matches!(&syntax, Failure::Script(said) if said.contains("SyntaxError")), "{syntax:?}");
    let large = json!({"type": "evaluate", "expression": "'x'.repeat(2e6)"});
    assert!(matches!(chromium.failed(5.0, large).await, Failure::Limit(_)));
    let huge = json!([{"type": "evaluate", "expression": "'x'.repeat(1e8)"}]);
    assert_eq!(chromium.run(20.0, huge).await, [Outcome::Unknown(Failure::Call(CallError::TooLarge))]);
    let deep = "let d = 1; for (let i = 0; i < 500; i++) d = [d]; d";
    let outcome = chromium.run(5.0, json!([{"type": "evaluate", "expression": deep}])).await.remove(0);
    assert!(!matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    // A page that logs without end does not disturb.
    chromium.js("console.log('y'.repeat(1e8)); for (let i = 0; i < 1e4; i++) console.log(i); 0").await;
    assert_eq!(chromium.js("1 + 1").await, 2);
    chromium.end().await;
}

#[tokio::test]
async fn a_loop_without_end_costs_its_time_not_the_page() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    let outcome = chromium.run(0.5, json!([{"type": "evaluate", "expression": "for (;;);"}])).await.remove(0);
    assert_eq!(outcome, Outcome::Unknown(Failure::Call(CallError::Deadline)));
    assert_eq!(chromium.js("1 + 1").await, 2);
    chromium.js("setTimeout(() => { for (;;); }); 0").await;
    let stuck = chromium.failed(0.5, json!({"type": "hover", "target": {"text": "Send"}})).await;
    assert!(matches!(&stuck, Failure::Target { obstacle: Obstacle::Silent, .. }), "{stuck:?}");
    chromium.end().await;
}

#[tokio::test]
async fn shadow_roots_are_part_of_the_page() {
    let mut chromium = Chromium::start().await;
    chromium.open("/shadow").await;
    chromium
        .done(json!([
            {"type": "fill", "target": {"selector": "input.deep"}, "value": "word"},
            {"type": "click", "target": {"text": "Shadow button"}},
        ]))
        .await;
    assert_eq!(chromium.js("out.textContent").await, "clicked word");
    chromium
        .done(json!([
            {"type": "fill", "target": {"label": "Inside"}, "value": "other"},
            {"type": "click", "target": {"role": "button", "name": "Deeper"}},
            {"type": "wait_for", "text": "slotted"},
        ]))
        .await;
    assert_eq!(chromium.js("document.title").await, "deepest");
    let text = chromium.snapshot().await;
    let expected = r#"- region "Box" [ref=e1]
  - text "slotted"
  - textbox "Inside" [ref=e2] value="other"
  - button "Shadow button" [ref=e3]
  - button "Deeper" [active] [ref=e4]
"#;
    assert!(text.starts_with(expected), "{text}");
    chromium.end().await;
}

#[tokio::test]
async fn cookies_and_viewport() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    let url = crate::site::url("/");
    chromium
        .one(json!({"type": "cookies", "op": "set", "cookies": [
            {"name": "a", "value": "1", "url": url}, {"name": "h", "value": "2", "url": url, "http_only": true}
        ]}))
        .await;
    assert_eq!(chromium.js("document.cookie").await, "a=1");
    let Reply::Cookies(held) = chromium.one(json!({"type": "cookies", "op": "get"})).await else { panic!() };
    assert_eq!(held.len(), 2);
    assert!(held.iter().any(|cookie| cookie.name == "h" && cookie.http_only && cookie.expires.is_none()));
    chromium.one(json!({"type": "cookies", "op": "delete", "name": "a"})).await;
    assert_eq!(chromium.js("document.cookie").await, "");
    chromium.one(json!({"type": "cookies", "op": "clear"})).await;
    assert_eq!(chromium.one(json!({"type": "cookies", "op": "get"})).await, Reply::Cookies(vec![]));
    chromium.one(json!({"type": "set_viewport", "width": 800, "height": 600})).await;
    assert_eq!(chromium.js("[innerWidth, innerHeight]").await, json!([800, 600]));
    assert!(matches!(
        chromium.failed(5.0, json!({"type": "set_viewport", "width": 0, "height": 5})).await,
        Failure::Limit(_)
    ));
    chromium.end().await;
}
