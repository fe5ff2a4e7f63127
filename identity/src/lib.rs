//! Proving who a workload is, and what that proof buys.
//!
//! ```text
//! Source ──fetch──▶ Assertion ──exchange──▶ Minted ──▶ Tokens ──token()──▶ Authorization: Bearer …
//!   a file, a command,   a JWT, decoded      RFC 7523    kept for a part
//!   a cluster, a job     without trusting it             of its life
//! ```
//!
//! An assertion is fetched anew for each exchange, because an issuer's `jti` is single use by default: a retry, a
//! restart or a second process with the same one gets a bare 401. [`Tokens`] is therefore the one place that exchanges.
//! What this crate does not do: verify anybody's signature (the other side does), sign people in, keep secrets in Vault.
//!
//! Secrets are erased when dropped, silent in `Debug`, and in no error; the copies that the HTTP and TLS libraries make
//! while they send are theirs and are not erased.

mod assertion;
mod configuration;
mod environment;
mod exchange;
mod expect;
mod fetcher;
mod form;
mod http;
mod places;
mod secret;
mod shown;
mod source;
#[cfg(test)]
mod stub;
mod tokens;

pub use self::http::{Answer, Call, Http, HttpError, HttpSettings, Verb, check_url};
pub use assertion::{Assertion, AssertionError, Claims, LONGEST, SKEW};
pub use configuration::{Configuration, ConfigurationError, Credential, Given};
pub use environment::Environment;
pub use exchange::{DEFAULT_URL, ExchangeError, Federation, Minted, Refused, exchange};
pub use expect::{Check, Expectations, Verdict, checks};
pub use fetcher::{FetchError, Fetcher};
pub use places::Place;
pub use secret::Secret;
pub use shown::shown;
pub use source::{
    Aws, AwsAlgorithm, Azure, BoundObject, Exec, Gcp, Kubernetes, Source, SourceError, Spiffe,
    Vault, VaultAuth, is_region, workload_socket,
};
pub use tokens::{TokenError, Tokens};
