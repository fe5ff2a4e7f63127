//! The control stream, seen from the proxy: which credential the connection stands on, and until when.
//!
//! A secret that changes is presented in band, so that the connection and what runs on it go on. Refused,
//! the one before stays, and the new one is presented again after a while: the edge may not have heard of
//! it yet.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use control::Secret;
use h2::RecvStream;
use process::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::{FromEdge, FromProxy, Lines, Value};

use super::roster::Entry;
use super::serve::Shared;

/// A refused secret is presented again after this ...
const AGAIN: Duration = Duration::from_secs(5);
/// ... and after this when the edge could not decide.
const SOON: Duration = Duration::from_secs(1);
/// Lines that wait for the edge to read them.
pub(super) const QUEUE: usize = 8;

/// Half of the control stream that goes to the edge.
pub(super) type Sender = mpsc::Sender<Bytes>;

/// One control stream.
pub(super) struct Line {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    out: Sender,
    secret: watch::Receiver<Option<Arc<Secret>>>,
    /// What the connection stands on.
    bound: Arc<Secret>,
    /// What the edge was asked to bind it to.
    presented: Option<Arc<Secret>>,
    seq: u64,
    /// When to present again.
    again: Option<Instant>,
    /// When calls are asked to end, so that none is cut.
    retire_at: Option<Instant>,
    retire: CancellationToken,
}

/// The edge has said something that cannot be, or nothing more.
pub(super) struct Over;

impl Line {
    pub(super) fn new(
        shared: Arc<Shared>,
        entry: Arc<Entry>,
        out: Sender,
        bound: Arc<Secret>,
        retire: CancellationToken,
    ) -> Self {
        Self {
            secret: shared.secret.clone(),
            shared,
            entry,
            out,
            bound,
            presented: None,
            seq: 0,
            again: None,
            retire_at: None,
            retire,
        }
    }

    /// Talks until the stream ends.
    pub(super) async fn talk(mut self, mut incoming: RecvStream) {
        let tasks = self.shared.tasks.clone();
        let surplus = self.entry.surplus();
        let mut lines = Lines::default();
        let mut said_draining = false;
        loop {
            while let Some(message) = lines.take() {
                let Ok(message) = message else {
                    tracing::warn!("control stream of the edge cannot be read");
                    return;
                };
                self.take(message);
            }
            if self.present().await.is_err() {
                return;
            }
            let (again, retire_at) = (self.again, self.retire_at);
            let over = tokio::select! {
                data = incoming.data() => match data {
                    Some(Ok(data)) => {
                        lines.push(&data);
                        let _ = incoming.flow_control().release_capacity(data.len());
                        false
                    }
                    _ => true,
                },
                () = changed(&mut self.secret) => false,
                () = sleep_until(again) => {
                    self.again = None;
                    false
                }
                () = sleep_until(retire_at) => {
                    self.retire_at = None;
                    self.retire.cancel();
                    false
                }
                () = leaving(&tasks, &surplus), if !said_draining => {
                    said_draining = true;
                    self.say(&FromProxy::Draining).await.is_err()
                }
            };
            if over {
                return;
            }
        }
    }

    /// Presents the newest secret, unless the connection stands on it or it is being decided.
    async fn present(&mut self) -> Result<(), Over> {
        let newest = self.secret.borrow_and_update().clone();
        let waiting = self.presented.is_some() || self.again.is_some();
        let newest = newest.filter(|newest| !waiting && *newest != self.bound);
        let Some(newest) = newest else { return Ok(()) };
        self.seq += 1;
        let message = FromProxy::Present {
            seq: self.seq,
            credential: Value::new(newest.expose().to_owned()),
        };
        self.presented = Some(newest);
        self.say(&message).await
    }

    fn take(&mut self, message: FromEdge) {
        match message {
            FromEdge::Bound { seq, credential_id } => {
                if seq == self.seq {
                    if let Some(presented) = self.presented.take() {
                        tracing::info!(credential = credential_id, "connection bound anew");
                        self.bound = presented;
                    }
                    self.shared.prove(&self.bound);
                }
                self.retire_at = None;
                self.entry.bound(&self.bound);
            }
            FromEdge::Refused { seq, reason } if seq == self.seq => {
                let presented = self.presented.take();
                let wait = if reason == wire::Refused::Unavailable {
                    SOON
                } else {
                    if let Some(secret) = presented {
                        self.shared.roster.refused(secret);
                    }
                    AGAIN
                };
                tracing::warn!(
                    reason = control::word(&reason),
                    "secret refused, the connection stays on the last one"
                );
                self.again = Some(Instant::now() + wait);
            }
            FromEdge::CutAt { time } => {
                tracing::info!(time, "the edge will cut the connection");
                self.entry.leaving();
                let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time));
                let left = at.and_then(|at| at.duration_since(SystemClock.wall()).ok());
                let before = left.unwrap_or_default().saturating_sub(self.shared.drain);
                self.retire_at = Instant::now().checked_add(before);
            }
            FromEdge::Instances { count } => self.entry.instances(count),
            FromEdge::Refused { .. } | FromEdge::Unknown => {}
        }
    }

    async fn say(&self, message: &FromProxy) -> Result<(), Over> {
        let line = wire::line(message).map_err(|_| Over)?;
        self.out
            .send(Bytes::copy_from_slice(&line))
            .await
            .map_err(|_| Over)
    }
}

/// Resolves when the edge should open nothing more here: at the stop, and on a connection too many.
async fn leaving(tasks: &process::Tasks, surplus: &CancellationToken) {
    tokio::select! {
        () = tasks.stopping() => {}
        () = surplus.cancelled() => tracing::info!("a connection too many, drained"),
    }
}

/// Resolves when there is another secret. At the stop nobody looks for one any more, and what runs goes on.
async fn changed(secret: &mut watch::Receiver<Option<Arc<Secret>>>) {
    if secret.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
