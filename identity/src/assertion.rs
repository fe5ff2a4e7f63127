//! A JWT that says who this workload is, read without trusting it.
//!
//! Nothing here verifies a signature: the reading is for finding out, before it is sent, that a token is over or is
//! not the one that is wanted, and for telling a person which claim it was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use process::base64::decode_url;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::Secret;

/// Longest assertion that is sent, bytes: what the other side takes.
pub const LONGEST: usize = 16 * 1024;
/// Difference of clocks that the other side bears on `exp`, `nbf` and `iat`.
pub const SKEW: Duration = Duration::from_secs(30);

/// Why a text is no assertion that can be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AssertionError {
    /// Nothing but white space.
    #[error("the token is empty")]
    Empty,
    /// More than [`LONGEST`].
    #[error("the token has {0} bytes, and at most {LONGEST} are taken")]
    TooLong(usize),
    /// Not of the form of RFC 7519 §3.
    #[error("the token is no JWT: {0}")]
    Malformed(&'static str),
    /// `exp` is past.
    #[error("the token expired {} s ago", .ago.as_secs())]
    Expired {
        /// Since `exp`.
        ago: Duration,
    },
    /// `nbf` is in the future.
    #[error("the token is valid only in {} s", .after.as_secs())]
    NotYet {
        /// Until `nbf`.
        after: Duration,
    },
}

/// One token, with what it claims. Erased when dropped.
#[derive(Debug)]
pub struct Assertion {
    text: Secret,
    claims: Claims,
}

/// What a token says, of which nothing is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    header: Map<String, Value>,
    body: Map<String, Value>,
}

impl Assertion {
    /// Reads a token; white space around it is dropped.
    ///
    /// # Errors
    ///
    /// It is empty, longer than [`LONGEST`], or no JWT in the compact form (RFC 7515 §7.1).
    pub fn read(text: &str) -> Result<Self, AssertionError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AssertionError::Empty);
        }
        if text.len() > LONGEST {
            return Err(AssertionError::TooLong(text.len()));
        }
        let mut parts = text.split('.');
        let (header, body, signature) = match (parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(body), Some(signature)) if parts.next().is_none() => {
                (header, body, signature)
            }
            _ => return Err(AssertionError::Malformed("it has not three parts")),
        };
        if signature.is_empty() || decode_url(signature).is_none() {
            return Err(AssertionError::Malformed(
                "its signature is missing or not base64url",
            ));
        }
        let claims = Claims {
            header: object(header).ok_or(AssertionError::Malformed(
                "its header is not base64url of a JSON object",
            ))?,
            body: object(body).ok_or(AssertionError::Malformed(
                "its claims are not base64url of a JSON object",
            ))?,
        };
        Ok(Self {
            text: Secret::new(text.to_owned()),
            claims,
        })
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// What it claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// SHA-256 of the text, by which a token that was used is known again.
    pub fn digest(&self) -> [u8; 32] {
        let digest = digest::digest(&digest::SHA256, self.expose().as_bytes());
        let mut octets = [0; 32];
        octets.copy_from_slice(digest.as_ref());
        octets
    }

    /// Whether it would be taken at `now`, by its own times and the [`SKEW`] that the other side bears. A token without
    /// `exp` passes: that it is missing is the other side's to say, and [`checks`](crate::checks) says it, too.
    ///
    /// # Errors
    ///
    /// [`Expired`](AssertionError::Expired) or [`NotYet`](AssertionError::NotYet).
    pub fn check_times(&self, now: SystemTime) -> Result<(), AssertionError> {
        let now = seconds(now);
        let skew = SKEW.as_secs();
        if let Some(end) = self.claims.moment("exp")
            && now >= end.saturating_add(skew)
        {
            let ago = Duration::from_secs(now - end);
            return Err(AssertionError::Expired { ago });
        }
        if let Some(begin) = self.claims.moment("nbf")
            && begin > now.saturating_add(skew)
        {
            let after = Duration::from_secs(begin - now);
            return Err(AssertionError::NotYet { after });
        }
        Ok(())
    }
}

