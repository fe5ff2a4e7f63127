//! The operator channel: how a person at the command line, or a page, talks to the daemon.
//!
//! HTTP/1.1 with JSON over a Unix socket of its own. Who may use it is asked of the kernel: root, the
//! daemon's own user, and whoever is listed. It orders and shows; it never hands out a key.

mod answer;
mod client;
mod events;
mod fields;
mod noun;
mod server;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError, Event, Events};
pub use noun::Noun;
pub use server::{Operator, Settings};

/// Body of `POST /v1/rotations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RotationOrder {
    /// What to rotate, by its noun: `server-certificate`, `ca`.
    pub what: String,
    /// Of which tunnel. May be left out where there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// For `ca`: the operator asserts that the verifiers hold both CAs.
    pub trusted: bool,
    /// For `ca`: SHA-256 of the standby CA that they hold, in lower-case hexadecimal. Where it is given, a
    /// switch to any other is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<String>,
    /// For `ca` of a tunnel whose remote can be asked: the rotation in flight need not wait for proof.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_unproven: bool,
}

/// Body of `POST /v1/client-certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientOrder {
    /// Of which tunnel's client CA. May be left out where there is only one tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Common name and DNS name of the client.
    pub name: String,
    /// PKCS#10 request, PEM. The key stays with whoever made it.
    pub csr: String,
    /// Life of the certificate in seconds, at least 1.
    pub lifetime_seconds: u64,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The one key.
    pub error: Problem,
}

/// What failed, the likely cause, the next thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What failed, one line.
    pub what: String,
    /// The likely cause, where one is known.
    pub why: Option<String>,
    /// The next thing to do.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests;
