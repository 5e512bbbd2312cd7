//! Previews: the listener apart where people reach what listens in a session, and the routes that open its ports.
//!
//! Each port of each session has an origin of its own, `{port}-{session}.{domain}`, and none of them is the API's. What is
//! passed on is the request without whatever could be the visitor's own: keys, cookies, signatures. The answer comes
//! without cookies, too: the one that lets in is ours, and no program may set it. A page of another preview is kept out as
//! any page of a stranger's is.

use super::body::Object;
use super::error::{Code, Problem};
use super::openapi::{Exclusive, Live, sent};
use super::{Caller, Door, ListBody, SessionAt, json, names, ok, time};
use crate::config::PreviewPolicy;
use crate::service::{Service, Unvisited, Visit};
use anchorhold_sandbox::SessionId;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// How long a port is open that says nothing else.
const TTL_US: u64 = 3_600_000_000;
/// The longest.
const TTL_US_MAX: u64 = 24 * 3_600_000_000;
/// What a link carries, and how the cookie is called.
const SECRET: &str = "anchorhold_preview";
/// How long a program may take to begin its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Headers that are about one connection, or about the visitor, or would bind more than this origin.
const KEPT_BACK: [HeaderName; 13] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::FORWARDED,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("keep-alive"),
];
const KEPT_BACK_BEGINNINGS: [&str; 2] = ["x-amz-", "x-forwarded-"];

/// Where previews are.
#[derive(Debug, Clone)]
pub struct Previews {
    domain: Arc<str>,
    port: u16,
}

impl Previews {
    /// By the operator's settings, at the port that was bound.
    pub fn new(policy: &PreviewPolicy, port: u16) -> Self {
        Self { domain: policy.domain.as_str().into(), port }
    }

    fn host(&self, session: SessionId, port: u16) -> String {
        format!("{port}-{session}.{}", self.domain)
    }

    /// Whose preview a host names.
    fn named(&self, host: &str) -> Option<(SessionId, u16)> {
        let label = host.strip_suffix(&*self.domain)?.strip_suffix('.')?;
        let (port, session) = label.split_once('-')?;
        let (port, session) = (port.parse().ok()?, session.parse().ok()?);
        // One name for each.
        (self.host(session, port) == host).then_some((session, port))
    }
}

/// An open port of a session.
#[derive(Serialize, ToSchema)]
#[schema(as = Port)]
struct PortBody {
    port: u16,
    /// When it is closed.
    #[schema(format = "date-time")]
    expires_at: String,
}

/// A port that was opened.
#[derive(Serialize, ToSchema)]
#[schema(as = PortLink)]
struct PortLinkBody {
    port: u16,
    /// Whoever has it sees what listens there: a secret. A browser that follows it is let in until the link's end.
    url: String,
    /// When the link ends.
    #[schema(format = "date-time")]
    expires_at: String,
}

/// Open a port
///
/// What a program of the session's native runtime serves at this port of its `localhost` is shown to whoever has the link,
/// at an address that is not the API's. HTTP and WebSocket; keys and cookies of the visitor do not reach the program, and
/// it can set no cookies but by script.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/ports", tag = "Ports", operation_id = "open_port",
    params(sent::SessionPath), request_body = sent::PortRequest,
    responses((status = 201, description = "The link.", body = PortLinkBody), Live, Exclusive),
)]
pub(super) async fn open(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    headers: HeaderMap,
    object: Object,
) -> Result<Response, Problem> {
    let (port, ttl_us) = object.read(|fields| {
        let port = fields.count("port");
        if port.is_none() {
            fields.missing("port");
        }
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        if port.is_none() {
            fields.wrong("port", "must be from 1 to 65535");
        }
        let ttl_us = fields.seconds("ttl_seconds").unwrap_or(TTL_US);
        if ttl_us > TTL_US_MAX {
            fields.wrong("ttl_seconds", format!("must be at most {}", TTL_US_MAX / 1_000_000));
        }
        Some((port?, ttl_us))
    })?;
    let Some(previews) = &door.previews else {
        let why = "previews are off here: the operator turns them on with --preview-listen";
        return Err(Problem::new(Code::Conflict, why));
    };
    let (secret, until_us) = door.service.open_port(&tenant, session, port, ttl_us).await?;
    let host = previews.host(session, port);
    // Served by TLS, it is not at our port.
    let url = match names::is_secure(&headers) {
        true => format!("https://{host}/?{SECRET}={secret}"),
        false => format!("http://{host}:{}/?{SECRET}={secret}", previews.port),
    };
    let mut response = json(StatusCode::CREATED, &PortLinkBody { port, url, expires_at: time(until_us) });
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// List open ports
#[utoipa::path(
    get, path = "/v1/sessions/{id}/ports", tag = "Ports", operation_id = "list_ports",
    params(sent::SessionPath),
    responses((status = 200, description = "The open ports.", body = ListBody<PortBody>), Live),
)]
pub(super) async fn list(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
) -> Result<Response, Problem> {
    let ports = door.service.ports(&tenant, session).await?.into_iter();
    let items = ports.map(|open| PortBody { port: open.port, expires_at: time(open.until_us) }).collect();
    Ok(ok(&ListBody { items, next_cursor: None }))
}

