//! What a session may reach, under what the operator allows.
//!
//! The way out is three types, each made only by the one before:
//! [`Target`] → `admit` → [`Admitted`] (may be resolved) → `check` → [`Checked`] (may be dialled).
//! So no name is resolved that the policy did not admit, and no address dialled that was not checked.

use crate::address::{is_global, is_of_this_host};
use crate::caps::Caps;
use crate::decision::Rule;
use crate::host::{Host, HostError, Name, Target, parse_port, split_port};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// What a pattern without a port means.
const WEB_PORTS: [u16; 2] = [80, 443];
/// Addresses of a name that are tried, at most.
const DIALLED_MAX: usize = 4;

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No host, or no port.
    #[error(transparent)]
    Host(#[from] HostError),
    /// `*.` stands before a name of at least two labels: `*.example.com`, not `*.com`.
    #[error("a wildcard stands before a name of at least two labels")]
    Wildcard,
    /// Not an address or a network.
    #[error("neither an address nor a network like 10.0.0.0/8")]
    Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Web,
    One(u16),
}

impl Ports {
    fn parse(text: Option<&str>) -> Result<Self, HostError> {
        text.map_or(Ok(Self::Web), |text| parse_port(text).map(Self::One))
    }

    fn hold(self, port: u16) -> bool {
        match self {
            Self::Web => WEB_PORTS.contains(&port),
            Self::One(one) => one == port,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Exactly(Host),
    Below(Name),
}

/// One entry of an allow-list: `api.example.org`, `*.example.com` (names below it, not itself), `10.0.0.5:8443`,
/// `[2606:4700::1]`. Without a port: 80 and 443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    hosts: Hosts,
    ports: Ports,
}

impl Pattern {
    /// Whether this target is meant.
    pub fn admits(&self, target: &Target) -> bool {
        let host = match (&self.hosts, &target.host) {
            (Hosts::Exactly(exactly), host) => exactly == host,
            (Hosts::Below(top), Host::Name(name)) => name.is_below(top),
            (Hosts::Below(_), Host::Address(_)) => false,
        };
        host && self.ports.hold(target.port)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (host, port) = split_port(text);
        let hosts = match host.strip_prefix("*.") {
            None => Hosts::Exactly(host.parse()?),
            Some(top) => {
                let top: Name = top.parse()?;
                if !top.as_str().contains('.') {
                    return Err(PatternError::Wildcard);
                }
                Hosts::Below(top)
            }
        };
        Ok(Self { hosts, ports: Ports::parse(port)? })
    }
}

/// Addresses of the inside that an operator opens: `10.0.0.5`, `127.0.0.1:8081`, `10.1.0.0/16:8443`, `[fd00::5]:80`.
/// Without a port: 80 and 443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Private {
    net: IpNet,
    ports: Ports,
}

impl Private {
    fn holds(&self, address: IpAddr, port: u16) -> bool {
        self.net.contains(&address) && self.ports.hold(port)
    }
}

impl FromStr for Private {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (net, port) = split_port(text);
        let bare = match net.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or(HostError::Bracket)?,
            None => net,
        };
        let alone = bare.parse().map(|address: IpAddr| address.into());
        let net: IpNet = alone.or_else(|_| bare.parse()).map_err(|_| PatternError::Network)?;
        // Without brackets, the last group of an IPv6 address would be taken for a port.
        if net.addr().is_ipv6() != text.starts_with('[') {
            return Err(HostError::Bracket.into());
        }
        Ok(Self { net, ports: Ports::parse(port)? })
    }
}

/// The part of the network that a session asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    None,
    /// What is listed.
    Allow(Vec<Pattern>),
    /// Every global address, on ports 80 and 443.
    Public,
}

/// What a session may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where to.
    pub mode: Mode,
    /// How much. The operator's caps hold as well.
    pub caps: Caps,
}

/// Which hosts any session may list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listable {
    /// All.
    Any,
    /// These, and what [`Ceiling::allow_private`] names.
    Only(Vec<Pattern>),
}

/// Whether sessions may have [`Mode::Public`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Public {
    /// They may.
    Granted,
    /// They may not.
    Refused,
}

