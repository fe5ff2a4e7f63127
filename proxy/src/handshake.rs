//! From an accepted socket to a connection whose inner TLS is complete, under limits.
//!
//! Never inside an accept loop. The configuration is taken when the `ClientHello` is complete, and a
//! handshake that a swap has overtaken does not end. Of too many pending ones the oldest goes first, and
//! those without a `ClientHello` have a limit of their own: whoever says nothing harms nobody.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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

/// A peer's verdict is logged this often: it may come from anyone without the CA, but an operator waits
/// for it.
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
    /// The carrier wants client certificates, and the credential names no CA for them.
    #[error("no client CA to verify callers of this carrier with")]
    NotMutual,
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
            Self::Evicted => alert::EVICTED,
            _ => alert::OTHER,
        }
    }

    /// For the pace of the log: of a closed list, whatever a peer sends.
    fn kind(&self) -> &'static str {
        match self {
            Self::Alert(received) => alert::label(*received),
            Self::Carrier(CarrierError::Io(_)) => "carrier broken",
            Self::Carrier(CarrierError::Http(_)) => "bad HTTP",
            Self::Carrier(CarrierError::NotWebSocket) => "no WebSocket",
            Self::Carrier(CarrierError::Header(_)) => "PROXY header",
            Self::Tls(_) => "bad TLS",
            Self::Io(_) => "broken",
            Self::Timeout => "timeout",
            Self::Evicted => "evicted",
            Self::Superseded => "superseded",
            Self::NoCredential => "no credential",
            Self::UnknownName => "unknown name",
            Self::NotMutual => "no client CA",
            Self::Stopping => "stopping",
        }
    }
}

/// Everything that handshakes share.
pub(crate) struct Handshakes {
    credentials: Credentials,
    telemetry: Arc<Telemetry>,
    pending: Pending,
    /// By kind: what is repeated must not hide anything else.
    paces: Mutex<BTreeMap<&'static str, Pace>>,
}

impl Handshakes {
    pub(crate) fn new(credentials: Credentials, telemetry: Arc<Telemetry>, pending: usize) -> Self {
        Self {
            credentials,
            telemetry,
            pending: Pending::new(pending),
            paces: Mutex::default(),
        }
    }

    /// Takes a place among the pending ones, to be held until the handshake has ended.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.pending.wait()
    }

    /// Ends inner TLS on `stream`, which waits in the place `waiting`; `mutual`: only where a client
    /// certificate is required. Dropping the future gives the handshake up.
    pub(crate) async fn accept<S>(
        &self,
        stream: S,
        waiting: &Waiting<'_>,
        mutual: bool,
    ) -> Result<(TlsStream<S>, Established), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(HandshakeError::of)?;
        waiting.greeted();
        let begun = match self.credentials.begin(start.client_hello().server_name()) {
            Ok(begun) => begun,
            Err(NotServed::Nothing) => return Err(HandshakeError::NoCredential),
            Err(NotServed::UnknownName) => return Err(HandshakeError::UnknownName),
        };
        let _ = waiting.ca.set(begun.ca());
        // While this is pending it counts as begun; whatever drops it leaves the gate.
        let guarded = Guarded {
            begun: Some(begun),
            credentials: &self.credentials,
            waiting,
        };
        if mutual && !guarded.begun()?.asks_for_clients() {
            return Err(guarded.failed(HandshakeError::NotMutual));
        }
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

    /// Counts a handshake that failed, and logs each kind now and then. `ca`: of the certificate that was
    /// shown, empty where none was.
    pub(crate) fn failed(&self, error: &HandshakeError, carrier: &'static str, ca: Arc<str>) {
        if matches!(error, HandshakeError::Stopping) {
            return;
        }
        if matches!(error, HandshakeError::Evicted) {
            self.telemetry.evicted.increment();
        }
        self.telemetry.failed(error.label(), ca);
        if matches!(error, HandshakeError::Io(_)) {
            // A health check that connects and leaves.
            tracing::debug!(carrier, %error, "tls handshake failed");
        } else if let Some(count) = self.due(error) {
            tracing::warn!(carrier, %error, count, "tls handshake failed");
        }
    }

    /// `Some`: it is time to say how often this kind of error came.
    fn due(&self, error: &HandshakeError) -> Option<u64> {
        let every = match error {
            HandshakeError::Alert(_) => VERDICT_PACE,
            _ => LOG_PACE,
        };
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = paces.entry(error.kind());
        pace.or_insert_with(|| Pace::new(every)).due()
    }
}

