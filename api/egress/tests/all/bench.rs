//! Figures, for those who ask: `cargo test --release -p anchorhold-egress -- --ignored --nocapture figures`.

use anchorhold_egress::{Caps, Ceiling, Counters, Egress, Listable, Mode, Policy, Public, Settings};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const CHUNK: usize = 256 * 1024;
const TRANSFER: usize = 1 << 30;
const ROUNDS: usize = 2000;

/// Loopback only: an echo of single bytes (`p`), and a source of [`TRANSFER`] bytes (`t`).
async fn serve(listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let chunk = vec![b'x'; CHUNK];
            while let Ok(byte) = stream.read_u8().await {
                let count = if byte == b't' { TRANSFER / CHUNK } else { 0 };
                for _ in 0..count {
                    stream.write_all(&chunk).await.unwrap();
                }
                if count == 0 && stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A connection to the server, by itself or through the proxy.
async fn connect(server: SocketAddr, proxy: Option<SocketAddr>) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.unwrap_or(server)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    if proxy.is_some() {
        stream.write_all(format!("CONNECT {server} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
    stream
}

async fn round_trip(stream: &mut TcpStream) {
    stream.write_u8(b'p').await.unwrap();
    stream.read_u8().await.unwrap();
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Throughput in MiB/s; a round trip, and a connection with its first round trip, in microseconds.
async fn measure(server: SocketAddr, proxy: Option<SocketAddr>) -> (f64, f64, f64) {
    let mut stream = connect(server, proxy).await;
    let mut trips = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        round_trip(&mut stream).await;
        trips.push(begun.elapsed());
    }
    let mut connections = Vec::new();
    for _ in 0..ROUNDS / 4 {
        let begun = Instant::now();
        round_trip(&mut connect(server, proxy).await).await;
        connections.push(begun.elapsed());
    }
    let begun = Instant::now();
    stream.write_u8(b't').await.unwrap();
    let mut chunk = vec![0; CHUNK];
    let mut left = TRANSFER;
    while left > 0 {
        left -= stream.read(&mut chunk).await.unwrap();
    }
    let rate = (TRANSFER >> 20) as f64 / begun.elapsed().as_secs_f64();
    (rate, median(trips), median(connections))
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(serve(listener));
        let caps = Caps { requests_per_second: 1_000_000, ..Caps::DEFAULT };
        let here = server.to_string();
        let egress = Egress::new(Settings {
            ceiling: Ceiling {
                hosts: Listable::Any,
                public: Public::Refused,
                allow_private: vec![here.parse().unwrap()],
                caps,
            },
            // Never asked: the target is an address.
            resolvers: vec!["127.0.0.1:9".parse().unwrap()],
            upstream: None,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let policy = Policy { mode: Mode::Allow(vec![here.parse().unwrap()]), caps };
        let _handle = egress.unwrap().attach(listener, policy, Arc::new(Counters::default()), None);
        println!("| loopback | MiB/s | round trip, µs p50 | connection and first round trip, µs p50 |");
        println!("|---|---|---|---|");
        for (name, proxy) in [("direct", None), ("through egress", Some(proxy))] {
            let (rate, trip, connection) = measure(server, proxy).await;
            println!("| {name} | {rate:.0} | {trip:.0} | {connection:.0} |");
        }
    });
}
