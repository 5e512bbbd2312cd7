//! `CONNECT`: bytes both ways, once TLS has said the name that was asked for.

use crate::decision::{Rule, Way};
use crate::hello::{self, HELLO_BYTES_MAX, Hello, NotHello};
use crate::host::{Host, Target};
use crate::meter::Counted;
use crate::session::{Outside, Session};
use bytes::{Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Here TLS is spoken.
const TLS_PORT: u16 = 443;
/// For the whole greeting.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// What a tunnel holds of each direction.
const BUFFER_BYTES: usize = 64 * 1024;
/// A fatal alert, `access_denied`: all that a TLS client shows to its person.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// The session's side of a connection.
pub(crate) type Inside = Counted<TcpStream>;

/// A tunnel whose request was granted: it begins when the answer is sent.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) begun: OnUpgrade,
    pub(crate) target: Target,
    pub(crate) outside: Outside,
}

impl Tunnel {
    /// Carries bytes until both sides have ended, or a rule ends it.
    pub(crate) async fn run(self, session: &Session) {
        let Ok(upgraded) = self.begun.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Inside>>() else { return };
        let mut inside = parts.io.into_inner();
        let Outside { stream: mut outside, place: _place } = self.outside;
        let ended = carry(&mut inside, parts.read_buf, &mut outside, &self.target).await;
        if let Err(Ended::By(rule)) = ended {
            session.note_end(Way::Tunnel, &self.target.to_string(), rule);
        } else if session.has_no_bytes_left() {
            session.note_end(Way::Tunnel, &self.target.to_string(), Rule::Bytes);
        }
    }
}

/// Why a tunnel did not end by itself.
#[derive(Debug)]
enum Ended {
    By(Rule),
    /// One of the sides went away.
    Broken,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

async fn carry(
    inside: &mut Inside,
    early: Bytes,
    outside: &mut Counted<TcpStream>,
    target: &Target,
) -> Result<(), Ended> {
    let mut first = BytesMut::from(early);
    if target.port == TLS_PORT
        && let Err(ended) = check_hello(inside, &mut first, &target.host).await
    {
        // Nothing of it has left. The other side sees a connection that said nothing.
        let _gone = inside.write_all(&ACCESS_DENIED).await;
        let _gone = inside.shutdown().await;
        return Err(ended);
    }
    outside.write_all(&first).await?;
    drop(first);
    copy_bidirectional_with_sizes(inside, outside, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}

async fn check_hello(inside: &mut Inside, received: &mut BytesMut, host: &Host) -> Result<(), Ended> {
    let hello =
        timeout(HELLO_TIME, read_hello(inside, received)).await.map_err(|_| Ended::By(Rule::Idle))??;
    let same = match (host, hello.server_name) {
        (Host::Name(asked), Some(said)) => *asked == said,
        // RFC 6066: an address is never said. A name would be another host's.
        (Host::Address(_), None) => true,
        (Host::Name(_), None) | (Host::Address(_), Some(_)) => false,
    };
    if same { Ok(()) } else { Err(Ended::By(Rule::ServerNameDiffers)) }
}

async fn read_hello(inside: &mut Inside, received: &mut BytesMut) -> Result<Hello, Ended> {
    loop {
        match hello::read(received) {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) if received.len() < HELLO_BYTES_MAX => {}
            Ok(None) | Err(NotHello) => return Err(Ended::By(Rule::NotTls)),
        }
        if inside.read_buf(received).await? == 0 {
            return Err(Ended::Broken);
        }
    }
}
