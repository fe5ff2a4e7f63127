//! One HTTP/1.1 connection to an upstream, driven by whoever uses it.
//!
//! The usual way is a task for each connection and channels to it; each request then costs two
//! hand-overs between tasks. Here the connection travels with its request: the future that waits for
//! the answer and the body that brings it poll the connection themselves. So dropping either closes
//! the connection at once, which is how a caller that goes away cancels its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::bell::Bell;
use super::{Seen, Stream, Upload};

/// A connection, idle or with one request.
#[derive(Debug)]
pub(crate) struct Link {
    sender: SendRequest<Upload>,
    connection: Option<Connection<TokioIo<Stream>, Upload>>,
    /// The connection came to its end and must not be polled again.
    over: bool,
    bell: Arc<Bell>,
    /// The bell, as the connection knows it.
    waker: Waker,
    /// It served a request before this one, so the upstream may have closed it meanwhile.
    pub(crate) reused: bool,
    /// The sweeps during which it was idle.
    pub(super) idle: u32,
    pub(crate) seen: Arc<Seen>,
}

/// What is left of a connection that changed its protocol.
pub(crate) struct Parts {
    pub(crate) stream: Stream,
    /// What the upstream sent right behind its answer.
    pub(crate) early: Bytes,
}

/// Why no answer came; with the request if none of it was sent.
pub(crate) type Unanswered = TrySendError<Request<Upload>>;

/// What becomes of a request.
pub(crate) type Sent = Result<Response<Incoming>, Unanswered>;

/// The answer to come. In an allocation of its own, since two small ones cost less than one above the
/// allocator's caches.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Sent> + Send>>;

impl Link {
    pub(super) async fn over(stream: Stream) -> Result<Self, hyper::Error> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let bell = Bell::new();
        Ok(Self {
            sender,
            connection: Some(connection),
            over: false,
            waker: Waker::from(bell.clone()),
            bell,
            reused: false,
            idle: 0,
            seen: Arc::default(),
        })
    }

    /// Begins to send `request`, before anything is polled. What is returned is to be polled by
    /// [`poll_answer`](Self::poll_answer); dropping it cancels the request, and the connection is of no
    /// use then.
    pub(crate) fn send(&mut self, mut request: Request<Upload>) -> Answer {
        request.body_mut().watched_by(&self.seen);
        Box::pin(self.sender.try_send_request(request))
    }

    /// Waits for the head of the answer. The body of the request goes on being sent by
    /// [`poll`](Self::poll).
    pub(crate) fn poll_answer(&mut self, answer: &mut Answer, cx: &mut Context<'_>) -> Poll<Sent> {
        let over = self.poll().is_ready();
        // Only polling the connection makes it ready, so it needs to wake nobody.
        let mut quiet = Context::from_waker(Waker::noop());
        match answer.as_mut().poll(&mut quiet) {
            Poll::Pending if over => {
                // It ended before it looked at the request: dropping it hands the request back.
                self.connection = None;
                answer.as_mut().poll(&mut quiet)
            }
            Poll::Pending => {
                self.wait(cx);
                Poll::Pending
            }
            ready @ Poll::Ready(_) => ready,
        }
    }

    /// Moves bytes both ways. Ready: the connection is over, and stays so. Pending: whoever now has
    /// nothing else to do calls [`wait`](Self::wait) before it returns.
    pub(crate) fn poll(&mut self) -> Poll<()> {
        if self.over {
            return Poll::Ready(());
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(());
        };
        self.bell.answered();
        let mut cx = Context::from_waker(&self.waker);
        // An error also reaches the answer or its body, where it is told to somebody.
        let _ = ready!(Pin::new(connection).poll(&mut cx));
        self.over = true;
        Poll::Ready(())
    }

    /// The user looks at what the connection brought and polls again before it waits.
    pub(crate) fn attend(&self) {
        self.bell.awake();
    }

    /// The user waits for the connection, and is woken when something happens on it.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        self.bell.sleep(cx.waker());
    }

    /// Whether another request can be sent. Lets the connection look at its socket if need be.
    pub(crate) fn is_reusable(&mut self) -> bool {
        self.attend();
        if !self.over && !self.sender.is_ready() {
            let _ = self.poll();
        }
        !self.over && self.sender.is_ready()
    }

    /// Gives the stream up for another protocol, after an answer 101.
    pub(crate) fn into_parts(self) -> Option<Parts> {
        let parts = self.connection?.into_parts();
        Some(Parts {
            stream: parts.io.into_inner(),
            early: parts.read_buf,
        })
    }

    /// Drives what is left of a request whose answer came before its body had ended.
    pub(crate) fn into_driver(self) -> impl Future<Output = ()> + Send + 'static {
        let Self {
            sender, connection, ..
        } = self;
        async move {
            // The connection serves nobody else afterwards.
            drop(sender);
            if let Some(connection) = connection {
                let _ = connection.await;
            }
        }
    }
}
