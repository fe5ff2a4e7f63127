//! The body of an answer: nothing, a few bytes of ours, or an upstream's, passed on as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use process::Chain;
use thiserror::Error;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{DropGuard, WaitForCancellationFutureOwned};

use super::Caller;
use super::events::{COMMENT, Position, Silence};
use crate::upstream::{Link, Upstream};

/// An event stream that is told to end may finish its open event for this long.
const LAST_EVENT: Duration = Duration::from_secs(1);

/// Body of an answer.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Full(Bytes),
    Relay(Box<Relay>),
}

/// Why a body stops in the middle. The connection or stream that it went to is broken off, since
/// nothing else tells the caller that it is not whole.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The upstream broke off.
    #[error("upstream broke off its answer")]
    Upstream(#[source] hyper::Error),
    /// [`Caller::cut`] was cancelled.
    #[error("time is up for this connection")]
    Cut,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(super) fn full(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        })
    }

    /// Passes on what the upstream sends. What is there already is taken at once, so that a small
    /// answer is whole now and its connection free for the next request.
    ///
    /// # Errors
    ///
    /// The upstream broke off before the first byte.
    pub(super) fn relay(mut relay: Relay, cx: &mut Context<'_>) -> Result<Self, BodyError> {
        match relay.poll_frame(cx) {
            Poll::Pending => {}
            Poll::Ready(None) => return Ok(Self::empty()),
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if relay.is_end_stream() => return Ok(Self::full(data)),
                Ok(data) => relay.ahead = Some(Frame::data(data)),
                Err(frame) => relay.ahead = Some(frame),
            },
        }
        Ok(Self(Kind::Relay(Box::new(relay))))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Relay(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Relay(relay) => relay.size_hint(),
        }
    }
}

/// An answer on its way. Dropping it closes the upstream connection, whatever that does just then.
#[derive(Debug)]
pub(super) struct Relay {
    body: Incoming,
    /// The connection that brings it, until it is whole.
    link: Option<Box<Link>>,
    upstream: Arc<Upstream>,
    caller: Arc<Caller>,
    /// Read before anybody asked.
    ahead: Option<Frame<Bytes>>,
    events: Option<Events>,
    /// Waits for `caller.cut`; made when there is something to wait for.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
    /// Where the connection is driven by a task of its own, this stops it.
    _driver: Option<DropGuard>,
}

/// What is known of an event stream.
#[derive(Debug)]
struct Events {
    position: Position,
    /// `None`: no comments.
    pace: Option<Silence>,
    /// Time is up: ends with the open event, or when this is over.
    last: Option<Pin<Box<Sleep>>>,
}

/// Who brings the body.
pub(super) enum Source {
    /// The connection, to be polled along with the body.
    Link(Box<Link>),
    /// A task, which ends when this is dropped.
    Task(DropGuard),
}

impl Relay {
    pub(super) fn new(
        body: Incoming,
        source: Source,
        upstream: Arc<Upstream>,
        caller: Arc<Caller>,
    ) -> Self {
        let (link, driver) = match source {
            Source::Link(link) => (Some(link), None),
            Source::Task(guard) => (None, Some(guard)),
        };
        Self {
            body,
            link,
            upstream,
            caller,
            ahead: None,
            events: None,
            cut: None,
            ended: false,
            _driver: driver,
        }
    }

    /// It is an event stream: a comment goes out after each `idle` of silence; zero: never.
    pub(super) fn with_events(&mut self, idle: Duration) {
        self.events = Some(Events {
            position: Position::START,
            pace: (!idle.is_zero()).then(|| Silence::new(idle)),
            last: None,
        });
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.ahead.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        match (&self.ahead, hint.exact()) {
            (None, _) => hint,
            (Some(frame), Some(rest)) => {
                let ahead = frame.data_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(rest + ahead as u64)
            }
            (Some(_), None) => SizeHint::default(),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(frame) = self.ahead.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = self.poll_upstream(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if self.body.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(self.pass(frame).map(Ok))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.broken(error).map(Err)),
            Poll::Pending => {
                let polled = self.poll_idle(cx);
                if let (Poll::Pending, Some(link)) = (&polled, &self.link) {
                    link.wait(cx);
                }
                polled
            }
        }
    }

    /// The body first, then the connection that feeds it, then the body once more.
    fn poll_upstream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(link) = &mut self.link else {
            return Pin::new(&mut self.body).poll_frame(cx);
        };
        // Only polling the connection makes the body ready, so that needs to wake nobody.
        let mut quiet = Context::from_waker(Waker::noop());
        link.attend();
        let polled = Pin::new(&mut self.body).poll_frame(&mut quiet);
        if polled.is_ready() {
            return polled;
        }
        if link.poll().is_ready() {
            // Over: what it did not deliver, it will not; dropping it says so to the body.
            self.link = None;
        }
        Pin::new(&mut self.body).poll_frame(&mut quiet)
    }

    /// Notes what passes. Cuts an event stream behind its open event when time is up.
    fn pass(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let (Some(events), Some(data)) = (&mut self.events, frame.data_ref()) else {
            return Some(frame);
        };
        if events.last.is_some()
            && let Some(rest) = events.position.rest_of_event(data)
        {
            let rest = data.slice(..rest);
            self.end();
            return (!rest.is_empty()).then(|| Frame::data(rest));
        }
        events.position = events.position.after(data);
        if let Some(pace) = &mut events.pace {
            pace.spoke();
        }
        Some(frame)
    }

    /// The upstream says nothing just now: is time up, is a comment due?
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.poll_cut(cx).is_ready() {
            let Some(events) = &mut self.events else {
                return Poll::Ready(Some(Err(self.abort())));
            };
            if events.position.is_between_events() {
                self.end();
                return Poll::Ready(None);
            }
            let last = events
                .last
                .get_or_insert_with(|| Box::pin(sleep(LAST_EVENT)));
            if last.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err(self.abort())));
            }
        }
        let Some(events) = &mut self.events else {
            return Poll::Pending;
        };
        let Some(pace) = &mut events.pace else {
            return Poll::Pending;
        };
        while pace.poll_silent(cx).is_ready() {
            if events.position.takes_comment() {
                return Poll::Ready(Some(Ok(Frame::data(COMMENT))));
            }
        }
        Poll::Pending
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let caller = &self.caller;
        let cut = self
            .cut
            .get_or_insert_with(|| Box::pin(caller.cut.clone().cancelled_owned()));
        if caller.cut.is_cancelled() {
            return Poll::Ready(());
        }
        cut.as_mut().poll(cx)
    }

    /// The body is whole: its connection goes back to the upstream, if it can serve another request.
    fn finish(&mut self) {
        if let Some(mut link) = self.link.take()
            && link.is_reusable()
        {
            self.upstream.give_back(link);
        }
    }

    /// A begun event stream ends cleanly between two events; everything else is broken off.
    fn broken(&mut self, error: hyper::Error) -> Option<BodyError> {
        let clean = self
            .events
            .as_ref()
            .is_some_and(|events| events.position.is_between_events());
        tracing::warn!(
            tunnel = %self.caller.tunnel,
            upstream = %self.upstream.target,
            error = %Chain(&error),
            clean,
            "upstream broke off its answer"
        );
        self.end();
        (!clean).then_some(BodyError::Upstream(error))
    }

    fn abort(&mut self) -> BodyError {
        self.end();
        BodyError::Cut
    }

    fn end(&mut self) {
        self.ended = true;
        self.link = None;
    }
}
