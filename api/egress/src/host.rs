//! Hosts and ports: the one parser for all that is matched, resolved, dialled and compared with a server name.
//!
//! A check and a resolver that read a name differently are a hole (`evil.example\0.allowed.example`). So text becomes a
//! [`Host`] once, in one canonical form, and nothing behind this module sees the text again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest text that is looked at; a name's canonical form has at most 253 bytes.
const TEXT_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Why a text names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing, or more than a name can be.
    #[error("a host has 1 to 253 characters")]
    Length,
    /// Labels hold letters, digits and inner hyphens, or what IDNA makes of other scripts.
    #[error("not a host name: letters, digits and hyphens, in labels of 1 to 63 characters")]
    Name,
    /// Ends in a number, but is no IPv4 address in its usual form. Some resolvers would make one of it.
    #[error("an IPv4 address is four decimal numbers without leading zeros")]
    Number,
    /// An IPv6 address stands in brackets, without a zone.
    #[error("not an IPv6 address in brackets")]
    Bracket,
    /// Not a port, or none where one is needed.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

/// A DNS name: lower-case A-labels, at most 253 bytes, no dot at its end, not like an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a name below `top`: `a.b.example` is below `example`, `example` itself is not.
    pub fn is_below(&self, top: &Name) -> bool {
        self.0.strip_suffix(top.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl FromStr for Name {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(HostError::Length);
        }
        let name = idna::domain_to_ascii_strict(text).map_err(|_| HostError::Name)?;
        // IDNA also repairs: what was ASCII must be what it was, so that no other parser can read it differently.
        if text.is_ascii() && !name.eq_ignore_ascii_case(text) || !name.split('.').all(is_label) {
            return Err(HostError::Name);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(HostError::Length);
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Number);
        }
        Ok(Self(name.into()))
    }
}

