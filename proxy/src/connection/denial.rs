//! Client certificates that are refused although they verify: asked after each handshake, and again for every request.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;

use crate::credential::fingerprint;

/// Ends the connection, or with HTTP/2 the stream, on which a denied client asked.
#[derive(Debug, Error)]
#[error("client certificate denied")]
pub(super) struct Denied;

/// A client's certificate, as a list may name it.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) fingerprint: String,
    /// Of the form in which its holder could show it as well.
    twin: Option<String>,
}

impl Shown {
    pub(super) fn of(certificate: &[u8]) -> Self {
        Self {
            fingerprint: fingerprint(certificate),
            twin: process::twin(certificate).map(|twin| fingerprint(&twin)),
        }
    }

    fn is_in(&self, list: &BTreeSet<String>) -> bool {
        list.contains(&self.fingerprint)
            || self.twin.as_ref().is_some_and(|twin| list.contains(twin))
    }
}

/// A client's certificate beside the list of those that are refused.
#[derive(Clone)]
pub(super) struct Denials {
    pub(super) client: Shown,
    pub(super) denied: watch::Receiver<Arc<BTreeSet<String>>>,
}

impl Denials {
    /// Whether the client's certificate is refused now. One short lock.
    pub(super) fn is_hit(&self) -> bool {
        self.client.is_in(&self.denied.borrow())
    }

    /// Resolves once the client's certificate is refused.
    pub(super) async fn hit(mut self) {
        let Self { client, denied } = &mut self;
        if denied
            .wait_for(|denied| client.is_in(denied))
            .await
            .is_err()
        {
            // The program is at its end, and so is whoever could deny anything.
            std::future::pending::<()>().await;
        }
    }
}