/// Close a port
///
/// Its links and their visitors are not let in any more, and what is open to it is cut. The program goes on.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}/ports/{port}", tag = "Ports", operation_id = "close_port",
    params(sent::PortPath),
    responses((status = 204, description = "It is closed."), Live),
)]
pub(super) async fn close(
    State(door): State<Door>,
    Caller(tenant): Caller,
    SessionAt(session): SessionAt,
    Path((_, port)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let port: NonZeroU16 = port.parse().map_err(|_| Problem::new(Code::NotFound, "no such port"))?;
    door.service.close_port(&tenant, session, port.get()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// All that the listener of previews answers.
pub fn router(service: Service, previews: Previews) -> Router {
    Router::new().fallback(visit).with_state((service, previews))
}

async fn visit(State((service, previews)): State<(Service, Previews)>, request: Request) -> Response {
    let say = |status: StatusCode, why: &str| {
        let plain = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let unkept = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        (status, [plain, unkept], format!("{why}\n")).into_response()
    };
    let Ok(host) = names::host(request.headers(), request.uri()) else {
        return say(StatusCode::BAD_REQUEST, "a Host that is no name");
    };
    let Some((session, port)) = previews.named(&host.host().to_ascii_lowercase()) else {
        return say(StatusCode::NOT_FOUND, "no such preview");
    };
    if let Some((link, clean)) = take_link(request.uri()) {
        return match service.enter_port(session, port, &link) {
            Some(visitor) => welcome(&visitor, &clean, names::is_secure(request.headers())),
            None => say(StatusCode::FORBIDDEN, "the link is not good, or not any more"),
        };
    }
    if is_foreign(request.headers(), host.as_str()) {
        return say(StatusCode::FORBIDDEN, "not from that page");
    }
    let visited = service.visit(session, port, secrets(request.headers())).await;
    let visit = match visited {
        Ok(visit) => visit,
        Err(Unvisited::Stranger) => {
            return say(StatusCode::UNAUTHORIZED, "this preview is opened by its link");
        }
        Err(Unvisited::Nothing) => {
            return say(StatusCode::BAD_GATEWAY, &format!("nothing listens at port {port} of this session"));
        }
        Err(Unvisited::Busy) => return say(StatusCode::SERVICE_UNAVAILABLE, "too many are here; try again"),
    };
    let passed = tokio::time::timeout(ANSWER_WAIT, pass(request, visit, port, host.as_str()));
    match passed.await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => say(StatusCode::BAD_GATEWAY, "what listens there does not speak HTTP, or hung up"),
        Err(_) => say(StatusCode::GATEWAY_TIMEOUT, "what listens there does not answer"),
    }
}

/// A link's secret, and where to go without it.
fn take_link(uri: &Uri) -> Option<(String, String)> {
    let query = uri.query()?;
    let is_secret = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| name == SECRET);
    let secret = query.split('&').find(is_secret)?.split_once('=')?.1.to_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_secret(pair)).collect();
    let path = uri.path().trim_start_matches('/');
    // One slash: two would be another host.
    let clean = if rest.is_empty() { format!("/{path}") } else { format!("/{path}?{}", rest.join("&")) };
    Some((secret, clean))
}

