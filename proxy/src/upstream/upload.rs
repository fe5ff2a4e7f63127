//! A request's body on its way upstream, watched just enough to answer in the upstream's place.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// As much of the first chunk as is kept: the JSON-RPC `id` stands near the beginning.
const KEPT: usize = 16 << 10;

/// The body of a request. Chunks pass as they come; only a reference to the first one is kept.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Incoming,
    seen: Option<Arc<Seen>>,
    begun: bool,
}

/// What passed. One for each upstream connection, used again by each of its requests.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    first: Mutex<Option<Bytes>>,
    /// Whole body passed.
    ended: AtomicBool,
    /// The caller broke off.
    failed: AtomicBool,
}

impl Seen {
    /// Begins anew, for a request that has a body or has none.
    pub(crate) fn reset(&self, bodyless: bool) {
        drop(self.take());
        self.ended.store(bodyless, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
    }

    /// The first chunk, which is let go of here.
    pub(crate) fn take(&self) -> Option<Bytes> {
        self.lock().take()
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Bytes>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            seen: None,
            begun: false,
        }
    }

    /// Names who watches: the connection that the request is about to be sent on.
    pub(crate) fn watched_by(&mut self, seen: &Arc<Seen>) {
        let bodyless = self.body.is_end_stream();
        seen.reset(bodyless);
        self.seen = (!bodyless).then(|| seen.clone());
    }

    /// Nothing was read from it yet.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.begun
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(seen) = &this.seen else {
            return polled;
        };
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref()
                    && !this.begun
                {
                    let kept = data.slice(..data.len().min(KEPT));
                    *seen.lock() = Some(kept);
                }
                this.begun = true;
                if this.body.is_end_stream() {
                    seen.ended.store(true, Ordering::Relaxed);
                }
            }
            Poll::Ready(Some(Err(_))) => seen.failed.store(true, Ordering::Relaxed),
            Poll::Ready(None) => seen.ended.store(true, Ordering::Relaxed),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