/// What the operator allows at most: read from the operator's own configuration, never from who attaches sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    /// Hosts that sessions may reach.
    pub hosts: Listable,
    /// Whether sessions may reach every global address.
    pub public: Public,
    /// Addresses of the inside that sessions may list by address, or reach by a name that they list. Never in public
    /// mode.
    pub allow_private: Vec<Private>,
    /// The most that a session may do.
    pub caps: Caps,
}

impl Ceiling {
    /// Decides on a target by its name alone.
    pub(crate) fn admit(&self, mode: &Mode, target: Target) -> Result<Admitted<'_>, Rule> {
        let inside: &[Private] = match mode {
            Mode::None => return Err(Rule::NetworkNone),
            Mode::Public if self.public == Public::Refused => return Err(Rule::PublicRefused),
            Mode::Public if !WEB_PORTS.contains(&target.port) => return Err(Rule::PortNotPublic),
            Mode::Public => &[],
            Mode::Allow(listed) if !listed.iter().any(|pattern| pattern.admits(&target)) => {
                return Err(Rule::HostNotListed);
            }
            Mode::Allow(_) => self.allow_private.as_slice(),
        };
        let admitted = Admitted { target, inside };
        match &self.hosts {
            Listable::Only(listed)
                if !listed.iter().any(|pattern| pattern.admits(&admitted.target))
                    && !admitted.is_inside() =>
            {
                Err(Rule::HostAboveCeiling)
            }
            _ => Ok(admitted),
        }
    }

    /// Whether a connection that was admitted under another mode would be admitted under this one, too.
    pub(crate) fn still_admits(&self, mode: &Mode, target: &Target, address: IpAddr) -> Result<(), Rule> {
        self.admit(mode, target.clone())?.check(&[address]).map(drop)
    }
}

/// A target that the policy admits: it may be resolved.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    target: Target,
    /// What is open although it is not global.
    inside: &'a [Private],
}

impl Admitted<'_> {
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    fn is_inside(&self) -> bool {
        matches!(self.target.host, Host::Address(address) if self.opens(address))
    }

    fn opens(&self, address: IpAddr) -> bool {
        self.inside.iter().any(|private| private.holds(address, self.target.port))
    }

    /// Decides on what the target resolved to. One address that is not open refuses all: whoever mixes them tries to
    /// get past a check.
    pub(crate) fn check(self, addresses: &[IpAddr]) -> Result<Checked, Rule> {
        if addresses.is_empty() {
            return Err(Rule::NameUnknown);
        }
        let open =
            |&address: &IpAddr| self.opens(address) || (is_global(address) && !is_of_this_host(address));
        if !addresses.iter().all(open) {
            return Err(Rule::AddressNotGlobal);
        }
        let socket = |&address: &IpAddr| SocketAddr::new(address, self.target.port);
        Ok(Checked(addresses.iter().take(DIALLED_MAX).map(socket).collect()))
    }
}

/// Addresses that may be dialled, in order: at least one, at most [`DIALLED_MAX`].
#[derive(Debug)]
pub(crate) struct Checked(Vec<SocketAddr>);

impl Checked {
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn target(text: &str) -> Target {
        Target::parse(text, Some(443)).unwrap()
    }

    fn allow(listed: &[&str]) -> Mode {
        Mode::Allow(listed.iter().map(|text| pattern(text)).collect())
    }

    fn ceiling(hosts: Listable, public: Public, private: &[&str]) -> Ceiling {
        let allow_private = private.iter().map(|text| text.parse().unwrap()).collect();
        Ceiling { hosts, public, allow_private, caps: Caps::DEFAULT }
    }

