//! The shapes of the Tunnels API: what is asked, what is answered, what an error looks like.
//!
//! The edge serves them and the daemon's client reads them, so both take them from here. Objects,
//! ids and error bodies are those of the product's own API; what only our edge has is marked *ours*.
//! Requests refuse unknown fields, because a misspelt `cut_old_after_seconds` must not pass for an
//! order to leave a stolen token alone; answers ignore them, so that an edge may be newer.
//!
//! What it does not do: no I/O, no decision, no check beyond the shape.

mod access;
mod bundle;
mod certificate;
mod edge;
mod enforced;
mod error;
mod list;
mod oauth;
mod secret;
mod timestamp;
mod tunnel;

pub use access::{Access, Limits};
pub use bundle::{Bundle, PutBundle};
pub use certificate::{Certificate, CreateCertificate};
pub use edge::Edge;
pub use enforced::Enforced;
pub use error::{ErrorBody, ErrorDetail, ErrorKind};
pub use list::{DEFAULT_LIMIT, List, MAX_LIMIT};
pub use oauth::{AccessToken, Exchange, OAuthError, grant};
pub use secret::{CreateSecret, LiveConnection, Secret};
pub use timestamp::Timestamp;
pub use tunnel::{CreateTunnel, Reason, RotateToken, Token, Tunnel};

/// Value of the request header `anthropic-version` that clients of ours send; edges take any date.
pub const VERSION: &str = "2023-06-01";
/// Name of the header that says which version of the API is meant.
pub const VERSION_HEADER: &str = "anthropic-version";
/// Every answer carries it; it is also in the body of every error and in the audit log.
pub const REQUEST_ID_HEADER: &str = "request-id";
/// The same key and the same request give the same answer for ten minutes. *Ours.*
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
