use super::{
    CLIENT_HELLO, ENCRYPTED_CLIENT_HELLO, ESNI, HANDSHAKE, HOST_NAME, NotHello, RECORD_BYTES_MAX,
    SERVER_NAME, read,
};
use proptest::prelude::*;

/// What OpenSSL 3 sends for `real.example`, TLS 1.2 and 1.3.
const OPENSSL: &[u8] = include_bytes!("openssl.bin");

fn vector16(content: &[u8]) -> Vec<u8> {
    [u16::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector16(&[vec![HOST_NAME], vector16(name)].concat()))
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(vector16(&extensions.concat()));
    message_of(&body)
}

fn message_of(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [[CLIENT_HELLO].as_slice(), &length[1..], body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [vec![HANDSHAKE, 3, 1], vector16(part)].concat();
    message.chunks(size).flat_map(record).collect()
}

fn name(received: &[u8]) -> Result<Option<String>, NotHello> {
    let hello = read(received)?.expect("a whole greeting");
    Ok(hello.server_name.map(|name| name.as_str().to_owned()))
}

fn named(extensions: &[Vec<u8>]) -> Result<Option<String>, NotHello> {
    name(&records(&hello(extensions), RECORD_BYTES_MAX))
}

#[test]
fn the_name_of_a_real_greeting_is_found() {
    assert_eq!(name(OPENSSL), Ok(Some("real.example".into())));
    for end in 0..OPENSSL.len() {
        assert_eq!(read(&OPENSSL[..end]), Ok(None), "{end}");
    }
    // What comes behind a greeting (early data) is not looked at.
    assert_eq!(name(&[OPENSSL, b"\x17\x03\x03"].concat()), Ok(Some("real.example".into())));
}

#[test]
fn a_greeting_says_one_name_or_none() {
    let other = extension(0x0a0a, b"grease");
    assert_eq!(named(&[]), Ok(None));
    assert_eq!(named(std::slice::from_ref(&other)), Ok(None));
    assert_eq!(named(&[other.clone(), server_name(b"A.Example")]), Ok(Some("a.example".into())));
    for extensions in [
        vec![server_name(b"a.example"), server_name(b"a.example")],
        vec![server_name(b"a.example"), other, server_name(b"b.example")],
        vec![server_name(b"")],
        vec![server_name(b"a.example\0.b.example")],
        vec![server_name("bücher.example".as_bytes())],
        vec![server_name(b"10.0.0.1")],
        vec![server_name(b"[::1]")],
        vec![server_name(b"\xff")],
        // Two names in the list; one of another kind; bytes behind the list.
        vec![extension(SERVER_NAME, b"\0\x0c\0\0\x03a.b\0\0\x03c.d")],
        vec![extension(SERVER_NAME, b"\0\x06\x01\0\x03a.b")],
        vec![extension(SERVER_NAME, b"\0\x06\0\0\x03a.b!")],
        vec![extension(SERVER_NAME, b"")],
        // Encrypted names.
        vec![server_name(b"a.example"), extension(ESNI, b"x")],
        vec![server_name(b"a.example"), extension(ENCRYPTED_CLIENT_HELLO, b"")],
        vec![server_name(b"a.example"), extension(ENCRYPTED_CLIENT_HELLO, b"\x01")],
    ] {
        assert_eq!(named(&extensions), Err(NotHello), "{extensions:?}");
    }
    let outer = extension(ENCRYPTED_CLIENT_HELLO, b"\0and what is encrypted");
    assert_eq!(named(&[server_name(b"a.example"), outer]), Ok(Some("a.example".into())));
}

#[test]
fn what_is_no_greeting_is_refused_at_once() {
    let greeting = hello(&[server_name(b"a.example")]);
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"SSH-2.0-x\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x02\0\0\x05",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\0\x01\x02",
        b"\x16\x03\x01\0\x04\x01\xff\xff\xff",
        b"\x15\x03\x01\0\x02\x01\0",
        // Another record, and another message, in the middle.
        &[records(&greeting[..20], 20).as_slice(), b"\x14\x03\x03\0\x01\x01"].concat(),
        &records(&[greeting.as_slice(), b"\x01\0\0\0"].concat(), RECORD_BYTES_MAX),
        // In too many pieces, or with something missing or left over.
        &records(&greeting, 1),
        &records(&message_of(&greeting[4..20]), 1000),
        &records(&message_of(&[&greeting[4..], b"!"].concat()), 1000),
    ] {
        assert_eq!(read(bytes), Err(NotHello), "{bytes:?}");
    }
}

proptest! {
    /// However it is cut into records, it says the same; and until it is whole, nothing.
    #[test]
    fn records_change_nothing(size in 8usize..200, cut_per_mille in 0usize..1000) {
        let received = records(&hello(&[server_name(b"a.example")]), size);
        prop_assert_eq!(name(&received), Ok(Some("a.example".into())));
        let end = received.len() * cut_per_mille / 1000;
        prop_assert_eq!(read(&received[..end]), Ok(None));
    }

    /// No bytes make it panic; what one changed byte makes of a greeting is no second name.
    #[test]
    fn changed_bytes_are_harmless(at in any::<prop::sample::Index>(), byte: u8, tail in prop::collection::vec(any::<u8>(), 0..50)) {
        let mut received = OPENSSL.to_vec();
        *at.get_mut(&mut received) = byte;
        let _whatever = read(&received);
        let _whatever = read(&tail);
        let _whatever = read(&[[HANDSHAKE, 3, 1, 0, 50].as_slice(), &tail].concat());
    }
}
