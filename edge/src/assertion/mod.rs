//! Checks a JWT that somebody presents to buy access with, by the checklist of the design
//! (`identity.md` §5) over aws-lc-rs.
//!
//! Trust is picked first: the request names a rule, the rule an issuer, the issuer its keys. Nothing in
//! the token chooses a key, a URL or an algorithm that the issuer does not have. Then, in this order:
//! size and form, header, key, signature, claims, rule. Whether a token was used before is known only
//! to the database and asked last, or else anybody could use up somebody else's.
//!
//! ```text
//! text ──decode──▶ Decoded ──keys.of(issuer, kid)──▶ Key ──verify──▶ Verified ──state.mint──▶ access token
//! ```
//!
//! Why openidconnect is not used for this: it refuses the discovery documents of Kubernetes and GitHub,
//! ignores `nbf`, and knows no `jti`. What this module does not do: answer the caller, who learns
//! nothing of a [`Refusal`]; that text is for the audit log and for `keyward-edge explain`.

mod address;
mod claims;
mod decode;
mod fetch;
mod jwk;
mod keys;
mod mark;
mod refusal;
mod strict;
#[cfg(test)]
mod tests;

use crate::state::{Issuer, KeySource, Rule};

pub use claims::{Check, Verified, checks, compare};
pub use decode::{Decoded, decode, decode_for, names};
pub(crate) use fetch::trust;
pub use fetch::{FetchError, Resolver, system_resolver};
pub use jwk::{Algorithm, Key, Keys};
pub use keys::KeyStore;
pub use mark::mark;
pub use refusal::Refusal;
pub(crate) use strict::object;

/// Difference of clocks that is borne, seconds.
pub const SKEW: u64 = 30;
/// Longest assertion, bytes.
pub const LONGEST: usize = 16 * 1024;

/// Everything that can be checked without the database.
///
/// # Errors
///
/// The [`Refusal`], for the audit log.
pub async fn verify(
    text: &str,
    rule: &Rule,
    issuer: &Issuer,
    keys: &KeyStore,
    now: u64,
) -> Result<Verified, Refusal> {
    let decoded = decode_for(text, issuer)?;
    let key = keys.of(issuer, &decoded).await?;
    decoded.check_signature(&key)?;
    compare(&decoded, rule, issuer, now)
}

/// What is wrong with where an issuer's keys are to come from, told by the field.
///
/// # Errors
///
/// A sentence for the operator who is adding the issuer.
pub fn check_key_source(issuer: &Issuer) -> Result<(), String> {
    let url = |field: &str, text: &str| {
        fetch::check(text, &issuer.allowed_networks).map_err(|why| format!("{field}: {why}"))
    };
    if let Some(pem) = &issuer.ca_cert_pem {
        pki::Certificate::from_pem(pem).map_err(|why| format!("ca_cert_pem: {why}"))?;
    }
    match &issuer.keys {
        KeySource::Discovery {
            discovery_base: None,
        } => url("issuer_url", &issuer.issuer_url),
        KeySource::Discovery {
            discovery_base: Some(base),
        } => url("keys.discovery_base", base),
        KeySource::ExplicitUrl { url: text } => url("keys.url", text),
        KeySource::Inline { keys } => {
            let read = Keys::read(keys);
            if read.is_empty() {
                let text = "keys.keys: has no key that can be used: each needs kid, kty RSA from 2048 bits or EC, and use sig if any";
                return Err(text.to_owned());
            }
            Ok(())
        }
    }
}
