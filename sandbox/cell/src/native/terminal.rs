//! A program's terminal, for a person who is elsewhere: keys come by one pipe, what the terminal shows goes by another.
//!
//! On both a piece stands behind its length, four bytes, the lowest first. The first byte of what comes says what it is:
//! 0, and the keys; 1, and rows and columns, two bytes each. Either side waits for the other: what a program prints is not
//! read before the last of it was taken.

use bytes::{Buf as _, BufMut as _, BytesMut};
use rustix::fs::OFlags;
use rustix::termios::Winsize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::net::unix::pipe;

/// Of what the terminal shows, that is read at once.
const SHOWN_BYTES: usize = 16 * 1024;
/// The longest piece that comes.
const PIECE_BYTES_MAX: usize = 128 * 1024;
const KEYS: u8 = 0;
const SIZE: u8 = 1;

/// Nobody is at the terminal any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HungUp;

#[derive(Debug)]
pub(super) struct Terminal {
    /// Not pipes, but read and written as they are.
    printed: pipe::Receiver,
    keyboard: pipe::Sender,
    person: Option<Person>,
    /// For the person.
    shown: BytesMut,
    /// For the program.
    typed: BytesMut,
    /// The program may still print.
    open: bool,
}

#[derive(Debug)]
struct Person {
    from: pipe::Receiver,
    to: pipe::Sender,
    /// What came and is not a whole piece yet.
    unread: BytesMut,
}

impl Terminal {
    pub(super) fn new(own: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&own)?;
        rustix::fs::fcntl_setfl(&own, flags | OFlags::NONBLOCK)?;
        let printed = pipe::Receiver::from_owned_fd_unchecked(own.try_clone()?)?;
        let keyboard = pipe::Sender::from_owned_fd_unchecked(own)?;
        let (shown, typed) = (BytesMut::new(), BytesMut::new());
        Ok(Self { printed, keyboard, person: None, shown, typed, open: true })
    }

    /// Somebody sits down: the pipe of what they type, the one of what they see.
    pub(super) fn attach(&mut self, wires: Vec<OwnedFd>) -> io::Result<()> {
        let [from, to] = <[OwnedFd; 2]>::try_from(wires).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (from, to) = (pipe::Receiver::from_owned_fd(from)?, pipe::Sender::from_owned_fd(to)?);
        self.person = Some(Person { from, to, unread: BytesMut::new() });
        Ok(())
    }

    /// Carries something, whenever there is something. Nothing is lost when the future is dropped.
    pub(super) async fn carry(&mut self) -> Result<(), HungUp> {
        let Self { printed, keyboard, person: Some(person), shown, typed, open } = self else {
            return std::future::pending().await;
        };
        tokio::select! {
            ready = printed.readable(), if *open && shown.is_empty() => {
                // Otherwise every program has closed its end.
                *open = ready.is_ok() && show(printed, shown).is_ok();
            }
            ready = person.to.writable(), if !shown.is_empty() => {
                ready.map_err(|_| HungUp)?;
                match person.to.try_write(shown) {
                    Ok(written) => shown.advance(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(HungUp),
                }
            }
            ready = person.from.readable(), if typed.is_empty() => {
                ready.map_err(|_| HungUp)?;
                match person.from.try_read_buf(&mut person.unread) {
                    Ok(0) => return Err(HungUp),
                    Ok(_) => hear(&mut person.unread, typed, keyboard)?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(HungUp),
                }
            }
            ready = keyboard.writable(), if !typed.is_empty() => {
                ready.map_err(|_| HungUp)?;
                match keyboard.try_write(typed) {
                    Ok(written) => typed.advance(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody reads it.
                    Err(_) => typed.clear(),
                }
            }
        }
        Ok(())
    }

    /// What is left of what a program printed that has ended, as far as it is taken.
    pub(super) fn show_the_last(&mut self) {
        let Some(person) = &self.person else { return };
        loop {
            while !self.shown.is_empty() {
                match person.to.try_write(&self.shown) {
                    Ok(written) => self.shown.advance(written),
                    Err(_) => return,
                }
            }
            // The runtime may not know yet that there is something to read, so it is not asked.
            let mut buffer = [0; SHOWN_BYTES];
            match rustix::io::read(&self.printed, &mut buffer) {
                Ok(length) if length > 0 => frame(&buffer[..length], &mut self.shown),
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Reads what the terminal shows, as a piece. An error is its end.
fn show(printed: &pipe::Receiver, shown: &mut BytesMut) -> io::Result<()> {
    let mut buffer = [0; SHOWN_BYTES];
    match printed.try_read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            frame(&buffer[..length], shown);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn frame(bytes: &[u8], shown: &mut BytesMut) {
    shown.put_u32_le(u32::try_from(bytes.len()).unwrap_or_default());
    shown.put_slice(bytes);
}

/// Takes the whole pieces out of what came.
fn hear(unread: &mut BytesMut, typed: &mut BytesMut, own: impl AsFd) -> Result<(), HungUp> {
    while let Some(head) = unread.first_chunk::<4>() {
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > PIECE_BYTES_MAX {
            return Err(HungUp);
        }
        if unread.len() < 4 + length {
            break;
        }
        unread.advance(4);
        let mut piece = unread.split_to(length);
        match (piece.get_u8(), piece.len()) {
            (KEYS, _) => typed.extend_from_slice(&piece),
            (SIZE, 4) => {
                let (ws_row, ws_col) = (piece.get_u16_le(), piece.get_u16_le());
                let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
                // One that is gone has no size.
                let _gone = rustix::termios::tcsetwinsize(&own, size);
            }
            _ => return Err(HungUp),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_heard_whole_or_not_at_all() {
        let own: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let (mut unread, mut typed) = (BytesMut::new(), BytesMut::new());
        for byte in *b"\x03\0\0\0\0ls\x05\0\0\0\x01\x18\0\x50\0\x02\0\0\0\0\n" {
            unread.put_u8(byte);
            hear(&mut unread, &mut typed, &own).unwrap();
        }
        assert_eq!((&typed[..], unread.len()), (&b"ls\n"[..], 0));
        for nonsense in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"\x02\0\0\0\x01\0", b"\x01\0\0\0\x07"] {
            assert_eq!(hear(&mut nonsense.into(), &mut typed, &own), Err(HungUp), "{nonsense:?}");
        }
    }
}