impl Claims {
    /// `alg` of the header (RFC 7515 §4.1.1).
    pub fn algorithm(&self) -> Option<&str> {
        self.header.get("alg")?.as_str()
    }

    /// `kid` of the header (RFC 7515 §4.1.4).
    pub fn key_id(&self) -> Option<&str> {
        self.header.get("kid")?.as_str()
    }

    /// A claim that is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.body.get(name)?.as_str()
    }

    /// A claim, whatever it is.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.body.get(name)
    }

    /// Every claim.
    pub fn all(&self) -> &Map<String, Value> {
        &self.body
    }

    /// `aud`, one or several (RFC 7519 §4.1.3); what is no string is left out.
    pub fn audience(&self) -> Vec<&str> {
        match self.body.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// `exp`, `nbf` or `iat`: seconds since 1970 (RFC 7519 §2, `NumericDate`), parts of a second dropped.
    pub fn moment(&self, name: &str) -> Option<u64> {
        let number = self.body.get(name)?.as_number()?;
        let text = number.to_string();
        number
            .as_u64()
            .or_else(|| text.split('.').next()?.parse().ok())
    }

    /// `jti`: whoever has one may be used once.
    pub fn token_id(&self) -> Option<&str> {
        self.text("jti")
    }
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&decode_url(part)?).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A token whose signature nobody checks.
    pub(crate) fn token(claims: &Value) -> String {
        let part = |value: &Value| process::base64::encode_url(value.to_string().as_bytes());
        let header = part(&json!({"alg": "ES256", "kid": "k"}));
        format!("{header}.{}.c2lnbmF0dXJl", part(claims))
    }

    pub(crate) fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_a_token_claims_is_read_without_its_key() {
        let text = token(&json!({
            "iss": "https://i", "sub": "s", "aud": ["a", "b"], "exp": 200, "nbf": 100.5, "jti": "one"
        }));
        let read = Assertion::read(&format!(" \n{text}\r\n")).unwrap();
        let claims = read.claims();
        assert_eq!(read.expose(), text);
        assert_eq!(claims.algorithm(), Some("ES256"));
        assert_eq!(claims.key_id(), Some("k"));
        assert_eq!(claims.text("iss"), Some("https://i"));
        assert_eq!(claims.audience(), ["a", "b"]);
        assert_eq!(claims.moment("exp"), Some(200));
        assert_eq!(claims.moment("nbf"), Some(100));
        assert_eq!(claims.moment("iat"), None);
        assert_eq!(claims.token_id(), Some("one"));
        assert!(!format!("{read:?}").contains(&text));
    }

    #[test]
    fn what_is_no_token_is_refused_before_it_is_sent() {
        let long = format!("{}.e30.c2ln", "A".repeat(LONGEST));
        for (text, wanted) in [
            (" \n", AssertionError::Empty),
            (long.as_str(), AssertionError::TooLong(LONGEST + 9)),
            ("a.b", AssertionError::Malformed("it has not three parts")),
            (
                "e30.e30.",
                AssertionError::Malformed("its signature is missing or not base64url"),
            ),
            (
                "e30.W10.c2ln",
                AssertionError::Malformed("its claims are not base64url of a JSON object"),
            ),
            (
                "!!.e30.c2ln",
                AssertionError::Malformed("its header is not base64url of a JSON object"),
            ),
        ] {
            assert_eq!(Assertion::read(text).unwrap_err(), wanted);
        }
    }

    #[test]
    fn a_token_is_over_when_the_other_side_says_so_too() {
        let read = Assertion::read(&token(&json!({"exp": 1000, "nbf": 500}))).unwrap();
        assert_eq!(read.check_times(at(470)), Ok(()));
        assert_eq!(read.check_times(at(1029)), Ok(()));
        let ago = Duration::from_secs(30);
        let expired = AssertionError::Expired { ago };
        assert_eq!(read.check_times(at(1030)), Err(expired));
        let after = Duration::from_secs(31);
        assert_eq!(
            read.check_times(at(469)),
            Err(AssertionError::NotYet { after })
        );
    }
}
