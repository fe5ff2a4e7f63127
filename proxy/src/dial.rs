//! Carrier `edge`: this proxy dials `keyward-edge` and agents' connections come in on what it dialled.
//!
//! TLS, an HTTP/1.1 Upgrade that presents the credential, then HTTP/2 with the roles reversed
//! (`edge.md` section 2). One task keeps `connections` to each instance of the edge, and goes on trying
//! until it has them; a connection that is about to be cut is replaced before it goes. Each stream is
//! handed to the same door as those of carriers that listen. Nothing is listened to here, and nothing is dialled
//! before there is a secret to present.

mod attach;
mod line;
mod pin;
mod reach;
mod roster;
mod secret;
mod serve;
mod stream;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use process::{Chain, Failure, Tasks};
use thiserror::Error;
use tokio::time::Instant;

use crate::carrier::Door;
use crate::config::{EdgeCarrier, ForwardProxy, SecretSource};
use crate::watched::Watch;

pub(crate) use roster::Roster;
pub(crate) use secret::Pushed;
pub(crate) use stream::Tunnelled;

use attach::{AttachError, Attached};
use secret::{Newest, Secrets};
use serve::Shared;
use turns::Turns;

/// As reports, metrics and logs call this carrier.
pub(crate) const NAME: &str = "edge";
/// First wait after a failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// An edge that comes back is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The longest that an edge may tell us to wait.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);
/// From the first packet to the 101.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, Error)]
enum DialError {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("the edge did not answer within {} s", ATTACH_LIMIT.as_secs())]
    Timeout,
}

/// Keeps the connections to one edge.
pub(crate) struct Dialler {
    shared: Arc<Shared>,
    newest: Newest,
    /// `None`: the daemon sends them.
    file: Option<Secrets>,
    tasks: Tasks,
    /// Part of every wait, drawn once: many proxies that lost one edge do not come back at once.
    jitter: u32,
}

impl Dialler {
    /// Reads the secret for the first time, where a file has it. `drain`: what calls in flight get before a cut.
    ///
    /// # Errors
    ///
    /// There is none in the file, or `HTTPS_PROXY` is no URL: exit code 78.
    pub(crate) fn new(
        mut edge: EdgeCarrier,
        drain: Duration,
        door: Door,
        tasks: &Tasks,
    ) -> Result<Self, Failure> {
        if edge.forward_proxy.is_none() {
            edge.forward_proxy = ForwardProxy::from_environment(&edge.host)?;
        }
        let newest = Newest::default();
        let file = match &edge.secret {
            SecretSource::File(path) => Some(Secrets::load(path, newest.clone())?),
            SecretSource::Daemon(_) => None,
        };
        if edge.allow_without_client_certificate {
            tracing::warn!(
                switch = "carriers.edge.allow_without_client_certificate",
                "callers need no client certificate: whoever runs the edge can call"
            );
        }
        let roster = Roster::new(&edge);
        let shared = Shared {
            edge,
            turns: Turns::default(),
            // The edge may have sent streams before it hears that we stop.
            door: Door {
                patient: true,
                ..door
            },
            drain,
            roster,
            tasks: tasks.clone(),
            secret: newest.subscribe(),
            proven: std::sync::Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            newest,
            file,
            tasks: tasks.clone(),
            jitter: drawn(),
        })
    }

    /// How its connections stand.
    pub(crate) fn roster(&self) -> Roster {
        self.shared.roster.clone()
    }

    /// Where the daemon's secrets go in; `None`: they are not asked for.
    pub(crate) fn pushed(&self) -> Option<Pushed> {
        match &self.shared.edge.secret {
            SecretSource::File(_) => None,
            SecretSource::Daemon(tunnel) => Some(Pushed {
                tunnel: tunnel.clone(),
                newest: self.newest.clone(),
                roster: self.roster(),
            }),
        }
    }

    /// Dials until the stop.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let Self {
            shared,
            file,
            tasks,
            jitter,
            // Kept to the end: without it nothing newer is waited for.
            newest: _newest,
        } = self;
        let keep = async {
            let mut pause = Pause::new(jitter);
            loop {
                shared.roster.wanting().await;
                let wait = step(&shared, &mut pause).await;
                tokio::time::sleep(wait).await;
            }
        };
        let follow = async {
            match file {
                Some(file) => drop(Watch::new(file).run(tasks.clone()).await),
                None => tasks.stopping().await,
            }
        };
        tokio::select! {
            () = keep => {}
            () = shared.roster.trim() => {}
            () = follow => {}
            () = tasks.stopping() => {}
        }
        Ok(())
    }
}

