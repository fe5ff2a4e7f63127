//! Serves the control channel: hands each subscriber what its role may have, and notes its answers.
//!
//! It decides nothing: what is in force comes from the board, what a replica has acknowledged goes
//! back to it. It writes no file and looks into no certificate.

mod bounded;
mod hello;
mod roster;
mod session;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use process::{Clock, Failure, Tasks};
use tokio::net::UnixStream;

use crate::board::Board;
use crate::socket::{Complaints, Crowd, Socket};
use roster::Roster;

/// Mode of the control socket: the daemon's user and the shared group.
const MODE: u32 = 0o660;
/// How often replicas that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Where to listen, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The control socket.
    pub socket: PathBuf,
    /// Its group, shared with the subscribers.
    pub group: Option<u32>,
    /// Uids that may subscribe. Nobody else may, not even root.
    pub subscribers: BTreeSet<u32>,
    /// Names of the tunnels that there are.
    pub tunnels: BTreeSet<String>,
}

/// How long and how many. The defaults are what the documentation says; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the first line is whole. 5 s: a subscriber says it at once.
    pub hello: Duration,
    /// Until one message is written. 10 s: longer than any pause of a healthy subscriber.
    pub write: Duration,
    /// Subscriptions of one uid at once, and names of its replicas that are remembered. 64: more than a
    /// host carries.
    pub subscribers: usize,
    /// Messages of one subscriber in a second. 200: ten swaps a second of eight tunnels, twice over.
    pub messages: u32,
    /// After which a replica that is gone is forgotten. 1 h: longer than a bad deployment.
    pub silent: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            write: Duration::from_secs(10),
            subscribers: 64,
            messages: 200,
            silent: Duration::from_secs(3600),
        }
    }
}

/// The control socket, bound but not served yet.
#[derive(Debug)]
pub struct Publisher {
    socket: Socket,
    desk: Arc<Desk>,
}

/// What every session needs.
pub(crate) struct Desk {
    settings: Settings,
    limits: Limits,
    board: Board,
    roster: Arc<Roster>,
    clock: Arc<dyn Clock>,
    complaints: Complaints,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Binds the control socket.
    ///
    /// # Errors
    ///
    /// As [`Socket::bind`].
    pub fn bind(
        settings: Settings,
        limits: Limits,
        board: Board,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let socket = Socket::bind(&settings.socket, MODE, settings.group)?;
        let replicas = board.replicas.clone();
        let roster = Arc::new(Roster::new(replicas, clock.clone(), limits.subscribers));
        let desk = Arc::new(Desk {
            settings,
            limits,
            board,
            roster,
            clock,
            complaints: Complaints::default(),
        });
        Ok(Self { socket, desk })
    }

    /// Serves subscribers until the stop.
    ///
    /// # Errors
    ///
    /// None: a subscription that fails ends alone, a failing accept is tried again.
    pub async fn run(self, tasks: Tasks) -> Result<(), Failure> {
        let crowd = Crowd::default();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = sweep.tick() => {
                    self.desk.roster.sweep(self.desk.limits.silent);
                    continue;
                }
                () = tasks.stopping() => return Ok(()),
            };
            match accepted {
                Ok((stream, uid)) => self.admit(stream, uid, &crowd, &tasks),
                Err(error) => {
                    tracing::warn!(%error, "control socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream, uid: u32, crowd: &Crowd, tasks: &Tasks) {
        let desk = self.desk.clone();
        let Some(place) = crowd.enter(uid, desk.limits.subscribers) else {
            // No answer: an answer would need a task, and there are enough of those.
            desk.complain(uid, "too many subscriptions of one uid");
            return;
        };
        let stopping = tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = session::serve(&desk, stream, uid) => {}
                () = stopping.stopping() => {}
            }
            drop(place);
        });
    }
}

impl Desk {
    /// Logs that `replica` says more about itself than is kept, unless one of its uid did within the last
    /// minute.
    fn tell_cut(&self, uid: u32, replica: &str) {
        if self
            .complaints
            .is_news(uid, "report cut", self.clock.boot())
        {
            tracing::warn!(
                uid,
                replica,
                "report is longer than what is kept of it, the rest is left out"
            );
        }
    }

    /// Logs `complaint` about `uid`, unless it did within the last minute.
    fn complain(&self, uid: u32, complaint: &'static str) {
        if self.complaints.is_news(uid, complaint, self.clock.boot()) {
            tracing::warn!(uid, complaint, "control subscriber refused");
        }
    }
}

#[cfg(test)]
mod tests;
