//! How much a session may do, and what is counted.

use crate::world::{Session, World, allow, assert_refused, ceiling, hear, is_closed, run};
use anchorhold_egress::{Caps, Ceiling, Counters, Policy, Rule};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const HOSTS: [&str; 2] = ["allowed.example", "allowed.example:8081"];

async fn capped(world: &World, caps: Caps) -> Session {
    world.attach_with(&world.egress(ceiling()), allow(&HOSTS), caps).await
}

fn counted(session: &Session) -> (u64, u64) {
    (session.counters.sent.load(Ordering::Relaxed), session.counters.received.load(Ordering::Relaxed))
}

/// Waits until the other side has heard so much.
async fn echo(tunnel: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    tunnel.write_all(bytes).await?;
    let mut echo = vec![0; bytes.len()];
    tunnel.read_exact(&mut echo).await.map(drop)
}

#[test]
fn every_byte_to_and_from_outside_is_counted_once() {
    run(async |world| {
        let session = world.attach(allow(&HOSTS)).await;
        let mut tunnel = session.tunnel("allowed.example:8081").await.unwrap();
        echo(&mut tunnel, &[0xff; 100_000]).await.unwrap();
        assert_eq!(counted(&session), (100_000, 100_000));
        let answer = session.get("http://allowed.example/bytes/70000").await;
        let heard: usize = world.seen().iter().map(|seen| seen.said().len()).sum();
        let (sent, received) = counted(&session);
        assert_eq!(sent, heard as u64);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n".len() as u64;
        assert_eq!(received, 100_000 + head + 70_000, "{}", answer.len());
        // What is refused costs nothing.
        session.get("http://other.example/").await;
        assert_eq!(counted(&session), (sent, received));
    });
}

#[test]
fn who_has_used_up_the_bytes_is_cut_off() {
    run(async |world| {
        let mut session = capped(&world, Caps { bytes: 1_000_000, ..Caps::DEFAULT }).await;
        let mut tunnel = session.tunnel("allowed.example:8081").await.unwrap();
        let mut beside = session.tunnel("allowed.example:8081").await.unwrap();
        let mut rounds = 0;
        while echo(&mut tunnel, &[0xff; 50_000]).await.is_ok() {
            rounds += 1;
            assert!(rounds < 30);
        }
        let (sent, received) = counted(&session);
        assert!((1_000_000..1_000_000 + 2 * 65_536).contains(&(sent + received)), "{sent} + {received}");
        // Another one that is open carries nothing more either.
        echo(&mut beside, b"more").await.unwrap_err();
        assert_refused(&session.get("http://allowed.example/").await, 403, "bytes", "a new one");
        let mut told = Vec::new();
        for _ in 0..5 {
            told.push(session.decision().await.verdict);
        }
        let bytes = Err(Rule::Bytes);
        assert_eq!(told, [Ok(()), Ok(()), bytes, bytes, bytes]);
        // Attached again with the same counters, it is where it was.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        session.proxy = listener.local_addr().unwrap();
        let policy = Policy { mode: allow(&HOSTS), caps: Caps { bytes: 1_000_000, ..Caps::DEFAULT } };
        session.handle = world.egress(ceiling()).attach(listener, policy, session.counters.clone(), None);
        assert_refused(&session.get("http://allowed.example/").await, 403, "bytes", "attached again");
    });
}

