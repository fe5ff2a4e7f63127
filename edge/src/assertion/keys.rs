//! The keys of issuers: fetched, kept for a while, fetched again when a key is unknown.
//!
//! One fetch at a time for each issuer; whoever comes meanwhile waits for it. An unknown `kid` fetches
//! at most every 15 seconds, so that made-up ones cost nothing. A key that its issuer withdrew is gone
//! after five minutes. While an issuer does not answer, its last keys serve for up to a day.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use process::Clock;
use serde_json::Value;
use tokio::sync::Mutex as Gate;

use super::fetch::{self, Reach};
use super::refusal::shown;
use super::{Decoded, FetchError, Key, Keys, Refusal, Resolver, strict};
use crate::state::{Issuer, KeySource};

/// Kept without being asked for again.
const FRESH: Duration = Duration::from_secs(300);
/// Not asked again so soon, whatever is asked for.
const COOLDOWN: Duration = Duration::from_secs(15);
/// Kept while the issuer does not answer.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Longest discovery document, bytes.
const LONGEST_DISCOVERY: usize = 64 * 1024;
/// Longest key set, bytes.
const LONGEST_SET: usize = 1024 * 1024;

/// Keys of issuers. Clones share them.
#[derive(Clone)]
pub struct KeyStore {
    issuers: Arc<Mutex<HashMap<String, Arc<Gate<Kept>>>>>,
    resolver: Resolver,
    clock: Arc<dyn Clock>,
}

/// Times are times since boot.
#[derive(Debug, Default)]
struct Kept {
    keys: Option<(Duration, Arc<Keys>)>,
    tried: Option<Duration>,
    failed: Option<String>,
}

impl KeyStore {
    /// With nothing in it.
    pub fn new(resolver: Resolver, clock: Arc<dyn Clock>) -> Self {
        Self {
            issuers: Arc::default(),
            resolver,
            clock,
        }
    }

    /// The key of `issuer` that the token names.
    ///
    /// # Errors
    ///
    /// [`Refusal::Keys`], [`Refusal::UnknownKid`], [`Refusal::AmbiguousKid`].
    pub async fn of(&self, issuer: &Issuer, token: &Decoded) -> Result<Key, Refusal> {
        let kid = &token.kid;
        if let KeySource::Inline { keys } = &issuer.keys {
            return pick(&Keys::read(keys), kid);
        }
        let gate = {
            let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
            issuers.entry(issuer.id.clone()).or_default().clone()
        };
        let mut kept = gate.lock().await;
        let now = self.clock.boot();
        let since = |moment: Duration| now.saturating_sub(moment);
        let wanted = match &kept.keys {
            None => true,
            Some((at, keys)) => since(*at) >= FRESH || keys.named(kid).next().is_none(),
        };
        let cooling = kept.tried.is_some_and(|tried| since(tried) < COOLDOWN);
        if wanted && !cooling {
            kept.tried = Some(now);
            match self.fetch(issuer).await {
                Ok(keys) => {
                    kept.keys = Some((now, Arc::new(keys)));
                    kept.failed = None;
                }
                Err(error) => {
                    tracing::warn!(issuer = issuer.id, %error, "keys of an issuer cannot be fetched");
                    kept.failed = Some(error.to_string());
                    if kept.keys.is_none() {
                        return Err(Refusal::Keys(error));
                    }
                }
            }
        }
        match &kept.keys {
            Some((at, keys)) if since(*at) < STALE => pick(keys, kid),
            _ => Err(Refusal::Keys(FetchError::Recently(
                COOLDOWN.as_secs(),
                kept.failed.clone().unwrap_or_default(),
            ))),
        }
    }

    async fn fetch(&self, issuer: &Issuer) -> Result<Keys, FetchError> {
        let reach = Reach {
            networks: &issuer.allowed_networks,
            ca: issuer.ca_cert_pem.as_deref(),
            resolver: &self.resolver,
        };
        let url = match &issuer.keys {
            KeySource::Inline { keys } => return Ok(Keys::read(keys)),
            KeySource::ExplicitUrl { url } => url.clone(),
            KeySource::Discovery { discovery_base } => {
                let base = discovery_base.as_deref().unwrap_or(&issuer.issuer_url);
                discover(base, &issuer.issuer_url, &reach).await?
            }
        };
        let document = fetch::json(&url, LONGEST_SET, &reach).await?;
        let wrong = |why: String| FetchError::Document {
            url: url.clone(),
            why,
        };
        let set = strict::object(&document).map_err(wrong)?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = Keys::read(keys.ok_or_else(|| wrong("it has no list of keys".to_owned()))?);
        if keys.is_empty() {
            return Err(wrong("it has no key that can be used".to_owned()));
        }
        Ok(keys)
    }
}

/// The URL of the key set, out of `OpenID` Connect Discovery 1.0 §4. Kubernetes' and GitHub's documents
/// have no `authorization_endpoint`; nothing but two fields is looked at.
async fn discover(base: &str, issuer: &str, reach: &Reach<'_>) -> Result<String, FetchError> {
    let url = format!(
        "{}/.well-known/openid-configuration",
        base.trim_end_matches('/')
    );
    let document = fetch::json(&url, LONGEST_DISCOVERY, reach).await?;
    let wrong = |why: String| FetchError::Document {
        url: url.clone(),
        why,
    };
    let document = strict::object(&document).map_err(wrong)?;
    let text = |name| document.get(name).and_then(Value::as_str);
    if text("issuer") != Some(issuer) {
        let found = shown(text("issuer").unwrap_or_default());
        return Err(wrong(format!("its issuer is {found}, not {issuer}")));
    }
    let found = text("jwks_uri").ok_or_else(|| wrong("it has no jwks_uri".to_owned()))?;
    Ok(found.to_owned())
}

fn pick(keys: &Keys, kid: &str) -> Result<Key, Refusal> {
    let mut named = keys.named(kid);
    match (named.next(), named.next()) {
        (Some(key), None) => Ok(key.clone()),
        (Some(_), Some(_)) => Err(Refusal::AmbiguousKid(shown(kid))),
        (None, _) => {
            let known: Vec<String> = keys.kids().take(16).map(shown).collect();
            Err(Refusal::UnknownKid {
                kid: shown(kid),
                known: known.join(", "),
            })
        }
    }
}

impl std::fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyStore")
    }
}
