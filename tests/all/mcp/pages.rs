//! The tools of a browser.

use super::client::Mcp;
use crate::Shared;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

tests!(a_browser_is_driven, a_dialog_is_told_and_answered);

fn a_browser_is_driven(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let page = "data:text/html,<title>Order</title><label>Name <input id=who></label>\
        <label>Size <select id=size><option>small<option>large</select></label>\
        <button onclick=\"out.textContent=who.value+' takes '+size.value\">Order</button><output id=out></output>";
    let seen = mcp.done("browser_navigate", &json!({ "url": page }))?;
    ensure!(seen["title"] == "Order", "{seen}");
    let snapshot = seen["snapshot"].as_str().context("a snapshot")?;
    let button = snapshot.split("button \"Order\" [ref=").nth(1).and_then(|rest| rest.split(']').next());
    let button = button.with_context(|| snapshot.to_owned())?;
    let fields = json!([{"target": {"label": "Name"}, "value": "Ada"}, {"target": {"label": "Size"}, "value": "large"}]);
    mcp.done("browser_fill_form", &json!({ "fields": fields }))?;
    let seen = mcp.done("browser_click", &json!({"target": {"ref": button}}))?;
    ensure!(seen["snapshot"].as_str().is_some_and(|text| text.contains("Ada takes large")), "{seen}");
    let value = mcp.done("browser_evaluate", &json!({"expression": "who.value.length"}))?;
    assert_eq!(value["value"], "3");
    let picture = mcp.call("browser_take_screenshot", &json!({}))?;
    assert_eq!(
        (&picture["content"][1]["type"], &picture["content"][1]["mimeType"]),
        (&json!("image"), &json!("image/png"))
    );
    // One session has both: what the browser stores, code reads.
    mcp.done("browser_take_screenshot", &json!({"path": "page.png"}))?;
    let read =
        mcp.done("execute_code", &json!({"language": "python", "code": "open('page.png', 'rb').read(4)"}))?;
    assert_eq!(read["value"], "b'\\x89PNG'");
    let why = mcp.refused("browser_click", &json!({"target": {"ref": "e1", "text": "x"}}))?;
    ensure!(why.contains("exactly one of"), "{why}");
    let why = mcp.refused("browser_press_key", &json!({"key": "NoSuchKey"}))?;
    ensure!(why.contains("unknown key"), "{why}");
    assert_eq!(mcp.done("browser_close", &json!({}))?["closed"], true);
    let seen = mcp.done("browser_snapshot", &json!({}))?;
    ensure!(seen["url"] == "about:blank", "{seen}");
    mcp.end()
}

/// A dialog that a click opens is what the click did: no failure, and the answer says how it goes on.
fn a_dialog_is_told_and_answered(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let page = "data:text/html,<title>Ask</title><button onclick=\"out.textContent = confirm('Sure?')\">Ask</button>\
        <button onclick=\"alert('one'); alert('two')\">Twice</button><p id=out></p>";
    mcp.done("browser_navigate", &json!({ "url": page }))?;
    let click = |text: &str| json!({"target": {"text": text}});
    let seen = mcp.done("browser_click", &click("Ask"))?;
    let expected = "confirm \"Sure?\" is open and holds the page: browser_handle_dialog answers it";
    assert_eq!((&seen["dialog"], &seen["status"]), (&json!(expected), &json!("succeeded")), "{seen:#}");
    ensure!(seen.get("snapshot").is_none() && seen.get("error").is_none(), "{seen:#}");
    // Whatever else is asked for is told why it cannot be done.
    let held = mcp.call("browser_snapshot", &json!({}))?;
    ensure!(held["isError"] == true && held.to_string().contains("browser_handle_dialog"), "{held:#}");
    let seen = mcp.done("browser_handle_dialog", &json!({"accept": true}))?;
    ensure!(seen.get("dialog").is_none(), "{seen:#}");
    ensure!(seen["snapshot"].as_str().is_some_and(|text| text.contains("true")), "{seen:#}");
    // An answer may be followed by the next dialog.
    mcp.done("browser_click", &click("Twice"))?;
    let seen = mcp.done("browser_handle_dialog", &json!({"accept": true}))?;
    ensure!(seen["dialog"].as_str().is_some_and(|text| text.starts_with("alert \"two\"")), "{seen:#}");
    mcp.done("browser_handle_dialog", &json!({"accept": true}))?;
    mcp.end()
}
