//! HTTP/2 as attackers speak it (RFC 9113; security.md 107): each ends the attacker's connection and nothing else.

use crate::Shared;
use anchorhold_tests::host;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

tests!(
    http2_is_spoken,
    rapid_resets_end_the_connection,
    headers_without_an_end_end_the_connection,
    streams_beyond_the_limit_are_refused,
    a_window_that_never_opens_holds_little,
);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET`, `http`, `/healthz` and an authority, as indexed and literal fields of HPACK (RFC 7541).
const REQUEST: &[u8] = b"\x82\x86\x04\x08/healthz\x01\x01x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection after the prefaces. `window`: how much of each answer the server may send.
fn connect(shared: &Shared, window: u32) -> Result<TcpStream> {
    let address = shared.with(|server| Ok(server.base().replace("http://", "")))?;
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.set_write_timeout(Some(Duration::from_secs(20)))?;
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    // SETTINGS_INITIAL_WINDOW_SIZE
    socket.write_all(&frame(SETTINGS, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat()))?;
    socket.write_all(&frame(SETTINGS, 1, 0, &[]))?;
    Ok(socket)
}

/// Everything that the server sends until it ends the connection, as kinds and streams of frames.
fn frames(socket: &mut TcpStream) -> Vec<(u8, u32)> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _reset = socket.read_to_end(&mut bytes);
    let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
    while let [a, b, c, kind, _flags, s0, s1, s2, s3, tail @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames.push((*kind, u32::from_be_bytes([*s0, *s1, *s2, *s3])));
        rest = tail.get(length..).unwrap_or_default();
    }
    frames
}

/// Sends until the server ends the connection; `false` when it took everything.
fn flood(socket: &mut TcpStream, count: u32, piece: impl Fn(u32) -> Vec<u8>) -> bool {
    (0..count).any(|n| socket.write_all(&piece(n)).is_err())
}

/// The API's memory in bytes and CPU time in ticks (10 ms).
fn cost(shared: &Shared) -> Result<(u64, u64)> {
    let pid = shared.with(|server| Ok(server.pid()))?;
    let resident = host::status(pid, "VmRSS").context("VmRSS")?;
    let kib: u64 = resident.split_whitespace().next().context("VmRSS")?.parse()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("stat")?;
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok((kib << 10, ticks))
}

/// That an attack cost the server little, and others nothing.
fn survived(shared: &Shared, before: (u64, u64)) -> Result<()> {
    let (memory, ticks) = cost(shared)?;
    ensure!(memory.saturating_sub(before.0) < 32 << 20, "{} bytes more", memory - before.0);
    ensure!(ticks - before.1 < 300, "{} ms of CPU", 10 * (ticks - before.1));
    shared.client()?.get("/v1/sessions?limit=1")?.expect(200);
    Ok(())
}

fn http2_is_spoken(shared: &Shared) -> Result<()> {
    let mut socket = connect(shared, 65_535)?;
    socket.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST))?;
    std::thread::sleep(Duration::from_secs(1));
    socket.shutdown(Shutdown::Write)?;
    let answers = frames(&mut socket);
    ensure!(answers.contains(&(HEADERS, 1)) && answers.contains(&(DATA, 1)), "{answers:?}");
    Ok(())
}

/// CVE-2023-44487.
fn rapid_resets_end_the_connection(shared: &Shared) -> Result<()> {
    let before = cost(shared)?;
    let mut socket = connect(shared, 65_535)?;
    let ended = flood(&mut socket, 100_000, |n| {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, REQUEST);
        [headers, frame(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes())].concat()
    });
    let answers = frames(&mut socket);
    ensure!(ended || answers.iter().any(|(kind, _)| *kind == GOAWAY), "{} answers", answers.len());
    survived(shared, before)
}

/// CVE-2024-27316: `CONTINUATION` for ever.
fn headers_without_an_end_end_the_connection(shared: &Shared) -> Result<()> {
    let before = cost(shared)?;
    let mut socket = connect(shared, 65_535)?;
    socket.write_all(&frame(HEADERS, END_STREAM, 1, REQUEST))?;
    let field = [&b"\x00\x04name\x7f\x81\x7e"[..], &[b'x'; 16_000]].concat();
    let begun = Instant::now();
    let ended = flood(&mut socket, 20_000, |_| frame(CONTINUATION, 0, 1, &field[..16_009.min(field.len())]));
    ensure!(ended, "320 MB of headers were taken");
    ensure!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    survived(shared, before)
}

fn streams_beyond_the_limit_are_refused(shared: &Shared) -> Result<()> {
    let before = cost(shared)?;
    let mut socket = connect(shared, 65_535)?;
    // Bodies that never end keep their streams open.
    let post = b"\x83\x86\x04\x0c/v1/sessions\x01\x01x";
    let ended = flood(&mut socket, 100_000, |n| frame(HEADERS, END_HEADERS, 2 * n + 1, post));
    let _closed = socket.shutdown(Shutdown::Write);
    let answers = frames(&mut socket);
    let refused = answers.iter().filter(|(kind, _)| matches!(*kind, RST_STREAM | GOAWAY)).count();
    ensure!(ended || refused > 0, "100,000 streams were taken: {} answers", answers.len());
    survived(shared, before)
}

/// 100 answers that may not be sent: they wait, bounded, and others are served.
fn a_window_that_never_opens_holds_little(shared: &Shared) -> Result<()> {
    let before = cost(shared)?;
    let mut socket = connect(shared, 0)?;
    for n in 0..100 {
        socket.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, REQUEST))?;
    }
    std::thread::sleep(Duration::from_secs(1));
    survived(shared, before)?;
    drop(socket);
    Ok(())
}
