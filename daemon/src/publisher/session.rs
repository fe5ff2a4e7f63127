//! One subscription, from `hello` to its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use control::{
    Ack, FrameError, FromDaemon, FromSubscriber, Nack, Reader, Refusal, Refused, Resource, Role,
    Version, Welcome, Writer,
};
use pki::Fingerprint;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

use super::Desk;
use super::hello::{self, Admitted, Denied};
use crate::board::{Publication, Publications};

/// Characters of a farewell that are logged.
const LONGEST_WHY: usize = 200;

/// Serves the subscriber behind `stream` until either side ends it.
pub(super) async fn serve(desk: &Desk, stream: UnixStream, uid: u32) {
    let (read, write) = stream.into_split();
    let mut reader = Reader::new(read);
    let mut writer = Writer::new(write);
    let admitted = match hello::admit(desk, &mut reader, uid).await {
        Ok(admitted) => admitted,
        Err(Denied { complaint, answer }) => {
            desk.complain(uid, complaint);
            if let Some(answer) = answer {
                hello::refuse(desk, reader, writer, answer).await;
            }
            return;
        }
    };
    let session = Session {
        desk,
        admitted,
        uid,
        sent: Mutex::default(),
    };
    let replica = session.admitted.seat.name().to_owned();
    let role = control::word(&session.admitted.role);
    tracing::info!(%replica, uid, role, "subscribed");
    if session.admitted.seat.contested {
        tracing::warn!(
            %replica,
            uid,
            next = "give each subscriber a replica name of its own: control.replica of the proxies",
            "replica replaced again within a minute, two subscribers share its name"
        );
    }
    let why = tokio::select! {
        why = session.listen(&mut reader) => why,
        why = session.speak(&mut writer) => why,
        () = session.admitted.seat.replaced.cancelled() => End::Replaced,
    };
    if let End::Replaced = why {
        // It may live on: then it has to know why it is alone.
        let detail = format!("a newer subscription of replica {replica:?} stands");
        let reason = Refusal::Replaced;
        let refused = FromDaemon::Refused(Refused { reason, detail });
        let _ = session.send(&mut writer, &refused).await;
    }
    let word = why.word();
    match why {
        End::Closed | End::Replaced => tracing::info!(%replica, why = word, "subscription ended"),
        End::Frame(error) => tracing::warn!(%replica, uid, %error, "subscription ended"),
        End::Slow | End::Chatty | End::SecondHello => {
            tracing::warn!(%replica, uid, why = word, "subscription ended");
        }
    }
}

struct Session<'a> {
    desk: &'a Desk,
    admitted: Admitted,
    uid: u32,
    /// What it was sent last, or had already.
    sent: Mutex<BTreeMap<Key, Mark>>,
}

type Key = (String, Resource);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    generation: u64,
    /// Of the leaf, and of what a proxy dials with: a secret may follow a token of the same generation.
    sha256: Option<String>,
}

#[derive(Debug)]
enum End {
    /// The subscriber closed the connection.
    Closed,
    /// A newer subscription of the same name stands.
    Replaced,
    /// It sent what we do not read.
    Frame(FrameError),
    /// It stopped reading.
    Slow,
    /// It says more than anybody has to say.
    Chatty,
    /// It said `hello` again.
    SecondHello,
}

impl End {
    /// As the log calls it.
    fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Replaced => "replaced",
            Self::Frame(_) => "unreadable",
            Self::Slow => "slow",
            Self::Chatty => "chatty",
            Self::SecondHello => "second_hello",
        }
    }
}

