//! A source that remembers which token was sent last.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use thiserror::Error;

use crate::{Assertion, AssertionError, Environment, Http, Source, SourceError};

/// Fetches tokens that may be sent.
#[derive(Debug)]
pub struct Fetcher {
    source: Source,
    http: Http,
    environment: Environment,
    single_use: bool,
    used: Mutex<Option<[u8; 32]>>,
}

/// Why there is no token to send.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The source gave none.
    #[error("no identity token")]
    Source(#[from] SourceError),
    /// It gave one whose time is not now.
    #[error("the identity token of the source is not valid now")]
    Time(#[source] AssertionError),
    /// It gave the one that was sent before, and that one has a `jti`.
    #[error(
        "the identity token was used already: it has a jti, which may be used once, and the source has no newer one"
    )]
    AlreadyUsed,
}

impl Fetcher {
    /// `single_use`: the issuer's `check_jti`, which is on unless somebody switched it off.
    pub fn new(source: Source, http: Http, environment: Environment, single_use: bool) -> Self {
        Self {
            source,
            http,
            environment,
            single_use,
            used: Mutex::new(None),
        }
    }

    /// A token as the source has it now.
    ///
    /// # Errors
    ///
    /// [`FetchError`].
    pub async fn fetch(&self, now: SystemTime) -> Result<Assertion, FetchError> {
        let fetched = self.source.fetch(&self.http, &self.environment, now);
        let assertion = fetched.await?;
        assertion.check_times(now).map_err(FetchError::Time)?;
        let again = self.last() == Some(assertion.digest());
        if self.single_use && again && assertion.claims().token_id().is_some() {
            return Err(FetchError::AlreadyUsed);
        }
        Ok(assertion)
    }

    /// Remembers that this one is being sent. Before it is sent, because whether it arrived may never be known.
    pub fn sent(&self, assertion: &Assertion) {
        self.remember(Some(assertion.digest()));
    }

    /// Forgets it again: nothing of it left this machine.
    pub fn not_sent(&self, assertion: &Assertion) {
        if self.last() == Some(assertion.digest()) {
            self.remember(None);
        }
    }

    /// How calls are made.
    pub fn http(&self) -> &Http {
        &self.http
    }

    fn last(&self) -> Option<[u8; 32]> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, digest: Option<[u8; 32]>) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = digest;
    }
}
