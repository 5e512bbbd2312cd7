use crate::chromium::Chromium;
use anchorhold_browser::{Failure, Obstacle, Reply};
use serde_json::json;

/// The ref on the first line after `section` that contains `what`.
fn ref_after(text: &str, section: &str, what: &str) -> String {
    let from = text.find(section).unwrap_or_else(|| panic!("{section} in {text}"));
    let line =
        text[from..].lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} in {text}"));
    let start = line.find("[ref=").unwrap() + 5;
    line[start..].split(']').next().unwrap().to_owned()
}

#[tokio::test]
async fn frames_of_this_and_other_sites_are_seen_and_driven() {
    let mut chromium = Chromium::start().await;
    chromium.open("/frames").await;
    for section in ["iframe \"other\"", "iframe \"same\"", "iframe \"nested\""] {
        let text = chromium.snapshot().await;
        let button = ref_after(&text, section, "button \"Press\"");
        let word = ref_after(&text, section, "textbox \"Word\"");
        chromium
            .done(json!([
                {"type": "click", "target": {"ref": button}},
                {"type": "fill", "target": {"ref": word}, "value": section},
                {"type": "click", "target": {"ref": button}},
            ]))
            .await;
        let text = chromium.snapshot().await;
        let said = format!("hits 2 word {section}").replace('"', "\\\"");
        assert!(text.contains(&said), "{said} in {text}");
        // The same elements keep their refs.
        assert_eq!(ref_after(&text, section, "button \"Press\""), button);
    }
    chromium.end().await;
}

#[tokio::test]
async fn what_is_only_in_a_frame_is_found_by_its_name() {
    let mut chromium = Chromium::start().await;
    chromium.open("/nested").await;
    chromium.js("document.body.innerHTML = `<iframe title=only src='${location.origin.replace('127.0.0.1', 'localhost')}/inner'></iframe>`; 0").await;
    chromium
        .done(json!([
            {"type": "wait_for", "text": "Press"},
            {"type": "fill", "target": {"label": "Word"}, "value": "far away"},
            {"type": "click", "target": {"role": "button", "name": "Press"}},
            {"type": "wait_for", "text": "hits 1 word far away"},
        ]))
        .await;
    // Something of the page above lies over the frame.
    chromium.js("const c = document.createElement('div'); c.id = 'over'; c.style = 'position: fixed; inset: 0'; document.body.append(c); 0").await;
    let covered = chromium.failed(1.5, json!({"type": "click", "target": {"text": "Press"}})).await;
    let expected = Obstacle::Covered("<div#over>".into());
    assert!(matches!(&covered, Failure::Target { obstacle, .. } if *obstacle == expected), "{covered:?}");
    // When the frame goes, so do its refs.
    let button = ref_after(&chromium.snapshot().await, "iframe", "Press");
    chromium
        .js("document.querySelector('iframe').remove(); document.querySelector('#over').remove(); 0")
        .await;
    let gone = chromium.failed(2.0, json!({"type": "click", "target": {"ref": button}})).await;
    assert!(matches!(&gone, Failure::Target { obstacle: Obstacle::Stale, .. }), "{gone:?}");
    chromium.end().await;
}

#[tokio::test]
async fn a_picture_of_an_element_in_a_frame_of_another_site() {
    let mut chromium = Chromium::start().await;
    chromium.open("/frames").await;
    let button = ref_after(&chromium.snapshot().await, "iframe \"other\"", "Press");
    let reply = chromium.one(json!({"type": "screenshot", "target": {"ref": button}})).await;
    let Reply::Image { bytes, width, height } = reply else { panic!("{reply:?}") };
    assert!(bytes.starts_with(b"\x89PNG") && (20..200).contains(&width) && (10..60).contains(&height));
    chromium.end().await;
}
