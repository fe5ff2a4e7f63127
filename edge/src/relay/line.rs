//! The control stream, seen from the edge: which credential the connection stands on, until when, and how
//! many edges there are.
//!
//! Whether the connection may go on is decided beside it (`verdict`): what is said here waits for the peer.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{RecvStream, SendStream};
use tokio::sync::watch;
use wire::{FromEdge, FromProxy, Lines};

use super::Shared;
use super::link::Registered;
use super::session::{Ended, Ground};
use super::verdict::{LOOK, judge};
use crate::buckets::{Buckets, Rate};
use crate::directory::{Bound, Live, Refusal, TunnelEntry};

/// The proxy must take what is said on the control stream, the whole of a line, within this.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);
/// Credentials are presented at most this often: each is a look into the database.
const PRESENT_PACE: Duration = Duration::from_millis(100);
/// So many may be refused on one connection; beyond it the connection ends. Our proxies come again after
/// 5 s, for as long as the edge has not heard of their credential, and are never ended by this.
const REFUSED: Rate = Rate {
    burst: 5,
    per_minute: 15,
};

type Presenting = BoxFuture<'static, (u64, Result<Bound, Refusal>)>;

/// One control stream.
pub(super) struct Line {
    shared: Arc<Shared>,
    registered: Registered,
    bound: watch::Sender<Bound>,
    /// What is left of [`REFUSED`].
    refused: Buckets<()>,
    live: Live,
    entry: watch::Receiver<Arc<TunnelEntry>>,
    instances: watch::Receiver<u32>,
    send: SendStream<Bytes>,
    receive: RecvStream,
    lines: Lines,
    /// A credential that is being looked at; nothing more is read meanwhile.
    presenting: Option<Presenting>,
    /// The time of the cut that the proxy was told.
    told: Option<SystemTime>,
    /// The proxy stops, and has said so.
    leaving: bool,
    /// The edge stops, and the proxy was told.
    draining: bool,
}

/// Nothing but an end comes out of it.
pub(super) type Never = std::convert::Infallible;

/// Both halves of the stream.
pub(super) struct Halves {
    pub(super) send: SendStream<Bytes>,
    pub(super) receive: RecvStream,
}

impl Line {
    pub(super) fn new(
        shared: Arc<Shared>,
        registered: Registered,
        live: Live,
        ground: Ground,
        halves: Halves,
    ) -> Self {
        Self {
            instances: shared.directory.instances(),
            shared,
            registered,
            bound: ground.bound,
            refused: Buckets::new(REFUSED),
            live,
            entry: ground.entry,
            send: halves.send,
            receive: halves.receive,
            lines: Lines::default(),
            presenting: None,
            told: None,
            leaving: false,
            draining: false,
        }
    }

    /// Until something ends the connection.
    pub(super) async fn serve(mut self) -> Result<Never, Ended> {
        let bound = FromEdge::Bound {
            seq: 0,
            credential_id: self.bound.borrow().credential.clone(),
        };
        self.say(&bound).await?;
        self.look().await?;
        let shared = Arc::clone(&self.shared);
        let mut drained = std::pin::pin!(async {
            shared.tasks.stopping().await;
            tokio::time::sleep(shared.limits.drain).await;
        });
        loop {
            // What has come is read before anything is waited for.
            while self.presenting.is_none() {
                match self.lines.take() {
                    Some(message) => self.take(message?),
                    None => break,
                }
            }
            let reading = self.presenting.is_none();
            let (cut, ending) = (self.told.is_some(), self.leaving || self.draining);
            tokio::select! {
                data = self.receive.data(), if reading => {
                    let data = data.ok_or(Ended::Closed)??;
                    self.lines.push(&data);
                    let _ = self.receive.flow_control().release_capacity(data.len());
                }
                decided = presented(&mut self.presenting) => self.decide(decided).await?,
                changed = self.entry.changed() => {
                    changed.map_err(|_| Ended::Standing)?;
                    self.look().await?;
                }
                () = tokio::time::sleep(LOOK), if cut => self.look().await?,
                changed = self.instances.changed() => {
                    changed.map_err(|_| Ended::Closed)?;
                    self.count().await?;
                }
                () = self.shared.tasks.stopping(), if !self.draining => self.drain().await?,
                () = self.registered.idle(), if ending => return Err(Ended::Drained),
                () = &mut drained => return Err(Ended::DrainLimit),
            }
        }
    }

