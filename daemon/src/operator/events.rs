//! `GET /v1/events`: the status at once and at every change, and each step of an operation.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper::body::Frame;
use process::Tasks;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::answer::Body;
use crate::board::Board;
use crate::status::{Operation, Status};

/// At most ten bursts a second: a person cannot read more.
const PACE: Duration = Duration::from_millis(100);
/// A comment is sent after this silence, so that either side notices that the other is gone.
const IDLE: Duration = Duration::from_secs(15);
/// A reader that takes nothing for so long is let go.
const DEAF: Duration = Duration::from_secs(10);

/// An event stream, fed by a task of its own until the reader leaves or the daemon stops.
pub(super) fn stream(board: &Board, tasks: &Tasks) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(4);
    let status = board.status.subscribe();
    let stopping = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = feed(status, &sender) => {}
            () = sender.closed() => {}
            () = stopping.stopping() => {}
        }
    });
    let mut response = Response::new(Stream(receiver).boxed());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Ends when the reader does not read or the rotator is gone.
async fn feed(
    mut status: watch::Receiver<Arc<Status>>,
    sender: &mpsc::Sender<Bytes>,
) -> Option<()> {
    status.wait_for(|status| !status.is_starting()).await.ok()?;
    // Operations that ended before the reader came are in its first status.
    let mut told = operations(&status.borrow());
    loop {
        let now = status.borrow_and_update().clone();
        let current = operations(&now);
        for operation in &now.operations {
            if told.get(&operation.id) != Some(operation) {
                send(sender, event("operation", operation)).await?;
            }
        }
        told = current;
        send(sender, event("status", &*now)).await?;
        sleep(PACE).await;
        loop {
            match timeout(IDLE, status.changed()).await {
                Ok(changed) => break changed.ok()?,
                Err(_) => send(sender, Bytes::from_static(b":\n\n")).await?,
            }
        }
    }
}

fn operations(status: &Status) -> BTreeMap<String, Operation> {
    let by_id = |one: &Operation| (one.id.clone(), one.clone());
    status.operations.iter().map(by_id).collect()
}

async fn send(sender: &mpsc::Sender<Bytes>, bytes: Bytes) -> Option<()> {
    timeout(DEAF, sender.send(bytes)).await.ok()?.ok()
}

fn event(name: &str, value: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(value).expect("our own types have string keys");
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(context);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_of_steady_change_is_told_ten_times_and_the_last_of_it_is_told() {
        let status = watch::Sender::new(Arc::new(Status::default()));
        let (sender, mut receiver) = mpsc::channel(1024);
        let change = async {
            for at in 1..=100 {
                status.send_modify(|status| Arc::make_mut(status).at = at);
                sleep(Duration::from_millis(10)).await;
            }
            sleep(PACE * 2).await;
        };
        tokio::select! {
            _ = feed(status.subscribe(), &sender) => panic!("it ends only with the rotator"),
            () = change => {}
        }
        drop(sender);
        let mut told = Vec::new();
        while let Some(event) = receiver.recv().await {
            told.push(event);
        }
        assert!((10..=12).contains(&told.len()), "{}", told.len());
        let last = std::str::from_utf8(&told[told.len() - 1]).unwrap();
        assert!(last.contains("\"at\":100,"), "{last}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_a_comment() {
        let status = watch::Sender::new(Arc::new(Status {
            at: 1,
            ..Status::default()
        }));
        let (sender, mut receiver) = mpsc::channel(4);
        tokio::select! {
            _ = feed(status.subscribe(), &sender) => panic!("it ends only with the rotator"),
            () = sleep(PACE + IDLE + PACE) => {}
        }
        assert!(
            receiver
                .recv()
                .await
                .is_some_and(|first| first.starts_with(b"event: status\n"))
        );
        assert_eq!(receiver.recv().await.as_deref(), Some(&b":\n\n"[..]));
    }
}
