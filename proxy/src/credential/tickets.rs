//! Session tickets that are worth nothing once the certificate is over.
//!
//! A caller that resumes sees no certificate, so that whoever made its session before the end would go on without
//! noticing it (F17). Afterwards every handshake is a full one, and the caller judges for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::server::ProducesTickets;
use tokio_rustls::rustls;

/// The tickets of one leaf of one generation, under a key of their own.
#[derive(Debug)]
pub(super) struct Tickets {
    under_key: Arc<dyn ProducesTickets>,
    over: AtomicBool,
}

impl Tickets {
    /// # Errors
    ///
    /// [`rustls::Error`] where the system gives no random bytes.
    pub(super) fn new() -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self {
            under_key: rustls::crypto::aws_lc_rs::Ticketer::new()?,
            over: AtomicBool::new(false),
        }))
    }

    /// From now on none is made and none is taken.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn unless_over(
        &self,
        use_: impl FnOnce(&dyn ProducesTickets) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        (!self.over.load(Ordering::Relaxed))
            .then(|| use_(&*self.under_key))
            .flatten()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.under_key.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.under_key.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.unless_over(|tickets| tickets.encrypt(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.unless_over(|tickets| tickets.decrypt(cipher))
    }
}
