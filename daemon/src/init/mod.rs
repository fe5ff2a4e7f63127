//! `keyward init`: from a tunnel's id to a store that serves it, as the stock `setup init` does.
//!
//! ```text
//! tunnel ─▶ CA and server certificate in the store ─▶ CA registered ─▶ token in the store
//! ```
//!
//! Each step looks first whether it is done, so that the whole may be run again at any time, after any end of the run
//! before. What a call needs to be recovered is on disk before the call: the CA's key before its certificate is
//! registered, the id of the old token before a new one is made.

mod note;
mod token;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ::identity::{ExchangeError, TokenError};
use pki::{Authority, AuthorityProfile, Certificate};
use process::{Clock, Exit, Failure};
use serde::Serialize;

use crate::disk::Disk;
use crate::renew;
use crate::rotator::{fresh_id_at, unix};
use crate::store::{Contents, Store, Wanted};
use crate::tunnels::{CallError, NotSent, Tunnels, Unknown};
use note::Note;

/// Active CA certificates that a tunnel may have.
const SLOTS: usize = 2;
/// Attempts of a call that may be repeated.
const ATTEMPTS: u32 = 4;
/// Longest pause between two of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Characters of a tunnel's id in the name of its CA; 64 is all that a common name has.
const ID_IN_SUBJECT: usize = 24;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// `tnl_…`.
    pub tunnel: String,
    /// The store's directory.
    pub store: PathBuf,
    /// Life of the server certificate.
    pub cert_duration: Duration,
    /// Another one than in the last run rotates the tunnel's token.
    pub token_version: Option<String>,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// `tnl_…`.
    pub tunnel_id: String,
    /// `<tunnel-domain>`.
    pub tunnel_domain: String,
    /// The CA.
    pub ca: CaOutcome,
    /// The server certificate.
    pub server_certificate: LeafOutcome,
    /// The token.
    pub tunnel_token: TokenOutcome,
}

/// Of the CA.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct CaOutcome {
    /// SHA-256 of the certificate, in hexadecimal.
    pub sha256: String,
    /// Its last second, Unix.
    pub not_after: u64,
    /// It was made by this run.
    pub made: bool,
    /// It was registered by this run.
    pub registered: bool,
}

/// Of the server certificate.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LeafOutcome {
    /// SHA-256 of the certificate, in hexadecimal.
    pub sha256: String,
    /// Its last second, Unix.
    pub not_after: u64,
    /// It was issued by this run.
    pub issued: bool,
}

/// Of the token.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TokenOutcome {
    /// Which one is in the store.
    pub id: String,
    /// It was rotated by this run, or by one before it that did not see the end.
    pub rotated: bool,
}

/// Brings the store and the remote where the order wants them.
///
/// Dropped, it ends at once; the next run finds out how far this one came.
///
/// # Errors
///
/// What stands in the way, and what to do about it. Nothing that works is destroyed on the way.
pub async fn init(order: &Order, api: &Tunnels, clock: &dyn Clock) -> Result<Outcome, Failure> {
    let disk = Disk::default();
    let store = if order.store.is_dir() {
        Store::open_kept(&order.store, &disk)?
    } else {
        Store::open(&order.store, &disk)?
    };
    let contents = store.read()?;
    let mut note = Note::read(&order.store)?;
    let tunnel = patiently(api, || api.tunnel(&order.tunnel)).await;
    let tunnel = tunnel.map_err(|error| refused("read the tunnel", &error))?;
    if tunnel.archived_at.is_some() {
        return Err(
            Failure::config(format!("the tunnel {} is archived", tunnel.id))
                .cause("an archived tunnel never comes back, nor does its domain")
                .next("name another one with --tunnel-id"),
        );
    }
    let credential = credential(order, &store, contents, &tunnel.domain, clock.wall())?;
    let registered = register(order, api, &credential.ca).await?;
    let token = token::Step {
        order,
        api,
        clock,
        disk: &disk,
        store: &store,
    };
    let tunnel_token = token.bring(&mut note).await?;
    Ok(Outcome {
        tunnel_id: tunnel.id,
        tunnel_domain: tunnel.domain,
        ca: CaOutcome {
            sha256: credential.ca.fingerprint().to_string(),
            not_after: unix(credential.ca.validity().not_after()),
            made: credential.made,
            registered,
        },
        server_certificate: credential.leaf,
        tunnel_token,
    })
}

/// What is in the store after its step.
struct Credential {
    ca: Certificate,
    made: bool,
    leaf: LeafOutcome,
}

/// CA and server certificate: those of the store, or new ones. A store of another tunnel is begun anew, as the stock
/// `setup` does; the set before stays in its directory.
fn credential(
    order: &Order,
    store: &Store,
    contents: Contents,
    domain: &str,
    now: SystemTime,
) -> Result<Credential, Failure> {
    let of_another = contents
        .tunnel
        .as_ref()
        .is_some_and(|id| *id != order.tunnel);
    let (stored, old) = if of_another {
        (None, None)
    } else {
        (contents.ca, contents.leaf)
    };
    let made = stored.is_none();
    let authority = match stored {
        Some(stored) => renew::authority(&order.store, stored, now)?,
        None => make(&order.tunnel, now)?,
    };
    // A third of its life is what the next renewal has for its work.
    let enough = order.cert_duration / 3;
    let kept = old.as_ref().and_then(|pair| {
        let good = renew::still_good(pair, &authority, domain, enough, now);
        good.then(|| pair.certificate().clone())
    });
    let issued = kept.is_none();
    let certificate = if let Some(kept) = kept {
        kept
    } else {
        let old = old.as_ref().map(pki::CertifiedKey::certificate);
        let leaf = renew::issue(&authority, domain, old, order.cert_duration, now)?;
        let written = if made {
            let wanted = Wanted {
                domain: domain.to_owned(),
                ca: authority.certificate().to_pem(),
                ca_key: authority.private_key().to_pem(),
                next_ca: None,
                client_ca: None,
                leaf: &leaf,
            };
            store.write(&wanted).and_then(|()| store.settle())
        } else {
            // What a daemon put beside it stays.
            store.write_leaf(&leaf, Some(domain))
        };
        written.map_err(|error| unwritable(&order.store, &error))?;
        leaf.certificate().clone()
    };
    // After the CA, so that a CA is never taken for another tunnel's; before it is registered, so that no other one is
    // made in its place.
    store
        .write_tunnel(&order.tunnel)
        .map_err(|error| unwritable(&order.store, &error))?;
    Ok(Credential {
        ca: authority.certificate().clone(),
        made,
        leaf: LeafOutcome {
            sha256: certificate.fingerprint().to_string(),
            not_after: unix(certificate.validity().not_after()),
            issued,
        },
    })
}

