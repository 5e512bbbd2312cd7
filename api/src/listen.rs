//! Connections: our own accept loop, so that every wait and every buffer has an end.
//!
//! | what | bound |
//! |---|---|
//! | connections | `connections_max`; more wait in the kernel's queue |
//! | a head that began | 5 s (HTTP/1) |
//! | a head | 16 KiB, 64 headers: a problem; four times as much: hyper's bare 431 |
//! | no request under way | 60 s |
//! | a peer that does not read | 30 s |
//! | after an upgrade | 30 s for a peer that does not read; the rest is the business of who speaks (`http/browser/wire`) |
//! | HTTP/2 | 100 streams, 16 KiB of headers, 20 resets that are not looked at |

use crate::http::{HEADER_BYTES_MAX, HEADERS_MAX};
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::TaskTracker;

/// How long a peer may keep us waiting.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For the rest of a head that began.
    head: Duration,
    /// For the next request.
    idle: Duration,
    /// For room in its receive buffer.
    stalled: Duration,
}

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(5),
    idle: Duration::from_secs(60),
    stalled: Duration::from_secs(30),
};
/// After a failed accept (no descriptors left): time for others to end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long, and how many bytes, a peer may go on sending after its answer before its connection is reset.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 4 << 20;
/// How long connections may finish their answers after the end of accepting.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Serves connections until `stop` says true; returns when they ended, or soon after.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    stop: watch::Receiver<bool>,
) {
    serve_with(PATIENCE, listener, router, connections_max, stop).await;
}

async fn serve_with(
    patience: Patience,
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let connections = TaskTracker::new();
    let protocol = protocol();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (protocol, router, stop) = (protocol.clone(), router.clone(), stop.clone());
        let (requests, stream) = Patient::new(stream, patience);
        connections.spawn(async move {
            connection(protocol, stream, requests, router, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH_MAX, connections.wait()).await.is_err() {
        tracing::warn!("connections are cut off by the stop");
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol
        .http1()
        .timer(TokioTimer::new())
        // Also the wait for the next request on a kept connection; a head that began has less (`Patient`).
        .header_read_timeout(PATIENCE.idle)
        .max_headers(4 * HEADERS_MAX)
        .max_buf_size(4 * HEADER_BYTES_MAX);
    let header_list = u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(header_list)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .max_frame_size(16 * 1024)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024);
    protocol
}

async fn connection(
    protocol: auto::Builder<TokioExecutor>,
    stream: Patient,
    requests: Arc<Requests>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let io = TokioIo::new(stream);
    let service = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let guard = UnderWay::new(&requests);
        let answer = service.call(request);
        async move {
            let answer: Result<axum::http::Response<Body>, _> = answer.await;
            match &answer {
                Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => guard.for_ever(),
                _ => drop(guard),
            }
            answer
        }
    });
    let mut connection = pin!(protocol.serve_connection_with_upgrades(io, service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Its sender lives as long as the process.
    let _sender_lives = stop.wait_for(|stop| *stop).await.is_ok();
}

/// The requests of a connection.
#[derive(Debug, Default)]
struct Requests {
    /// How many there were: the head of each has arrived.
    begun: AtomicUsize,
    /// How many wait for their answers; meanwhile the peer need not say anything.
    under_way: AtomicUsize,
}

/// A request that waits for its answer.
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        requests.under_way.fetch_add(1, Ordering::Relaxed);
        Self(requests.clone())
    }

    /// What follows is another protocol, whose speaker has a patience of its own; only who does not read is still cut off
    /// here.
    fn for_ever(self) {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that fails when its peer keeps it waiting.
#[derive(Debug)]
struct Patient {
    stream: TcpStream,
    patience: Patience,
    requests: Arc<Requests>,
    /// As many had begun when this last looked.
    begun: usize,
    /// When bytes last went in either direction.
    moved: Instant,
    /// When the head of the next request began to arrive.
    head_began: Option<Instant>,
    /// HTTP/2 has frames between requests; only its idleness counts.
    http2: bool,
    nothing_read: bool,
    stalled: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// Our side is closed: until when, and how much more, the peer's is read.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Patience) -> (Arc<Requests>, Self) {
        let now = Instant::now();
        let requests = Arc::new(Requests::default());
        let patient = Self {
            stream,
            patience,
            requests: requests.clone(),
            begun: 0,
            moved: now,
            head_began: None,
            http2: false,
            nothing_read: true,
            stalled: None,
            timer: Box::pin(sleep_until(now + patience.idle)),
            linger: None,
        };
        (requests, patient)
    }

    fn note_read(&mut self, bytes: &[u8]) {
        self.moved = Instant::now();
        if self.nothing_read {
            self.nothing_read = false;
            self.http2 = bytes.starts_with(b"PRI");
        }
        self.note_requests();
        // During a request this is its body, whose reader has a patience of its own.
        let waits_for_head = self.requests.under_way.load(Ordering::Relaxed) == 0 && !self.http2;
        self.head_began = if waits_for_head { self.head_began.or(Some(self.moved)) } else { None };
    }

    /// A head that arrived is not waited for any more.
    fn note_requests(&mut self) {
        let begun = self.requests.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            self.begun = begun;
            self.head_began = None;
        }
    }

    /// `Ready` when the peer keeps this waiting for too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.note_requests();
        if self.requests.under_way.load(Ordering::Relaxed) > 0 {
            self.moved = Instant::now();
        }
        let mut deadline = self.moved + self.patience.idle;
        if let Some(began) = self.head_began {
            deadline = deadline.min(began + self.patience.head);
        }
        if let Some(stalled) = self.stalled {
            deadline = deadline.min(stalled + self.patience.stalled);
        }
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(context)
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer was too slow")
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                self.note_read(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.poll_patience(context));
                Poll::Ready(Err(too_slow()))
            }
        }
    }
}

