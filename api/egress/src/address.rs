//! Which addresses are global: of the whole Internet's, and of nobody's inside.
//!
//! From the IANA registries as of 2025:
//! <https://www.iana.org/assignments/iana-ipv4-special-registry>, <https://www.iana.org/assignments/iana-ipv6-special-registry>,
//! <https://www.iana.org/assignments/ipv6-address-space>. IPv4 is open but for what is listed; IPv6 is closed but for
//! `2000::/3`, of which the list takes parts out. Stricter than the registries in three ways: all of `2001::/23` is
//! closed, forms that carry an IPv4 address are closed or as open as that address, and so are a cloud's own services.

use ipnet::{Ipv4Net, Ipv6Net};
use rustix::io::Errno;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

const CLOSED_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),          // this network, RFC 791
    v4(10, 0, 0, 0, 8),         // private use, RFC 1918
    v4(100, 64, 0, 0, 10),      // shared address space, RFC 6598; Alibaba's metadata at 100.100.100.200
    v4(127, 0, 0, 0, 8),        // loopback, RFC 1122
    v4(168, 63, 129, 16, 32),   // Azure's host agent: in no registry, and of the inside all the same
    v4(169, 254, 0, 0, 16),     // link local, RFC 3927; metadata of most clouds at 169.254.169.254
    v4(172, 16, 0, 0, 12),      // private use, RFC 1918
    v4(192, 0, 0, 0, 24),       // protocol assignments, RFC 6890; Oracle's metadata at 192.0.0.192
    v4(192, 0, 2, 0, 24),       // documentation, RFC 5737
    v4(192, 88, 99, 0, 24),     // 6to4 relays, deprecated by RFC 7526
    v4(192, 168, 0, 0, 16),     // private use, RFC 1918
    v4(198, 18, 0, 0, 15),      // benchmarking, RFC 2544
    v4(198, 51, 100, 0, 24),    // documentation, RFC 5737
    v4(203, 0, 113, 0, 24),     // documentation, RFC 5737
    v4(224, 0, 0, 0, 4),        // multicast, RFC 5771
    v4(240, 0, 0, 0, 4),        // reserved, RFC 1112
    v4(255, 255, 255, 255, 32), // limited broadcast, RFC 8190
];

const OPEN_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Parts of [`OPEN_V6`].
const CLOSED_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 0, 23), // protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID, anycast of protocols
    v6(0x2001, 0xdb8, 0, 32), // documentation, RFC 3849
    v6(0x2002, 0, 0, 16), // 6to4, RFC 3056: an IPv4 address within
    v6(0x3fff, 0, 0, 20), // documentation, RFC 9637
];

/// NAT64's own prefix, RFC 6052; an IPv4 address is its last four bytes. Networks without IPv4 reach it by this alone.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);

/// Whether an address is everybody's.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) if NAT64.contains(&v6) => is_global_v4(last_v4(v6)),
        IpAddr::V6(v6) => {
            OPEN_V6.contains(&v6)
                && !CLOSED_V6.iter().any(|net| net.contains(&v6))
                && (!is_isatap(v6) || is_global_v4(last_v4(v6)))
        }
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !CLOSED_V4.iter().any(|net| net.contains(&address))
}

fn last_v4(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// ISATAP (RFC 5214) knows an interface by `0:5efe` or `200:5efe` and an IPv4 address behind it, below any prefix.
fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _])
}

/// Whether an address is of this host itself. A global one can be: what a firewall keeps from the world is open to a
/// connection from here. Asks the kernel by a UDP socket, which sends nothing: to itself it speaks from itself. (Not so
/// to a whole range that a route makes local, as 127.0.0.0/8 is.)
pub(crate) fn is_of_this_host(address: IpAddr) -> bool {
    match source_towards(address) {
        Ok(source) => source == address,
        // No way there: it cannot be dialled either. Whatever else fails counts as ours.
        Err(error) => !matches!(
            Errno::from_io_error(&error),
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)
        ),
    }
}

fn source_towards(address: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Any port: nothing is sent to it.
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str) -> bool {
        is_global(text.parse().unwrap())
    }

    /// The first and the last address of each range that is closed, and what carries one.
    const CLOSED: &[&str] = &[
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.192",
        "192.0.0.255",
        "192.0.2.0",
        "192.0.2.255",
        "192.88.99.0",
        "192.88.99.255",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.0",
        "198.51.100.255",
        "203.0.113.0",
        "203.0.113.255",
        "224.0.0.0",
        "239.255.255.255",
        "240.0.0.0",
        "255.255.255.255",
        // IPv6: outside of 2000::/3, and what is closed within.
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b:0:1::8.8.8.8",
        "100::",
        "100::1",
        "100:0:0:1::1",
        "1fff:ffff::",
        "2001::",
        "2001::8.8.8.8",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff:ffff::",
        "2001:db8::1",
        "2001:db8:ffff::1",
        "2002::1",
        "2002:a9fe:a9fe::",
        "2002:808:808::1",
        "2002:ffff::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "ffff::1",
        // ISATAP below a global prefix.
        "2600::5efe:10.0.0.1",
        "2600::200:5efe:127.0.0.1",
    ];
    /// What is beside those.
    const OPEN: &[&str] = &[
        "1.0.0.0",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "64:ff9b::808:808",
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2001:db7:ffff::",
        "2001:db9::",
        "2003::1",
        "2606:2800:220:1::1",
        "2600::5efe:8.8.8.8",
        "3ffe::1",
        "3fff:1000::1",
    ];

    /// security.md 70 and 71.
    #[test]
    fn special_ranges_are_closed_and_their_neighbours_open() {
        for text in CLOSED {
            assert!(!check(text), "{text}");
        }
        for text in OPEN {
            assert!(check(text), "{text}");
        }
    }

    #[test]
    fn this_hosts_addresses_are_known_without_a_packet() {
        assert!(is_of_this_host("127.0.0.1".parse().unwrap()));
        assert!(is_of_this_host("::1".parse().unwrap()));
        assert!(!is_of_this_host("192.0.2.1".parse().unwrap()));
    }

    proptest! {
        /// The standard library's judgement, where it has one on stable, is never more strict than ours.
        #[test]
        fn nothing_that_the_standard_library_knows_is_open(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()
                || v4.is_documentation() || v4.is_multicast() || v4.is_unspecified();
            prop_assert!(!(special && is_global(v4.into())));
        }

        /// However an inner IPv4 address is wrapped, it is not opened by that.
        #[test]
        fn wrapping_opens_nothing(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [.., a, b] = v4.to_ipv6_mapped().segments();
            for v6 in [
                v4.to_ipv6_mapped(),
                v4.to_ipv6_compatible(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !a, !b),
                Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0x5efe, a, b),
            ] {
                prop_assert!(is_global_v4(v4) || !is_global(v6.into()), "{v6}");
            }
        }
    }
}
