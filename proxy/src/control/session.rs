//! One subscription, from the `hello` to the end of the connection.

use std::sync::Arc;
use std::time::Duration;

use control::{
    Ack, Bye, Credential, FromDaemon, FromSubscriber, Hello, Nack, Policy, Reader, Reason, Refusal,
    Refused as Turned, Report, Resource, Role, Secret, Tunnel, Version, Writer,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Ended, Subscriber};
use crate::credential::{Refused, Source};
use crate::dial::Pushed;

/// A report at most this often, when something has changed ...
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// ... and at least this often, so that silence means something.
const REPORT_AT_LEAST: Duration = Duration::from_secs(5);

/// A daemon that has not read what is sent to it for this long is stuck, and a stuck one is better dialled
/// anew: the buffers between hold hundreds of messages.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Nobody waits longer to take leave.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// A subscription that was welcomed.
pub(super) struct Session<'a> {
    subscriber: &'a Subscriber,
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
    /// Acks that wait for the last handshakes of an earlier generation.
    settling: FuturesUnordered<BoxFuture<'static, Ack>>,
    reported: Option<(Report, Instant)>,
    /// What the edge is dialled with.
    dialled: Option<Dialled>,
}

/// A secret that the daemon sent on this connection.
struct Dialled {
    secret: Arc<Secret>,
    generation: u64,
    /// What was said of it last: that every connection stands on it, or that the edge refused it.
    said: Option<bool>,
}

impl<'a> Session<'a> {
    /// Says `hello` and waits for the `welcome`.
    pub(super) async fn open(
        subscriber: &'a Subscriber,
        stream: UnixStream,
    ) -> Result<Self, Ended> {
        let (read, write) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
        let hello = Hello {
            protocol: Version::CURRENT,
            role: Role::Proxy,
            tunnels: subscriber.source.tunnels.clone(),
            replica: subscriber.source.replica.clone(),
            build: process::BUILD.to_owned(),
            serving: subscriber.credentials.serving().await,
            dials: subscriber
                .pushed
                .iter()
                .map(|one| one.tunnel.clone())
                .collect(),
        };
        writer.send(&FromSubscriber::Hello(hello)).await?;
        loop {
            match reader.next().await?.ok_or(Ended::Closed)? {
                FromDaemon::Welcome(welcome) if Version::CURRENT.accepts(welcome.protocol) => {
                    tracing::info!(tunnels = welcome.tunnels.join(", "), "control channel open");
                    subscriber.credentials.listed(welcome.tunnels);
                    break;
                }
                FromDaemon::Welcome(welcome) => return Err(Ended::Protocol(welcome.protocol)),
                FromDaemon::Refused(refused) => return Err(Ended::Refused(refused.detail)),
                FromDaemon::Unknown => {}
                _ => return Err(Ended::NoWelcome),
            }
        }
        Ok(Self {
            subscriber,
            reader,
            writer,
            settling: FuturesUnordered::new(),
            reported: None,
            dialled: None,
        })
    }

    /// Takes up what is sent until the connection ends; `Ok`: because of the stop.
    pub(super) async fn run(mut self) -> Result<(), Ended> {
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let tasks = self.subscriber.tasks.clone();
        loop {
            tokio::select! {
                message = self.reader.next() => {
                    let message = message?.ok_or(Ended::Closed)?;
                    self.take(message).await?;
                }
                Some(ack) = self.settling.next() => {
                    self.send(FromSubscriber::Ack(ack)).await?;
                }
                verdict = judged(self.subscriber.pushed.as_ref(), self.dialled.as_ref()) => {
                    self.answer(verdict).await?;
                }
                _ = tick.tick() => self.report().await?,
                () = tasks.stopping() => return self.leave().await,
            }
        }
    }

    async fn take(&mut self, message: FromDaemon) -> Result<(), Ended> {
        match message {
            FromDaemon::Credential(credential) => self.credential(&credential).await,
            FromDaemon::Policy(policy) => self.policy(policy).await,
            FromDaemon::Refused(Turned {
                reason: Refusal::Replaced,
                detail,
            }) => Err(Ended::Replaced(detail)),
            FromDaemon::Refused(refused) => {
                tracing::warn!(detail = refused.detail, "the daemon refused something");
                Ok(())
            }
            FromDaemon::Tunnel(tunnel) => self.tunnel(tunnel).await,
            // What we do not know is for later versions.
            FromDaemon::Welcome(_) | FromDaemon::Unknown => Ok(()),
        }
    }

    async fn credential(&mut self, credential: &Credential) -> Result<(), Ended> {
        let (tunnel, generation) = (credential.tunnel.clone(), credential.generation);
        match self
            .subscriber
            .credentials
            .offer(credential, Source::Channel)
        {
            Ok(published) => {
                self.settling.push(Box::pin(async move {
                    published.settled().await;
                    Ack {
                        resource: Resource::Credential,
                        tunnel,
                        generation,
                        leaf_sha256: Some(published.leaf_sha256().to_owned()),
                    }
                }));
                Ok(())
            }
            Err(refused) => {
                tracing::warn!(
                    tunnel, generation, reason = control::word(&refused.reason), error = %refused,
                    "credential refused, the last good one stays in force"
                );
                self.nack(Resource::Credential, tunnel, generation, refused.reason)
                    .await
            }
        }
    }

