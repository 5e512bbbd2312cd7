//! Files on their way in and out, while others do what they can to spoil them.

use crate::Shared;
use anchorhold_tests::Client;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

tests!(
    of_many_uploads_to_one_path_one_wins_whole,
    an_upload_that_is_given_up_leaves_nothing,
    more_than_fits_is_refused_and_leaves_nothing,
);

/// A request on a socket of its own: its head, without the empty line.
fn request(shared: &Shared, method: &str, path: &str) -> Result<(TcpStream, String)> {
    let (address, key) = shared.with(|server| {
        let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?;
        Ok((server.base().replace("http://", ""), key.trim().to_owned()))
    })?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok((socket, head))
}

fn names(client: &Client, session: &str) -> Result<Vec<String>> {
    let listed = client.get(&format!("/v1/sessions/{session}/files?recursive=true"))?.expect(200);
    let items = listed["items"].as_array().context("items")?;
    Ok(items.iter().filter_map(|item| Some(item["path"].as_str()?.to_owned())).collect())
}

/// security.md 87.
fn of_many_uploads_to_one_path_one_wins_whole(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/files/contested");
    let racers: Vec<_> = (0..50u8)
        .map(|n| {
            let (client, path) = (client.clone(), path.clone());
            std::thread::spawn(move || client.put(&path, vec![n; 200_000 + usize::from(n)]))
        })
        .collect();
    for racer in racers {
        racer.join().map_err(|_| anyhow::anyhow!("panicked"))??.expect(201);
    }
    let winner = client.get(&path)?.bytes;
    let n = *winner.first().context("an empty file")?;
    ensure!(winner == vec![n; 200_000 + usize::from(n)], "a mixture of {} bytes", winner.len());
    assert_eq!(names(&client, &session)?, ["contested"]);
    client.close(&session)?;
    Ok(())
}

/// security.md 86: too short, chunks without an end, given up in the middle.
fn an_upload_that_is_given_up_leaves_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/files/half");
    for (framing, body) in [
        ("Content-Length: 1000000\r\n\r\n", vec![b'x'; 500_000]),
        ("Transfer-Encoding: chunked\r\n\r\n", b"40000\r\n".iter().copied().chain([b'x'; 1000]).collect()),
        ("Transfer-Encoding: chunked\r\n\r\n", b"zzz\r\n".to_vec()),
    ] {
        let (mut socket, head) = request(shared, "PUT", &path)?;
        socket.write_all(format!("{head}{framing}").as_bytes())?;
        socket.write_all(&body)?;
        socket.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        // It may be answered or cut off, as long as it is not taken.
        let _cut = socket.read_to_string(&mut answer);
        ensure!(!answer.starts_with("HTTP/1.1 2"), "{framing}: {answer}");
        assert_eq!(client.get(&path)?.problem(404), "file_not_found");
        assert_eq!(names(&client, &session)?, [""; 0]);
    }
    client.put(&path, "whole")?.expect(201);
    assert_eq!(client.get(&path)?.text(), "whole");
    client.close(&session)?;
    Ok(())
}

/// security.md 86: over the workspace's quota, with its length told before and without.
fn more_than_fits_is_refused_and_leaves_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"disk_bytes": 2 << 20}}))?;
    let path = format!("/v1/sessions/{session}/files/big");
    let big = vec![b'x'; 3 << 20];
    let told = client.put(&path, big.clone())?;
    ensure!((400..500).contains(&told.status), "{} {}", told.status, told.text());
    let (mut socket, head) = request(shared, "PUT", &path)?;
    socket.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", big.len()).as_bytes())?;
    // The answer may come before all of it is sent.
    let _refused = socket.write_all(&big).and_then(|()| socket.write_all(b"\r\n0\r\n\r\n"));
    let mut answer = [0; 10];
    socket.read_exact(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(names(&client, &session)?, [""; 0]);
    // The room of what was refused is there again.
    client.put(&path, vec![b'x'; 1 << 20])?.expect(201);
    client.close(&session)?;
    Ok(())
}
