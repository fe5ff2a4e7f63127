//! Source 1: the daemon's control channel.
//!
//! Subscribes, takes up what is sent, acknowledges it when it is in force and reports how things
//! stand. A daemon that is gone changes nothing: what was last good stays in force, and the
//! subscription is tried again, with jitter, for ever.

mod session;

use std::io;
use std::time::Duration;

use control::FrameError;
use process::{Failure, Tasks};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::carrier::Up;
use crate::config::ControlSource;
use crate::credential::Credentials;
use crate::forward::Forwarder;

use session::Session;

/// First wait after a subscription has ended; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A daemon that comes back is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A subscription that lasted this long was a good one: whatever ends it is news.
const GOOD: Duration = Duration::from_secs(10);
/// A peer that takes longer to answer the `hello` is not a daemon.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// Why a subscription ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// Nobody listens, or the connection broke.
    #[error("the control channel cannot be reached")]
    Io(#[from] io::Error),
    /// What was read is not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket belongs to somebody else.
    #[error("the control socket is served by uid {0}, which is not the daemon's")]
    WrongUid(u32),
    /// The daemon said no.
    #[error("the daemon refused the subscription: {0}")]
    Refused(String),
    /// Another major version.
    #[error("the daemon speaks protocol {0}")]
    Protocol(control::Version),
    /// No `welcome` in time, or something else in its place.
    #[error("the daemon did not answer the hello")]
    NoWelcome,
    /// What was sent is not taken.
    #[error("the daemon does not read")]
    Deaf,
    /// The daemon closed the connection.
    #[error("the daemon closed the control channel")]
    Closed,
}

/// A subscriber.
pub(crate) struct Subscriber {
    pub(crate) source: ControlSource,
    pub(crate) credentials: Credentials,
    pub(crate) forwarder: Forwarder,
    /// Takes the routes of a policy, if routes come from the daemon.
    pub(crate) routed: Option<Forwarder>,
    /// The carriers that are up.
    pub(crate) carriers: Up,
    pub(crate) tasks: Tasks,
}

impl Subscriber {
    /// Stays subscribed until the stop.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut wait = FIRST_WAIT;
        let mut said = String::new();
        while !self.tasks.is_stopping() {
            let begun = Instant::now();
            let Err(ended) = self.subscribe().await else {
                return Ok(());
            };
            if begun.elapsed() >= GOOD {
                wait = FIRST_WAIT;
                said.clear();
            }
            // Once for each distinct cause, however often it is tried again.
            let text = ended.to_string();
            if text != said {
                let kept = self.credentials.current().len();
                tracing::warn!(
                    error = text,
                    credentials_kept = kept,
                    "control channel ended"
                );
                said = text;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = self.tasks.stopping() => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(())
    }

    /// One subscription; `Ok`: it ended because of the stop.
    async fn subscribe(&self) -> Result<(), Ended> {
        let opening = tokio::time::timeout(WELCOME_LIMIT, self.open());
        let session = tokio::select! {
            session = opening => session.unwrap_or(Err(Ended::NoWelcome)),
            () = self.tasks.stopping() => return Ok(()),
        };
        session?.run().await
    }

    async fn open(&self) -> Result<Session<'_>, Ended> {
        let stream = UnixStream::connect(&self.source.socket).await?;
        let peer = stream.peer_cred()?.uid();
        if !self.is_daemon(peer)? {
            return Err(Ended::WrongUid(peer));
        }
        Session::open(self, stream).await
    }

    /// Whoever serves the socket would give us a key to serve: it has to be the daemon.
    fn is_daemon(&self, peer: u32) -> io::Result<bool> {
        match self.source.daemon_uid {
            Some(expected) => Ok(peer == expected),
            None => Ok(peer == 0 || peer == own_uid()?),
        }
    }
}

/// Our own uid, as the other end of a socket pair sees it.
fn own_uid() -> io::Result<u32> {
    let (near, _far) = UnixStream::pair()?;
    Ok(near.peer_cred()?.uid())
}

/// Between half of `wait` and the whole of it, so that many proxies do not return at once.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without randomness all wait the same, which is no harm here.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    wait / 2 + wait / 2 * u32::from(byte[0]) / 255
}