    async fn policy(&mut self, policy: Policy) -> Result<(), Ended> {
        // Denials first: a route that cannot be used must not keep a thief connected.
        let mut refused = self.subscriber.credentials.deny(&policy).err();
        let Policy {
            tunnel,
            generation,
            routes,
            ..
        } = policy;
        if let (None, Some(forwarder)) = (&refused, &self.subscriber.routed) {
            let result = forwarder.take_policy(&tunnel, routes);
            refused = result.err().map(|error| Refused {
                reason: Reason::BadRoute,
                detail: error.to_string(),
            });
        }
        if let Some(refused) = refused {
            tracing::warn!(tunnel, generation, error = %refused, "policy refused");
            return self
                .nack(Resource::Policy, tunnel, generation, refused.reason)
                .await;
        }
        let ack = Ack {
            resource: Resource::Policy,
            tunnel,
            generation,
            leaf_sha256: None,
        };
        self.send(FromSubscriber::Ack(ack)).await
    }

    async fn tunnel(&mut self, tunnel: Tunnel) -> Result<(), Ended> {
        let pushed = self.subscriber.pushed.as_ref();
        let Some(pushed) = pushed.filter(|pushed| pushed.tunnel == tunnel.tunnel) else {
            // Not for us.
            return Ok(());
        };
        let Tunnel {
            tunnel,
            generation,
            token,
        } = tunnel;
        if let Some(secret) = pushed.offer(token) {
            tracing::info!(tunnel, generation, "secret of the daemon taken");
            self.dialled = Some(Dialled {
                secret,
                generation,
                said: None,
            });
            return Ok(());
        }
        tracing::warn!(
            tunnel,
            generation,
            "secret of the daemon not taken, the last one is kept"
        );
        self.nack(Resource::Tunnel, tunnel, generation, Reason::Malformed)
            .await
    }

    /// Says what became of the secret in force. The same is not said twice in a row.
    async fn answer(&mut self, verdict: bool) -> Result<(), Ended> {
        let (Some(pushed), Some(dialled)) = (&self.subscriber.pushed, &mut self.dialled) else {
            return Ok(());
        };
        dialled.said = Some(verdict);
        let (tunnel, generation) = (pushed.tunnel.clone(), dialled.generation);
        let resource = Resource::Tunnel;
        if !verdict {
            tracing::warn!(tunnel, generation, "the edge refuses the daemon's secret");
            let reason = Reason::TokenRefused;
            return self.nack(resource, tunnel, generation, reason).await;
        }
        let ack = Ack {
            resource,
            tunnel,
            generation,
            leaf_sha256: None,
        };
        self.send(FromSubscriber::Ack(ack)).await
    }

    /// Sends within [`SEND_LIMIT`]; after an error the connection is of no use.
    async fn send(&mut self, message: FromSubscriber) -> Result<(), Ended> {
        match tokio::time::timeout(SEND_LIMIT, self.writer.send(&message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Ended::Deaf),
        }
    }

    async fn nack(
        &mut self,
        resource: Resource,
        tunnel: String,
        generation: u64,
        reason: Reason,
    ) -> Result<(), Ended> {
        let nack = Nack {
            resource,
            tunnel,
            generation,
            reason,
        };
        self.send(FromSubscriber::Nack(nack)).await
    }

    /// Sends a report, if it is time for one.
    async fn report(&mut self) -> Result<(), Ended> {
        let forwarder = &self.subscriber.forwarder;
        let report = Report {
            tunnels: self.subscriber.credentials.report(&forwarder.route_names()),
            carriers: self.subscriber.carriers.names(),
        };
        let due = self
            .reported
            .as_ref()
            .is_none_or(|(last, at)| *last != report || at.elapsed() >= REPORT_AT_LEAST);
        if due {
            self.send(FromSubscriber::Report(report.clone())).await?;
            self.reported = Some((report, Instant::now()));
        }
        Ok(())
    }

    async fn leave(mut self) -> Result<(), Ended> {
        let bye = Bye {
            why: "the proxy stops".to_owned(),
        };
        let bye = FromSubscriber::Bye(bye);
        let leaving = self.writer.send(&bye);
        // Whoever does not read it will see the end of the connection.
        let left = tokio::time::timeout(LEAVE_LIMIT, leaving).await;
        Ok(left.unwrap_or(Ok(()))?)
    }
}

/// What the edge makes of the secret, as soon as it is something new.
async fn judged(pushed: Option<&Pushed>, dialled: Option<&Dialled>) -> bool {
    match (pushed, dialled) {
        (Some(pushed), Some(dialled)) => pushed.judged(&dialled.secret, dialled.said).await,
        _ => std::future::pending().await,
    }
}
