//! What an outside client may ask of the browser: the rules, and nothing else. Pure.
//!
//! Domains are listed: what Playwright and Puppeteer use, and what belongs to pages alone. In `Browser` and `Target`, which
//! reach beyond a page, methods are listed, too; in the others some are refused or changed:
//!
//! | what would reach out of the pages | what becomes of it |
//! |---|---|
//! | a URL that is not http, https, data or about:blank | refused |
//! | messages in messages, the protocol given to a page (`sendMessageToTarget`, `exposeDevToolsProtocol`) | refused |
//! | sessions that are not flat | made flat |
//! | files for uploads | only those in the workspace |
//! | where downloads go | always the workspace |
//! | a proxy, or the network without one | refused |
//! | `Browser.close` | ends the client's own connection |
//!
//! These rules are the nearest wall, not the last: what a Chromium does that is told anything at all is bounded by its
//! cell and by egress.

use crate::navigate::allowed;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The workspace, as the browser sees it.
const WORKSPACE: &str = "/workspace";
/// Where downloads go.
pub(crate) const DOWNLOADS: &str = "/workspace/downloads";

/// All of their methods are about a page, but for those that [`judge`] names.
const DOMAINS: &[&str] = &[
    "Accessibility",
    "Animation",
    "Audits",
    "Browser",
    "CSS",
    "CacheStorage",
    "Console",
    "DOM",
    "DOMDebugger",
    "DOMSnapshot",
    "DOMStorage",
    "Debugger",
    "Emulation",
    "EventBreakpoints",
    "Fetch",
    "HeapProfiler",
    "IO",
    "IndexedDB",
    "Input",
    "Inspector",
    "LayerTree",
    "Log",
    "Media",
    "Network",
    "Overlay",
    "Page",
    "Performance",
    "PerformanceTimeline",
    "Profiler",
    "Runtime",
    "Schema",
    "Security",
    "ServiceWorker",
    "Storage",
    "Target",
    "Tracing",
    "WebAuthn",
];

/// The methods of `Browser` and `Target` that pass as they are.
const METHODS: &[&str] = &[
    "Browser.cancelDownload",
    "Browser.getVersion",
    "Browser.getWindowBounds",
    "Browser.getWindowForTarget",
    "Browser.grantPermissions",
    "Browser.resetPermissions",
    "Browser.setContentsSize",
    "Browser.setPermission",
    "Browser.setWindowBounds",
    "Target.activateTarget",
    "Target.attachToBrowserTarget",
    "Target.closeTarget",
    // Of the sender's own sessions: `client` looks at that.
    "Target.detachFromTarget",
    "Target.disposeBrowserContext",
    "Target.getBrowserContexts",
    "Target.getTargetInfo",
    "Target.getTargets",
    "Target.setDiscoverTargets",
];

/// What becomes of a call.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// The browser gets it, with these parameters.
    Pass(Option<Cow<'a, RawValue>>),
    /// It is answered as done, and the client's connection ends.
    Leave,
    /// It is answered with an error, for people.
    Refuse(String),
}

/// Judges a call. Parameters that a rule is about are read, and what the browser gets is what was read.
pub(crate) fn judge<'a>(method: &str, params: Option<&'a RawValue>) -> Verdict<'a> {
    let domain = method.split('.').next().unwrap_or_default();
    if !DOMAINS.contains(&domain) {
        return Verdict::Refuse(format!("{method} is not offered here"));
    }
    let change: fn(&mut Map<String, Value>) -> Result<(), String> = match method {
        "Browser.close" => return Verdict::Leave,
        "Page.navigate" | "Target.createTarget" => |params| url(params, true),
        "Network.loadNetworkResource" | "Fetch.continueRequest" | "Network.continueInterceptedRequest" => {
            |params| url(params, false)
        }
        "DOM.setFileInputFiles" => files,
        "Input.dispatchDragEvent" => |params| match params.get_mut("data").and_then(Value::as_object_mut) {
            Some(data) => files(data),
            None => Ok(()),
        },
        "Browser.setDownloadBehavior" | "Page.setDownloadBehavior" => downloads,
        "Target.createBrowserContext" => context,
        "Target.setAutoAttach" | "Target.attachToTarget" => flat,
        "Tracing.start" => |params| refuse_any(params, &["perfettoConfig", "tracingBackend"]),
        "Page.crash" => return Verdict::Refuse(format!("{method} is not offered here")),
        _ if ["Browser", "Target"].contains(&domain) && !METHODS.contains(&method) => {
            return Verdict::Refuse(format!("{method} is not offered here"));
        }
        _ => return Verdict::Pass(params.map(Cow::Borrowed)),
    };
    let read = params.map_or(Ok(Map::new()), |params| serde_json::from_str(params.get()));
    let changed = read.map_err(|error| error.to_string()).and_then(|mut params| {
        change(&mut params)?;
        to_raw_value(&params).map_err(|error| error.to_string())
    });
    match changed {
        Ok(params) => Verdict::Pass(Some(Cow::Owned(params))),
        Err(why) => Verdict::Refuse(format!("{method}: {why}")),
    }
}

