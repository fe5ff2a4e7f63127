//! The subscription to the daemon: tokens come in, acknowledgements go out. A daemon that is gone changes nothing; it is
//! dialled again for ever.

use std::io;
use std::time::Duration;

use control::{
    Ack, Bye, FrameError, FromDaemon, FromSubscriber, Hello, Nack, Reader, Reason, Report,
    Resource, Role, TunnelReport, Version, Writer,
};
use process::{Chain, Failure};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{Offer, Settings, Standing, token};

/// First wait after a subscription has ended; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A daemon that comes back is noticed within this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A subscription that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// Whoever takes longer to answer the `hello`, or to take a message, is stuck.
const LIMIT: Duration = Duration::from_secs(10);
/// A report this often, so that silence means something.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The connector's side of the control channel.
pub(super) struct Link {
    pub(super) settings: Settings,
    pub(super) offers: watch::Sender<Option<Offer>>,
    pub(super) standing: watch::Receiver<Standing>,
}

/// Why a subscription ended.
#[derive(Debug, Error)]
enum Ended {
    #[error("cannot connect to the control socket")]
    Connect(#[source] io::Error),
    #[error("the control socket is served by uid {0}, which is not the daemon's")]
    WrongUid(u32),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the daemon refused the subscription: {0}")]
    Refused(String),
    #[error("the daemon speaks protocol {0}")]
    Protocol(Version),
    #[error("the daemon has the tunnels {0}: name one of them with --tunnel")]
    Several(String),
    #[error("the daemon does not answer")]
    Deaf,
    #[error("the daemon closed the control channel")]
    Closed,
}

/// An open subscription.
struct Session {
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
}

impl Link {
    /// Stays subscribed until the last process has ended.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        let (mut wait, mut said) = (FIRST_WAIT, String::new());
        loop {
            let begun = Instant::now();
            let Err(ended) = self.subscribe().await else {
                return Ok(());
            };
            if begun.elapsed() >= GOOD {
                (wait, said) = (FIRST_WAIT, String::new());
            }
            let error = Chain(&ended).to_string();
            if error != said {
                let kept = self.offers.borrow().is_some();
                tracing::warn!(error, token_kept = kept, "control channel ended");
                said = error;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = over(&mut self.standing) => return Ok(()),
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One subscription; `Ok`: the connector stops.
    async fn subscribe(&mut self) -> Result<(), Ended> {
        let opened = timeout(LIMIT, self.open()).await;
        let mut session = opened.unwrap_or(Err(Ended::Deaf))?;
        let mut tick = interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What is so at the moment is news to a daemon that was just dialled.
        self.standing.mark_changed();
        let mut answered = None;
        loop {
            tokio::select! {
                message = session.reader.next() => {
                    self.take(message?.ok_or(Ended::Closed)?, &mut session).await?;
                    // The same token again has a number of its own.
                    answered = None;
                    self.answer(&mut session, &mut answered).await?;
                }
                changed = self.standing.changed() => {
                    if changed.is_err() {
                        let bye = Bye { why: "the connector stops".to_owned() };
                        return session.send(FromSubscriber::Bye(bye)).await;
                    }
                    self.answer(&mut session, &mut answered).await?;
                    session.send(self.report()).await?;
                }
                _ = tick.tick() => session.send(self.report()).await?,
            }
        }
    }

    async fn open(&self) -> Result<Session, Ended> {
        let stream = UnixStream::connect(&self.settings.socket).await;
        let stream = stream.map_err(Ended::Connect)?;
        let peer = stream.peer_cred().map_err(Ended::Connect)?.uid();
        let own = rustix::process::geteuid().as_raw();
        // Whoever serves the socket could give us a tunnel of his own to dial.
        let expected = self.settings.daemon_uid;
        if expected.map_or(peer != 0 && peer != own, |expected| peer != expected) {
            return Err(Ended::WrongUid(peer));
        }
        let (read, write) = stream.into_split();
        let mut session = Session {
            reader: Reader::new(read),
            writer: Writer::new(write),
        };
        session
            .send(FromSubscriber::Hello(Hello {
                protocol: Version::CURRENT,
                role: Role::Connector,
                tunnels: self.settings.tunnel.iter().cloned().collect(),
                replica: self.settings.replica.clone(),
                build: process::BUILD.to_owned(),
                serving: Vec::new(),
                dials: Vec::new(),
            }))
            .await?;
        loop {
            match session.reader.next().await?.ok_or(Ended::Closed)? {
                FromDaemon::Welcome(welcome) if !Version::CURRENT.accepts(welcome.protocol) => {
                    return Err(Ended::Protocol(welcome.protocol));
                }
                FromDaemon::Welcome(welcome) if welcome.tunnels.len() > 1 => {
                    return Err(Ended::Several(welcome.tunnels.join(", ")));
                }
                FromDaemon::Welcome(welcome) => {
                    tracing::info!(tunnel = welcome.tunnels.join(", "), "control channel open");
                    return Ok(session);
                }
                FromDaemon::Refused(refused) => return Err(Ended::Refused(refused.detail)),
                _ => {}
            }
        }
    }

    async fn take(&self, message: FromDaemon, session: &mut Session) -> Result<(), Ended> {
        let tunnel = match message {
            FromDaemon::Tunnel(tunnel) => tunnel,
            FromDaemon::Refused(refused) => return Err(Ended::Refused(refused.detail)),
            _ => return Ok(()),
        };
        if !token::is_well_formed(tunnel.token.expose()) {
            let generation = tunnel.generation;
            tracing::error!(
                generation,
                "the token is none that cloudflared takes, and the last one is kept"
            );
            return session
                .send(nack(tunnel.tunnel, generation, Reason::Malformed))
                .await;
        }
        self.offers.send_replace(Some(Offer {
            tunnel: tunnel.tunnel,
            generation: tunnel.generation,
            token: tunnel.token,
        }));
        Ok(())
    }

    /// Says what became of the offer, once.
    async fn answer(
        &mut self,
        session: &mut Session,
        answered: &mut Option<(u64, Option<Reason>)>,
    ) -> Result<(), Ended> {
        let standing = self.standing.borrow_and_update().clone();
        let Some((tunnel, generation)) = self.offered() else {
            return Ok(());
        };
        let refused = standing.refused.filter(|(of, _)| *of == generation);
        let news = match (standing.held == Some(generation), refused) {
            (true, _) => (generation, None),
            (false, Some((_, reason))) => (generation, Some(reason)),
            (false, None) => return Ok(()),
        };
        if *answered == Some(news) {
            return Ok(());
        }
        *answered = Some(news);
        session
            .send(match news.1 {
                None => FromSubscriber::Ack(Ack {
                    resource: Resource::Tunnel,
                    tunnel,
                    generation,
                    leaf_sha256: None,
                }),
                Some(reason) => nack(tunnel, generation, reason),
            })
            .await
    }

    fn report(&self) -> FromSubscriber {
        let standing = self.standing.borrow();
        let tunnel = self.offered().map(|(tunnel, _)| TunnelReport {
            tunnel,
            generation: standing.held.unwrap_or(0),
            ..TunnelReport::default()
        });
        let carrier = standing.registered.then(|| "cloudflared".to_owned());
        FromSubscriber::Report(Report {
            tunnels: tunnel.into_iter().collect(),
            carriers: carrier.into_iter().collect(),
        })
    }

    fn offered(&self) -> Option<(String, u64)> {
        let offer = self.offers.borrow();
        let offer = offer.as_ref()?;
        Some((offer.tunnel.clone(), offer.generation))
    }
}

impl Session {
    async fn send(&mut self, message: FromSubscriber) -> Result<(), Ended> {
        match timeout(LIMIT, self.writer.send(&message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Ended::Deaf),
        }
    }
}

/// Until the supervisor is gone.
async fn over(standing: &mut watch::Receiver<Standing>) {
    while standing.changed().await.is_ok() {}
}

fn nack(tunnel: String, generation: u64, reason: Reason) -> FromSubscriber {
    FromSubscriber::Nack(Nack {
        resource: Resource::Tunnel,
        tunnel,
        generation,
        reason,
    })
}
