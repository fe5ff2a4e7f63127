//! A call on its way: a connection for it, its answer, or an answer in the upstream's place.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::answer::ForwardError;
use super::body::{Body, BodyError, Relay, Source};
use super::table::Entry;
use super::{Caller, Shared, events, head, upgrade};
use crate::upstream::{Answer, Link, Unanswered, Upload};

/// A caller whose upstream cannot be reached may take this long to say which call it was.
const FIRST_CHUNK: Duration = Duration::from_millis(250);

/// What a request is besides its head and body.
pub(super) struct Call {
    pub(super) entry: Arc<Entry>,
    pub(super) id: HeaderValue,
    /// The caller's side of a change of protocol, if it asked for one.
    pub(super) upgrade: Option<OnUpgrade>,
}

/// A call in flight. One allocation, in which it stays.
pub(super) type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Sends `request` on an idle connection, at once, or dials.
pub(super) fn begin(
    shared: &Arc<Shared>,
    request: Request<Upload>,
    call: Call,
    caller: Arc<Caller>,
) -> Answering {
    match call.entry.upstream.idle() {
        Some(mut link) => {
            let answer = link.send(request);
            Box::pin(wait(shared.clone(), link, answer, call, caller))
        }
        None => Box::pin(dial(shared.clone(), request, call, caller)),
    }
}

async fn dial(
    shared: Arc<Shared>,
    request: Request<Upload>,
    call: Call,
    caller: Arc<Caller>,
) -> Response<Body> {
    let dialled = tokio::select! {
        biased;
        dialled = call.entry.upstream.dial() => dialled.map_err(ForwardError::from),
        () = caller.cut.cancelled() => Err(ForwardError::Cut),
    };
    match dialled {
        Ok(mut link) => {
            let answer = link.send(request);
            wait(shared, link, answer, call, caller).await
        }
        Err(error) => failed(&error, &call, first_chunk(request).await.as_ref()),
    }
}

/// How a request that was sent came out.
enum Outcome {
    Answered(Response<Body>),
    Failed(ForwardError, Option<Bytes>),
    /// The upstream had closed the idle connection; nothing of the request was sent.
    Unsent(Request<Upload>),
}

/// Waits for the answer to a request that was sent on `link`.
async fn wait(
    shared: Arc<Shared>,
    link: Box<Link>,
    mut answer: Answer,
    mut call: Call,
    caller: Arc<Caller>,
) -> Response<Body> {
    let outcome = {
        let mut link = Some(link);
        let mut cut = std::pin::pin!(caller.cut.cancelled());
        std::future::poll_fn(|cx| {
            let Some(waiting) = &mut link else {
                return Poll::Pending;
            };
            let polled = waiting.poll_answer(&mut answer, cx);
            let outcome = match polled {
                Poll::Pending if cut.as_mut().poll(cx).is_pending() => return Poll::Pending,
                Poll::Pending => Outcome::Failed(ForwardError::Cut, waiting.seen.take()),
                Poll::Ready(Err(unanswered)) => unanswered_by(waiting, unanswered),
                Poll::Ready(Ok(response)) => match link.take() {
                    Some(link) => answered_by(&shared, link, response, &mut call, &caller, cx),
                    None => return Poll::Pending,
                },
            };
            Poll::Ready(outcome)
        })
        .await
    };
    match outcome {
        Outcome::Answered(response) => response,
        Outcome::Failed(error, first) => failed(&error, &call, first.as_ref()),
        Outcome::Unsent(request) => begin(&shared, request, call, caller).await,
    }
}

fn answered_by(
    shared: &Shared,
    link: Box<Link>,
    response: Response<Incoming>,
    call: &mut Call,
    caller: &Arc<Caller>,
    cx: &mut Context<'_>,
) -> Outcome {
    // Taken now: the connection may serve another call before this one is done.
    let first = link.seen.take();
    match pass(shared, response, link, call, caller, cx) {
        Ok(response) => Outcome::Answered(response),
        Err(error) => Outcome::Failed(error, first),
    }
}

fn unanswered_by(link: &Link, mut unanswered: Unanswered) -> Outcome {
    let unsent = unanswered.take_message();
    if let Some(request) = unsent.filter(|request| link.reused && request.body().is_untouched()) {
        return Outcome::Unsent(request);
    }
    let error = unanswered.into_error();
    let error = if link.seen.failed() {
        ForwardError::CallerGone(error)
    } else {
        ForwardError::Broken(error)
    };
    Outcome::Failed(error, link.seen.take())
}

/// Passes an upstream's answer on.
fn pass(
    shared: &Shared,
    response: Response<Incoming>,
    link: Box<Link>,
    call: &mut Call,
    caller: &Arc<Caller>,
    cx: &mut Context<'_>,
) -> Result<Response<Body>, ForwardError> {
    let (mut parts, body) = response.into_parts();
    head::answer(&mut parts)?;
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let unasked = ForwardError::Unusable("a change of protocol nobody asked for");
        let upgrade = call.upgrade.take().ok_or(unasked)?;
        let left = link.into_parts();
        let left = left.ok_or(ForwardError::Unusable("no connection left"))?;
        shared
            .tasks
            .spawn(upgrade::splice(upgrade, left, caller.clone()));
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let source = if link.seen.ended() {
        Source::Link(link)
    } else {
        drive(shared, *link)
    };
    let mut relay = Relay::new(body, source, call.entry.upstream.clone(), caller.clone());
    if events::may_take_comments(&parts.headers) {
        relay.with_events(shared.idle_comment);
    }
    match Body::relay(relay, cx) {
        Ok(body) => Ok(Response::from_parts(parts, body)),
        Err(BodyError::Upstream(error)) => Err(ForwardError::Broken(error)),
        Err(BodyError::Cut) => Err(ForwardError::Cut),
    }
}

/// The answer came before the request's end: both go on, and neither waits for the other.
fn drive(shared: &Shared, link: Link) -> Source {
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let driver = link.into_driver();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = driver => {}
            () = stopped => {}
        }
    });
    Source::Task(stop.drop_guard())
}

fn failed(error: &ForwardError, call: &Call, first: Option<&Bytes>) -> Response<Body> {
    call.entry.failures.increment();
    head::log(error, &call.entry, &call.id);
    error.answer(first, &call.id)
}

/// The first chunk of a request that nobody will serve, for the JSON-RPC `id` in it.
async fn first_chunk(mut request: Request<Upload>) -> Option<Bytes> {
    let frame = tokio::time::timeout(FIRST_CHUNK, request.body_mut().frame()).await;
    frame.ok()??.ok()?.into_data().ok()
}
