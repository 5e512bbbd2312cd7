//! The workspace through the API.

use crate::Shared;
use anchorhold_tests::{Answer, Client};
use anyhow::Result;
use serde_json::json;

tests!(
    bytes_go_in_and_out,
    parents_are_made_and_listings_recurse,
    bad_paths_are_refused_without_effect,
    links_are_never_followed,
    a_wrong_length_leaves_nothing,
    deleting_needs_recursive_for_folders,
    what_is_missing_is_404,
    odd_names_are_listed_safely,
    a_range_is_what_is_sent,
    a_file_that_changes_is_told_honestly,
    a_batch_is_made_in_order,
    a_batch_that_fails_changes_nothing,
    a_batch_is_read_strictly,
);

fn bytes_go_in_and_out(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let files = format!("/v1/sessions/{session}/files");
    let put = client.put(&format!("{files}/data.bin"), bytes.clone())?.expect(201);
    assert_eq!((&put["path"], &put["size"]), (&json!("data.bin"), &json!(3_000_000)));
    let code = "import hashlib\nhashlib.sha256(open('data.bin','rb').read()).hexdigest()";
    let inside = client.execute(&session, "python", code)?;
    assert_eq!(
        inside["results"][0]["mime"]["text/plain"],
        format!("'{}'", put["sha256"].as_str().unwrap_or_default())
    );
    let got = client.get(&format!("{files}/data.bin"))?;
    assert!(got.status == 200 && got.bytes == bytes);
    assert_eq!(got.header("content-length"), Some("3000000"));
    let head = client.raw("HEAD", &format!("{files}/data.bin"), &[], vec![])?;
    assert_eq!((head.status, head.header("content-length")), (200, Some("3000000")));
    client.close(&session)?;
    Ok(())
}

fn parents_are_made_and_listings_recurse(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/a/b/c.txt"), "x")?.expect(201);
    client.put(&format!("{files}/a/%C3%BCber%20da.txt"), "y")?.expect(201);
    let flat = client.get(&files)?.expect(200);
    assert_eq!((&flat["items"][0]["path"], &flat["items"][0]["type"]), (&json!("a"), &json!("directory")));
    let deep = client.get(&format!("{files}?recursive=true"))?.expect(200);
    let paths: Vec<&str> =
        deep["items"].as_array().into_iter().flatten().filter_map(|i| i["path"].as_str()).collect();
    assert_eq!(paths, ["a", "a/b", "a/b/c.txt", "a/über da.txt"]);
    let below = client.get(&format!("{files}?path=a/b"))?.expect(200);
    assert_eq!(below["items"][0]["path"], "a/b/c.txt");
    client.close(&session)?;
    Ok(())
}

