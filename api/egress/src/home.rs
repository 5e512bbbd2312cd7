//! The way back into a session: what `localhost` is to a cell that has a network of its own, and no program to listen there.

use crate::host::{Host, Target};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use tokio::net::TcpStream;

/// The name of one's own machine (RFC 6761).
const LOCALHOST: &str = "localhost";

/// A connection that is being made, or nothing when nobody listens.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Option<TcpStream>> + Send + 'a>>;

/// Where a session's programs listen.
pub trait Home: fmt::Debug + Send + Sync {
    /// Connects to a port of theirs.
    fn dial(&self, port: u16) -> Dialling<'_>;
}

/// Whether somebody who asks for this asks for their own machine.
pub(crate) fn is_home(target: &Target) -> bool {
    match &target.host {
        Host::Name(name) => name.as_str() == LOCALHOST,
        Host::Address(IpAddr::V4(address)) => address.is_loopback(),
        Host::Address(IpAddr::V6(address)) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_localhost_and_nothing_that_looks_like_it() {
        let is = |text: &str| is_home(&Target::parse(text, Some(80)).unwrap());
        for home in ["localhost", "LOCALHOST:3000", "127.0.0.1", "127.9.9.9:1", "[::1]:8080"] {
            assert!(is(home), "{home}");
        }
        for elsewhere in [
            "localhost.example",
            "a.localhost",
            "local",
            "128.0.0.1",
            "[::2]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
        ] {
            assert!(!is(elsewhere), "{elsewhere}");
        }
    }
}