impl Session<'_> {
    /// Hands over whatever is in force, newest only, for as long as the subscription stands.
    async fn speak(&self, writer: &mut Writer<OwnedWriteHalf>) -> End {
        let mut publications = self.desk.board.publications.subscribe();
        let welcome = FromDaemon::Welcome(Welcome {
            protocol: Version::CURRENT,
            tunnels: self.admitted.tunnels.iter().cloned().collect(),
        });
        if let Err(end) = self.send(writer, &welcome).await {
            return end;
        }
        loop {
            let due = self.due(&publications.borrow_and_update());
            match due {
                Some(message) => {
                    if let Err(end) = self.send(writer, &message).await {
                        return end;
                    }
                }
                None => {
                    if publications.changed().await.is_err() {
                        return End::Closed;
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        writer: &mut Writer<OwnedWriteHalf>,
        message: &FromDaemon,
    ) -> Result<(), End> {
        match timeout(self.desk.limits.write, writer.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(FrameError::TooLong)) => {
                // Nothing was written, so the subscription may stand. The others still matter.
                tracing::error!(
                    replica = self.admitted.seat.name(),
                    "a resource is too long to be sent"
                );
                Ok(())
            }
            Ok(Err(error)) => Err(End::Frame(error)),
            Err(_) => Err(End::Slow),
        }
    }

    /// The next resource that this subscriber may have and has not, marked as sent.
    fn due(&self, publications: &Publications) -> Option<FromDaemon> {
        let ours = publications
            .iter()
            .filter(|(name, _)| self.admitted.tunnels.contains(*name));
        for (name, publication) in ours {
            let message = match self.admitted.role {
                Role::Proxy => self
                    .credential(name, publication)
                    .or_else(|| self.policy(name, publication))
                    .or_else(|| self.dialled(name, publication)),
                Role::Connector => self.token(name, publication),
            };
            if message.is_some() {
                return message;
            }
        }
        None
    }

    fn credential(&self, tunnel: &str, publication: &Publication) -> Option<FromDaemon> {
        let credential = publication.credential.as_ref()?;
        let mark = Mark {
            generation: credential.message().generation,
            sha256: Some(credential.leaf_sha256()),
        };
        let news = !self.serves(tunnel, &mark) && self.mark(tunnel, Resource::Credential, mark);
        news.then(|| FromDaemon::Credential(credential.message().clone()))
    }

    fn policy(&self, tunnel: &str, publication: &Publication) -> Option<FromDaemon> {
        let policy = publication.policy.as_ref()?;
        self.plain(tunnel, Resource::Policy, policy.generation)
            .then(|| FromDaemon::Policy((**policy).clone()))
    }

    fn token(&self, tunnel: &str, publication: &Publication) -> Option<FromDaemon> {
        let token = publication.token.as_ref()?;
        self.plain(tunnel, Resource::Tunnel, token.generation)
            .then(|| FromDaemon::Tunnel((**token).clone()))
    }

    /// For a proxy that dials. An edge takes either, and a secret is meant for nothing else.
    fn dialled(&self, tunnel: &str, publication: &Publication) -> Option<FromDaemon> {
        let dials = self.admitted.dials.contains(tunnel);
        let secret = publication.secret.as_ref().or(publication.token.as_ref());
        let secret = secret.filter(|_| dials)?;
        let mark = Mark {
            generation: secret.generation,
            sha256: Some(Fingerprint::of(secret.token.expose().as_bytes()).to_string()),
        };
        self.mark(tunnel, Resource::Tunnel, mark)
            .then(|| FromDaemon::Tunnel((**secret).clone()))
    }

    fn plain(&self, tunnel: &str, resource: Resource, generation: u64) -> bool {
        let mark = Mark {
            generation,
            sha256: None,
        };
        self.mark(tunnel, resource, mark)
    }

    /// Whether `mark` is news; then it counts as sent.
    fn mark(&self, tunnel: &str, resource: Resource, mark: Mark) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tunnel.to_owned(), resource);
        if sent.get(&key) == Some(&mark) {
            return false;
        }
        sent.insert(key, mark);
        true
    }

    /// Whether the subscriber had exactly this before it came. That counts as its acknowledgement:
    /// it would refuse the same generation a second time.
    fn serves(&self, tunnel: &str, mark: &Mark) -> bool {
        let served = self.admitted.serving.iter().any(|serving| {
            serving.tunnel == tunnel
                && serving.generation == mark.generation
                && Some(&serving.leaf_sha256) == mark.sha256.as_ref()
        });
        if served && self.mark(tunnel, Resource::Credential, mark.clone()) {
            self.admitted.seat.ack(&Ack {
                resource: Resource::Credential,
                tunnel: tunnel.to_owned(),
                generation: mark.generation,
                leaf_sha256: mark.sha256.clone(),
            });
        }
        served
    }

    /// Takes the subscriber's answers.
    async fn listen(&self, reader: &mut Reader<OwnedReadHalf>) -> End {
        let mut pace = Pace::new(self.desk.limits.messages);
        let tunnels: Vec<String> = self.admitted.tunnels.iter().cloned().collect();
        let mut told = false;
        loop {
            let message = match reader.next::<FromSubscriber>().await {
                Ok(Some(message)) => message,
                Ok(None) => return End::Closed,
                Err(error) => return End::Frame(error),
            };
            if !pace.allows() {
                return End::Chatty;
            }
            match message {
                FromSubscriber::Hello(_) => return End::SecondHello,
                FromSubscriber::Ack(ack) => self.acked(&ack),
                FromSubscriber::Nack(nack) => self.refused(&nack),
                FromSubscriber::Report(report) => {
                    if self.admitted.seat.report(report, &tunnels) && !told {
                        told = true;
                        self.desk.tell_cut(self.uid, self.admitted.seat.name());
                    }
                }
                FromSubscriber::Bye(bye) => {
                    let why: String = bye.why.chars().take(LONGEST_WHY).collect();
                    tracing::info!(
                        replica = self.admitted.seat.name(),
                        why,
                        "subscriber leaves"
                    );
                    self.admitted.seat.left();
                }
                FromSubscriber::Unknown => {}
            }
        }
    }

    fn acked(&self, ack: &Ack) {
        let leaf = ack.leaf_sha256.as_ref();
        if self.was_sent(&ack.tunnel, ack.resource, ack.generation, leaf) {
            self.admitted.seat.ack(ack);
        } else {
            tracing::warn!(
                replica = self.admitted.seat.name(),
                tunnel = ack.tunnel,
                generation = ack.generation,
                "acknowledgement of what was never sent"
            );
        }
    }

    fn refused(&self, nack: &Nack) {
        if self.was_sent(&nack.tunnel, nack.resource, nack.generation, None) {
            tracing::warn!(
                replica = self.admitted.seat.name(),
                tunnel = nack.tunnel,
                resource = control::word(&nack.resource),
                generation = nack.generation,
                reason = control::word(&nack.reason),
                "resource refused"
            );
            self.admitted.seat.nack(nack);
        }
    }

    /// Whether an answer can be about something that this session sent.
    fn was_sent(
        &self,
        tunnel: &str,
        resource: Resource,
        generation: u64,
        leaf: Option<&String>,
    ) -> bool {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        match sent.get(&(tunnel.to_owned(), resource)) {
            None => false,
            Some(mark) if generation == mark.generation => match (leaf, &mark.sha256) {
                (Some(theirs), Some(ours)) => theirs == ours,
                _ => true,
            },
            Some(mark) => generation < mark.generation,
        }
    }
}

/// Counts messages of the current second.
struct Pace {
    most: u32,
    began: Instant,
    count: u32,
}

impl Pace {
    fn new(most: u32) -> Self {
        Self {
            most,
            began: Instant::now(),
            count: 0,
        }
    }

    fn allows(&mut self) -> bool {
        if self.began.elapsed() >= Duration::from_secs(1) {
            self.began = Instant::now();
            self.count = 0;
        }
        self.count += 1;
        self.count <= self.most
    }
}
