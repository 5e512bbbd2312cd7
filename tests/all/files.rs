//! The workspace through the API.

use crate::Shared;
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
