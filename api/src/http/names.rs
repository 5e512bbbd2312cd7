//! By which names, and from which pages, the doors may be reached that a web page could be made to open: a page can send a
//! WebSocket handshake anywhere, and a name that it owns can lead here.

use super::error::{Code, Problem};
use crate::config::McpPolicy;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

/// The names and pages that are let in.
#[derive(Debug, Clone)]
pub struct Names {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Names {
    /// The same as for agents.
    pub fn new(policy: &McpPolicy) -> Self {
        Self { hosts: policy.hosts.clone(), origins: policy.origins.clone() }
    }

    /// Lets a request in that names this server by one of its names, and comes from no page, from one of its own, or from
    /// one that is listed.
    pub(super) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let forbidden = |what: &str| Problem::new(Code::Forbidden, what);
        let host = host(headers, uri)?;
        if !self.hosts.iter().any(|allowed| answers_to(allowed, &host)) {
            return Err(forbidden(
                "this server is not reached by that Host; see `hosts` of its configuration",
            ));
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let own = ["http://", "https://"].iter().any(|scheme| {
                origin.strip_prefix(scheme).is_some_and(|name| name.eq_ignore_ascii_case(host.as_str()))
            });
            if !own && !self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
                return Err(forbidden("not from that Origin; see `origins` of the server's configuration"));
            }
        }
        Ok(())
    }
}

/// How the client names this server, with the port.
pub(super) fn host(headers: &HeaderMap, uri: &Uri) -> Result<Authority, Problem> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let host: Option<Authority> = uri.authority().cloned().or(named);
    // What it would be taken for, who can say?
    host.filter(|host| !host.as_str().contains('@'))
        .ok_or_else(|| Problem::new(Code::Malformed, "a Host that is no name"))
}

/// Whether the client sees this server by TLS. Only itself is told, so it may say so.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
}

/// An allowed name without a port is allowed with any.
fn answers_to(allowed: &str, host: &Authority) -> bool {
    let bare = |name: &str| name.trim_matches(['[', ']']).to_ascii_lowercase();
    match allowed.parse::<Authority>() {
        Ok(allowed) if allowed.port().is_some() => allowed.as_str().eq_ignore_ascii_case(host.as_str()),
        Ok(allowed) => bare(allowed.host()) == bare(host.host()),
        // An address of version 6 without brackets.
        Err(_) => bare(allowed) == bare(host.host()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>) -> bool {
        let names = Names {
            hosts: ["localhost", "::1", "a.example", "b.example:8443"].map(str::to_owned).into(),
            origins: vec!["https://app.example".into()],
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        origin.map(|origin| headers.insert(header::ORIGIN, origin.parse().unwrap()));
        names.check(&headers, &Uri::from_static("/x")).is_ok()
    }

    #[test]
    fn only_by_its_names_and_from_its_pages() {
        for host in ["localhost", "LOCALHOST:8080", "[::1]:80", "a.example:1", "b.example:8443"] {
            assert!(check(host, None), "{host}");
        }
        for host in ["evil.example", "b.example", "b.example:80", "localhost.evil.example", "x@localhost", ""]
        {
            assert!(!check(host, None), "{host}");
        }
        for origin in ["http://localhost:8080", "https://localhost:8080", "https://app.example"] {
            assert!(check("localhost:8080", Some(origin)), "{origin}");
        }
        for origin in
            ["null", "http://localhost", "http://evil.example", "file://", "", "https://app.example.evil"]
        {
            assert!(!check("localhost:8080", Some(origin)), "{origin}");
        }
    }
}