/// A URL where the web is, in the form that was looked at.
fn url(params: &mut Map<String, Value>, needed: bool) -> Result<(), String> {
    let checked = match params.get("url") {
        None if !needed => return Ok(()),
        // As Chromium understands it.
        None => "about:blank".to_owned(),
        Some(Value::String(url)) if url.is_empty() => "about:blank".to_owned(),
        Some(Value::String(url)) => allowed(url).map_err(|failure| failure.to_string())?,
        Some(_) => return Err("url must be a string".to_owned()),
    };
    params.insert("url".to_owned(), checked.into());
    Ok(())
}

/// Files of the workspace; a name without a path is one of them.
fn files(params: &mut Map<String, Value>) -> Result<(), String> {
    let Some(files) = params.get_mut("files") else { return Ok(()) };
    let files = files.as_array_mut().ok_or("files must be a list")?;
    for file in files {
        let path = file.as_str().ok_or("a file must be a path")?;
        *file = in_workspace(path)?.into();
    }
    Ok(())
}

pub(crate) fn in_workspace(path: &str) -> Result<String, String> {
    let below = path.strip_prefix(WORKSPACE).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path);
    let plain = below.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain { Ok(format!("{WORKSPACE}/{below}")) } else { Err(format!("{path} is not in {WORKSPACE}")) }
}

/// Clients name a directory of their own machine. Files keep their names: they are looked for by people.
fn downloads(params: &mut Map<String, Value>) -> Result<(), String> {
    params.remove("downloadPath");
    let behavior = params.get("behavior").and_then(Value::as_str).unwrap_or_default();
    if behavior.starts_with("allow") {
        params.insert("behavior".to_owned(), "allow".into());
        params.insert("downloadPath".to_owned(), DOWNLOADS.into());
    }
    Ok(())
}

fn context(params: &mut Map<String, Value>) -> Result<(), String> {
    refuse_any(params, &["proxyServer", "proxyBypassList", "originsWithUniversalNetworkAccess"])
}

/// Sessions that are not flat put messages into messages, where nobody looks at them.
fn flat(params: &mut Map<String, Value>) -> Result<(), String> {
    params.insert("flatten".to_owned(), true.into());
    Ok(())
}

