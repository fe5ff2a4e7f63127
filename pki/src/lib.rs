//! X.509 without I/O: makes, reads and lints the certificates of a tunnel.
//!
//! The chain of trust on one page. An [`Authority`] is a CA certificate with its key; nothing stands
//! between it and the certificates that it signs, because the far end of a tunnel accepts a server
//! certificate only if a registered CA signed it directly.
//!
//! ```text
//! Authority (Server) ──signs──▶ server certificate   ──lint──▶ Linted, the only thing to publish
//! Authority (Client) ──signs──▶ client certificate, from a request whose key stays with the client
//! ```
//!
//! What it does not do: it opens no file and no socket and reads no clock (`now` is an argument); it
//! follows no chain of intermediates; it knows no revocation list. Randomness it does take.
//!
//! ```
//! use pki::{Algorithm, Authority, AuthorityProfile, Expectation, Origin, PrivateKey, Serial};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
//! let authority = Authority::generate(&AuthorityProfile::server("example tunnel CA"), now)?;
//! let profile = pki::ServerProfile::new("tunnel.example");
//! let key = PrivateKey::generate(Algorithm::default())?;
//! let certified = authority.issue(&profile, key, Serial::random(), now)?;
//! let expectation = Expectation::new("tunnel.example");
//! let linted = pki::lint(&certified, authority.certificate(), &expectation, now, Origin::Ours);
//! assert!(linted.is_ok());
//! # Ok(())
//! # }
//! ```

mod authority;
mod certificate;
mod der;
mod extensions;
mod identifier;
mod key;
mod lint;
mod name;
mod pair;
mod pem;
mod profile;
mod request;
mod sign;
mod signature;
mod validity;

pub use authority::{Authority, IssueError, LoadError};
pub use certificate::{Certificate, CertificateError};
pub use identifier::{Fingerprint, IdentifierError, Serial};
pub use key::{Algorithm, KeyError, PrivateKey, UnknownAlgorithm};
pub use lint::{Expectation, Finding, Grade, Linted, Origin, lint, lint_authority, rules};
pub use pair::{CertifiedKey, PairError};
pub use profile::{AuthorityKind, AuthorityProfile, ClientProfile, ServerProfile};
pub use request::{RequestError, request};
pub use sign::SignError;
pub use signature::KeyKind;
pub use validity::Validity;
