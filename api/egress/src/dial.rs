//! Connections to outside: to exactly the addresses that were checked.

use crate::decision::Rule;
use crate::policy::Checked;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// For one address.
const DIAL_TIME: Duration = Duration::from_secs(5);

/// A connection, and what came in on it before it was ours to read.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    pub(crate) early: Bytes,
    pub(crate) address: SocketAddr,
}

/// Dials the addresses in order, until one answers.
pub(crate) async fn dial(checked: &Checked, upstream: Option<SocketAddr>) -> Result<Dialled, Rule> {
    for &address in checked.addresses() {
        let dialled = async {
            match upstream {
                None => direct(address).await,
                Some(upstream) => through(upstream, address).await,
            }
        };
        if let Ok(Some(dialled)) = timeout(DIAL_TIME, dialled).await {
            return Ok(dialled);
        }
    }
    Err(Rule::Unreachable)
}

async fn direct(address: SocketAddr) -> Option<Dialled> {
    let stream = connect(address).await?;
    Some(Dialled { stream, early: Bytes::new(), address })
}

async fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// Asks an upstream proxy for a connection to an address, never to a name: it would resolve that anew, unchecked.
async fn through(upstream: SocketAddr, address: SocketAddr) -> Option<Dialled> {
    let stream = connect(upstream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let authority = address.to_string();
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(&authority)
        .header(hyper::header::HOST, &authority)
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = sender.send_request(request).await.ok()?;
    if !answer.status().is_success() {
        tracing::warn!(status = %answer.status(), "the upstream proxy refuses");
        return None;
    }
    let upgraded = hyper::upgrade::on(answer).await.ok()?;
    drop(driver);
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some(Dialled { stream: parts.io.into_inner(), early: parts.read_buf, address })
}
