//! The network of a cell: nothing but its own loopback, with one socket that listens there and is served outside.
//! The other way round, a socket that was made in there and is connected from outside reaches what listens inside.

use crate::fault;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Where programs in a cell find the way out: an HTTP proxy, whose other side is not in the cell.
pub const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3128);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Brings `lo` up in this process's network namespace, which it must own, and listens at [`PROXY`].
pub fn listen() -> io::Result<OwnedFd> {
    fault::step("listener")?;
    bring_up(&socket(SocketType::DGRAM)?)?;
    listen_at(&PROXY)
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?)
}

/// TCP sockets in another network namespace, not connected and not blocking: one of IPv4 and, where the kernel has it, one
/// of IPv6. A socket stays in the namespace that it was made in; this thread comes back. Needs root of the host.
pub fn sockets_in(network: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let own = File::open("/proc/thread-self/ns/net")?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = |family| rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    nix::sched::setns(network, CloneFlags::CLONE_NEWNET)?;
    let made = make(AddressFamily::INET).map(|first| {
        let second = make(AddressFamily::INET6).ok();
        std::iter::once(first).chain(second).collect()
    });
    if nix::sched::setns(&own, CloneFlags::CLONE_NEWNET).is_err() {
        // Whatever this process did next, it would do in a cell.
        std::process::abort();
    }
    Ok(made?)
}

/// Without `SO_REUSEADDR`: nobody else gets the port, not even while nothing listens.
fn listen_at(address: &SocketAddrV4) -> io::Result<OwnedFd> {
    let listener = socket(SocketType::STREAM)?;
    // Native cells of one session share the network, and each has a way out: whichever is asked serves all of them.
    rustix::net::sockopt::set_socket_reuseport(&listener, true)?;
    rustix::net::bind(&listener, address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Takes no more connections: the kernel refuses them, until [`wake`]. Those that nobody accepted are ended.
pub fn silence(listener: &OwnedFd) -> io::Result<()> {
    // See shutdown(2) and tcp_disconnect in the kernel: what is bound stays bound.
    Ok(rustix::net::shutdown(listener, Shutdown::Read)?)
}

/// Takes connections again after [`silence`].
pub fn wake(listener: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG)?)
}

/// See netdevice(7).
#[expect(unsafe_code, reason = "no library has this ioctl without a netlink socket")]
fn bring_up(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: a C struct of integers and a union of them, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(1);
    // SAFETY: the kernel reads one `ifreq`, which outlives the call, and writes nothing for this request.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_listener_is_silenced_and_woken() {
        // A port that was chosen, as a cell's is: one that the kernel chose would be given back.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free);
        let listener = listen_at(&address).unwrap();
        let held = TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            silence(&listener).unwrap();
            let refused = TcpStream::connect(address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            // It stays where it is.
            TcpListener::bind(address).unwrap_err();
            wake(&listener).unwrap();
            drop(TcpStream::connect(address).unwrap());
        }
        // Who waited to be accepted is not left waiting.
        assert!(!matches!((&held).read(&mut [0]), Ok(1..)));
    }
}
