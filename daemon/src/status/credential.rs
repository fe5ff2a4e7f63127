//! What the journal, the other side and each replica say of one credential, how long it lives, and what comes next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rotation::slots::Grade;

/// One credential of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialStatus {
    /// `server-certificate`, `ca`, `standby-ca`, `old-ca`, `client-ca`, `tunnel-token`, `shared-secret`.
    pub kind: String,
    /// What the journal has in force: the SHA-256 of a certificate or a shared secret, the id of a tunnel token (its
    /// SHA-256 until the other side was asked). Absent: nothing yet.
    pub journal: Option<String>,
    /// Number of its publication. Absent: it is not published under one, as a CA.
    pub generation: Option<u64>,
    /// Phase of its rotation.
    pub phase: String,
    /// When that began, as the journal has it.
    pub since: Option<u64>,
    /// Absent: nobody there knows of it, or nobody there can be asked.
    pub remote: Option<RemoteSays>,
    /// By name: the proxies and connectors in service that are given it.
    pub replicas: BTreeMap<String, ReplicaSays>,
    /// Its last second. Absent: it has none.
    pub not_after: Option<u64>,
    /// Seconds until then, negative afterwards.
    pub left: Option<i64>,
    /// What is to replace it, and when.
    pub next: Option<NextRotation>,
}

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSays {
    /// Whether it is in force there.
    pub state: RemoteState,
    /// What it is called there.
    pub id: Option<String>,
    /// When it was last said.
    pub asked_at: Option<u64>,
}

/// Whether a credential is in force at the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteState {
    /// Nobody has asked yet, or nobody has answered.
    Unknown,
    /// It is.
    InForce,
    /// It is not listed.
    Missing,
}

/// What a replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaSays {
    /// Its subscription stands.
    pub connected: bool,
    /// It uses what the journal has in force.
    pub in_force: bool,
    /// Generation that it has acknowledged.
    pub generation: Option<u64>,
    /// Why it refused the last one.
    pub refused: Option<control::Reason>,
    /// Of the CA that signs since a rotation: how well it is known that this replica's callers take it.
    pub proof: Option<Grade>,
}

/// The next rotation that somebody begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRotation {
    /// When; in the past: it is held up, and an alarm says by what.
    pub at: u64,
    /// By what.
    pub by: By,
}

/// What makes a rotation due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Its own dates.
    Deadline,
    /// `rotate:` of the configuration.
    Schedule,
    /// Its own dates, and somebody has to order it.
    Operator,
}

/// What ends first if nothing rotates any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// The last second in which everything works.
    pub at: u64,
    /// Whole days until then, negative afterwards.
    pub days: i64,
    /// The tunnel.
    pub tunnel: String,
    /// Kind of what ends, as in [`CredentialStatus::kind`].
    pub what: String,
    /// The replica that holds it. Absent: it is in force everywhere.
    pub replica: Option<String>,
}

impl Outage {
    /// One that is seen at `now`.
    pub fn new(tunnel: &str, what: &str, replica: Option<&str>, at: u64, now: u64) -> Self {
        Self {
            at,
            days: seconds_left(at, now).div_euclid(86_400),
            tunnel: tunnel.to_owned(),
            what: what.to_owned(),
            replica: replica.map(str::to_owned),
        }
    }
}

/// Seconds from `now` to `end`, negative when it is over.
pub(crate) fn seconds_left(end: u64, now: u64) -> i64 {
    end.cast_signed().saturating_sub(now.cast_signed())
}

/// Word for it in a sentence.
impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::Schedule => "schedule",
            Self::Operator => "when ordered",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_ones_that_are_left_and_negative_once_it_is_over() {
        let days = |at, now| Outage::new("main", "ca", None, at, now).days;
        assert_eq!(days(86_400, 0), 1);
        assert_eq!(days(86_399, 0), 0);
        assert_eq!(days(10, 11), -1);
        assert_eq!(days(10, 10 + 86_401), -2);
    }
}
