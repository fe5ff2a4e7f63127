//! What an exchange uses up of a token, so that it buys nothing a second time.

use super::{SKEW, Verified};
use crate::state::{Issuer, Mark, WithoutJti, sha256};

/// How much longer than it could be taken by this edge's clock a use is remembered, seconds: the edge whose
/// clock is fastest forgets for all, and the one whose clock is slowest still takes the token.
const CLOCKS: u64 = 600;

/// What is used up by the exchange. A token without `jti` cannot be told from its copy, so what becomes of
/// it is the issuer's to say. `None`: the token is good for any number of exchanges.
pub fn mark(issuer: &Issuer, verified: &Verified, assertion: &str) -> Option<Mark> {
    if !issuer.check_jti {
        return None;
    }
    let mark = match (&verified.jti, issuer.without_jti) {
        (Some(jti), _) => sha256(jti),
        // Only what was signed: whoever can write a signature in two ways has one token all the same.
        (None, WithoutJti::Once) => sha256(assertion.rsplit_once('.')?.0),
        (None, WithoutJti::Allow | WithoutJti::Refuse) => return None,
    };
    Some(Mark {
        issuer: issuer.id.clone(),
        mark,
        expires_at: verified.expires_at.saturating_add(SKEW + 1 + CLOCKS),
    })
}
