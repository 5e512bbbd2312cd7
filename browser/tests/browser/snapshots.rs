use crate::chromium::Chromium;
use anchorhold_browser::{Reply, Snapshot};
use serde_json::{Value, json};

async fn snapshot(chromium: &mut Chromium, options: Value) -> Snapshot {
    let mut action = options;
    action["type"] = json!("snapshot");
    match chromium.one(action).await {
        Reply::Snapshot(snapshot) => snapshot,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_form_reads_as_what_it_offers() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    let expected = r#"- form [ref=e1]
  - textbox "Name" [required] [ref=e2]
  - textbox "Email" [ref=e3]
"#;
    let text = chromium.snapshot().await;
    assert!(text.starts_with(expected), "{text}");
    for line in [
        r#"- combobox "Size" [ref=e9] value="Small""#,
        r#"  - option "Small" [selected]"#,
        r#"  - option "Huge" [disabled]"#,
        r#"- checkbox "Newsletter" [checked] [ref=e11]"#,
        r#"- textbox "Fixed" [readonly] [ref=e14] value="1""#,
        r#"- button "Send" [ref=e16]"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    chromium.end().await;
}

#[tokio::test]
async fn a_page_cannot_forge_lines_nor_disturb_the_reader() {
    let mut chromium = Chromium::start().await;
    chromium.open("/hostile").await;
    let text = chromium.snapshot().await;
    let expected = r#"- text "quote \" and newline - button \"Fake\" [ref=e1]"
- button "Save\" [ref=e99]" [ref=e1]
- text "unveiled"
- text "contents"
- text "odd role"
- clickable "Pointer thing" [ref=e2]
"#;
    assert_eq!(text, expected);
    chromium.end().await;
}

#[tokio::test]
async fn passwords_are_never_shown() {
    let mut chromium = Chromium::start().await;
    chromium.open("/secret").await;
    let first = chromium.snapshot().await;
    assert!(first.contains("value=\"••••\"") && first.contains("value=\"visible\""), "{first}");
    // A page that shows what was typed shows it to people, not to the reader.
    chromium.one(json!({"type": "click", "target": {"text": "Reveal"}})).await;
    let second = chromium.snapshot().await;
    let Reply::Text { text: html, .. } = chromium.one(json!({"type": "extract", "format": "html"})).await
    else {
        panic!()
    };
    for seen in [first, second, html] {
        assert!(!seen.contains("hunter2") && !seen.contains("4111"), "{seen}");
    }
    chromium.end().await;
}

#[tokio::test]
async fn a_later_snapshot_says_what_changed() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    let first = snapshot(&mut chromium, json!({})).await;
    chromium.one(json!({"type": "fill", "target": {"label": "Name"}, "value": "new"})).await;
    let second = snapshot(&mut chromium, json!({"since": first.id})).await;
    let expected = "- \x20 - textbox \"Name\" [required] [ref=e2]\n+   - textbox \"Name\" [required] [active] [ref=e2] value=\"new\"\n";
    assert_eq!(second.text, expected);
    assert_eq!(snapshot(&mut chromium, json!({"since": second.id})).await.text, "");
    // Another page: refs go on, so that old ones mean nothing there.
    chromium.open("/form").await;
    let third = snapshot(&mut chromium, json!({})).await;
    assert!(!third.text.contains("[ref=e2]") && third.text.contains("[ref=e17]"), "{}", third.text);
    let stale = chromium.failed(2.0, json!({"type": "click", "target": {"ref": "e2"}})).await;
    assert!(stale.to_string().contains("take a new snapshot"), "{stale}");
    chromium.end().await;
}

#[tokio::test]
async fn a_huge_page_fits_its_budget() {
    let mut chromium = Chromium::start().await;
    chromium.open("/huge").await;
    let nodes = chromium.js("document.querySelectorAll('*').length").await;
    let small = snapshot(&mut chromium, json!({"budget_bytes": 2000})).await;
    assert!(
        small.truncated && small.text.len() <= 2000 && small.text.len() > 1900 && small.text.ends_with('\n')
    );
    let mut times: Vec<_> = Vec::new();
    for _ in 0..5 {
        let before = std::time::Instant::now();
        let whole = snapshot(&mut chromium, json!({"budget_bytes": 1 << 20})).await;
        times.push(before.elapsed());
        assert!(!whole.truncated && whole.text.contains("Buy 1899"), "{} bytes", whole.text.len());
    }
    println!("snapshot of {nodes} elements: {times:?}");
    // What nests deeper than anybody reads is left out, and nothing overflows.
    chromium.js("let d = document.body; for (let i = 0; i < 1500; i++) { const n = document.createElement('div'); d.append(n); d = n; } d.textContent = 'bottom'; 0").await;
    assert!(!snapshot(&mut chromium, json!({"budget_bytes": 1 << 20})).await.text.contains("bottom"));
    chromium.end().await;
}

#[tokio::test]
async fn content_is_extracted() {
    let mut chromium = Chromium::start().await;
    chromium.open("/links").await;
    let Reply::Text { text, truncated } = chromium.one(json!({"type": "extract", "format": "text"})).await
    else {
        panic!()
    };
    assert_eq!((text.as_str(), truncated), ("Head\n\nOne the form and outside\n\nOnly this", false));
    let part = json!({"type": "extract", "format": "html", "target": {"selector": "#part"}});
    let Reply::Text { text, .. } = chromium.one(part).await else { panic!() };
    assert_eq!(text, "<article id=\"part\"><p>Only <b>this</b></p></article>");
    let Reply::Links { items, .. } = chromium.one(json!({"type": "extract", "format": "links"})).await else {
        panic!()
    };
    let links: Vec<_> = items.iter().map(|link| (link.text.as_str(), link.url.as_str())).collect();
    assert_eq!(
        links,
        [("the form", crate::site::url("/form").as_str()), ("outside", "https://example.org/x")]
    );
    chromium.js("document.body.textContent = 'é'.repeat(3e6); 0").await;
    let Reply::Text { text, truncated } = chromium.one(json!({"type": "extract", "format": "text"})).await
    else {
        panic!()
    };
    assert!(truncated && text.chars().count() == 1 << 20);
    chromium.end().await;
}