/// A request as it is written here: client libraries tidy paths up before they send them.
fn literal(base: &str, key: &str, method: &str, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(base.replace("http://", ""))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    );
    socket.write_all(format!("{head}Content-Length: 1\r\n\r\nx").as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// security.md 2.
fn bad_paths_are_refused_without_effect(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    let (base, key) = shared.with(|s| {
        Ok((s.base().to_owned(), std::fs::read_to_string(s.data_dir().join("admin.key"))?.trim().to_owned()))
    })?;
    let long = "x".repeat(5_000);
    let wide = "x".repeat(256);
    let bad = [
        "../x",
        "a/../../b",
        "%2e%2e/etc/passwd",
        "a/%2e%2e/%2e%2e/b",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "%ff%fe",
        "%",
        &long,
        &wide,
        "a/%2e/b",
        "a//b",
    ];
    for path in bad {
        for method in ["PUT", "GET", "DELETE"] {
            let answer = literal(&base, &key, method, &format!("{files}/{path}"))?;
            assert!(
                answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_path"),
                "{method} {path}: {answer}"
            );
        }
    }
    assert_eq!(client.get(&format!("{files}?recursive=true"))?.expect(200)["items"], json!([]));
    client.close(&session)?;
    Ok(())
}

/// security.md 3, 4: links that hostile native code left in the workspace.
fn links_are_never_followed(_: &Shared) -> Result<()> {
    let server = anchorhold_tests::Server::start(anchorhold_tests::Options::default().evil())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/real"), "inside")?.expect(201);
    let made = client.execute(&session, "python", "links")?;
    assert_eq!(made["stdout"], "8\n", "{made}");
    for n in 0..8 {
        for path in [format!("l{n}"), format!("l{n}/etc/passwd"), format!("l{n}/real")] {
            let got = client.get(&format!("{files}/{path}"))?;
            assert!((400..500).contains(&got.status), "{path}: {} {}", got.status, got.text());
            assert!(!got.text().contains("root:") && got.text() != "inside", "{path} leaked");
            let put = client.put(&format!("{files}/{path}"), "overwritten")?;
            assert!((400..500).contains(&put.status), "{path}: {} {}", put.status, put.text());
        }
    }
    let listing = client.get(&format!("{files}?recursive=true"))?.expect(200);
    let links = listing["items"].as_array().into_iter().flatten().filter(|i| i["type"] == "symlink").count();
    assert_eq!(links, 8, "{listing}");
    assert_eq!(client.get(&format!("{files}/real"))?.text(), "inside");
    client.delete(&format!("{files}/l6?recursive=true"))?;
    assert_eq!(
        client.get(&format!("{files}/real"))?.text(),
        "inside",
        "deleting a link deleted what it leads to"
    );
    assert!(std::fs::read_to_string("/etc/passwd")?.starts_with("root:"));
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

fn a_wrong_length_leaves_nothing(shared: &Shared) -> Result<()> {
    use std::io::{Read, Write};
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    let (address, key) = shared.with(|s| {
        Ok((
            s.base().replace("http://", ""),
            std::fs::read_to_string(s.data_dir().join("admin.key"))?.trim().to_owned(),
        ))
    })?;
    let mut socket = std::net::TcpStream::connect(&address)?;
    write!(
        socket,
        "PUT {files}/half HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 1000\r\n\r\n"
    )?;
    socket.write_all(&[b'x'; 500])?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    // The server may answer or hang up; what counts is what is left.
    let _either = socket.read_to_string(&mut answer);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let listing = client.get(&format!("{files}?recursive=true"))?.expect(200);
        let inside = client.execute(&session, "python", "import os\nos.listdir('.')")?;
        if listing["items"] == json!([]) && inside["results"][0]["mime"]["text/plain"] == "[]" {
            break;
        }
        assert!(std::time::Instant::now() < end, "left: {listing} {inside}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    client.close(&session)?;
    Ok(())
}

fn deleting_needs_recursive_for_folders(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/d/e/f"), "x")?.expect(201);
    assert_eq!(client.delete(&format!("{files}/d"))?.problem(409), "conflict");
    let gone = client.delete(&format!("{files}/d?recursive=true"))?;
    assert!(gone.status < 300, "{}", gone.text());
    assert_eq!(client.get(&files)?.expect(200)["items"], json!([]));
    client.close(&session)?;
    Ok(())
}

fn what_is_missing_is_404(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    assert_eq!(client.get(&format!("{files}/nothing"))?.problem(404), "file_not_found");
    assert_eq!(client.delete(&format!("{files}/nothing"))?.problem(404), "file_not_found");
    client.put(&format!("{files}/folder/x"), "x")?.expect(201);
    assert_eq!(client.get(&format!("{files}/folder"))?.problem(422), "not_regular_file");
    client.close(&session)?;
    Ok(())
}

/// security.md 60.
fn odd_names_are_listed_safely(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import os\nfor n in range(3000): open(f'f{n:05}', 'w').close()\n\
        odd = ['new\\nline', 'bell\\x07', 'q\"uote', '<script>', '=cmd()', '\\u202eltr', 'e\\u0301', '\\u00e9', '100%', '#x?y']\n\
        for name in odd: open(name, 'w').write(name)\nlen(os.listdir('.'))";
    let made = client.execute(&session, "python", code)?;
    assert_eq!(made["results"][0]["mime"]["text/plain"], "3010", "{made}");
    let files = format!("/v1/sessions/{session}/files");
    let (mut paths, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("{files}?limit=1000{cursor}"))?.expect(200);
        let items = page["items"].as_array().cloned().unwrap_or_default();
        assert!(items.len() <= 1000);
        paths.extend(items.iter().filter_map(|i| i["path"].as_str().map(str::to_owned)));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paths.len(), 3010);
    for name in ["new\nline", "q\"uote", "<script>", "\u{202e}ltr", "e\u{301}", "\u{e9}", "100%", "#x?y"] {
        assert!(paths.iter().any(|p| p == name), "{name:?} is not listed");
        let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        assert_eq!(client.get(&format!("{files}/{encoded}"))?.text(), name, "{name:?}");
    }
    client.close(&session)?;
    Ok(())
}

fn a_range_is_what_is_sent(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    client.put(&format!("{files}/f"), content.clone())?.expect(201);
    client.put(&format!("{files}/empty"), "")?.expect(201);
    let get =
        |path: &str, range: &str| client.raw("GET", &format!("{files}/{path}"), &[("range", range)], vec![]);
    for (range, shown, bytes) in [
        ("bytes=0-0", "bytes 0-0/1000000", 0..1),
        ("bytes=300000-699999", "bytes 300000-699999/1000000", 300_000..700_000),
        ("bytes=999999-", "bytes 999999-999999/1000000", 999_999..1_000_000),
        ("bytes=999990-2000000", "bytes 999990-999999/1000000", 999_990..1_000_000),
        ("bytes=-7", "bytes 999993-999999/1000000", 999_993..1_000_000),
        ("bytes=-2000000", "bytes 0-999999/1000000", 0..1_000_000),
    ] {
        let got = get("f", range)?;
        assert_eq!((got.status, got.header("content-range")), (206, Some(shown)), "{range}");
        assert_eq!(got.header("content-length"), Some(&*bytes.len().to_string()), "{range}");
        assert!(got.bytes == content[bytes], "{range}");
    }
    for range in ["bytes=1000000-", "bytes=5000000-6000000", "bytes=-0"] {
        let got = get("f", range)?;
        assert_eq!(got.header("content-range"), Some("bytes */1000000"), "{range}");
        assert_eq!(got.problem(416), "range_not_satisfiable", "{range}");
    }
    for range in ["bytes=0-1,5-6", "bytes=2-1", "lines=0-1", "bytes=x"] {
        let got = get("f", range)?;
        assert_eq!((got.status, got.header("content-range")), (200, None), "{range}");
        assert!(got.bytes == content, "{range}");
    }
    let empty = get("empty", "bytes=0-9")?;
    assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
    client.close(&session)?;
    Ok(())
}

/// security.md 88: while it is read by somebody slow, a file grows, shrinks and goes.
fn a_file_that_changes_is_told_honestly(shared: &Shared) -> Result<()> {
    use std::io::{Read, Write};
    const SIZE: usize = 32 << 20;
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/files/f");
    let (address, key) = shared.with(|s| {
        Ok((
            s.base().replace("http://", ""),
            std::fs::read_to_string(s.data_dir().join("admin.key"))?.trim().to_owned(),
        ))
    })?;
    for (change, whole) in [
        ("open('f', 'ab').write(b'more')", true),
        ("import os\nos.unlink('f')", true),
        ("open('f', 'r+b').truncate(1000)", false),
    ] {
        client.put(&path, vec![b'a'; SIZE])?.expect(201);
        let mut socket = std::net::TcpStream::connect(&address)?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
        write!(socket, "{head}Range: bytes=10-\r\nConnection: close\r\n\r\n")?;
        let mut got = vec![0; 2000];
        socket.read_exact(&mut got)?;
        client.execute(&session, "python", change)?;
        let _broken_off = socket.read_to_end(&mut got);
        let end = got.windows(4).position(|part| part == b"\r\n\r\n").map_or(0, |at| at + 4);
        let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
        assert!(head.contains(&format!("content-length: {}\r\n", SIZE - 10)), "{head}");
        let body = &got[end..];
        assert!(body.iter().all(|byte| *byte == b'a'), "{change}");
        assert_eq!(body.len() == SIZE - 10, whole, "{change}: {}", body.len());
    }
    client.close(&session)?;
    Ok(())
}

/// Paths and texts of all files; directories with a slash.
fn texts(client: &Client, session: &str) -> Result<Vec<(String, String)>> {
    let files = format!("/v1/sessions/{session}/files");
    let listed = client.get(&format!("{files}?recursive=true"))?.expect(200);
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let text = |item: &serde_json::Value| {
        let path = item["path"].as_str().unwrap_or_default();
        Ok(match item["type"].as_str() {
            Some("file") => (path.to_owned(), client.get(&format!("{files}/{path}"))?.text()),
            _ => (format!("{path}/"), String::new()),
        })
    };
    items.iter().map(text).collect()
}

fn batch(client: &Client, session: &str, operations: &serde_json::Value) -> Result<Answer> {
    client.post(&format!("/v1/sessions/{session}/files:batch"), &json!({"operations": operations}))
}

fn a_batch_is_made_in_order(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.put(&format!("/v1/sessions/{session}/files/old/x"), "x")?.expect(201);
    let made = batch(
        &client,
        &session,
        &json!([
            {"op": "write", "path": "a/b", "content": "first"},
            {"op": "move", "path": "a/b", "to": "c/d"},
            {"op": "write", "path": "a/b", "content_base64": "c2Vjb25k"},
            {"op": "write", "path": "/workspace/a/b", "content": "third"},
            {"op": "mkdir", "path": "m/n"},
            {"op": "mkdir", "path": "m"},
            {"op": "move", "path": "old", "to": "m/moved"},
            {"op": "write", "path": "gone", "content": ""},
            {"op": "delete", "path": "gone"},
            {"op": "delete", "path": "m/n"},
        ]),
    )?;
    assert_eq!(made.expect(200), json!({"operations": 10}));
    let expected = [
        ("a/", ""),
        ("a/b", "third"),
        ("c/", ""),
        ("c/d", "first"),
        ("m/", ""),
        ("m/moved/", ""),
        ("m/moved/x", "x"),
    ];
    let got = texts(&client, &session)?;
    assert_eq!(got.iter().map(|(path, text)| (&**path, &**text)).collect::<Vec<_>>(), expected);
    assert_eq!(batch(&client, &session, &json!([]))?.expect(200), json!({"operations": 0}));
    client.close(&session)?;
    Ok(())
}

fn a_batch_that_fails_changes_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"disk_bytes": 8 << 20}}))?;
    let files = format!("/v1/sessions/{session}/files");
    for path in ["a", "d/x", "d/e/y"] {
        client.put(&format!("{files}/{path}"), format!("of {path}"))?.expect(201);
    }
    let before = texts(&client, &session)?;
    let good = [
        json!({"op": "write", "path": "a", "content": "after"}),
        json!({"op": "write", "path": "new/er/file", "content": "after"}),
        json!({"op": "delete", "path": "d/e", "recursive": true}),
        json!({"op": "move", "path": "d", "to": "elsewhere/d"}),
        json!({"op": "mkdir", "path": "d/again"}),
        json!({"op": "move", "path": "a", "to": "d/again/a"}),
    ];
    for (last, status, code) in [
        (json!({"op": "delete", "path": "none"}), 404, "file_not_found"),
        (json!({"op": "move", "path": "none", "to": "b"}), 404, "file_not_found"),
        (json!({"op": "move", "path": "elsewhere", "to": "elsewhere/into/itself"}), 400, "invalid_path"),
        (json!({"op": "move", "path": "new/er/file", "to": "d/again"}), 409, "conflict"),
        (json!({"op": "delete", "path": "elsewhere"}), 409, "conflict"),
        (json!({"op": "write", "path": "elsewhere", "content": ""}), 409, "conflict"),
        (json!({"op": "write", "path": "new/er/file/x", "content": ""}), 409, "conflict"),
        (json!({"op": "mkdir", "path": "new/er/file"}), 409, "conflict"),
        (json!({"op": "write", "path": ".anchorhold-x", "content": ""}), 400, "invalid_path"),
    ] {
        let mut operations = good.to_vec();
        operations.push(last.clone());
        let answer = batch(&client, &session, &json!(operations))?;
        assert_eq!(answer.problem(status), code, "{last}: {}", answer.text());
        assert_eq!(answer.json()["errors"][0]["field"], "operations.6", "{last}: {}", answer.text());
        assert_eq!(texts(&client, &session)?, before, "{last}");
    }
    // Room for everything that is kept, but not for what is written.
    client.put(&format!("{files}/ballast"), vec![1; 7_800_000])?.expect(201);
    let mut operations = good.to_vec();
    operations.push(json!({"op": "write", "path": "z", "content": "z".repeat(900_000)}));
    assert_eq!(batch(&client, &session, &json!(operations))?.problem(413), "payload_too_large");
    client.delete(&format!("{files}/ballast"))?;
    assert_eq!(texts(&client, &session)?, before);
    let inside = client.execute(&session, "python", "import os\nsorted(os.listdir('.'))")?;
    assert_eq!(inside["results"][0]["mime"]["text/plain"], "['a', 'd']", "nothing of ours is left");
    client.close(&session)?;
    Ok(())
}

