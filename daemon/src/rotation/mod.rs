//! Decisions without effects: what is the next step, given what the journal says and what is seen.
//!
//! | Machine | Journalled state | Seen | Decides |
//! |---|---|---|---|
//! | [`server_certificate`] | leaf in force, leaves kept, rotation in flight | blobs, acks, issuer, clock | issue, publish, adopt, retire, restore |
//! | [`authority`] | CA in force, standby, old, retired, switch in flight | leaf in force, acks | make, switch, retire |
//! | [`slots`] | the same, and where each is registered, call and rotation in flight | list of the remote, leaf in force, acks, handshakes | register, switch, prove, archive, retire, roll back |
//! | [`tunnel_token`] | id and number of the value in force, rotation in flight | store, acks, what the remote said | reveal, rotate once, adopt |
//! | [`shared_secret`] | secret in force, rotation in flight, who dials | the remote's list, acks, clock | make, add, publish, archive, destroy |
//!
//! Nothing here reads a clock, a file or a socket; [`crate::rotator`] does what is decided and says
//! what came of it. Starting the daemon is recovery: the same functions, called with what is left.
//! Times are whole Unix seconds.

pub mod authority;
pub mod server_certificate;
pub mod shared_secret;
pub mod slots;
pub mod tunnel_token;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Server certificates that may be issued in an hour without anybody ordering them (I9).
pub const ISSUES_PER_HOUR: usize = 6;
/// A rotation that is not published after this many seconds is given up and begun anew.
pub const HARD_DEADLINE: u64 = 3600;

/// A replica that went without a farewell counts as in service for this long.
pub const REPLICA_GRACE: Duration = Duration::from_secs(3600);

/// A certificate in custody, by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Rotation that made it; names its blobs.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the DER.
    pub sha256: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the CA certificate that signed it.
    pub issuer: String,
    /// When it was signed or taken up; not the backdated first second.
    pub issued_at: u64,
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
    /// When its successor is due.
    pub rekey_at: u64,
    /// From when on a failure to renew has to alarm.
    pub page_at: u64,
    /// Generation that it is published in; 0 before it is.
    pub generation: u64,
    /// Somebody else issued it: advice is not binding.
    #[serde(default)]
    pub foreign: bool,
    /// SHA-256 of the client CA that is published with it; `None`: no client certificate is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
}

impl Leaf {
    /// Whether its dates contain `now`.
    pub fn is_valid_at(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// A proxy that is in service, as far as one tunnel goes: connected, or gone without a farewell for
/// less than [`REPLICA_GRACE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Name of the replica.
    pub name: String,
    /// Its subscription stands. One that does not may serve all the same.
    pub connected: bool,
    /// Highest generation of `credential` acknowledged; 0 for none.
    pub acked: u64,
    /// The last refusal, with its generation.
    pub refused: Option<(u64, control::Reason)>,
    /// Highest generation that it says it serves.
    pub serves: u64,
}

/// Makes a ULID: 48 bits of milliseconds and 80 random ones in Crockford's base 32, so that ids sort
/// by time.
pub fn ulid(milliseconds: u64, random: [u8; 10]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut tail = [0; 16];
    for (to, from) in tail.iter_mut().skip(6).zip(random) {
        *to = from;
    }
    let number = u128::from(milliseconds) << 80 | u128::from_be_bytes(tail);
    (0..26)
        .rev()
        .filter_map(|place| DIGITS.get((number >> (place * 5)) as usize & 31))
        .map(|digit| char::from(*digit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulid_has_26_digits_and_sorts_by_time() {
        assert_eq!(ulid(0, [0; 10]), "0".repeat(26));
        assert_eq!(
            ulid((1 << 48) - 1, [255; 10]),
            format!("7{}", "Z".repeat(25))
        );
        // The example of the specification: 1469918176385 ms is 01ARYZ6S41.
        assert!(ulid(1_469_918_176_385, [1; 10]).starts_with("01ARYZ6S41"));
        assert!(ulid(1, [0; 10]) > ulid(0, [255; 10]));
    }
}
