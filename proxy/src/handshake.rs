//! From an accepted socket to a connection whose inner TLS is complete, under limits.
//!
//! Never inside an accept loop. The configuration is taken when the `ClientHello` is complete, and a
//! handshake that a swap has overtaken does not end. Of too many pending ones the oldest goes first:
//! whoever says nothing harms nobody.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::server::Acceptor;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::alert;
use crate::carrier::CarrierError;
use crate::credential::{Begun, Credentials, Established, NotServed};
use crate::telemetry::{Pace, Telemetry};

/// A repeated cause is logged this often.
const LOG_PACE: Duration = Duration::from_secs(60);

/// A peer's verdict is logged this often, since anyone without the CA can send one.
const VERDICT_PACE: Duration = Duration::from_secs(1);

/// Why a connection did not come about.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The carrier's own opening failed.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// The peer refused, with this alert.
    #[error("remote error: tls: {}", alert::text(*.0))]
    Alert(rustls::AlertDescription),
    /// What the peer sent is not acceptable.
    #[error(transparent)]
    Tls(rustls::Error),
    /// The connection broke or ended.
    #[error(transparent)]
    Io(io::Error),
    /// It took too long.
    #[error("the handshake took too long")]
    Timeout,
    /// There were too many, and this was the oldest.
    #[error("too many pending handshakes")]
    Evicted,
    /// A swap overtook it.
    #[error("a later credential is in force")]
    Superseded,
    /// There is nothing to serve.
    #[error("no credential yet")]
    NoCredential,
    /// The server name belongs to no tunnel.
    #[error("the server name belongs to no tunnel")]
    UnknownName,
    /// The program stops.
    #[error("the program stops")]
    Stopping,
}

impl HandshakeError {
    fn of(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(rustls::Error::AlertReceived(alert)) => Self::Alert(alert),
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }

    /// For a metric.
    fn label(&self) -> &'static str {
        match self {
            Self::Alert(received) => alert::label(*received),
            Self::Io(_) => alert::IO,
            Self::Timeout => alert::TIMEOUT,
            _ => alert::OTHER,
        }
    }
}

/// Everything that handshakes share.
pub(crate) struct Handshakes {
    credentials: Credentials,
    telemetry: Arc<Telemetry>,
    pending: Pending,
    evictions: Pace,
    timeouts: Pace,
    unserved: Pace,
    /// By label: a verdict that is repeated must not hide another one.
    verdicts: Mutex<BTreeMap<&'static str, Pace>>,
}

impl Handshakes {
    pub(crate) fn new(credentials: Credentials, telemetry: Arc<Telemetry>, pending: usize) -> Self {
        Self {
            credentials,
            telemetry,
            pending: Pending::new(pending),
            evictions: Pace::new(LOG_PACE),
            timeouts: Pace::new(LOG_PACE),
            unserved: Pace::new(LOG_PACE),
            verdicts: Mutex::default(),
        }
    }

    /// Takes a place among the pending ones, to be held until the handshake has ended.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.pending.wait()
    }

    /// Ends inner TLS on `stream`. Dropping the future gives the handshake up.
    pub(crate) async fn accept<S>(
        &self,
        stream: S,
    ) -> Result<(TlsStream<S>, Established), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(HandshakeError::of)?;
        let begun = match self.credentials.begin(start.client_hello().server_name()) {
            Ok(begun) => begun,
            Err(NotServed::Nothing) => return Err(HandshakeError::NoCredential),
            Err(NotServed::UnknownName) => return Err(HandshakeError::UnknownName),
        };
        // While this is pending it counts as begun; whatever drops it leaves the gate.
        let guarded = Guarded {
            begun: Some(begun),
            credentials: &self.credentials,
        };
        let accept = start.into_stream(guarded.begun()?.config());
        let accepted = tokio::select! {
            accepted = accept => accepted,
            () = guarded.begun()?.too_late() => return Err(guarded.failed(HandshakeError::Superseded)),
        };
        match accepted {
            Ok(stream) => {
                let established = guarded.complete().ok_or(HandshakeError::Superseded)?;
                self.telemetry.handshakes.increment();
                let kind = stream.get_ref().1.handshake_kind();
                if kind == Some(rustls::HandshakeKind::Resumed) {
                    self.telemetry.resumed.increment();
                }
                Ok((stream, established))
            }
            Err(error) => Err(guarded.failed(HandshakeError::of(error))),
        }
    }

    /// Counts a handshake that failed, and logs it now and then.
    pub(crate) fn failed(&self, error: &HandshakeError, carrier: &'static str) {
        let paced = match error {
            HandshakeError::Stopping => return,
            // A health check that connects and leaves.
            HandshakeError::Io(_) => {
                self.telemetry.failed(error.label());
                tracing::debug!(carrier, %error, "tls handshake failed");
                return;
            }
            HandshakeError::Evicted => {
                self.telemetry.evicted.increment();
                &self.evictions
            }
            HandshakeError::Timeout => &self.timeouts,
            HandshakeError::NoCredential | HandshakeError::UnknownName => &self.unserved,
            _ => {
                self.telemetry.failed(error.label());
                if let Some(count) = self.verdict(error.label()) {
                    tracing::warn!(carrier, %error, count, "tls handshake failed");
                }
                return;
            }
        };
        self.telemetry.failed(error.label());
        if let Some(count) = paced.due() {
            tracing::warn!(carrier, %error, count, "tls handshake failed");
        }
    }
}

impl Handshakes {
    fn verdict(&self, label: &'static str) -> Option<u64> {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = verdicts.entry(label);
        pace.or_insert_with(|| Pace::new(VERDICT_PACE)).due()
    }
}

/// A handshake that counts as failed by time when it is dropped halfway.
struct Guarded<'a> {
    begun: Option<Begun>,
    credentials: &'a Credentials,
}

impl Guarded<'_> {
    fn begun(&self) -> Result<&Begun, HandshakeError> {
        self.begun.as_ref().ok_or(HandshakeError::Superseded)
    }

    fn complete(mut self) -> Option<Established> {
        let boot = self.credentials.boot();
        self.begun.take().and_then(|begun| begun.complete(boot))
    }

    fn failed(mut self, error: HandshakeError) -> HandshakeError {
        if let Some(begun) = self.begun.take() {
            begun.failed(error.label(), self.credentials.boot());
        }
        error
    }
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            begun.failed(alert::TIMEOUT, self.credentials.boot());
        }
    }
}

/// Connections in front of a complete handshake, oldest first.
#[derive(Debug)]
struct Pending {
    limit: usize,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl Pending {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
    }

    fn wait(&self) -> Waiting<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        let mut waiting = self.lock();
        waiting.insert(number, evicted.clone());
        if waiting.len() > self.limit
            && let Some((_, oldest)) = waiting.pop_first()
        {
            oldest.cancel();
        }
        Waiting {
            pending: self,
            number,
            evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the pending handshakes.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pending: &'a Pending,
    number: u64,
    evicted: CancellationToken,
}

impl Waiting<'_> {
    /// Resolves when this one has to go, because it is the oldest of too many.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.number);
    }
}
