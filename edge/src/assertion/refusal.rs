//! Why an assertion buys nothing. For the audit log and the operator, never for the caller.

use std::sync::Arc;

use thiserror::Error;

use super::FetchError;

/// One reason, the first that was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than 16 KiB.
    #[error("the assertion has {0} bytes, at most 16384 are read")]
    TooLong(usize),
    /// Not three parts between two dots.
    #[error("the assertion has {0} parts, a signed JWT has 3 (5 is an encrypted one)")]
    Parts(usize),
    /// Not base64url, strictly.
    #[error("the {0} is not base64url without padding")]
    Encoding(&'static str),
    /// Not one JSON object with every name once.
    #[error("the {part} is not one JSON object: {why}")]
    Json {
        /// `header` or `claims`.
        part: &'static str,
        /// Such as a name that is there twice.
        why: String,
    },
    /// `alg` is none of those that are taken.
    #[error("alg is {0}: taken are RS, PS and ES with 256, 384 and 512")]
    Algorithm(String),
    /// `alg` is none of those that this issuer uses.
    #[error("alg is {found}, this issuer's may be {taken}")]
    AlgorithmOfOthers {
        /// In the token.
        found: &'static str,
        /// `accepted_algorithms` of the issuer.
        taken: String,
    },
    /// No `kid`, or not a text.
    #[error("kid is missing: without it no key is tried")]
    NoKid,
    /// An extension that must be understood (RFC 7515 §4.1.11).
    #[error("crit is there: no extension is understood")]
    Critical,
    /// `cty` says that there is another token inside, `b64` that the payload is not encoded.
    #[error("{0} is there: nested tokens and unencoded payloads are not taken")]
    Nested(&'static str),
    /// `typ` is another kind of token.
    #[error("typ is {found}, this issuer's may be {taken}")]
    Type {
        /// In the token.
        found: String,
        /// `accepted_types` of the issuer.
        taken: String,
    },
    /// No key of the issuer has this `kid`.
    #[error("kid {kid} is none of the issuer's keys: {known}")]
    UnknownKid {
        /// In the token.
        kid: String,
        /// Those of the issuer.
        known: String,
    },
    /// Several keys have it.
    #[error("kid {0} names several of the issuer's keys")]
    AmbiguousKid(String),
    /// The key cannot be used with `alg`.
    #[error("alg is {alg}, key {kid} is for {key}")]
    KeyMismatch {
        /// In the token.
        alg: &'static str,
        /// Of the key.
        kid: String,
        /// What it is good for.
        key: String,
    },
    /// The signature does not hold.
    #[error("the signature does not hold under key {0}")]
    Signature(String),
    /// The keys cannot be had.
    #[error("the issuer's keys cannot be had")]
    Keys(#[source] Arc<FetchError>),
    /// A claim is missing or of another type.
    #[error("{claim} is missing or not {wanted}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// Such as a number.
        wanted: &'static str,
    },
    /// `iss` is somebody else.
    #[error("iss is {found}, the issuer is {wanted}: they are compared byte for byte")]
    Issuer {
        /// In the token.
        found: String,
        /// `issuer_url`.
        wanted: String,
    },
    /// `aud` does not have us.
    #[error("aud is {found}, the rule wants {wanted}")]
    Audience {
        /// In the token.
        found: String,
        /// Of the rule.
        wanted: String,
    },
    /// Past.
    #[error("expired {0} seconds ago, 30 are borne")]
    Expired(u64),
    /// `nbf` to come.
    #[error("not valid for another {0} seconds, 30 are borne")]
    NotYetValid(u64),
    /// `iat` to come.
    #[error("issued {0} seconds in the future, 30 are borne")]
    FromTheFuture(u64),
    /// `exp` − `iat` is above the issuer's limit.
    #[error("lives for {found} seconds, this issuer's may live for {most}")]
    LivesTooLong {
        /// In the token.
        found: u64,
        /// `max_jwt_lifetime_seconds`.
        most: u64,
    },
    /// `exp` is not after `iat`.
    #[error("exp is not after iat")]
    EndsBeforeItBegins,
    /// `sub` does not match.
    #[error("match_subject_prefix: sub is {found}, the rule wants {wanted}")]
    Subject {
        /// In the token.
        found: String,
        /// Of the rule.
        wanted: String,
    },
    /// A claim of the rule does not match.
    #[error("match_claims: {claim} is {found}, the rule wants {wanted}")]
    Match {
        /// Its name.
        claim: String,
        /// In the token.
        found: String,
        /// Of the rule.
        wanted: String,
    },
    /// Nobody signed in as well as the rule wants.
    #[error("match_multi_factor: {claim} is {found}, the rule wants {wanted}")]
    Factor {
        /// `amr` or `acr`.
        claim: &'static str,
        /// In the token.
        found: String,
        /// Of the rule.
        wanted: String,
    },
    /// No `jti`, where the issuer's tokens must have one.
    #[error("jti is missing: this issuer's tokens must have one")]
    NoJti,
    /// Used before.
    #[error("jti_reused: this assertion has bought an access token before")]
    Reused,
}

/// A text from a token, made fit for a log: bounded, and nothing in it that a terminal obeys.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
