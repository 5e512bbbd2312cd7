//! What is said of an action to those who asked for it, as JSON.

use crate::action::{Action, Cookie};
use crate::outcome::{Link, Navigated, Outcome, Reply, Snapshot, TabInfo};
use crate::run::Summary;
use base64::Engine as _;
use serde_json::{Map, Value, json};

/// `{"type","outcome":"done|failed|not_sent|unknown","error"}` and what the action returns. Pictures and PDF files are
/// in `base64`, unless they were `stored` under the path that the action named.
pub fn report(action: &Action, outcome: &Outcome, stored: Option<&str>) -> Value {
    let (word, error) = match outcome {
        Outcome::Done(_) => ("done", None),
        Outcome::Failed(why) => ("failed", Some(why.to_string())),
        Outcome::NotSent => ("not_sent", None),
        Outcome::Unknown(why) => ("unknown", Some(why.to_string())),
    };
    let mut said = Map::new();
    said.insert("type".into(), action.name().into());
    said.insert("outcome".into(), word.into());
    said.insert("error".into(), error.into());
    if let Outcome::Done(reply) = outcome {
        let returned = returned(reply, stored);
        said.extend(returned.as_object().cloned().unwrap_or_default());
    }
    Value::Object(said)
}

/// Where the browser is after all of them: `{"url","title","dialog"}`.
pub fn page(summary: &Summary) -> Value {
    let dialog = summary.dialog.as_ref().map(|open| json!({"kind": open.kind, "message": open.message}));
    json!({"url": summary.url, "title": summary.title, "dialog": dialog})
}

fn returned(reply: &Reply, stored: Option<&str>) -> Value {
    match reply {
        Reply::Nothing => json!({}),
        Reply::Navigated(Navigated { url, status, title }) => {
            json!({"url": url, "status": status, "title": title})
        }
        Reply::Snapshot(Snapshot { id, text, truncated }) => {
            json!({"id": id, "text": text, "truncated": truncated})
        }
        Reply::Text { text, truncated } => json!({"text": text, "truncated": truncated}),
        Reply::Links { items, truncated } => {
            let links: Vec<Value> =
                items.iter().map(|Link { text, url }| json!({"text": text, "url": url})).collect();
            json!({"links": links, "truncated": truncated})
        }
        Reply::Image { bytes, width, height } => {
            let mut said = file(bytes, stored);
            said.insert("width".into(), (*width).into());
            said.insert("height".into(), (*height).into());
            Value::Object(said)
        }
        Reply::Pdf(bytes) => Value::Object(file(bytes, stored)),
        Reply::Value(value) => json!({"value": value}),
        Reply::Tabs(tabs) => json!({"tabs": tabs.iter().map(tab).collect::<Vec<_>>()}),
        Reply::Cookies(cookies) => json!({"cookies": cookies.iter().map(cookie).collect::<Vec<_>>()}),
    }
}

fn file(bytes: &[u8], stored: Option<&str>) -> Map<String, Value> {
    let (key, value) = match stored {
        Some(path) => ("path", path.to_owned()),
        None => ("base64", base64::engine::general_purpose::STANDARD.encode(bytes)),
    };
    Map::from_iter([(key.to_owned(), Value::String(value)), ("bytes".to_owned(), bytes.len().into())])
}

fn tab(tab: &TabInfo) -> Value {
    let TabInfo { id, url, title, selected, crashed } = tab;
    json!({"id": id, "url": url, "title": title, "selected": selected, "crashed": crashed})
}

fn cookie(cookie: &Cookie) -> Value {
    let Cookie { name, value, domain, path, expires, http_only, secure, .. } = cookie;
    json!({"name": name, "value": value, "domain": domain, "path": path, "expires": expires,
        "http_only": http_only, "secure": secure})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failure;

    #[test]
    fn a_picture_is_said_or_stored() {
        let action: Action = serde_json::from_value(json!({"type": "screenshot"})).unwrap();
        let done = Outcome::Done(Reply::Image { bytes: vec![1, 2, 3], width: 4, height: 5 });
        assert_eq!(
            report(&action, &done, None),
            json!({"type": "screenshot", "outcome": "done", "error": null, "base64": "AQID", "bytes": 3,
                "width": 4, "height": 5})
        );
        assert_eq!(report(&action, &done, Some("a.png"))["path"], "a.png");
        let failed = Outcome::Failed(Failure::Absent("no such tab"));
        assert_eq!(report(&action, &failed, None)["error"], "no such tab");
    }
}