/// One attempt, and how long to wait after it.
async fn step(shared: &Arc<Shared>, pause: &mut Pause) -> Duration {
    match dial(shared).await {
        Ok(attached) => {
            let Some(entry) = shared.roster.enter(&attached.instance, attached.instances) else {
                // Another instance is wanted, and who answers is not for us to choose.
                tracing::debug!(
                    instance = attached.instance,
                    "a connection too many, closed"
                );
                return pause.next();
            };
            let inner = Arc::clone(shared);
            shared.tasks.spawn(serve::run(inner, attached, entry));
            if shared.roster.take_short_lived() {
                // Taken and soon thrown out: no reason to hurry.
                return pause.next();
            }
            pause.reset();
            Duration::ZERO
        }
        Err(error) => {
            let text = Chain(&error).to_string();
            if shared.roster.failed(&text) {
                tracing::warn!(error = text, edge = shared.edge.host, "edge not reached");
            }
            let asked = match &error {
                DialError::Attach(AttachError::Refused { retry_after, .. }) => *retry_after,
                _ => None,
            };
            let asked = asked.unwrap_or_default().min(LONGEST_RETRY_AFTER);
            pause.next().max(asked)
        }
    }
}

/// With the newest secret, and when that is refused, with the last that was not: it may be that the edge
/// has not heard of the new one yet.
async fn dial(shared: &Shared) -> Result<Attached, DialError> {
    let mut secret = shared.secret.clone();
    let newest = secret.wait_for(Option::is_some).await;
    let Some(newest) = newest.ok().and_then(|newest| newest.clone()) else {
        // Nobody is left to say one, which is at the stop.
        return std::future::pending().await;
    };
    let attempt = async |secret| {
        let attaching = attach::attach(&shared.edge, &shared.turns, secret, &shared.tasks);
        match tokio::time::timeout(ATTACH_LIMIT, Box::pin(attaching)).await {
            Ok(attached) => Ok(attached?),
            Err(_) => Err(DialError::Timeout),
        }
    };
    let refused = match attempt(Arc::clone(&newest)).await {
        Err(DialError::Attach(error @ AttachError::Refused { status: 401, .. })) => error,
        other => return other,
    };
    shared.roster.refused(Arc::clone(&newest));
    match shared.proven() {
        Some(proven) if *proven != *newest => attempt(proven).await,
        _ => Err(refused.into()),
    }
}

/// How long to wait between attempts.
struct Pause {
    jitter: u32,
    wait: Duration,
    since: Instant,
}

impl Pause {
    fn new(jitter: u32) -> Self {
        Self {
            jitter,
            wait: FIRST_WAIT,
            since: Instant::now(),
        }
    }

    fn reset(&mut self) {
        self.wait = FIRST_WAIT;
    }

    fn next(&mut self) -> Duration {
        if self.since.elapsed() > 2 * LONGEST_WAIT {
            // The last failure was long ago: this is another story.
            self.reset();
        }
        self.since = Instant::now();
        let wait = self.wait / 2 + self.wait / 2 * self.jitter / 255;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        wait
    }
}

/// 0 to 255.
fn drawn() -> u32 {
    let mut byte = [0; 1];
    // Without randomness all wait the same, which is no harm here.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    u32::from(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_a_limit_and_begin_anew_after_a_while() {
        for jitter in [0, 255] {
            let mut pause = Pause::new(jitter);
            let waits: Vec<_> = (0..8).map(|_| pause.next()).collect();
            let factor = if jitter == 0 { 2 } else { 1 };
            assert_eq!(waits[0], FIRST_WAIT / factor);
            assert_eq!(waits[1], FIRST_WAIT * 2 / factor);
            assert_eq!(waits[7], LONGEST_WAIT / factor);
            tokio::time::advance(3 * LONGEST_WAIT).await;
            assert_eq!(pause.next(), FIRST_WAIT / factor);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_do_not_end_are_waited_for_ever_longer() {
        let mut pause = Pause::new(255);
        for _ in 0..20 {
            let wait = pause.next();
            tokio::time::advance(wait).await;
        }
        assert_eq!(pause.next(), LONGEST_WAIT);
    }
}