fn a_batch_is_read_strictly(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for (operation, field) in [
        (json!({"op": "write", "path": "a"}), "operations.1.content"),
        (json!({"op": "write", "path": "a", "content": "", "content_base64": ""}), "operations.1.content"),
        (json!({"op": "write", "path": "a", "content_base64": "?"}), "operations.1.content_base64"),
        (json!({"op": "write", "content": ""}), "operations.1.path"),
        (json!({"op": "delete", "path": ""}), "operations.1.path"),
        (json!({"op": "delete", "path": "../a"}), "operations.1.path"),
        (json!({"op": "delete", "path": "a", "force": true}), "operations.1.force"),
        (json!({"op": "move", "path": "a"}), "operations.1.to"),
        (json!({"op": "move", "path": "a", "to": "/etc/passwd"}), "operations.1.to"),
        (json!({"op": "chmod", "path": "a"}), "operations.1.op"),
        (json!({"path": "a"}), "operations.1.op"),
        (json!("write"), "operations.1"),
    ] {
        let answer = batch(&client, &session, &json!([{"op": "mkdir", "path": "d"}, operation]))?;
        assert_eq!(answer.problem(422), "invalid_request", "{operation}");
        let fields: Vec<_> =
            answer.json()["errors"].as_array().into_iter().flatten().map(|e| e["field"].clone()).collect();
        assert!(fields.contains(&json!(field)), "{operation}: {fields:?}");
    }
    let many = vec![json!({"op": "mkdir", "path": "d"}); 1001];
    assert_eq!(batch(&client, &session, &json!(many))?.problem(422), "invalid_request");
    let none = client.post(&format!("/v1/sessions/{session}/files:batch"), &json!({}))?;
    assert_eq!(none.problem(422), "invalid_request");
    assert!(texts(&client, &session)?.is_empty());
    client.close(&session)?;
    Ok(())
}
