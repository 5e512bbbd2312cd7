//! The network of a cell: nothing but its own loopback, with one socket that listens there and is served outside.

use crate::fault;
use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

/// Where programs in a cell find the way out: an HTTP proxy, whose other side is not in the cell.
pub const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3128);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Brings `lo` up in this process's network namespace, which it must own, and listens at [`PROXY`].
pub fn listen() -> io::Result<OwnedFd> {
    fault::step("listener")?;
    let socket = |kind| {
        rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)
    };
    bring_up(&socket(SocketType::DGRAM)?)?;
    let listener = socket(SocketType::STREAM)?;
    // Native cells of one session share the network, and each has a way out: whichever is asked serves all of them.
    rustix::net::sockopt::set_socket_reuseport(&listener, true)?;
    rustix::net::bind(&listener, &PROXY)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
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