fn welcome(visitor: &str, clean: &str, secure: bool) -> Response {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{SECRET}={visitor}; Path=/; HttpOnly; SameSite=Lax{secure}");
    let headers = [
        (header::LOCATION, clean.to_owned()),
        (header::SET_COOKIE, cookie),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// The visitor's secrets that a request's cookies hold.
fn secrets(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == SECRET).map(|(_, secret)| secret).take(8)
}

/// Whether another page makes this request: a preview's neighbour may be hostile, and a browser would send the cookie.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let own = |origin: &str| {
        let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        name.is_some_and(|name| name.eq_ignore_ascii_case(host))
    };
    let by_origin = text("origin").is_some_and(|origin| !own(origin));
    let site = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let arrives = text("sec-fetch-mode") == Some("navigate") && text("sec-fetch-dest") == Some("document");
    by_origin || (site && !arrives)
}

/// Passes a request on to the program, and its answer back.
async fn pass(mut request: Request, visit: Visit, port: u16, host: &str) -> Result<Response, hyper::Error> {
    let upgrade = is_websocket(request.headers());
    let theirs = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = path.into();
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers);
    let local = format!("localhost:{port}");
    // Programs that look who is meant know themselves by this name.
    if let Ok(name) = HeaderValue::from_str(&local) {
        parts.headers.insert(header::HOST, name);
    }
    if parts.headers.contains_key(header::ORIGIN)
        && let Ok(origin) = HeaderValue::from_str(&format!("http://{local}"))
    {
        parts.headers.insert(header::ORIGIN, origin);
    }
    if let Ok(name) = HeaderValue::from_str(host) {
        parts.headers.insert("x-forwarded-host", name);
    }
    if upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    let Visit { stream, stay } = visit;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let stay = Arc::new(stay);
    let staying = stay.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = connection.with_upgrades() => {}
            () = staying.over() => {}
        }
    });
    let mut response = sender.send_request(axum::http::Request::from_parts(parts, body)).await?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let ours = switched.then(|| hyper::upgrade::on(&mut response));
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        tokio::spawn(async move {
            if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {}
                    () = stay.over() => {}
                }
            }
        });
    }
    Ok(Response::from_parts(parts, Body::new(body)))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

fn strip(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().cloned().collect();
    for name in names {
        let kept_back = KEPT_BACK_BEGINNINGS.iter().any(|beginning| name.as_str().starts_with(beginning));
        if kept_back || KEPT_BACK.contains(&name) {
            headers.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_host_names_one_port_of_one_session() {
        let previews = Previews { domain: "preview.example".into(), port: 1 };
        let session = SessionId::random();
        assert_eq!(previews.named(&previews.host(session, 3000)), Some((session, 3000)));
        for host in [
            format!("03000-{session}.preview.example"),
            format!("3000-{session}.preview.example.evil"),
            format!("3000-{session}xpreview.example"),
            format!("x.3000-{session}.preview.example"),
            format!("70000-{session}.preview.example"),
            "preview.example".into(),
            "3000-.preview.example".into(),
        ] {
            assert_eq!(previews.named(&host), None, "{host}");
        }
    }

    #[test]
    fn a_links_secret_is_taken_out() {
        let taken = |uri: &str| take_link(&uri.parse().unwrap());
        assert_eq!(taken("/?anchorhold_preview=a"), Some(("a".into(), "/".into())));
        assert_eq!(taken("/x?b=1&anchorhold_preview=a&c"), Some(("a".into(), "/x?b=1&c".into())));
        assert_eq!(taken("//evil.example/?anchorhold_preview=a").unwrap().1, "/evil.example/");
        assert_eq!(taken("/x?anchorhold_previewer=a"), None);
        assert_eq!(taken("/x"), None);
    }

    #[test]
    fn pages_of_others_are_kept_out() {
        let host = "3000-a.preview.example:81";
        for own in [
            &[][..],
            &[("origin", "http://3000-a.preview.example:81")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
        ] {
            assert!(!is_foreign(&headers(own), host), "{own:?}");
        }
        for foreign in [
            &[("origin", "http://3001-a.preview.example:81")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
            &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        ] {
            assert!(is_foreign(&headers(foreign), host), "{foreign:?}");
        }
    }

    #[test]
    fn what_is_the_visitors_is_kept_back() {
        let mut all = headers(&[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-amz-security-token", "x"),
            ("x-forwarded-for", "1.2.3.4"),
            ("connection", "close"),
            ("accept", "*/*"),
        ]);
        strip(&mut all);
        assert_eq!(all.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