impl Patient {
    fn written(
        &mut self,
        poll: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match poll {
            Poll::Ready(outcome) => {
                self.stalled = None;
                self.moved = Instant::now();
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                self.stalled.get_or_insert_with(Instant::now);
                ready!(self.poll_patience(context));
                Poll::Ready(Err(too_slow()))
            }
        }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// What the peer still sends is read and dropped for a moment. A socket that is closed with unread bytes is reset,
    /// and then the peer may lose the answer that told it why.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.linger = Some((Box::pin(sleep_until(Instant::now() + LINGER)), LINGER_BYTES));
        }
        let Self { stream, linger, .. } = &mut *self;
        let Some((timer, left)) = linger else { return Poll::Ready(Ok(())) };
        let mut chunk = [0; 8192];
        while *left > 0 {
            let mut buffer = ReadBuf::new(&mut chunk);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    *left = left.saturating_sub(buffer.filled().len());
                }
                // It closed, too.
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(timer.as_mut().poll(context));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const SHORT: Patience = Patience {
        head: Duration::from_millis(200),
        idle: Duration::from_millis(600),
        stalled: Duration::from_millis(200),
    };

    /// A door with a few routes; dropping the sender does not stop it.
    async fn door(connections_max: usize) -> (std::net::SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(900)).await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/slow", get(slow))
            .route("/large", get(async || vec![0; 64 << 20]))
            .route("/upgrade", get(upgrade))
            .route("/echo", post(async |body: String| body));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve_with(SHORT, listener, router, connections_max, stopped));
        (address, stop)
    }

    /// Another protocol: what is said is said back.
    async fn upgrade(request: axum::extract::Request) -> axum::response::Response {
        tokio::spawn(async {
            let other = hyper::upgrade::on(request).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(other));
            tokio::io::copy(&mut reader, &mut writer).await
        });
        let head = [("connection", "upgrade"), ("upgrade", "echo")];
        axum::response::IntoResponse::into_response((StatusCode::SWITCHING_PROTOCOLS, head))
    }

    async fn send(stream: &mut TcpStream, text: &str) {
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// What comes within a while; and whether the connection is closed then.
    async fn receive(stream: &mut TcpStream, within: Duration) -> (String, bool) {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(within, stream.read_to_end(&mut bytes)).await;
        (String::from_utf8_lossy(&bytes).into_owned(), read.is_ok())
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[tokio::test]
    async fn a_head_that_dribbles_is_cut_off_and_an_idle_connection_is_not() {
        let (address, _stop) = door(10).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        send(&mut slow, "GET / HTTP/1.1\r\nHo").await;
        let begun = Instant::now();
        let (text, closed) = receive(&mut slow, Duration::from_secs(3)).await;
        assert!(closed && text.is_empty(), "{text}");
        assert!(begun.elapsed() < SHORT.idle);

        let mut kept = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            send(&mut kept, GET).await;
            let (text, closed) = receive(&mut kept, Duration::from_millis(400)).await;
            assert!(text.ends_with("ok") && !closed, "{text}");
        }
        assert!(receive(&mut kept, Duration::from_secs(3)).await.1, "idle for too long");
    }

    #[tokio::test]
    async fn an_answer_may_take_longer_than_a_connection_may_idle() {
        let (address, _stop) = door(10).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        send(&mut stream, "GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(receive(&mut stream, Duration::from_secs(3)).await.0.ends_with("slow"));
    }

    #[tokio::test]
    async fn another_protocol_has_a_patience_of_its_own() {
        let (address, _stop) = door(10).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        send(&mut stream, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .await;
        let (head, closed) = receive(&mut stream, SHORT.head).await;
        assert!(head.starts_with("HTTP/1.1 101") && !closed, "{head}");
        for word in ["one", "two"] {
            send(&mut stream, word).await;
            let (said, closed) = receive(&mut stream, SHORT.idle + SHORT.head).await;
            assert!(said == word && !closed, "{said}");
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off() {
        let (address, stop) = door(1).await;
        let mut stalled = TcpStream::connect(address).await.unwrap();
        send(&mut stalled, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        // The only permit: this one is served when the other is gone.
        let mut next = TcpStream::connect(address).await.unwrap();
        send(&mut next, GET).await;
        let (text, _) = receive(&mut next, Duration::from_secs(2)).await;
        assert!(text.ends_with("ok"), "{text}");
        stop.send_replace(true);
        assert!(receive(&mut next, Duration::from_secs(2)).await.1, "stopped");
    }

    #[tokio::test]
    async fn what_is_no_http_is_refused() {
        let (address, _stop) = door(10).await;
        let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(1000));
        for (text, status) in [
            (huge.as_str(), "431"),
            (many.as_str(), "431"),
            ("GARBAGE\r\n\r\n", "400"),
            ("GET /\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", "400"),
            ("POST /echo HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", "400"),
            ("POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "400"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The rest may be refused before all of it was sent.
            let _refused = stream.write_all(text.as_bytes()).await;
            let (answer, closed) = receive(&mut stream, Duration::from_secs(3)).await;
            let shown: String = text.chars().take(60).collect();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && closed, "{shown}: {answer}");
        }
    }
}