fn make(tunnel: &str, now: SystemTime) -> Result<Authority, Failure> {
    let id = fresh_id_at(now);
    let tunnel = tunnel.get(..ID_IN_SUBJECT).unwrap_or(tunnel);
    let profile = AuthorityProfile::server(&format!("{tunnel} CA {id}"));
    Authority::generate(&profile, now)
        .map_err(|error| Failure::internal("cannot make a CA").caused_by(&error))
}

/// Whether it took a call. Certificates of others are never archived to make room.
async fn register(order: &Order, api: &Tunnels, ca: &Certificate) -> Result<bool, Failure> {
    let fingerprint = ca.fingerprint().to_string();
    let list = || async {
        let listed = patiently(api, || api.certificates(&order.tunnel)).await;
        listed.map_err(|error| refused("list the tunnel's CA certificates", &error))
    };
    let is_there = |all: &[api::Certificate]| all.iter().any(|one| one.fingerprint == fingerprint);
    let active = list().await?;
    if is_there(&active) {
        return Ok(false);
    }
    if active.len() >= SLOTS {
        let named: Vec<String> = active
            .iter()
            .map(|one| {
                format!(
                    "{} (sha256 {}, ends {})",
                    one.id, one.fingerprint, one.expires_at
                )
            })
            .collect();
        return Err(
            Failure::config("both slots of the tunnel for CA certificates are taken")
                .cause(format!(
                    "by {}; none of them is the CA of this store, and no stranger's is archived",
                    named.join(" and ")
                ))
                .next("archive the one that nothing serves any more, then run this again"),
        );
    }
    let failed = |error: &CallError| refused("register the CA certificate", error);
    let answer = api.add_certificate(&order.tunnel, &ca.to_pem()).await;
    if let Err(error @ CallError::NotSent(_)) = &answer {
        return Err(failed(error));
    }
    // Whether it took effect is in the list, whatever the answer was: a refusal, too, may be of a second one, after that
    // of a run which was killed came late.
    if is_there(&list().await?) {
        return Ok(true);
    }
    Err(answer.map_or_else(|error| failed(&error), |_| missing(&fingerprint)))
}

fn missing(fingerprint: &str) -> Failure {
    Failure::new(Exit::Unavailable, "the CA certificate was not registered")
        .cause(format!(
            "the API took it, and does not list {fingerprint} among those in force"
        ))
        .next("run this again in a minute")
}

/// Makes a call that may be repeated, a few times if need be.
async fn patiently<T, F>(api: &Tunnels, call: impl Fn() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(
                CallError::NotSent(NotSent::Paced(_) | NotSent::Http(_)) | CallError::Unknown(_),
            ) => {}
            Err(CallError::Refused(refusal)) if refusal.status == 429 => {}
            last => return last,
        }
        // As long as the other side asked for, or the client's own pace wants.
        let pause = api.closed_for();
        if pause > LONGEST_PAUSE {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    call().await
}

/// A call that failed for good, for a person.
fn refused(what: &str, error: &CallError) -> Failure {
    let (exit, next) = match error {
        CallError::Refused(refusal) => match refusal.status {
            401 | 403 => (
                Exit::Permission,
                "look whether the rule's scope is workspace:manage_tunnels, or org:manage_tunnels, and covers this tunnel",
            ),
            404 => (
                Exit::Config,
                "look at --tunnel-id, and at the workspace that the identity is for",
            ),
            _ => (Exit::Config, "change what it names"),
        },
        CallError::NotSent(NotSent::Token(TokenError::Exchange(
            ExchangeError::NotSent(_) | ExchangeError::Unknown(_),
        ))) => (
            Exit::Unavailable,
            "look at the network, HTTPS_PROXY and where tokens are bought, then run this again",
        ),
        CallError::NotSent(NotSent::Token(_)) => (
            Exit::Permission,
            "keyward doctor identity --exchange says what is wrong",
        ),
        CallError::NotSent(NotSent::Identifier(_)) => (Exit::Config, "look at --tunnel-id"),
        CallError::NotSent(_) | CallError::Unknown(Unknown::Http(_)) => (
            Exit::Unavailable,
            "look at the network, HTTPS_PROXY and --api-url, then run this again",
        ),
        CallError::Unknown(_) => (Exit::Unavailable, "run this again in a minute"),
    };
    Failure::new(exit, format!("cannot {what}"))
        .caused_by(error)
        .next(next)
}

fn unwritable(store: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::config(format!("cannot write {}", store.display()))
        .caused_by(error)
        .next("run it as root, or as the owner of the files")
}
