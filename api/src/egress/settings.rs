//! `[egress]`: the operator's ceiling. Read from the root-owned file and root's environment, never from the API.

use anchorhold_egress::{Caps, Ceiling, Listable, Public, Settings};
use anchorhold_jail::settings::{Settings as Sections, SettingsError};
use anyhow::Context as _;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// In `hosts`: sessions may list any host.
const ANY: &str = "*";
const DNS_PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// `[egress]`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// Who the process becomes when it starts as root.
    pub uid: u32,
    /// Threads that carry bytes.
    pub threads: usize,
    /// Hosts that sessions may reach; `*`: any.
    pub hosts: List,
    /// Whether sessions may have every global address, on ports 80 and 443.
    pub public: bool,
    /// Addresses of the inside that sessions may list, or reach by a name that they list.
    pub allow_private: List,
    /// Who resolves names; empty: those of `/etc/resolv.conf`.
    pub resolvers: List,
    /// An HTTP proxy that all connections go through; empty: none.
    pub upstream: String,
    /// Of one cell at the same time.
    pub connections: u32,
    /// Of one cell.
    pub requests_per_second: u32,
    /// Of one session, in both directions together.
    pub bytes: u64,
    /// How long a connection may stay without a byte moving.
    pub idle_seconds: u32,
}

impl Default for EgressConfig {
    fn default() -> Self {
        let caps = Caps::DEFAULT;
        Self {
            uid: 59_002,
            threads: 2,
            hosts: List(vec![ANY.into()]),
            public: true,
            allow_private: List::default(),
            resolvers: List::default(),
            upstream: String::new(),
            connections: caps.connections,
            requests_per_second: caps.requests_per_second,
            bytes: caps.bytes,
            idle_seconds: u32::try_from(caps.idle.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

impl EgressConfig {
    /// Reads the file and the environment.
    ///
    /// # Errors
    /// When there is no such file, or something in the section has no meaning.
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        Sections::read(file)?.section("egress")
    }

    /// Checks everything and gives it the types that egress uses.
    ///
    /// # Errors
    /// For a text that is no host, address or network.
    pub fn resolve(&self) -> anyhow::Result<Settings> {
        anyhow::ensure!(self.uid != 0, "[egress] uid: must not be root");
        let hosts = match self.hosts.0.iter().any(|host| host == ANY) {
            true => Listable::Any,
            false => Listable::Only(self.hosts.parse("hosts")?),
        };
        let caps = Caps {
            connections: self.connections,
            requests_per_second: self.requests_per_second,
            bytes: self.bytes,
            idle: Duration::from_secs(self.idle_seconds.into()),
        };
        let public = if self.public { Public::Granted } else { Public::Refused };
        let allow_private = self.allow_private.parse("allow_private")?;
        let upstream = match &*self.upstream {
            "" => None,
            address => Some(address.parse().context("[egress] upstream: must be an address and a port")?),
        };
        Ok(Settings {
            ceiling: Ceiling { hosts, public, allow_private, caps },
            resolvers: self.resolvers()?,
            upstream,
        })
    }

    fn resolvers(&self) -> anyhow::Result<Vec<SocketAddr>> {
        if self.resolvers.0.is_empty() {
            return Ok(std::fs::read_to_string(RESOLV_CONF)
                .map(|text| nameservers(&text))
                .unwrap_or_default());
        }
        Ok(self.resolvers.parse::<Resolver>("resolvers")?.into_iter().map(|resolver| resolver.0).collect())
    }
}

/// An address, or an address and a port.
#[derive(Debug)]
struct Resolver(SocketAddr);

impl FromStr for Resolver {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = |ip: IpAddr| SocketAddr::new(ip, DNS_PORT);
        text.parse().map(bare).or_else(|_| text.parse()).map(Self)
    }
}

/// See resolv.conf(5). An address with a zone is passed over.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<Resolver>().ok();
    text.lines().filter_map(address).map(|resolver| resolver.0).collect()
}

/// A list; in the environment also as one text, with commas between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl List {
    fn parse<T>(&self, key: &str) -> anyhow::Result<Vec<T>>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let each = |text: &String| text.parse().with_context(|| format!("[egress] {key}: {text}"));
        self.0.iter().map(each).collect()
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<List, E> {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Ok(List(parts.map(str::to_owned).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<List, A::Error> {
                let mut list = Vec::new();
                while let Some(part) = parts.next_element()? {
                    list.push(part);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(file: &str, environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let sections = Sections::from_parts(file.parse()?, environment);
        sections.section::<EgressConfig>("egress")?.resolve()
    }

    #[test]
    fn what_the_operator_says_is_the_ceiling() {
        let open = config("", &[]).unwrap();
        assert_eq!((open.ceiling.hosts, open.ceiling.public), (Listable::Any, Public::Granted));
        assert_eq!(
            (open.ceiling.allow_private, open.ceiling.caps, open.upstream),
            (vec![], Caps::DEFAULT, None)
        );
        let file = "[egress]\nhosts = ['*.corp.example', 'a.example:8443']\npublic = false\nbytes = 7\n\
                    resolvers = ['10.0.0.53', '[fd00::53]:5353']\nupstream = '10.0.0.8:3128'\nidle_seconds = 9\n";
        let closed =
            config(file, &[("ANCHORHOLD_EGRESS_ALLOW_PRIVATE", "127.0.0.1:8081, 10.0.0.0/8")]).unwrap();
        let only = ["*.corp.example", "a.example:8443"].map(|text| text.parse().unwrap()).into();
        assert_eq!((closed.ceiling.hosts, closed.ceiling.public), (Listable::Only(only), Public::Refused));
        let private = ["127.0.0.1:8081", "10.0.0.0/8"].map(|text| text.parse().unwrap());
        assert_eq!(closed.ceiling.allow_private, private);
        assert_eq!(closed.resolvers, ["10.0.0.53:53", "[fd00::53]:5353"].map(|text| text.parse().unwrap()));
        assert_eq!(closed.upstream, Some("10.0.0.8:3128".parse().unwrap()));
        assert_eq!((closed.ceiling.caps.bytes, closed.ceiling.caps.idle), (7, Duration::from_secs(9)));
        // As API.md has it.
        let one = config("", &[("ANCHORHOLD_EGRESS_ALLOW_PRIVATE", "127.0.0.1:8081")]).unwrap();
        assert_eq!(one.ceiling.allow_private, [private[0].clone()]);
        let nobody = config("[egress]\nhosts = []\n", &[]).unwrap();
        assert_eq!(nobody.ceiling.hosts, Listable::Only(vec![]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for file in [
            "hosts = ['*.com']",
            "hosts = ['http://a.example']",
            "allow_private = ['host.example']",
            "resolvers = ['dns.example']",
            "upstream = 'proxy.example:3128'",
            "uid = 0",
            "colour = 1",
            "connections = -1",
        ] {
            assert!(config(&format!("[egress]\n{file}\n"), &[]).is_err(), "{file}");
        }
    }

    #[test]
    fn resolvers_of_the_system_are_read() {
        let text = "# nameserver 1.1.1.1\nsearch corp.example\nnameserver 10.0.0.53\nnameserver  fd00::53\n\
                    nameserver fe80::1%eth0\noptions ndots:5\n";
        assert_eq!(nameservers(text), ["10.0.0.53:53", "[fd00::53]:53"].map(|text| text.parse().unwrap()));
    }
}
