//! Names become addresses: by the operator's resolvers alone, and only for what the policy admitted.
//!
//! No hosts file, no search list, no cache: what a session learns from the time that an answer takes, it must not learn
//! about another session. A resolver near by has its own cache.

use crate::decision::Rule;
use crate::host::Host;
use crate::policy::{Admitted, Checked};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::timeout;

/// For one try; there are two.
const TRY_TIME: Duration = Duration::from_secs(3);
const TRIES: usize = 2;
/// For all of it, aliases that must be followed included.
const LOOKUP_TIME: Duration = Duration::from_secs(10);

/// Asks the resolvers that it was given, and nobody else; without any, no name has an address.
pub(crate) struct Resolver(Option<TokioResolver>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    pub(crate) fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        if servers.is_empty() {
            // Not the library's choice of public ones.
            return Ok(Self(None));
        }
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        let mut options = ResolverOpts::default();
        options.ndots = 0;
        options.timeout = TRY_TIME;
        options.attempts = TRIES;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        let provider = TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map(|built| Self(Some(built)))
    }

    /// Finds all addresses of a target and decides on them.
    pub(crate) async fn resolve(&self, admitted: Admitted<'_>) -> Result<Checked, Rule> {
        let addresses = match &admitted.target().host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.lookup(name.as_str()).await?,
        };
        admitted.check(&addresses)
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, Rule> {
        let resolver = self.0.as_ref().ok_or(Rule::NameUnknown)?;
        // With a dot at its end a name is whole, and no search list can lengthen it.
        let found = timeout(LOOKUP_TIME, resolver.lookup_ip(format!("{name}."))).await;
        match found {
            Ok(Ok(addresses)) => Ok(addresses.iter().collect()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a name has no address");
                Err(Rule::NameUnknown)
            }
            Err(_late) => Err(Rule::NameUnknown),
        }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
