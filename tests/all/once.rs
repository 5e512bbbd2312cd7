//! At most once: what changes files under a key.

use crate::Shared;
use anchorhold_tests::{Answer, Client, Options, Server};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

tests!(
    a_batch_is_made_once,
    concurrent_retries_of_a_batch_share_one,
    an_archive_is_unpacked_once,
    answers_outlive_the_server,
    after_a_crash_in_the_middle_nobody_knows,
    what_answers_a_secret_takes_no_key,
);

fn batch(session: &str) -> String {
    format!("/v1/sessions/{session}/files:batch")
}

fn file(session: &str, path: &str) -> String {
    format!("/v1/sessions/{session}/files/{path}")
}

/// Gives a file another path, which can be done once.
fn moved(from: &str, to: &str) -> Value {
    json!({"operations": [{"op": "move", "path": from, "to": to}]})
}

/// A tar with one file.
fn tar(name: &str, content: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content.as_bytes())?;
    Ok(archive.into_inner()?)
}

fn unpack(client: &Client, session: &str, query: &str, key: &str, body: Vec<u8>) -> Result<Answer> {
    let path = format!("/v1/sessions/{session}/archive{query}");
    client.raw("POST", &path, &[("idempotency-key", key)], body)
}

fn a_batch_is_made_once(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = batch(&session);
    // A refusal is not remembered.
    assert_eq!(client.post_once(&path, "k", &moved("a", "b"))?.problem(404), "file_not_found");
    client.put(&file(&session, "a"), "text")?.expect(201);
    let made = client.post_once(&path, "k", &moved("a", "b"))?.expect(200);
    assert_eq!(made, json!({"operations": 1}));
    assert_eq!(client.post_once(&path, "k", &moved("a", "b"))?.expect(200), made);
    assert_eq!(client.post_once(&path, "k", &moved("b", "c"))?.problem(409), "idempotency_conflict");
    assert_eq!(client.post_once(&path, "other", &moved("a", "b"))?.problem(404), "file_not_found");
    assert_eq!(client.get(&file(&session, "b"))?.text(), "text");
    // A key belongs to its session.
    let second = client.session(&json!({}))?;
    let refused = client.post_once(&batch(&second), "k", &moved("a", "b"))?;
    assert_eq!(refused.problem(404), "file_not_found");
    client.close(&session)?;
    client.close(&second)?;
    Ok(())
}

fn concurrent_retries_of_a_batch_share_one(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.put(&file(&session, "a"), "text")?.expect(201);
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let (client, path) = (client.clone(), batch(&session));
            std::thread::spawn(move || client.post_once(&path, "shared", &moved("a", "b")))
        })
        .collect();
    for racer in racers {
        let answer = racer.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        assert_eq!(answer.expect(200), json!({"operations": 1}));
    }
    client.close(&session)?;
    Ok(())
}

fn an_archive_is_unpacked_once(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let one = tar("one", "1")?;
    let first = unpack(&client, &session, "?path=d", "k", one.clone())?.expect(201);
    assert_eq!((&first["entries"], &first["size"]), (&json!(1), &json!(1)));
    client.delete(&file(&session, "d/one"))?;
    assert_eq!(unpack(&client, &session, "?path=d", "k", one.clone())?.expect(201), first);
    assert_eq!(client.get(&file(&session, "d/one"))?.status, 404, "it was unpacked again");
    // Another archive, as long or longer or shorter, or another place for it.
    let mut longer = one.clone();
    longer.extend_from_slice(&[0; 512]);
    let others = [tar("two", "2")?, longer, one[..1024].to_vec(), Vec::new()];
    for (n, other) in others.into_iter().enumerate() {
        let refused = unpack(&client, &session, "?path=d", "k", other)?;
        assert_eq!(refused.problem(409), "idempotency_conflict", "{n}");
    }
    for query in ["?path=e", "?path=d&format=tar"] {
        let refused = unpack(&client, &session, query, "k", one.clone())?;
        assert_eq!(refused.problem(409), "idempotency_conflict", "{query}");
    }
    // A refusal is not remembered.
    assert_eq!(
        unpack(&client, &session, "?path=d", "bad", b"none".to_vec())?.problem(400),
        "invalid_archive"
    );
    unpack(&client, &session, "?path=d", "bad", one)?.expect(201);
    assert_eq!(client.get(&file(&session, "d/one"))?.text(), "1");
    client.close(&session)?;
    Ok(())
}

fn answers_outlive_the_server(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    client.put(&file(&session, "a"), "text")?.expect(201);
    let made = client.post_once(&batch(&session), "k", &moved("a", "b"))?.expect(200);
    let one = tar("one", "1")?;
    let unpacked = unpack(&client, &session, "", "k", one.clone())?.expect(201);
    server.kill()?;
    server.launch()?;
    let client = server.client()?;
    assert_eq!(client.post_once(&batch(&session), "k", &moved("a", "b"))?.expect(200), made);
    assert_eq!(unpack(&client, &session, "", "k", one)?.expect(201), unpacked);
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// Half of an archive was there when the API was killed. It is not begun again behind the client's back.
fn after_a_crash_in_the_middle_nobody_knows(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    // What serves files is there before: a session that dies while it gets its first cell is lost, which is another case.
    client.put(&file(&session, "before"), "0")?.expect(201);
    let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?;
    let one = tar("one", "1")?;
    let mut half = TcpStream::connect(server.base().trim_start_matches("http://"))?;
    write!(
        half,
        "POST /v1/sessions/{session}/archive HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Idempotency-Key: k\r\nContent-Length: {}\r\n\r\n",
        key.trim(),
        one.len()
    )?;
    half.write_all(&one[..512])?;
    // It has begun as soon as the ledger holds its key.
    let ledger = server.data_dir().join("ledger");
    let route = format!("archive/{}", session.trim_start_matches("ses_"));
    let end = Instant::now() + Duration::from_secs(10);
    while !holds(&ledger, &route)? {
        anyhow::ensure!(Instant::now() < end, "it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill()?;
    server.launch()?;
    drop(half);
    let client = server.client()?;
    for _ in 0..2 {
        let answer = unpack(&client, &session, "", "k", one.clone())?;
        assert_eq!(answer.problem(409), "conflict");
        assert!(answer.text().contains("not known whether"), "{}", answer.text());
    }
    assert_eq!(client.get(&file(&session, "one"))?.status, 404);
    // The next key is another request.
    unpack(&client, &session, "", "k2", one)?.expect(201);
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// Whether one of the ledger's files has this text in it.
fn holds(ledger: &std::path::Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(ledger)? {
        let bytes = std::fs::read(entry?.path())?;
        if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn what_answers_a_secret_takes_no_key(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    let links = format!("/v1/sessions/{session}/browser/links");
    let refused = client.post_once(&links, "k", &json!({"role": "view"}))?.expect(422);
    assert_eq!(refused["errors"][0]["field"], "Idempotency-Key");
    let tenants = client.get("/v1/tenants")?.expect(200);
    let tenant = tenants["items"][0]["id"].as_str().context("a tenant")?;
    let keys = format!("/v1/tenants/{tenant}/keys");
    let refused = client.post_once(&keys, "k", &json!({"name": "k"}))?.expect(422);
    assert_eq!(refused["errors"][0]["field"], "Idempotency-Key");
    client.close(&session)?;
    Ok(())
}
