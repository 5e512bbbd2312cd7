//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), read strictly.
//!
//! A server behind us may read a greeting in its own way; what two readers could take differently is refused: two
//! names, two extensions of a kind, lengths that leave something over. No cryptography: it is the plain first message.

use crate::host::{Host, Name};

/// The longest greeting that is read. The largest of today's (post-quantum keys, tickets) have about 4 KiB.
pub(crate) const HELLO_BYTES_MAX: usize = 32 * 1024;
/// The most records that a greeting may come in.
const RECORDS_MAX: usize = 16;
/// RFC 8446 §5.1: the longest plaintext of a record.
const RECORD_BYTES_MAX: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// RFC 9849: the true greeting is encrypted within, the name outside is that of the front.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Its type in a greeting that was sent; `inner` (1) never is.
const OUTER: u8 = 0;
/// An encrypted server name, of a draft that nothing speaks any more.
const ESNI: u16 = 0xffce;

/// Not a greeting that says one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotHello;

type Result<T> = std::result::Result<T, NotHello>;

/// What a whole greeting says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The name that it asks for. With an encrypted greeting within, the name of its front: it must be the host that
    /// was asked for all the same, so a hidden name only gets to where its front is allowed.
    pub(crate) server_name: Option<Name>,
}

/// Reads the greeting at the beginning of what was received; `None`: it goes on.
pub(crate) fn read(received: &[u8]) -> Result<Option<Hello>> {
    let Some(message) = message(received)? else { return Ok(None) };
    let mut body = Reader(&message);
    let _legacy_version = body.take(2)?;
    let _random = body.take(32)?;
    let session = body.vector8()?;
    let suites = body.vector16()?;
    let compressions = body.vector8()?;
    if session.0.len() > 32 || suites.0.is_empty() || suites.0.len() % 2 != 0 || compressions.0.is_empty() {
        return Err(NotHello);
    }
    // Before TLS 1.2, extensions could be missing altogether.
    let extensions = if body.is_empty() { Reader(&[]) } else { body.vector16()? };
    body.end()?;
    Ok(Some(Hello { server_name: in_extensions(extensions)? }))
}

/// Puts the greeting together from its records, without its header; `None`: more must come.
fn message(received: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut records = Reader(received);
    let mut message = Vec::new();
    for _ in 0..RECORDS_MAX {
        if records.0.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Err(NotHello);
        }
        let Ok(head) = records.take(5) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[1] != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Err(NotHello);
        }
        let Ok(fragment) = records.take(length) else { return Ok(None) };
        message.extend_from_slice(fragment);
        if message[0] != CLIENT_HELLO {
            return Err(NotHello);
        }
        let Some(head) = message.first_chunk::<4>() else { continue };
        let length = 4 + u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        if length > HELLO_BYTES_MAX || message.len() > length {
            return Err(NotHello);
        }
        if message.len() == length {
            message.drain(..4);
            return Ok(Some(message));
        }
    }
    Err(NotHello)
}

fn in_extensions(mut extensions: Reader<'_>) -> Result<Option<Name>> {
    let mut seen = Vec::new();
    let mut name = None;
    while !extensions.is_empty() {
        let kind = extensions.number16()?;
        let mut content = extensions.vector16()?;
        if seen.contains(&kind) {
            return Err(NotHello);
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => name = Some(in_server_name(content)?),
            ENCRYPTED_CLIENT_HELLO if content.take(1)? != [OUTER] => return Err(NotHello),
            ESNI => return Err(NotHello),
            _ => {}
        }
    }
    Ok(name)
}

/// A list that may hold names of several kinds, and must hold one of the only kind there is.
fn in_server_name(mut content: Reader<'_>) -> Result<Name> {
    let mut list = content.vector16()?;
    content.end()?;
    if list.take(1)? != [HOST_NAME] {
        return Err(NotHello);
    }
    let name = list.vector16()?.0;
    list.end()?;
    let text = std::str::from_utf8(name).ok().filter(|text| text.is_ascii()).ok_or(NotHello)?;
    match text.parse() {
        Ok(Host::Name(name)) => Ok(name),
        _ => Err(NotHello),
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(NotHello)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number16(&mut self) -> Result<u16> {
        let two = self.take(2)?;
        Ok(u16::from_be_bytes([two[0], two[1]]))
    }

    fn vector8(&mut self) -> Result<Reader<'a>> {
        let length = self.take(1)?[0];
        self.take(usize::from(length)).map(Reader)
    }

    fn vector16(&mut self) -> Result<Reader<'a>> {
        let length = self.number16()?;
        self.take(usize::from(length)).map(Reader)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(NotHello) }
    }
}

#[cfg(test)]
mod tests;