fn is_label(label: &str) -> bool {
    let ldh = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(ldh)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// What `inet_aton` and URL parsers take for a part of an address, if it comes last.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || label.bytes().all(|b| b.is_ascii_digit())
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// To be resolved.
    Name(Name),
    /// Four decimal numbers, or IPv6 in brackets.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::Bracket)?;
            return inner
                .parse()
                .map(|v6: Ipv6Addr| Self::Address(v6.into()))
                .map_err(|_| HostError::Bracket);
        }
        match text.parse::<Ipv4Addr>() {
            Ok(v4) => Ok(Self::Address(v4.into())),
            Err(_no_address) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// Where somebody wants to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl Target {
    /// `host:port`, or `host` alone where a port is usual.
    ///
    /// # Errors
    ///
    /// Also for a user before the host, for a percent, for white space: nothing but a host and a port is left over.
    pub fn parse(text: &str, usual_port: Option<u16>) -> Result<Self, HostError> {
        let (host, port) = split_port(text);
        let port = match port {
            Some(port) => parse_port(port)?,
            None => usual_port.ok_or(HostError::Port)?,
        };
        Ok(Self { host: host.parse()?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Splits a port off; a colon inside of brackets is part of the host.
pub(crate) fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// A port in its only form: `80`, not `+80`, `080` or `0`.
pub(crate) fn parse_port(text: &str) -> Result<u16, HostError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain).ok_or(HostError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(text: &str) -> Result<String, HostError> {
        text.parse().map(|host: Host| host.to_string())
    }

    #[test]
    fn what_is_meant_alike_is_equal() {
        for (text, canonical) in [
            ("example.org", "example.org"),
            ("EXAMPLE.Org.", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("bücher。example", "xn--bcher-kva.example"),
            ("a-b.c1", "a-b.c1"),
            ("localhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[::FFFF:169.254.169.254]", "[::ffff:169.254.169.254]"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn what_two_parsers_may_read_differently_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.b..",
            "-a.b",
            "a-.b",
            "a_b.c",
            "a b",
            " a",
            "a\t",
            "evil.example\0.allowed.example",
            "evil.example%00.allowed.example",
            "evil.example\r\nHost: x",
            "user@host.example",
            "host.example/path",
            "host.example?x",
            "host.example#x",
            "host.example\\x",
            "*.example",
            // Digits in other scripts, and characters that IDNA drops.
            "１６９.254.169.254",
            "169。254。169。254",
            "exam\u{ad}ple\u{200b}\0.org",
            // All that a resolver may take for 169.254.169.254.
            "2852039166",
            "0xa9fea9fe",
            "0xA9.0xFE.0xA9.0xFE",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "169.254.169.254.",
            "169.254.169.0254",
            "1.2.3.4.5",
            "a.1",
            "a.0x",
            // IPv6 out of brackets, with a zone, in half of them.
            "::1",
            "[::1",
            "::1]",
            "[fe80::1%eth0]",
            "[::1%25lo]",
            "[127.0.0.1]",
            "[example.org]",
            "[]",
            // Punycode that says nothing, or what IDNA would have written otherwise.
            "xn--.example",
            "xn--a.example",
            "xn--example-.org",
            "ab--cd.example",
        ] {
            assert!(host(text).is_err(), "{text:?} became {:?}", host(text));
        }
        assert!(host(&"a".repeat(63)).is_ok() && host(&"a".repeat(64)).is_err());
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert!(host(&longest).is_ok() && host(&format!("{longest}b")).is_err());
    }

    #[test]
    fn ports_have_one_form() {
        let target = |text| Target::parse(text, None).map(|target| target.to_string());
        assert_eq!(target("Example.org:443").as_deref(), Ok("example.org:443"));
        assert_eq!(target("[::1]:80").as_deref(), Ok("[::1]:80"));
        assert_eq!(Target::parse("a.b", Some(80)).map(|t| t.port), Ok(80));
        for text in [
            "a.b",
            "a.b:",
            "a.b:0",
            "a.b:080",
            "a.b:+80",
            "a.b:65536",
            "a.b:8 0",
            "a.b:80:80",
            "[::1]",
            ":80",
            "[::1]80",
            "u@a.b:80",
            "a.b:٨٠",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    /// Characters that parsers disagree about.
    const ODD: &[char] = &[
        '.', '-', '_', ':', '[', ']', '/', '\\', '?', '#', '@', '%', '0', '1', 'x', 'X', ' ', '\t', '\r',
        '\n', '\0', '*', '\u{ad}', '\u{200b}', '\u{200d}', '\u{3002}', '\u{ff0e}', '\u{ff10}', '\u{212a}',
        'ß', 'ü', 'İ', '\u{2024}',
    ];

    /// Usual hosts, with a few characters put in, taken out or made large.
    fn mutated() -> impl Strategy<Value = String> {
        let usual = prop::sample::select(vec![
            "allowed.example",
            "a.b",
            "xn--bcher-kva.example",
            "bücher.example",
            "127.0.0.1",
            "169.254.169.254",
            "[::ffff:10.0.0.1]",
            "[2606:4700::1]",
            "0x7f.1",
            "1.2.3",
        ]);
        let change = (any::<prop::sample::Index>(), prop::sample::select(ODD), 0..4u8);
        (usual, prop::collection::vec(change, 0..5)).prop_map(|(usual, changes)| {
            let mut text: Vec<char> = usual.chars().collect();
            for (at, odd, how) in changes {
                let at = at.index(text.len() + 1);
                match how {
                    0 | 1 => text.insert(at, odd),
                    2 if at < text.len() => drop(text.remove(at)),
                    _ => text.iter_mut().skip(at).take(1).for_each(|c| *c = c.to_ascii_uppercase()),
                }
            }
            text.into_iter().collect()
        })
    }

    proptest! {
        /// What we take for a host, the parser of browsers takes for the same one: nobody in the session, and nobody
        /// behind an upstream, reads another host there.
        #[test]
        fn nobody_reads_another_host(text in mutated()) {
            if let Ok(ours) = text.parse::<Host>() {
                let theirs = url::Url::parse(&format!("http://{text}/")).ok();
                // Parsed again, since IPv6 has more than one way to be written.
                let theirs = theirs.as_ref().and_then(url::Url::host_str).map(str::parse);
                prop_assert_eq!(theirs, Some(Ok(ours)), "{:?}", text);
            }
        }

        /// Parsing what was printed gives the same: there is one form, and it is a fixed point.
        #[test]
        fn the_canonical_form_is_a_fixed_point(text in "\\PC{0,40}|[a-zA-Z0-9.-]{1,30}|\\[[0-9a-f:.]{1,20}\\]") {
            if let Ok(parsed) = text.parse::<Host>() {
                prop_assert_eq!(parsed.to_string().parse::<Host>(), Ok(parsed));
            }
        }

        /// Whatever comes in, only LDH comes out, in names that no resolver takes for an address.
        #[test]
        fn names_hold_nothing_else(text in any::<String>()) {
            if let Ok(name) = text.parse::<Name>() {
                let ldh = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
                prop_assert!(name.as_str().bytes().all(ldh));
                prop_assert!(name.as_str().len() <= NAME_BYTES_MAX);
                prop_assert!(name.as_str().parse::<IpAddr>().is_err());
            }
        }

        /// One foreign byte anywhere spoils a name.
        #[test]
        fn no_byte_of_another_kind_gets_in(at in 0usize..12, byte in prop::sample::select(
            vec!['\0', '\r', '\n', '\t', ' ', '%', '@', '/', '\\', '?', '#', ':', '_', '*', ',', '"', '\u{7f}'])) {
            let mut text = String::from("host.example");
            text.insert(at, byte);
            prop_assert!(text.parse::<Host>().is_err());
        }
    }
}