/// A handshake that counts as failed when it is dropped halfway: by time, unless it was the oldest of
/// too many.
struct Guarded<'a> {
    begun: Option<Begun>,
    credentials: &'a Credentials,
    waiting: &'a Waiting<'a>,
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
            let evicted = self.waiting.evicted.is_cancelled();
            let label = if evicted {
                alert::EVICTED
            } else {
                alert::TIMEOUT
            };
            begun.failed(label, self.credentials.boot());
        }
    }
}

/// Connections in front of a complete handshake. Half of the limit is for those without a `ClientHello`,
/// which cost a peer nothing, half for the others; of too many the oldest of its kind goes.
#[derive(Debug)]
struct Pending {
    limit: usize,
    next: AtomicU64,
    waiting: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    silent: BTreeMap<u64, CancellationToken>,
    greeted: BTreeMap<u64, CancellationToken>,
}

impl Pending {
    fn new(limit: usize) -> Self {
        Self {
            limit: limit.div_ceil(2),
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
    }

    fn wait(&self) -> Waiting<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        let silent = &mut self.lock().silent;
        silent.insert(number, evicted.clone());
        self.make_room(silent);
        Waiting {
            pending: self,
            number,
            evicted,
            ca: OnceLock::new(),
        }
    }

    fn make_room(&self, places: &mut BTreeMap<u64, CancellationToken>) {
        if places.len() > self.limit
            && let Some((_, oldest)) = places.pop_first()
        {
            oldest.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the pending handshakes.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    pending: &'a Pending,
    number: u64,
    evicted: CancellationToken,
    /// Of the certificate that the handshake shows, once that is decided.
    ca: OnceLock<Arc<str>>,
}

impl Waiting<'_> {
    /// The CA of the certificate that was shown; empty: none was, or nobody has named its CA.
    pub(crate) fn ca(&self) -> Arc<str> {
        self.ca.get().cloned().unwrap_or_default()
    }

    /// The `ClientHello` is there.
    fn greeted(&self) {
        let mut places = self.pending.lock();
        if let Some(evicted) = places.silent.remove(&self.number) {
            places.greeted.insert(self.number, evicted);
            self.pending.make_room(&mut places.greeted);
        }
    }

    /// Resolves when this one has to go, because it is the oldest of too many.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut places = self.pending.lock();
        places.silent.remove(&self.number);
        places.greeted.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use process::{SystemClock, Tasks};

    use super::*;

    #[test]
    fn of_too_many_the_oldest_goes_and_the_silent_push_out_nobody_else() {
        let pending = Pending::new(2);
        let greeted = pending.wait();
        greeted.greeted();
        let silent = [pending.wait(), pending.wait()];
        let gone = |one: &Waiting<'_>| one.evicted.is_cancelled();
        assert!(gone(&silent[0]) && !gone(&silent[1]) && !gone(&greeted));
        silent[1].greeted();
        assert!(gone(&greeted) && !gone(&silent[1]));
        drop((greeted, silent));
        let places = pending.lock();
        assert!(places.silent.is_empty() && places.greeted.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn noise_is_logged_once_a_minute_for_each_kind_and_verdicts_once_a_second() {
        let credentials = Credentials::new(Arc::new(SystemClock), Tasks::new(), Duration::ZERO);
        let handshakes = Handshakes::new(credentials, Arc::default(), 1);
        let verdict = HandshakeError::Alert(rustls::AlertDescription::UnknownCA);
        let noise = [
            HandshakeError::Carrier(CarrierError::NotWebSocket),
            HandshakeError::Carrier(CarrierError::Io(io::ErrorKind::InvalidData.into())),
            HandshakeError::Tls(rustls::Error::HandshakeNotComplete),
        ];
        for error in noise.iter().chain([&verdict]) {
            assert_eq!(handshakes.due(error), Some(1), "{error}");
            assert_eq!(handshakes.due(error), None, "{error}");
        }
        tokio::time::advance(VERDICT_PACE).await;
        assert_eq!(handshakes.due(&verdict), Some(2));
        for error in &noise {
            assert_eq!(handshakes.due(error), None, "{error}");
        }
        tokio::time::advance(LOG_PACE).await;
        for error in &noise {
            assert_eq!(handshakes.due(error), Some(3), "{error}");
        }
    }
}