    fn take(&mut self, message: FromProxy) {
        match message {
            FromProxy::Present { seq, credential } => {
                let directory = self.shared.directory.clone();
                let tunnel = self.bound.borrow().tunnel.clone();
                self.presenting = Some(Box::pin(async move {
                    let value = credential.expose().as_bytes();
                    let decided = directory.authenticate(&tunnel, value).await;
                    tokio::time::sleep(PRESENT_PACE).await;
                    (seq, decided)
                }));
            }
            FromProxy::Draining => {
                self.leaving = true;
                self.registered.leave();
            }
            FromProxy::Unknown => {}
        }
    }

    /// Answers a `present`.
    async fn decide(&mut self, (seq, decided): (u64, Result<Bound, Refusal>)) -> Result<(), Ended> {
        self.presenting = None;
        let answer = match decided {
            Ok(bound) => {
                let credential_id = bound.credential.clone();
                self.live.rebind(bound.clone());
                let before = self.bound.send_replace(bound);
                if before.credential != credential_id {
                    tracing::info!(
                        tunnel = before.tunnel,
                        credential = credential_id,
                        "connection bound to another credential"
                    );
                }
                self.told = None;
                FromEdge::Bound { seq, credential_id }
            }
            Err(refusal) => {
                let reason = self.refuse(refusal)?;
                FromEdge::Refused { seq, reason }
            }
        };
        self.say(&answer).await?;
        if self.draining {
            // Bound anew, the proxy takes the connection for one that stays.
            self.drain().await?;
        }
        self.look().await
    }

    /// What a proxy is told of a credential that was refused, if it may present another.
    fn refuse(&self, refusal: Refusal) -> Result<wire::Refused, Ended> {
        let shared = &self.shared;
        shared.telemetry.refuse("present");
        if let Some(count) = shared.paces.due("present") {
            let bound = self.bound.borrow();
            let tunnel = bound.tunnel.as_str();
            tracing::warn!(tunnel, %refusal, count, "presented credential refused");
        }
        if refusal == Refusal::Unavailable {
            // No fault of the proxy's.
            return Ok(wire::Refused::Unavailable);
        }
        if self.refused.take((), shared.began.elapsed()) {
            Ok(wire::Refused::Credential)
        } else {
            Err(Ended::Guessing)
        }
    }

    /// Tells the proxy when the connection ends, if that has changed.
    async fn look(&mut self) -> Result<(), Ended> {
        let cut_at = {
            let (entry, bound) = (self.entry.borrow_and_update(), self.bound.borrow());
            judge(&entry, &bound.credential, self.shared.directory.now())?
        };
        if cut_at != self.told
            && let Some(at) = cut_at
        {
            self.cut_at(at).await?;
        }
        self.told = cut_at;
        Ok(())
    }

    async fn cut_at(&mut self, at: SystemTime) -> Result<(), Ended> {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let time = since.unwrap_or_default().as_secs();
        self.say(&FromEdge::CutAt { time }).await
    }

    async fn count(&mut self) -> Result<(), Ended> {
        let count = *self.instances.borrow_and_update();
        self.say(&FromEdge::Instances { count }).await
    }

    /// The edge stops: the proxy is told when, so that it makes a connection elsewhere meanwhile.
    async fn drain(&mut self) -> Result<(), Ended> {
        self.draining = true;
        self.registered.leave();
        let at = self.shared.directory.now() + self.shared.limits.drain;
        self.cut_at(at).await
    }

    async fn say(&mut self, message: &FromEdge) -> Result<(), Ended> {
        let line = wire::line(message)?;
        let line = Bytes::copy_from_slice(&line);
        // One limit for all of it: the window may grow by an octet at a time.
        let room = room(&mut self.send, line.len());
        let room = tokio::time::timeout(CONTROL_LIMIT, room).await;
        room.map_err(|_| Ended::Deaf)??;
        Ok(self.send.send_data(line, false)?)
    }
}

/// Waits until `length` bytes can be sent at once.
async fn room(send: &mut SendStream<Bytes>, length: usize) -> Result<(), Ended> {
    send.reserve_capacity(length);
    while send.capacity() < length {
        let room = poll_fn(|cx| send.poll_capacity(cx)).await;
        room.ok_or(Ended::Closed)??;
    }
    Ok(())
}

async fn presented(presenting: &mut Option<Presenting>) -> (u64, Result<Bound, Refusal>) {
    match presenting {
        Some(presenting) => presenting.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_survives_what_our_proxies_present_for_ever_and_not_one_after_the_other() {
        let patient: Buckets<()> = Buckets::new(REFUSED);
        for second in (0..86_400).step_by(5) {
            assert!(patient.take((), Duration::from_secs(second)), "{second}");
        }
        let hasty: Buckets<()> = Buckets::new(REFUSED);
        let taken = (0..100).take_while(|number| hasty.take((), PRESENT_PACE * *number));
        assert_eq!(taken.count(), 5);
    }
}
