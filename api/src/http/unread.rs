//! Whether much of a request's body is unread when its answer is there. A little that no route asked for is drained by
//! hyper, and the connection goes on.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// What comes with a request's head, or soon after it.
const DRAINED_BYTES: u64 = 8 * 1024;

/// A request's body, and whether there is much of it that nobody read yet.
pub(super) struct Unread {
    body: Body,
    unread: Arc<AtomicBool>,
}

impl Unread {
    /// The same request, and what tells of its body.
    pub(super) fn watch(request: Request) -> (Request, Arc<AtomicBool>) {
        let much = request.body().size_hint().upper().is_none_or(|bytes| bytes > DRAINED_BYTES);
        let unread = Arc::new(AtomicBool::new(much));
        let watched = unread.clone();
        (request.map(|body| Body::new(Self { body, unread: watched })), unread)
    }
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.unread.store(false, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
