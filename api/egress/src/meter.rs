//! Counting: bytes, and when the last of them moved.

use bytes::{Buf as _, Bytes};
use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// A session's counters. They belong to the caller and outlive the attachment (and, in shared memory, this process):
/// they are only ever added to.
pub trait Meter: Debug + Send + Sync + 'static {
    /// Bytes that the session sent to outside.
    fn sent(&self) -> &AtomicU64;
    /// Bytes that came from outside.
    fn received(&self) -> &AtomicU64;
    /// Bytes that count towards the session's cap although they are not in these counters: those of its other cells.
    fn spent_bytes(&self) -> u64 {
        0
    }
}

/// Counters in a layout that is the same in every process.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// See [`Meter::sent`].
    pub sent: AtomicU64,
    /// See [`Meter::received`].
    pub received: AtomicU64,
}

impl Meter for Counters {
    fn sent(&self) -> &AtomicU64 {
        &self.sent
    }

    fn received(&self) -> &AtomicU64 {
        &self.received
    }
}

/// Counters and how far they may go.
#[derive(Debug, Clone)]
pub(crate) struct Gauge {
    meter: Arc<dyn Meter>,
    bytes_max: u64,
}

impl Gauge {
    pub(crate) fn new(meter: Arc<dyn Meter>, bytes_max: u64) -> Self {
        Self { meter, bytes_max }
    }

    pub(crate) fn is_full(&self) -> bool {
        let [sent, received] = [self.meter.sent(), self.meter.received()].map(|n| n.load(Ordering::Relaxed));
        sent.saturating_add(received).saturating_add(self.meter.spent_bytes()) >= self.bytes_max
    }
}

/// When something last moved on a connection, on either side of the proxy.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Ends when nothing has moved for so long.
    pub(crate) async fn ended(&self, idle: Duration) {
        loop {
            let due = self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + idle;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// A connection whose bytes are noticed, and counted if it goes outside.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    /// What was already received and must be read first.
    early: Bytes,
    activity: Arc<Activity>,
    gauge: Option<Gauge>,
}

impl<S> Counted<S> {
    /// The session's side.
    pub(crate) fn inside(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, early: Bytes::new(), activity, gauge: None }
    }

    /// The world's side; `early` came from it already.
    pub(crate) fn outside(inner: S, early: Bytes, activity: Arc<Activity>, gauge: Gauge) -> Self {
        Self { inner, early, activity, gauge: Some(gauge) }
    }

    fn may_go_on(&self) -> io::Result<()> {
        match &self.gauge {
            Some(gauge) if gauge.is_full() => Err(io::ErrorKind::QuotaExceeded.into()),
            _ => Ok(()),
        }
    }

    fn count(&self, counter: impl FnOnce(&dyn Meter) -> &AtomicU64, bytes: usize) {
        if bytes > 0 {
            self.activity.touch();
            if let Some(gauge) = &self.gauge {
                counter(&*gauge.meter).fetch_add(bytes as u64, Ordering::Relaxed);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.may_go_on()?;
        let before = buffer.filled().len();
        if this.early.is_empty() {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        } else {
            let length = this.early.len().min(buffer.remaining());
            buffer.put_slice(&this.early[..length]);
            this.early.advance(length);
        }
        this.count(|meter| meter.received(), buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.may_go_on()?;
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        this.count(|meter| meter.sent(), written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.may_go_on()?;
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bytes))?;
        this.count(|meter| meter.sent(), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
