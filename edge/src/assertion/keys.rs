//! The keys of issuers: fetched, kept for a while, fetched again when a key is unknown.
//!
//! Whoever names a key that is known and fresh waits for nobody, whatever others ask for meanwhile. One
//! fetch at a time for each issuer, which nobody who leaves takes with him; only who has no key that may
//! be used waits for it. An unknown `kid` fetches at most every 15 seconds, so that made-up ones cost
//! nothing.
//!
//! | Age of the keys | A key among them |
//! |---|---|
//! | up to 5 minutes, or as `Cache-Control` says up to 15 | serves |
//! | up to 5 minutes more | serves, and the keys are fetched beside it |
//! | up to a day | waits for a fetch, so that a key withdrawn long ago does not serve once more; if the last one failed, it serves and the keys are fetched beside it |
//! | more, or the operator asked for new ones since | waits for a fetch, and is refused without one |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process::{Clock, Tasks};
use serde_json::Value;
use tokio::sync::Mutex as Gate;

use super::fetch::{self, Reach};
use super::refusal::shown;
use super::{Decoded, FetchError, Key, Keys, Refusal, Resolver, strict};
use crate::state::{Issuer, KeySource};

/// Kept without being asked for again, whatever the issuer says.
const FRESH: Duration = Duration::from_secs(300);
/// The longest that an issuer may have them kept so.
const LONGEST_FRESH: Duration = Duration::from_secs(900);
/// So long after that they serve while they are asked for again, before it is known how that ends.
const AGED: Duration = Duration::from_secs(300);
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
    issuers: Arc<Mutex<HashMap<String, Kept>>>,
    resolver: Resolver,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
}

/// What is known of one issuer. Clones share it.
#[derive(Clone, Debug, Default)]
struct Kept {
    known: Arc<Mutex<Known>>,
    /// Held by the fetch that is under way.
    gate: Arc<Gate<()>>,
}

/// Times are times since boot.
#[derive(Clone, Debug, Default)]
struct Known {
    set: Option<Set>,
    tried: Option<Tried>,
    /// How the last fetch failed, if it did.
    failed: Option<Arc<FetchError>>,
}

#[derive(Clone, Debug)]
struct Set {
    keys: Arc<Keys>,
    at: Duration,
    fresh: Duration,
    /// `keys_number` that the issuer had when they were asked for.
    number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Tried {
    at: Duration,
    /// Likewise.
    number: u64,
}

/// What to do for whoever names a key.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    Serve,
    ServeAndFetch,
    Fetch,
}

impl KeyStore {
    /// With nothing in it. What is fetched is fetched on `tasks`, and ends within ten seconds: the discovery
    /// document and the key set have five each.
    pub fn new(resolver: Resolver, clock: Arc<dyn Clock>, tasks: Tasks) -> Self {
        Self {
            issuers: Arc::default(),
            resolver,
            clock,
            tasks,
        }
    }

    /// The key of `issuer` that the token names. Dropping this leaves a fetch that it began running.
    ///
    /// # Errors
    ///
    /// [`Refusal::Keys`], [`Refusal::UnknownKid`], [`Refusal::AmbiguousKid`].
    pub async fn of(&self, issuer: &Issuer, token: &Decoded) -> Result<Key, Refusal> {
        let kid = &token.kid;
        if let KeySource::Inline { keys } = &issuer.keys {
            return pick(&Keys::read(keys), kid);
        }
        let kept = {
            let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
            issuers.entry(issuer.id.clone()).or_default().clone()
        };
        let (now, number) = (self.clock.boot(), issuer.keys_number);
        let mut known = kept.lock().clone();
        let mut waited = false;
        match known.decide(kid, now, number) {
            Use::Serve => {}
            Use::ServeAndFetch => {
                self.refresh(issuer, &kept, now);
            }
            Use::Fetch => {
                // The one that is under way may have begun before the operator asked for new keys.
                for _ in 0..2 {
                    let is_under_way = self.refresh(issuer, &kept, now);
                    waited |= is_under_way;
                    drop(kept.gate.lock().await);
                    known = kept.lock().clone();
                    if !is_under_way || known.since(number).is_some() {
                        break;
                    }
                }
            }
        }
        match (known.since(number), known.failed.clone()) {
            (Some(set), _) if now.saturating_sub(set.at) < STALE => pick(&set.keys, kid),
            (_, Some(failed)) if waited => Err(Refusal::Keys(failed)),
            (_, failed) => {
                let why = failed.map(|error| error.to_string()).unwrap_or_default();
                let error = FetchError::Recently(COOLDOWN.as_secs(), why);
                Err(Refusal::Keys(Arc::new(error)))
            }
        }
    }

    /// Begins a fetch unless one is under way or was tried a moment ago: whether one is under way now.
    fn refresh(&self, issuer: &Issuer, kept: &Kept, now: Duration) -> bool {
        let number = issuer.keys_number;
        let Ok(turn) = kept.gate.clone().try_lock_owned() else {
            return true;
        };
        {
            let mut known = kept.lock();
            let soon = known.tried.is_some_and(|tried| {
                tried.number >= number && now.saturating_sub(tried.at) < COOLDOWN
            });
            if soon {
                return false;
            }
            known.tried = Some(Tried { at: now, number });
        }
        let (this, issuer, kept) = (self.clone(), issuer.clone(), kept.clone());
        self.tasks.spawn(async move {
            let fetched = this.fetch(&issuer).await;
            let mut known = kept.lock();
            match fetched {
                Ok((keys, fresh)) => {
                    known.set = Some(Set {
                        keys: Arc::new(keys),
                        at: now,
                        fresh,
                        number,
                    });
                    known.failed = None;
                }
                Err(error) => {
                    tracing::warn!(issuer = issuer.id, %error, "keys of an issuer cannot be fetched");
                    known.failed = Some(Arc::new(error));
                }
            }
            drop(known);
            drop(turn);
        });
        true
    }

    /// The keys, and how long they are fresh.
    async fn fetch(&self, issuer: &Issuer) -> Result<(Keys, Duration), FetchError> {
        let reach = Reach {
            networks: &issuer.allowed_networks,
            ca: issuer.ca_cert_pem.as_deref(),
            resolver: &self.resolver,
        };
        let url = match &issuer.keys {
            KeySource::Inline { keys } => return Ok((Keys::read(keys), FRESH)),
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
        let set = strict::object(&document.body).map_err(wrong)?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = Keys::read(keys.ok_or_else(|| wrong("it has no list of keys".to_owned()))?);
        if keys.is_empty() {
            return Err(wrong("it has no key that can be used".to_owned()));
        }
        let fresh = document.max_age.unwrap_or(FRESH);
        Ok((keys, fresh.clamp(FRESH, LONGEST_FRESH)))
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The keys, unless they were asked for under a smaller number.
    fn since(&self, number: u64) -> Option<&Set> {
        self.set.as_ref().filter(|set| set.number >= number)
    }

    fn decide(&self, kid: &str, now: Duration, number: u64) -> Use {
        let Some(set) = self.since(number) else {
            return Use::Fetch;
        };
        let age = now.saturating_sub(set.at);
        if set.keys.named(kid).next().is_none() || age >= STALE {
            Use::Fetch
        } else if age < set.fresh {
            Use::Serve
        } else if age < set.fresh + AGED || self.failed.is_some() {
            Use::ServeAndFetch
        } else {
            Use::Fetch
        }
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
    let document = strict::object(&document.body).map_err(wrong)?;
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
