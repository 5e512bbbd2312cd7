//! All packets of this namespace.

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Flags of TCP.
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A packet socket on every interface.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    pub fn start() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Self(socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(eth::ALL)).unwrap())
    }

    /// Where datagrams and connections were sent since the last call, but for answers to us, and what `proxies` sent and got.
    pub fn take(&self, proxies: &BTreeSet<u16>) -> BTreeSet<String> {
        let mut sent = BTreeSet::new();
        let mut buffer = [0; 256];
        while let Ok((length, _)) = recv(&self.0, &mut buffer, RecvFlags::empty()) {
            if let Some((protocol, from_port, to)) = read(&buffer[..length])
                && !is_ours(to.ip())
                && !proxies.contains(&from_port)
                && !proxies.contains(&to.port())
            {
                sent.insert(format!("{protocol} {to}"));
            }
        }
        sent
    }
}

/// The ends of the wire on this side.
fn is_ours(address: IpAddr) -> bool {
    address == IpAddr::from([10, 99, 0, 1]) || address == IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 1])
}

/// Protocol, port of the sender, and receiver. Neighbour discovery and its like are no traffic of ours.
fn read(packet: &[u8]) -> Option<(&'static str, u16, SocketAddr)> {
    let (protocol, to, rest): (u8, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (packet[9], Ipv4Addr::from(to).into(), packet.get(header..)?)
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (packet[6], Ipv6Addr::from(to).into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let name = match protocol {
        6 => "tcp",
        17 => "udp",
        1 => "icmp",
        _ => return None,
    };
    // Of a TCP connection, what begins it: it may still be ending when others are looked at.
    if name == "tcp" && rest.get(13)? & (SYN | ACK) != SYN {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    Some((name, port(0)?, SocketAddr::new(to, if name == "icmp" { 0 } else { port(2)? })))
}