    fn verdict(ceiling: &Ceiling, mode: &Mode, text: &str, addresses: &[&str]) -> Result<usize, Rule> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Ok(ceiling.admit(mode, target(text))?.check(&addresses)?.addresses().len())
    }

    /// security.md 74.
    #[test]
    fn patterns_mean_what_they_say() {
        for (text, admitted, refused) in [
            (
                "allowed.com",
                vec!["allowed.com", "ALLOWED.com.", "allowed.com:80"],
                vec![
                    "notallowed.com",
                    "allowed.com.evil.net",
                    "x.allowed.com",
                    "allowed.co",
                    "allowed.com:8443",
                ],
            ),
            (
                "*.allowed.com",
                vec!["x.allowed.com", "y.x.allowed.com:80"],
                vec!["allowed.com", "xallowed.com", "x.allowed.com.evil.net", "x.allowed.com:22"],
            ),
            (
                "10.0.0.5:8443",
                vec!["10.0.0.5:8443"],
                vec!["10.0.0.5", "10.0.0.6:8443", "5.10.0.0.5.example:8443"],
            ),
            ("[2606:4700::1]", vec!["[2606:4700:0::1]"], vec!["[2606:4700::2]"]),
            ("bücher.example", vec!["xn--bcher-kva.example"], vec!["bucher.example"]),
        ] {
            let pattern = pattern(text);
            for admitted in admitted {
                assert!(pattern.admits(&target(admitted)), "{text}: {admitted}");
            }
            for refused in refused {
                assert!(!pattern.admits(&target(refused)), "{text}: {refused}");
            }
        }
        for text in [
            "",
            "*",
            "*.",
            "*.com",
            "*.10.0.0.1",
            "a.*.b",
            "**.a.b",
            "*a.b",
            "http://a.b",
            "a.b/",
            "a.b:x",
            "10.0.0.0/8",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        for text in [
            "",
            "host.example",
            "10.0.0.0/33",
            "10.0.0.5:0",
            "fd00::5",
            "[fd00::5",
            "[10.0.0.5]",
            "10.0.0.5:80:80",
        ] {
            assert!(text.parse::<Private>().is_err(), "{text}");
        }
        for text in ["10.0.0.5", "10.0.0.5:8443", "10.0.0.0/8", "10.0.0.0/8:81", "[fd00::5]", "[fd00::/8]:81"]
        {
            assert!(text.parse::<Private>().is_ok(), "{text}");
        }
    }

    #[test]
    fn modes_and_ceilings_are_told_apart() {
        let open = ceiling(Listable::Any, Public::Granted, &[]);
        assert_eq!(verdict(&open, &Mode::None, "a.b", &["8.8.8.8"]), Err(Rule::NetworkNone));
        assert_eq!(verdict(&open, &allow(&[]), "a.b", &["8.8.8.8"]), Err(Rule::HostNotListed));
        assert_eq!(verdict(&open, &allow(&["a.b"]), "a.b", &["8.8.8.8"]), Ok(1));
        assert_eq!(verdict(&open, &Mode::Public, "a.b", &["8.8.8.8"]), Ok(1));
        assert_eq!(verdict(&open, &Mode::Public, "a.b:25", &["8.8.8.8"]), Err(Rule::PortNotPublic));
        assert_eq!(verdict(&open, &allow(&["a.b:25"]), "a.b:25", &["8.8.8.8"]), Ok(1));
        let listed = || Listable::Only(vec![pattern("*.corp.example")]);
        let closed = ceiling(listed(), Public::Refused, &["10.0.0.5:8443"]);
        assert_eq!(verdict(&closed, &Mode::Public, "x.corp.example", &["8.8.8.8"]), Err(Rule::PublicRefused));
        assert_eq!(verdict(&closed, &allow(&["a.b"]), "a.b", &["8.8.8.8"]), Err(Rule::HostAboveCeiling));
        assert_eq!(verdict(&closed, &allow(&["*.corp.example"]), "x.corp.example", &["8.8.8.8"]), Ok(1));
        assert_eq!(verdict(&closed, &allow(&["10.0.0.5:8443"]), "10.0.0.5:8443", &["10.0.0.5"]), Ok(1));
        let public = ceiling(listed(), Public::Granted, &[]);
        assert_eq!(verdict(&public, &Mode::Public, "a.b", &["8.8.8.8"]), Err(Rule::HostAboveCeiling));
        assert_eq!(verdict(&public, &Mode::Public, "x.corp.example", &["8.8.8.8"]), Ok(1));
    }

    #[test]
    fn one_address_that_is_not_open_refuses_all() {
        let inside = ceiling(Listable::Any, Public::Granted, &["10.0.0.0/8:8443", "127.0.0.1:8443"]);
        let listed = allow(&["a.b", "a.b:8443", "127.0.0.1:8443", "127.0.0.1"]);
        for (target, addresses, expected) in [
            ("a.b", vec!["8.8.8.8", "2606:4700::1", "1.1.1.1"], Ok(3)),
            ("a.b", vec!["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"], Ok(DIALLED_MAX)),
            (
                "a.b",
                vec!["8.8.8.8", "1.1.1.1", "1.1.1.2", "1.1.1.3", "169.254.169.254"],
                Err(Rule::AddressNotGlobal),
            ),
            ("a.b", vec!["::ffff:8.8.8.8"], Err(Rule::AddressNotGlobal)),
            ("a.b", vec![], Err(Rule::NameUnknown)),
            // Opened on one port only, and not in another spelling.
            ("a.b:8443", vec!["10.1.2.3", "8.8.8.8"], Ok(2)),
            ("a.b", vec!["10.1.2.3"], Err(Rule::AddressNotGlobal)),
            ("a.b:8443", vec!["::ffff:10.1.2.3"], Err(Rule::AddressNotGlobal)),
            ("127.0.0.1:8443", vec!["127.0.0.1"], Ok(1)),
            ("127.0.0.1", vec!["127.0.0.1"], Err(Rule::AddressNotGlobal)),
        ] {
            assert_eq!(verdict(&inside, &listed, target, &addresses), expected, "{target} {addresses:?}");
        }
        // What is opened of the inside is not public.
        let open = ceiling(Listable::Any, Public::Granted, &["10.0.0.5:443"]);
        assert_eq!(verdict(&open, &Mode::Public, "10.0.0.5", &["10.0.0.5"]), Err(Rule::AddressNotGlobal));
    }

    fn label() -> impl Strategy<Value = String> {
        "[a-z][a-z0-9]{0,5}"
    }

    fn labels() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(label(), 2..5)
    }

    proptest! {
        /// By labels, written independently: a wildcard admits exactly the names that have more labels and end in its.
        #[test]
        fn a_wildcard_is_about_labels(top in labels(), name in labels(), joined: bool) {
            let name = if joined { [name, top.clone()].concat() } else { name };
            let below = name.len() > top.len() && name.ends_with(&top);
            let pattern = pattern(&format!("*.{}", top.join(".")));
            prop_assert_eq!(pattern.admits(&target(&name.join("."))), below);
        }

        /// Text before or behind a listed host never makes it another listed host.
        #[test]
        fn an_exact_host_is_itself_alone(host in labels(), before in "[a-z0-9.-]{0,8}", behind in "[a-z0-9.-]{0,8}") {
            let host = host.join(".");
            let text = format!("{before}{host}{behind}");
            if let Ok(other) = Target::parse(&text, Some(443)) {
                let same = text == host || text == format!("{host}.");
                prop_assert_eq!(pattern(&host).admits(&other), same, "{}", text);
            }
        }

        /// Whatever the lists say, nothing closed is dialled unless the operator opened it, and then not in public.
        #[test]
        fn no_policy_opens_the_inside(bits: u32, public: bool, port in prop::sample::select(vec![80u16, 443, 8443])) {
            let address = std::net::Ipv4Addr::from(bits);
            let text = format!("{address}:{port}");
            let mode = if public { Mode::Public } else { allow(&[&text]) };
            let ceiling = ceiling(Listable::Any, Public::Granted, &[]);
            if verdict(&ceiling, &mode, &text, &[&address.to_string()]).is_ok() {
                prop_assert!(is_global(address.into()));
            }
        }

        /// A ceiling only takes away.
        #[test]
        fn a_ceiling_grants_nothing(name in labels(), top in labels(), joined: bool) {
            let name = if joined { [name, top.clone()].concat() } else { name }.join(".");
            let mode = allow(&[&format!("*.{}", top.join("."))]);
            let open = ceiling(Listable::Any, Public::Refused, &[]);
            let only = Listable::Only(vec![pattern(&format!("*.{}", top.join(".")))]);
            let closed = ceiling(only, Public::Refused, &[]);
            if closed.admit(&mode, target(&name)).is_ok() {
                prop_assert!(open.admit(&mode, target(&name)).is_ok());
            }
        }
    }
}
