//! The HTTP proxy that a session speaks to: `CONNECT`, and requests with a whole address, which are passed on.
//!
//! What goes out is never what came in: hyper reads a request and writes another, with the host that was decided on and
//! a framing of its own. So there is nothing to smuggle. Each request has a connection of its own to outside, so that
//! each redirect is a new decision.
//!
//! | what | bound |
//! |---|---|
//! | connections from inside | `connections` and [`SPARE`] more for refusals; further ones wait in the kernel's queue |
//! | a head, from either side | [`HEAD_BYTES_MAX`], [`HEADERS_MAX`] headers |
//! | a head that began | [`HEAD_TIME`] |
//! | a connection on which nothing moves | `idle` |

use crate::decision::{Rule, Way};
use crate::host::Target;
use crate::meter::{Activity, Counted};
use crate::session::{Outside, Reached, Session};
use crate::tunnel::Tunnel;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version, client, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Connections from inside beyond those that may go out: who has too many is told so.
const SPARE: usize = 32;
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 100;
const HEAD_TIME: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left): time for others to end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
const HTTP_PORT: u16 = 80;

/// Headers that are about one connection alone (RFC 9110 §7.6.1), and those that hyper writes anew.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

type Answer = Response<Either<Full<Bytes>, Passed>>;

/// Serves a session until it is dropped.
pub(crate) async fn serve(listener: TcpListener, session: Arc<Session>) {
    let places = Arc::new(Semaphore::new(session.caps.connections as usize + SPARE));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let session = session.clone();
                connections.spawn(async move {
                    connection(stream, session).await;
                    drop(place);
                });
            }
            // It does not listen any more: whoever handed it over has shut it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => {
                tracing::warn!(%error, "a session's connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// One connection from inside, from its first request to the end of its tunnel.
async fn connection(stream: TcpStream, session: Arc<Session>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let idle = session.caps.idle;
    let activity = Arc::new(Activity::new());
    let stream = Counted::inside(stream, activity.clone());
    let place = Arc::new(Reached::default());
    tokio::select! {
        () = speak(stream, session.clone(), activity.clone(), place.clone()) => {}
        () = activity.ended(idle) => {}
        () = session.forbids(&place) => {}
    }
}

async fn speak(
    stream: Counted<TcpStream>,
    session: Arc<Session>,
    activity: Arc<Activity>,
    place: Arc<Reached>,
) {
    let granted = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (session, activity) = (session.clone(), activity.clone());
        let (place, granted) = (place.clone(), granted.clone());
        async move {
            let answer = answer(&session, request, activity, &place, &granted).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(refusal))
        }
    });
    let spoken = server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if spoken.is_err_and(|error| error.is_parse()) {
        session.note_malformed();
    }
    let tunnel: Option<Tunnel> = granted.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(tunnel) = tunnel {
        tunnel.run(&session).await;
    }
}

async fn answer(
    session: &Arc<Session>,
    request: Request<Incoming>,
    activity: Arc<Activity>,
    place: &Reached,
    granted: &Mutex<Option<Tunnel>>,
) -> Result<Answer, Rule> {
    let Some((way, target)) = target(&request) else {
        session.note_malformed();
        return Err(Rule::BadRequest);
    };
    let outside = session.reach(way, target.clone(), activity, place).await?;
    match way {
        Way::Tunnel => {
            let begun = hyper::upgrade::on(request);
            *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tunnel { begun, target, outside });
            Ok(Response::new(Either::Left(Full::default())))
        }
        Way::Http => {
            let told = target.to_string();
            let passed = pass_on(request, target, outside).await;
            passed.inspect_err(|rule| {
                let rule = if session.has_no_bytes_left() { Rule::Bytes } else { *rule };
                session.note_end(Way::Http, &told, rule);
            })
        }
    }
}

/// What a request asks for: nothing but a host and a port, and for `http` a path.
fn target(request: &Request<Incoming>) -> Option<(Way, Target)> {
    let uri = request.uri();
    let authority = uri.authority()?.as_str();
    if request.method() == Method::CONNECT {
        let alone = uri.scheme().is_none() && uri.path_and_query().is_none();
        return Some((Way::Tunnel, Target::parse(authority, None).ok().filter(|_| alone)?));
    }
    let http = uri.scheme_str() == Some("http");
    Some((Way::Http, Target::parse(authority, Some(HTTP_PORT)).ok().filter(|_| http)?))
}

async fn pass_on(request: Request<Incoming>, target: Target, outside: Outside) -> Result<Answer, Rule> {
    let Outside { stream, place } = outside;
    let (mut sender, connection) = client::conn::http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Rule::Unreachable)?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        let ended = connection.await;
        drop(place);
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to outside broke");
        }
    }));
    let request = rewritten(request, &target).ok_or(Rule::BadRequest)?;
    let answer = sender.send_request(request).await.map_err(|_| Rule::BadAnswer)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Rule::BadAnswer);
    }
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    head.version = Version::HTTP_11;
    head.headers.append(header::VIA, HeaderValue::from_static("1.1 anchorhold"));
    Ok(Response::from_parts(head, Either::Right(Passed { body, _driver: driver })))
}

/// The request as it goes out: of the target only what was decided on, of the headers only what is for the other end.
fn rewritten(request: Request<Incoming>, target: &Target) -> Option<Request<Incoming>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query()?.clone();
    head.uri = Uri::from(path);
    head.version = Version::HTTP_11;
    strip(&mut head.headers);
    // hyper answers it, and writes the length anew.
    head.headers.remove(header::EXPECT);
    head.headers.remove(header::CONTENT_LENGTH);
    let host = if target.port == HTTP_PORT { target.host.to_string() } else { target.to_string() };
    head.headers.insert(header::HOST, HeaderValue::from_str(&host).ok()?);
    head.headers.append(header::VIA, HeaderValue::from_static("1.1 anchorhold"));
    Some(Request::from_parts(head, body))
}

/// Takes out what is about one connection alone: what is known to be, and what `Connection` says is.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::CONTENT_LENGTH)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Says which rule it was, to the person in the session and to programs (RFC 9209); never an address.
fn refusal(rule: Rule) -> Answer {
    let text = format!("anchorhold egress: refused by the rule {}: {rule}\n", rule.code());
    let status = format!("anchorhold; error={}; details=\"{}\"", rule.proxy_error(), rule.code());
    let mut answer = Response::new(Either::Left(Full::from(text)));
    *answer.status_mut() = rule.status();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(status) = HeaderValue::from_str(&status) {
        headers.insert(HeaderName::from_static("proxy-status"), status);
    }
    answer
}

/// An answer's body; the connection that it comes on lives as long.
#[derive(Debug)]
struct Passed {
    body: Incoming,
    _driver: AbortOnDropHandle<()>,
}

impl Body for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
