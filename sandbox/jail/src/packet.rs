//! Messages over a SEQPACKET socket: whole or not at all, with descriptors, bounded before anything is allocated.
//!
//! A message is postcard. One that is larger than a packet travels as several: the first byte of each packet says
//! whether more follow. Descriptors come with the first packet of a message.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a message that one packet carries; well below the default socket buffer, so a send fits.
pub const PACKET_BYTES: usize = 32 * 1024;
/// The longest message that a reader puts together.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most descriptors that one message carries.
pub const DESCRIPTORS_MAX: usize = 8;

const LAST: u8 = 0;
const MORE: u8 = 1;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The other side closed the socket.
    #[error("the other side closed the channel")]
    Closed,
    /// The socket failed (also `WouldBlock` on a socket that does not block).
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not a message: the other side is broken or hostile.
    #[error("not a message: {0}")]
    Malformed(&'static str),
}

impl PacketError {
    /// Whether the same call may succeed later on a socket that does not block.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Io(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Both ends of a new channel, close-on-exec and blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A message as the packets that carry it, each with its leading flag.
#[derive(Debug)]
pub struct Packets {
    body: Vec<u8>,
    sent: usize,
    first: bool,
}

impl Packets {
    /// Encodes `message`.
    pub fn new<T: Serialize>(message: &T) -> Result<Self, PacketError> {
        let body = postcard::to_stdvec(message).map_err(|_| PacketError::Malformed("cannot be encoded"))?;
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(PacketError::Malformed("too long"));
        }
        Ok(Self { body, sent: 0, first: true })
    }

    /// Whether every packet was sent.
    pub fn done(&self) -> bool {
        !self.first && self.sent == self.body.len()
    }

    /// Sends the next packet; `descriptors` go with the first. On an error (also `WouldBlock`) nothing was sent.
    pub fn send_next(
        &mut self,
        socket: BorrowedFd<'_>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), PacketError> {
        let chunk = &self.body[self.sent..self.body.len().min(self.sent + PACKET_BYTES)];
        let flag = [if self.sent + chunk.len() == self.body.len() { LAST } else { MORE }];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if self.first
            && !descriptors.is_empty()
            && !control.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(PacketError::Malformed("too many descriptors"));
        }
        let parts = [IoSlice::new(&flag), IoSlice::new(chunk)];
        retry(|| rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
        self.sent += chunk.len();
        self.first = false;
        Ok(())
    }
}

/// Puts messages together from packets; holds at most [`MESSAGE_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Assembler {
    body: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Assembler {
    /// Reads one packet; a message when it was the last of one. On `WouldBlock` nothing changed.
    pub fn receive_next<T: DeserializeOwned>(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
        let mut flag = [0];
        let start = self.body.len();
        if start > MESSAGE_BYTES_MAX {
            return Err(PacketError::Malformed("too long"));
        }
        self.body.resize(start + PACKET_BYTES, 0);
        let received = self.receive_raw(socket, &mut flag, start);
        let length = *received.as_ref().unwrap_or(&1);
        self.body.truncate(start + length.saturating_sub(1));
        match received {
            Err(error) => Err(error),
            Ok(0) => Err(PacketError::Closed),
            Ok(_) if flag[0] == MORE => Ok(None),
            Ok(_) if flag[0] == LAST => {
                let message = postcard::from_bytes(&self.body);
                self.body.clear();
                let descriptors = std::mem::take(&mut self.descriptors);
                match message {
                    Ok(message) => Ok(Some((message, descriptors))),
                    Err(_) => Err(PacketError::Malformed("cannot be decoded")),
                }
            }
            Ok(_) => Err(PacketError::Malformed("unknown flag")),
        }
    }

    fn receive_raw(
        &mut self,
        socket: BorrowedFd<'_>,
        flag: &mut [u8; 1],
        start: usize,
    ) -> Result<usize, PacketError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let mut parts = [IoSliceMut::new(flag), IoSliceMut::new(&mut self.body[start..])];
            retry(|| rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC))?
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(PacketError::Malformed("too many descriptors"));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // This process has as many descriptors as it may, or the sender sent too many. The message is whole, so it is
            // heard, and who needs its descriptors does without all of them rather than with some.
            self.descriptors.clear();
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(PacketError::Malformed("truncated"));
        }
        Ok(received.bytes)
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, PacketError> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(PacketError::Closed),
            other => return other.map_err(|e| PacketError::Io(e.into())),
        }
    }
}

/// Sends a message on a blocking socket.
pub fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    let mut packets = Packets::new(message)?;
    while !packets.done() {
        packets.send_next(socket.as_fd(), descriptors)?;
    }
    Ok(())
}

/// Receives a message from a blocking socket.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), PacketError> {
    let mut assembler = Assembler::default();
    loop {
        if let Some(message) = assembler.receive_next(socket.as_fd())? {
            return Ok(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_message_arrives_whole(bytes in proptest::collection::vec(any::<u8>(), 0..(3 * PACKET_BYTES))) {
            let (a, b) = pair().unwrap();
            let sender = std::thread::spawn({ let bytes = bytes.clone(); move || send(&a, &bytes, &[]).map(|()| a) });
            let (received, descriptors): (Vec<u8>, _) = receive(&b).unwrap();
            drop(sender.join().unwrap().unwrap());
            prop_assert_eq!(received, bytes);
            prop_assert!(descriptors.is_empty());
        }

        #[test]
        fn hostile_packets_never_panic(packet in proptest::collection::vec(any::<u8>(), 1..100)) {
            let (a, b) = pair().unwrap();
            rustix::net::send(&a, &packet, SendFlags::empty()).unwrap();
            drop(a);
            let _outcome = receive::<Vec<String>>(&b);
        }
    }

    #[test]
    fn a_sender_without_end_is_cut_off() {
        let (a, b) = pair().unwrap();
        let flood = std::thread::spawn(move || {
            let mut packet = vec![0x55; PACKET_BYTES + 1];
            packet[0] = MORE;
            while rustix::net::send(&a, &packet, SendFlags::NOSIGNAL).is_ok() {}
        });
        assert!(matches!(receive::<Vec<u8>>(&b), Err(PacketError::Malformed("too long"))));
        drop(b);
        flood.join().unwrap();
    }

    #[test]
    fn descriptors_travel_with_the_first_packet() {
        let (a, b) = pair().unwrap();
        let (x, _y) = pair().unwrap();
        send(&a, &7u32, &[x.as_fd()]).unwrap();
        let (number, descriptors): (u32, _) = receive(&b).unwrap();
        assert_eq!((number, descriptors.len()), (7, 1));
    }
}
