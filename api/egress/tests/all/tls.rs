//! Tunnels on port 443: TLS, with the name that was asked for.

use crate::world::{Session, World, allow, is_closed, run};
use anchorhold_egress::Rule;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// `access_denied`, fatal.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

fn vector(content: &[u8]) -> Vec<u8> {
    [u16::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}

/// A greeting with these extensions.
fn greeting(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = vector(&extensions.concat());
    let body = [[3u8, 3].as_slice(), &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &extensions].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [[1u8].as_slice(), &length[1..], &body].concat();
    [[22u8, 3, 1].as_slice(), &vector(&message)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector(content)].concat()
}

fn named(name: &str) -> Vec<u8> {
    extension(0, &vector(&[vec![0], vector(name.as_bytes())].concat()))
}

/// Sends a greeting on a new tunnel. The other end hears nothing of it, and the tunnel ends with an alert.
async fn assert_denied(
    world: &World,
    session: &mut Session,
    target: &str,
    said: &[u8],
    rule: Rule,
    about: &str,
) {
    let mut tunnel = session.tunnel(target).await.unwrap();
    tunnel.write_all(said).await.unwrap();
    let mut answer = [0; 7];
    tunnel.read_exact(&mut answer).await.unwrap_or_else(|error| panic!("{about}: {error}"));
    assert_eq!(answer, ALERT, "{about}");
    assert!(is_closed(&mut tunnel).await, "{about}");
    // It was dialled before anything was said, and heard nothing.
    assert_eq!(world.seen_one().await.text(), "", "{about}");
    assert_eq!(session.decision().await.verdict, Ok(()), "{about}");
    let ended = session.decision().await;
    assert_eq!((ended.verdict, ended.target.as_deref()), (Err(rule), Some(target)), "{about}");
}

/// Greetings that do not get out, and why.
fn denied() -> Vec<(&'static str, Vec<u8>, Rule, &'static str)> {
    let differs = Rule::ServerNameDiffers;
    let inner = extension(0xfe0d, b"\x01");
    let outer = extension(0xfe0d, b"\0sealed");
    vec![
        ("allowed.example:443", greeting(&[named("other.example")]), differs, "another name"),
        ("allowed.example:443", greeting(&[named("sub.allowed.example")]), differs, "another allowed name"),
        ("allowed.example:443", greeting(&[]), differs, "no name"),
        (
            "allowed.example:443",
            greeting(std::slice::from_ref(&outer)),
            differs,
            "encrypted, no name outside",
        ),
        (
            "allowed.example:443",
            greeting(&[named("front.example"), outer.clone()]),
            differs,
            "a front's name",
        ),
        ("93.184.216.34:443", greeting(&[named("allowed.example")]), differs, "a name for an address"),
        ("allowed.example:443", greeting(&[named("allowed.example"), inner]), Rule::NotTls, "sealed inside"),
        (
            "allowed.example:443",
            greeting(&[named("allowed.example"), named("other.example")]),
            Rule::NotTls,
            "two names",
        ),
        (
            "allowed.example:443",
            b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n".to_vec(),
            Rule::NotTls,
            "HTTP",
        ),
        ("allowed.example:443", b"SSH-2.0-OpenSSH\r\n".to_vec(), Rule::NotTls, "SSH"),
        (
            "allowed.example:443",
            [[22u8, 3, 1, 64, 0].as_slice(), &[1; 16384]].concat(),
            Rule::NotTls,
            "endless",
        ),
    ]
}

/// security.md 73.
#[test]
fn the_server_name_is_the_host_that_was_asked_for() {
    run(async |world| {
        let mut session =
            world.attach(allow(&["allowed.example", "*.allowed.example", "93.184.216.34"])).await;
        for (target, said, rule, about) in denied() {
            assert_denied(&world, &mut session, target, &said, rule, about).await;
        }
        let outer = extension(0xfe0d, b"\0sealed");
        for (target, said) in [
            ("allowed.example:443", greeting(&[named("ALLOWED.example")])),
            ("sub.allowed.example:443", greeting(&[named("sub.allowed.example"), outer])),
            ("93.184.216.34:443", greeting(&[])),
        ] {
            let mut tunnel = session.tunnel(target).await.unwrap();
            // In pieces, as a network may cut it, and with what a client says before it has heard anything.
            let said = [said.as_slice(), b"\x17\x03\x03\0\x05early"].concat();
            for piece in said.chunks(20) {
                tunnel.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut echo = vec![0; said.len()];
            tunnel.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, said, "{target}");
            assert_eq!(world.seen_one().await.said(), said, "{target}");
        }
    });
}

/// What is said together with the request is part of the greeting.
#[test]
fn a_hasty_greeting_is_looked_at_too() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example"])).await;
        for (name, reaches) in [("allowed.example", true), ("other.example", false)] {
            let said = greeting(&[named(name)]);
            let request = b"CONNECT allowed.example:443 HTTP/1.1\r\n\r\n".as_slice();
            let answer = session.say([request, &said].concat()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let expected = if reaches { said } else { Vec::new() };
            assert_eq!(world.seen_one().await.said(), expected, "{name}");
        }
    });
}

/// Other ports carry what they carry; who speaks first is not our business there.
#[test]
fn other_ports_are_not_looked_at() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example:8081"])).await;
        let mut tunnel = session.tunnel("allowed.example:8081").await.unwrap();
        tunnel.write_all(b"anything").await.unwrap();
        let mut echo = [0; 8];
        tunnel.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"anything");
        // The end of one direction is passed on, the other goes on.
        tunnel.shutdown().await.unwrap();
        assert!(is_closed(&mut tunnel).await);
        assert_eq!(world.seen_one().await.text(), "anything");
    });
}