#[test]
fn connections_have_a_cap_and_come_back() {
    run(async |world| {
        let session = capped(&world, Caps { connections: 2, ..Caps::DEFAULT }).await;
        let first = session.tunnel("allowed.example:8081").await.unwrap();
        let _second = session.tunnel("allowed.example:8081").await.unwrap();
        let answer = session.tunnel("allowed.example:8081").await.unwrap_err();
        assert_refused(&answer, 429, "connections", "tunnel");
        assert_refused(&session.get("http://allowed.example/").await, 429, "connections", "request");
        drop(first);
        let begun = Instant::now();
        while !session.get("http://allowed.example/").await.starts_with("HTTP/1.1 200 ") {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        // A request's place is free when its answer has ended.
        for _ in 0..5 {
            assert!(session.get("http://allowed.example/bytes/1000").await.starts_with("HTTP/1.1 200 "));
        }
    });
}

/// security.md 79: whoever opens connections without end waits in the kernel, and others do not.
#[test]
fn a_flood_of_connections_stays_with_its_session() {
    run(async |world| {
        let egress = world.egress(ceiling());
        let caps = Caps { connections: 2, ..Caps::DEFAULT };
        let flooding = world.attach_with(&egress, allow(&HOSTS), caps).await;
        let other = world.attach_with(&egress, allow(&HOSTS), Caps::DEFAULT).await;
        let mut held = Vec::new();
        // More than are served, and less than the smallest queue of a kernel (128) holds beside those.
        for _ in 0..120 {
            held.push(flooding.connect().await);
        }
        let begun = Instant::now();
        assert!(other.get("http://allowed.example/").await.starts_with("HTTP/1.1 200 "));
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(held);
        let begun = Instant::now();
        while !flooding.get("http://allowed.example/").await.starts_with("HTTP/1.1 200 ") {
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    });
}

#[test]
fn requests_have_a_rate() {
    run(async |world| {
        let session = capped(&world, Caps { requests_per_second: 5, ..Caps::DEFAULT }).await;
        let mut refused = 0;
        let get = "GET http://allowed.example/ HTTP/1.1\r\nHost: x\r\n\r\n";
        let answers = session.say(get.repeat(8)).await;
        for answer in answers.split("HTTP/1.1 ").skip(1) {
            refused += usize::from(answer.starts_with("429 ") && answer.contains("rule rate: "));
        }
        assert_eq!(refused, 1, "the sixth closes the connection: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 5, "{answers}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(session.get("http://allowed.example/").await.starts_with("HTTP/1.1 200 "));
        // What the policy refuses costs as much: asking is what is limited.
        for _ in 0..10 {
            session.tunnel("other.example:443").await.unwrap_err();
        }
        let answer = session.tunnel("other.example:443").await.unwrap_err();
        assert_refused(&answer, 429, "rate", "other");
    });
}

#[test]
fn what_does_not_move_is_ended() {
    run(async |world| {
        let session = capped(&world, Caps { idle: Duration::from_millis(700), ..Caps::DEFAULT }).await;
        let mut silent = session.connect().await;
        let mut slow = session.connect().await;
        slow.write_all(b"GET http://allowed.example/silent HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut unread = session.tunnel("allowed.example:8081").await.unwrap();
        let mut moving = session.tunnel("allowed.example:8081").await.unwrap();
        // It asks for more than all buffers hold, and reads nothing.
        let request = b"GET /bytes/50000000 HTTP/1.1\r\n\r\n";
        unread.write_all(request).await.unwrap();
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            echo(&mut moving, b"still here").await.unwrap();
        }
        assert!(is_closed(&mut silent).await);
        assert!(is_closed(&mut slow).await);
        assert!(timeout(Duration::from_secs(2), hear(&mut unread)).await.is_ok());
        echo(&mut moving, b"still here").await.unwrap();
    });
}

#[test]
fn the_operators_caps_hold_as_well() {
    run(async |world| {
        let caps = Caps { connections: 1, ..Caps::DEFAULT };
        let egress = world.egress(Ceiling { caps, ..ceiling() });
        let session = world.attach_with(&egress, allow(&HOSTS), Caps::DEFAULT).await;
        let _tunnel = session.tunnel("allowed.example:8081").await.unwrap();
        let answer = session.tunnel("allowed.example:8081").await.unwrap_err();
        assert_refused(&answer, 429, "connections", "the operator's");
    });
}

#[test]
fn a_dropped_handle_closes_everything() {
    run(async |world| {
        let session = world.attach(allow(&HOSTS)).await;
        let mut tunnel = session.tunnel("allowed.example:8081").await.unwrap();
        echo(&mut tunnel, b"hello").await.unwrap();
        let mut waiting = session.connect().await;
        waiting.write_all(b"GET http://allowed.example/silent HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Session { proxy, handle, counters } = session;
        drop(handle);
        assert!(is_closed(&mut tunnel).await);
        assert!(is_closed(&mut waiting).await);
        // A test beside this one may be starting a program, which has copies of all descriptors for a moment.
        let begun = Instant::now();
        while TcpStream::connect(proxy).await.is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Nothing of it is left behind that holds the counters.
        let begun = Instant::now();
        while Arc::strong_count(&counters) > 1 {
            assert!(begun.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _alone: Counters = Arc::into_inner(counters).unwrap();
    });
}

/// Decisions that nobody takes are counted, not kept.
#[test]
fn decisions_that_nobody_takes_are_bounded() {
    run(async |world| {
        let mut session = capped(&world, Caps { requests_per_second: 1, ..Caps::DEFAULT }).await;
        for _ in 0..300 {
            let mut stream = session.connect().await;
            stream.write_all(b"CONNECT other.example:443 HTTP/1.1\r\n\r\n").await.unwrap();
            stream.read_u8().await.unwrap();
        }
        for _ in 0..256 {
            assert_eq!(session.decision().await.missed, 0);
        }
        session.tunnel("other.example:443").await.unwrap_err();
        assert_eq!(session.decision().await.missed, 44);
    });
}
