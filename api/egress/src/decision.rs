//! What was decided: for the person in the session (a plain answer) and for the operator (an event).

use hyper::StatusCode;
use std::fmt;
use std::net::SocketAddr;

/// Why something was refused or ended. The names are part of the contract: they stand in answers and in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The session has no network.
    NetworkNone,
    /// The host is not in the session's allow-list.
    HostNotListed,
    /// The host is listed, but the operator allows it to nobody.
    HostAboveCeiling,
    /// The operator forbids public mode.
    PublicRefused,
    /// In public mode there are ports 80 and 443 only.
    PortNotPublic,
    /// One of the host's addresses is not global, or is this host's own.
    AddressNotGlobal,
    /// The name has no address, or the resolver did not answer.
    NameUnknown,
    /// Nobody answers there.
    Unreachable,
    /// Not a request that a proxy takes.
    BadRequest,
    /// On port 443 TLS is spoken, and this is something else.
    NotTls,
    /// The TLS greeting names another host than the one that was asked for, or none.
    ServerNameDiffers,
    /// The other side answered in a way that cannot be passed on.
    BadAnswer,
    /// Too many connections at the same time.
    Connections,
    /// Too many requests within a second.
    Rate,
    /// The session used up its bytes.
    Bytes,
    /// Nothing moved for too long.
    Idle,
}

impl Rule {
    /// The name in answers and logs.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// The status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        self.row().1
    }

    /// RFC 9209's word for it.
    pub(crate) fn proxy_error(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        const DENIED: &str = "http_request_denied";
        const LIMIT: &str = "connection_limit_reached";
        match self {
            Self::NetworkNone => ("network_none", S::FORBIDDEN, DENIED, "this session has no network"),
            Self::HostNotListed => (
                "host_not_listed",
                S::FORBIDDEN,
                DENIED,
                "the host and port are not in this session's allow-list",
            ),
            Self::HostAboveCeiling => (
                "host_above_ceiling",
                S::FORBIDDEN,
                DENIED,
                "the operator of this service does not allow the host",
            ),
            Self::PublicRefused => (
                "public_refused",
                S::FORBIDDEN,
                DENIED,
                "the operator of this service does not allow public network",
            ),
            Self::PortNotPublic => {
                ("port_not_public", S::FORBIDDEN, DENIED, "public network means ports 80 and 443")
            }
            Self::AddressNotGlobal => (
                "address_not_global",
                S::FORBIDDEN,
                "destination_ip_prohibited",
                "the host has an address that is not of the public Internet",
            ),
            Self::NameUnknown => {
                ("name_unknown", S::BAD_GATEWAY, "dns_error", "the host's name has no address")
            }
            Self::Unreachable => {
                ("unreachable", S::BAD_GATEWAY, "destination_unavailable", "the host does not answer")
            }
            Self::BadRequest => (
                "bad_request",
                S::BAD_REQUEST,
                "http_request_error",
                "a proxy takes CONNECT host:port, or http://host/ with nothing odd in the host",
            ),
            Self::NotTls => ("not_tls", S::FORBIDDEN, DENIED, "on port 443 TLS is spoken"),
            Self::ServerNameDiffers => (
                "server_name_differs",
                S::FORBIDDEN,
                DENIED,
                "the TLS server name is not the host that was asked for",
            ),
            Self::BadAnswer => {
                ("bad_answer", S::BAD_GATEWAY, "http_protocol_error", "the host's answer cannot be passed on")
            }
            Self::Connections => {
                ("connections", S::TOO_MANY_REQUESTS, LIMIT, "this session has too many connections open")
            }
            Self::Rate => ("rate", S::TOO_MANY_REQUESTS, LIMIT, "this session asks too often"),
            Self::Bytes => ("bytes", S::FORBIDDEN, DENIED, "this session has used up its network bytes"),
            Self::Idle => ("idle", S::GATEWAY_TIMEOUT, "connection_timeout", "nothing moved for too long"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().3)
    }
}

/// How a target was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// `CONNECT host:port`.
    Tunnel,
    /// `GET http://host/` and its like.
    Http,
}

/// One decision, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How it was asked for; `None`: by something that is no request.
    pub way: Option<Way>,
    /// What was asked for, in its canonical form; `None` where nothing could be made of it.
    pub target: Option<String>,
    /// The address that was dialled. Never told inside the session.
    pub address: Option<SocketAddr>,
    /// `Err`: refused, or ended after it was allowed.
    pub verdict: Result<(), Rule>,
    /// Decisions right before this one that nobody took in time, and that are not told any more.
    pub missed: u64,
}
