//! Source 1: the daemon's control channel.
//!
//! Subscribes, takes up what is sent, acknowledges it when it is in force and reports how things
//! stand. A daemon that is gone changes nothing: what was last good stays in force, and the
//! subscription is tried again, with jitter, for ever.

mod session;

use std::io;
use std::time::Duration;

use control::FrameError;
use process::{Chain, Failure, Tasks};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::carrier::Up;
use crate::config::ControlSource;
use crate::credential::Credentials;
use crate::dial::Pushed;
use crate::forward::Forwarder;
use crate::telemetry::Pace;

use session::Session;

/// First wait after a subscription has ended; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A daemon that comes back is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A subscription that lasted this long was a good one: whatever ends it is news.
const GOOD: Duration = Duration::from_secs(10);
/// A peer that takes longer to answer the `hello` is not a daemon.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// Two proxies of one name are told so this often.
const REPLACED: Duration = Duration::from_secs(60);

/// Why a subscription ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// Nobody listens there, or we may not connect.
    #[error("cannot connect to the control socket")]
    Connect(#[source] io::Error),
    /// The socket does not say whose it is.
    #[error("the control socket's peer is not known")]
    Peer(#[source] io::Error),
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
    /// Another subscriber took our name.
    #[error("another subscriber has taken over: {0}")]
    Replaced(String),
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
    /// Takes the secrets of the edge that is dialled, if they come from the daemon.
    pub(crate) pushed: Option<Pushed>,
    pub(crate) tasks: Tasks,
}

impl Subscriber {
    /// Stays subscribed until the stop.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut wait = FIRST_WAIT;
        let mut news = News::default();
        while !self.tasks.is_stopping() {
            let begun = Instant::now();
            let Err(ended) = self.subscribe().await else {
                return Ok(());
            };
            self.credentials.channel_lost(true);
            if begun.elapsed() >= GOOD {
                wait = FIRST_WAIT;
                news.forget();
            }
            if let Some(said) = news.of(&ended) {
                self.tell(&said);
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = self.tasks.stopping() => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(())
    }

    fn tell(&self, said: &Said) {
        let source = &self.source;
        match said {
            Said::Ended(error) => {
                let until = self.credentials.valid_until();
                tracing::warn!(
                    error,
                    socket = %source.socket.display(),
                    credentials_kept = self.credentials.current().len(),
                    valid_until = until.map(process::rfc3339),
                    "control channel ended"
                );
            }
            Said::Replaced { error, times } => tracing::warn!(
                error,
                times,
                replica = source.replica,
                next = "give each proxy a control.replica of its own",
                "another subscriber uses the name of this replica"
            ),
        }
    }

    /// One subscription; `Ok`: it ended because of the stop.
    async fn subscribe(&self) -> Result<(), Ended> {
        let opening = tokio::time::timeout(WELCOME_LIMIT, self.open());
        let session = tokio::select! {
            session = opening => session.unwrap_or(Err(Ended::NoWelcome)),
            () = self.tasks.stopping() => return Ok(()),
        };
        let session = session?;
        self.credentials.channel_lost(false);
        session.run().await
    }

    async fn open(&self) -> Result<Session<'_>, Ended> {
        let connecting = UnixStream::connect(&self.source.socket).await;
        let stream = connecting.map_err(Ended::Connect)?;
        let peer = stream.peer_cred().map_err(Ended::Peer)?.uid();
        if !self.is_daemon(peer).map_err(Ended::Peer)? {
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

/// What was said about subscriptions that ended, so that it is not said at each attempt.
struct News {
    last: String,
    replaced: Pace,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Once for each cause, whole: it is the last part of it that says what to do.
    Ended(String),
    /// Now and then, however good the subscriptions in between were: it does not end by itself.
    Replaced { error: String, times: u64 },
}

impl Default for News {
    fn default() -> Self {
        Self {
            last: String::new(),
            replaced: Pace::new(REPLACED),
        }
    }
}

impl News {
    fn of(&mut self, ended: &Ended) -> Option<Said> {
        let error = Chain(ended).to_string();
        if let Ended::Replaced(_) = ended {
            let times = self.replaced.due()?;
            return Some(Said::Replaced { error, times });
        }
        if error == self.last {
            return None;
        }
        self.last.clone_from(&error);
        Some(Said::Ended(error))
    }

    fn forget(&mut self) {
        self.last.clear();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_cause_is_said_once_and_a_name_that_is_taken_again_and_again() {
        let refused = |kind: io::ErrorKind| Ended::Connect(kind.into());
        let ended = |text: &str| Some(Said::Ended(text.to_owned()));
        let mut news = News::default();
        let missing = refused(io::ErrorKind::NotFound);
        let what = "cannot connect to the control socket: entity not found";
        assert_eq!(news.of(&missing), ended(what));
        assert_eq!(news.of(&missing), None);
        let what = "cannot connect to the control socket: connection refused";
        assert_eq!(
            news.of(&refused(io::ErrorKind::ConnectionRefused)),
            ended(what)
        );

        let replaced = Ended::Replaced("r1".to_owned());
        let error = "another subscriber has taken over: r1".to_owned();
        let times = |times| {
            let error = error.clone();
            Some(Said::Replaced { error, times })
        };
        assert_eq!(news.of(&replaced), times(1));
        assert_eq!(news.of(&replaced), None);
        tokio::time::advance(REPLACED).await;
        assert_eq!(news.of(&replaced), times(2));
    }
}
