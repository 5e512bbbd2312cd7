//! The tools of a browser.

use super::client::Mcp;
use crate::Shared;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

tests!(a_browser_is_driven, a_dialog_is_told_and_answered, a_page_gets_files);

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

/// The field by its ref, one that is hidden behind a button by its selector, and nothing that is not in the workspace.
fn a_page_gets_files(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let files = json!([{"path": "in/a.csv", "content": "n\n1\n"}, {"path": "b.txt", "content": "bee"}]);
    mcp.done("write_files", &json!({ "files": files }))?;
    let page = "data:text/html,<title>Send</title><label>List <input type=file id=list multiple></label>\
        <input type=file id=photo hidden><button onclick=\"photo.click()\">Choose a photo</button>\
        <p id=out></p><script>onchange = async () => out.textContent = (await Promise.all(\
        [...list.files, ...photo.files].map(async f => f.name + '=' + await f.text()))).join(';')</script>";
    let seen = mcp.done("browser_navigate", &json!({ "url": page }))?;
    let snapshot = seen["snapshot"].as_str().context("a snapshot")?;
    let field = snapshot.lines().find(|line| line.contains("\"List\"") && line.contains("[ref="));
    let field = field.and_then(|line| line.split("[ref=").nth(1)?.split(']').next());
    let field = field.with_context(|| snapshot.to_owned())?;
    let upload = |target: &Value, paths: &Value| json!({"target": target, "paths": paths});
    let given = upload(&json!({ "ref": field }), &json!(["in/a.csv", "/workspace/b.txt"]));
    let seen = mcp.done("browser_file_upload", &given)?;
    let told = |seen: &Value, text: &str| seen["snapshot"].as_str().is_some_and(|all| all.contains(text));
    let seen_after = mcp.done("browser_wait_for", &json!({"text": "a.csv=n 1 ;b.txt=bee"}))?;
    ensure!(told(&seen_after, "a.csv=n 1 ;b.txt=bee"), "{seen:#} {seen_after:#}");
    // What is given replaces what was there.
    let hidden = json!({"selector": "#photo"});
    mcp.done("browser_file_upload", &upload(&json!({ "ref": field }), &json!(["b.txt"])))?;
    mcp.done("browser_file_upload", &upload(&hidden, &json!(["in/a.csv"])))?;
    mcp.done("browser_wait_for", &json!({"text": "b.txt=bee;a.csv=n 1"}))?;
    for (target, paths, why) in [
        (&hidden, json!(["in/a.csv", "b.txt"]), "takes one file only"),
        (&hidden, json!([]), "1 to 64 files"),
        (&hidden, json!(["none.txt"]), "is no file"),
        (&hidden, json!(["/etc/passwd"]), "is not in /workspace"),
        (&hidden, json!(["../etc/passwd"]), "is not in /workspace"),
        (&json!({"text": "Choose a photo"}), json!(["b.txt"]), "takes no files"),
        (&json!({}), json!(["b.txt"]), "exactly one of ref"),
    ] {
        let said = mcp.refused("browser_file_upload", &upload(target, &paths))?;
        ensure!(said.contains(why), "{target} {paths}: {said}");
    }
    // None of that took away what was given before.
    let value = mcp.done("browser_evaluate", &json!({"expression": "photo.files[0].name"}))?;
    assert_eq!(value["value"], "\"a.csv\"");
    mcp.end()
}
