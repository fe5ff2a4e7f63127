//! One HTTP/1.1 connection to an upstream, driven by whoever uses it.
//!
//! The usual way is a task for each connection and channels to it; each request then costs two
//! hand-overs between tasks. Here the connection travels with its request: the future that waits for
//! the answer and the body that brings it poll the connection themselves. So dropping either closes
//! the connection at once, which is how a caller that goes away cancels its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::{Seen, Stream, Upload};

/// A connection, idle or with one request.
#[derive(Debug)]
pub(crate) struct Link {
    sender: SendRequest<Upload>,
    connection: Option<Connection<TokioIo<Stream>, Upload>>,
    /// The connection came to its end and must not be polled again.
    over: bool,
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

impl Link {
    pub(super) async fn over(stream: Stream) -> Result<Self, hyper::Error> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            sender,
            connection: Some(connection),
            over: false,
            reused: false,
            idle: 0,
            seen: Arc::default(),
        })
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// The body of the request goes on being sent by [`poll`](Self::poll). Dropping the future cancels
    /// the request: the connection is of no use then.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Upload>,
    ) -> Result<Response<Incoming>, Unanswered> {
        request.body_mut().watched_by(&self.seen);
        let answer = self.sender.try_send_request(request);
        let mut answer = std::pin::pin!(answer);
        std::future::poll_fn(|cx| {
            let over = self.poll(cx).is_ready();
            match answer.as_mut().poll(cx) {
                Poll::Pending if over => {
                    // It ended before it looked at the request: dropping it hands the request back.
                    self.connection = None;
                    answer.as_mut().poll(cx)
                }
                polled => polled,
            }
        })
        .await
    }

    /// Moves bytes both ways. Ready: the connection is over, and stays so.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over {
            return Poll::Ready(());
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(());
        };
        // An error also reaches the answer or its body, where it is told to somebody.
        let _ = ready!(Pin::new(connection).poll(cx));
        self.over = true;
        Poll::Ready(())
    }

    /// Whether another request can be sent. Lets the connection look at its socket if need be.
    pub(crate) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.over && !self.sender.is_ready() {
            let _ = self.poll(cx);
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
