//! Pages as Markdown, and what their sites store.

use crate::chromium::Chromium;
use anchorhold_browser::{Failure, Reply};
use serde_json::{Value, json};

const ARTICLE: &str = r#"<title>x</title><style>p { color: red }</style><script>1</script>
<main><h1>The <em>sea</em></h1><p>One <b>bold</b> word,
  <a href="https://example.org/a b">a link</a>, <code>let x</code><br>and a_b*c.</p>
<ul><li>first<li>second<ol start=3><li>inner</ol></ul>
<blockquote><p>said</p><p>twice</p></blockquote><pre>a
  b</pre><hr><table><tr><th>n<th>what<tr><td>1<td>a|b</table>
<p hidden>not seen</p><img src="data:image/gif;base64,R0lGOD" alt="A ship"><a href="javascript:1">script</a>
<div>loose <span>text</span><div>inner</div></div><input type=password value=secret></main>"#;

const MARKDOWN: &str = r"# The *sea*

One **bold** word, [a link](https://example.org/a%20b), `let x`
and a\_b\*c.

- first
- second
  3. inner

> said
>
> twice

```
a
  b
```

---

| n | what |
| --- | --- |
| 1 | a\|b |

A shipscript

loose text

inner";

async fn markdown(chromium: &mut Chromium, action: Value) -> String {
    match chromium.one(action).await {
        Reply::Text { text, truncated: false } => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_page_is_read_as_markdown() {
    let mut chromium = Chromium::start().await;
    let write = format!("document.write({}); document.close(); 0", json!(ARTICLE));
    chromium.js(&write).await;
    let text = markdown(&mut chromium, json!({"type": "extract", "format": "markdown"})).await;
    // Quoting an empty line leaves a space behind the mark.
    assert_eq!(text.replace("> \n", ">\n"), MARKDOWN);
    let part = json!({"type": "extract", "format": "markdown", "target": {"selector": "ol"}});
    assert_eq!(markdown(&mut chromium, part).await, "3. inner");
    let part = json!({"type": "extract", "format": "markdown", "target": {"selector": "b"}});
    assert_eq!(markdown(&mut chromium, part).await, "**bold**");
    chromium.end().await;
}

#[tokio::test]
async fn what_a_site_stores_is_read_and_changed() {
    let mut chromium = Chromium::start().await;
    chromium.open("/form").await;
    for area in ["local", "session"] {
        let get = json!({"type": "storage", "op": "get", "area": area});
        let set =
            json!({"type": "storage", "op": "set", "area": area, "items": {"a": "1", "'\u{2028}\"": "x"}});
        chromium.one(set).await;
        assert_eq!(chromium.js(&format!("{area}Storage.getItem('a')")).await, "1");
        let held = chromium.one(get.clone()).await;
        assert_eq!(held, Reply::Value(json!({"a": "1", "'\u{2028}\"": "x"})));
        chromium.one(json!({"type": "storage", "op": "delete", "area": area, "name": "a"})).await;
        assert_eq!(chromium.one(get.clone()).await, Reply::Value(json!({"'\u{2028}\"": "x"})));
        chromium.one(json!({"type": "storage", "op": "clear", "area": area})).await;
        assert_eq!(chromium.one(get).await, Reply::Value(json!({})));
    }
    chromium.one(json!({"type": "navigate", "url": "data:text/html,x"})).await;
    let refused = chromium.failed(5.0, json!({"type": "storage", "op": "get"})).await;
    assert!(matches!(refused, Failure::Script(_)), "{refused:?}");
    chromium.end().await;
}

#[tokio::test]
async fn files_come_from_the_workspace() {
    let mut chromium = Chromium::start().await;
    chromium
        .js("document.body.innerHTML = '<label>One <input type=file id=f></label><p id=p>p</p>'; 0")
        .await;
    for (target, paths, why) in [
        ("#f", json!(["/etc/passwd"]), "not in /workspace"),
        ("#f", json!(["../x"]), "not in /workspace"),
        ("#f", json!([]), "1 to 64"),
        ("#f", json!(["nowhere.txt"]), "is no file"),
    ] {
        let upload = json!({"type": "upload", "target": {"selector": target}, "paths": paths});
        let failure = chromium.failed(5.0, upload).await.to_string();
        assert!(failure.contains(why), "{failure}");
    }
    chromium.end().await;
}
