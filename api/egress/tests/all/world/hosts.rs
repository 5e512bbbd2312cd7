//! Hosts that remember what was said to them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A connection that a host got.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The address that was dialled.
    pub at: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Seen {
    /// What was said so far.
    pub fn said(&self) -> Vec<u8> {
        self.said.lock().unwrap().clone()
    }

    /// The same, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.said()).into_owned()
    }
}

type All = Arc<Mutex<Vec<Seen>>>;

pub async fn serve(all: All) {
    for address in ["0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:8081", "[2606:2800::34]:80", "[2606:2800::34]:443"]
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let all = all.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(host(stream, all.clone()));
            }
        });
    }
    let upstream = TcpListener::bind(super::UPSTREAM).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = upstream.accept().await.unwrap();
            tokio::spawn(host(stream, all.clone()));
        }
    });
}

/// Answers what looks like a request according to its path, and echoes everything else.
async fn host(mut stream: TcpStream, all: All) {
    let at = stream.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    all.lock().unwrap().push(Seen { at, said: heard.clone() });
    let mut unanswered = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        heard.lock().unwrap().extend_from_slice(&buffer[..length]);
        unanswered.extend_from_slice(&buffer[..length]);
        let answer = match String::from_utf8(unanswered.clone()) {
            Ok(text) if is_request(&text) && !is_whole(&text) => continue,
            Ok(text) if is_request(&text) => answer(&text, at),
            _ => unanswered.clone(),
        };
        unanswered.clear();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn is_request(text: &str) -> bool {
    ["GET ", "POST ", "PUT ", "HEAD ", "CONNECT "].iter().any(|method| text.starts_with(method))
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn answer(request: &str, at: SocketAddr) -> Vec<u8> {
    let path = request.split(' ').nth(1).unwrap_or_default();
    if request.starts_with("CONNECT ") {
        // An upstream proxy, and the host behind it, at once; the first bytes come with the answer.
        return b"HTTP/1.1 200 OK\r\n\r\nEARLY".into();
    }
    if let Some(to) = path.strip_prefix("/redirect?") {
        return format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into();
    }
    if let Some(length) = path.strip_prefix("/bytes/") {
        let length: usize = length.parse().unwrap();
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        return answer;
    }
    match path {
        "/silent" => Vec::new(),
        "/hops" => {
            b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-End: 1\r\nKeep-Alive: 1\r\n\
            Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"
                .into()
        }
        "/both-lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\nok\r\n0\r\n\r\n"
            .into(),
        "/two-lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok".into(),
        "/switch" => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".into(),
        "/garbage" => b"\x00\x01garbage\r\n\r\n".into(),
        _ => {
            let text = format!("hello from {at}");
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into()
        }
    }
}