fn refuse_any(params: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| params.get(**name).is_some_and(|value| !value.is_null())) {
        Some(name) => Err(format!("{name} is not offered here")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the browser gets; `Err` is what the client is told.
    fn passed(method: &str, params: &Value) -> Result<Value, String> {
        let params = to_raw_value(params).unwrap();
        match judge(method, Some(&params)) {
            Verdict::Pass(Some(params)) => Ok(serde_json::from_str(params.get()).unwrap()),
            Verdict::Pass(None) => Ok(Value::Null),
            Verdict::Leave => Err("leave".to_owned()),
            Verdict::Refuse(why) => Err(why),
        }
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        for method in [
            "SystemInfo.getInfo",
            "Browser.crash",
            "Browser.getBrowserCommandLine",
            "Browser.executeBrowserCommand",
            "browser.getVersion",
            "Browser",
            "Target.sendMessageToTarget",
            "Target.exposeDevToolsProtocol",
            "Target.setRemoteLocations",
            "Tethering.bind",
            "Extensions.loadUnpacked",
            "FileSystem.getDirectory",
            "Memory.prepareForLeakDetection",
            "Page.crash",
            "",
            "Page",
        ] {
            // A domain without a method is the browser's to refuse; it means nothing.
            let expected = method == "Page";
            assert_eq!(passed(method, &json!({})).is_ok(), expected, "{method}");
        }
        assert!(matches!(judge("Browser.close", None), Verdict::Leave));
        assert!(matches!(judge("Runtime.evaluate", None), Verdict::Pass(None)));
    }

    /// The list is what `make browser-clients` sees stock Playwright and Puppeteer call.
    #[test]
    fn what_stock_clients_call_is_offered() {
        // Tools that pages offer to agents: Puppeteer asks for them at every connection, and does without.
        const NOT_OFFERED: &[&str] = &["WebMCP.enable"];
        let methods = include_str!("../../tests/golden/cdp_methods.txt");
        assert!(methods.lines().count() > 30);
        for method in methods.lines() {
            let refused = match judge(method, None) {
                Verdict::Refuse(why) => why.contains("not offered"),
                Verdict::Pass(_) | Verdict::Leave => false,
            };
            assert_eq!(refused, NOT_OFFERED.contains(&method), "{method}");
        }
    }

    #[test]
    fn only_the_web_is_opened() {
        for method in ["Page.navigate", "Target.createTarget", "Fetch.continueRequest"] {
            for url in [
                "file:///etc/passwd",
                " FILE:/etc/passwd",
                "fi\tle:///etc/passwd",
                "view-source:file:///etc/passwd",
                "view-source:http://a.example/",
                "chrome://version",
                "devtools://devtools/bundled/inspector.html",
                "javascript:1",
                "filesystem:http://a.example/",
                "no url",
            ] {
                assert!(passed(method, &json!({ "url": url })).is_err(), "{method} {url}");
            }
            assert!(passed(method, &json!({"url": ["file:///"]})).is_err());
            let opened = passed(method, &json!({"url": "http://A.example\\b", "x": 1})).unwrap();
            assert_eq!(opened, json!({"url": "http://a.example/b", "x": 1}));
        }
        assert_eq!(passed("Target.createTarget", &json!({"url": ""})).unwrap()["url"], "about:blank");
        assert_eq!(
            passed("Fetch.continueRequest", &json!({"requestId": "1"})).unwrap(),
            json!({"requestId": "1"})
        );
        // The name comes twice: what is looked at is what the browser gets.
        let twice = RawValue::from_string(r#"{"url":"http://a/","url":"file:///x"}"#.to_owned()).unwrap();
        assert!(matches!(judge("Page.navigate", Some(&twice)), Verdict::Refuse(_)));
    }

    #[test]
    fn files_and_downloads_stay_in_the_workspace() {
        let set = |file: &str| passed("DOM.setFileInputFiles", &json!({"files": [file], "nodeId": 1}));
        for (file, path) in [("a.txt", "/workspace/a.txt"), ("/workspace/b/c", "/workspace/b/c")] {
            assert_eq!(set(file).unwrap()["files"], json!([path]));
        }
        for file in [
            "/etc/passwd",
            "/workspace/../etc/passwd",
            "../x",
            "a/../../x",
            "/workspacex",
            "",
            "/workspace",
            "a//b",
        ] {
            assert!(set(file).is_err(), "{file}");
        }
        let drag = json!({"type": "drop", "data": {"files": ["/etc/passwd"]}});
        assert!(passed("Input.dispatchDragEvent", &drag).is_err());
        let theirs = json!({"behavior": "allowAndName", "downloadPath": "/home/me", "eventsEnabled": true});
        for method in ["Browser.setDownloadBehavior", "Page.setDownloadBehavior"] {
            let ours = passed(method, &theirs).unwrap();
            assert_eq!((&ours["behavior"], &ours["downloadPath"]), (&json!("allow"), &json!(DOWNLOADS)));
            assert_eq!(passed(method, &json!({"behavior": "deny"})).unwrap(), json!({"behavior": "deny"}));
        }
    }

    #[test]
    fn sessions_are_flat_and_contexts_have_no_proxy_of_their_own() {
        let attach = passed("Target.attachToTarget", &json!({"targetId": "T", "flatten": false})).unwrap();
        assert_eq!(attach["flatten"], true);
        assert!(passed("Target.createBrowserContext", &json!({"proxyServer": "direct://"})).is_err());
        assert!(passed("Target.createBrowserContext", &json!({"disposeOnDetach": true})).is_ok());
        assert!(passed("Tracing.start", &json!({"perfettoConfig": "x"})).is_err());
        assert!(passed("Target.setAutoAttach", &json!([])).is_err());
    }
}
