//! From text to header and claims, and whether a key made the signature.

use process::base64;
use serde_json::{Map, Value};

use super::refusal::shown;
use super::{Algorithm, Key, LONGEST, Refusal, strict};
use crate::state::{Issuer, sha256};

/// A JWT that has the right form. Nothing in it is believed yet.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// What it says it was signed with; one that is taken.
    pub algorithm: Algorithm,
    /// Which key it names.
    pub kid: String,
    /// What it claims.
    pub claims: Map<String, Value>,
    /// The header, for whoever explains.
    pub header: Map<String, Value>,
    signed: String,
    signature: Vec<u8>,
}

/// Reads a compact JWS (RFC 7515 §7.1). `types`: values of `typ` that are taken beside none.
///
/// # Errors
///
/// The [`Refusal`] for its form or its header.
pub fn decode(text: &str, types: &[String]) -> Result<Decoded, Refusal> {
    if text.len() > LONGEST {
        return Err(Refusal::TooLong(text.len()));
    }
    let parts: Vec<&str> = text.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        return Err(Refusal::Parts(parts.len()));
    };
    let signed = format!("{header}.{claims}");
    let header = part("header", header)?;
    let algorithm = check_header(&header, types)?;
    let kid = header.get("kid").and_then(Value::as_str);
    let kid = kid.filter(|kid| !kid.is_empty()).ok_or(Refusal::NoKid)?;
    Ok(Decoded {
        algorithm,
        kid: kid.to_owned(),
        claims: part("claims", claims)?,
        signature: base64::decode_url(signature).ok_or(Refusal::Encoding("signature"))?,
        header,
        signed,
    })
}

/// As [`decode`], by what `issuer` has for `typ` and `alg`.
///
/// # Errors
///
/// As [`decode`], and [`Refusal::AlgorithmOfOthers`].
pub fn decode_for(text: &str, issuer: &Issuer) -> Result<Decoded, Refusal> {
    let decoded = decode(text, &issuer.accepted_types)?;
    let (found, taken) = (decoded.algorithm.as_str(), &issuer.accepted_algorithms);
    if taken.is_empty() || taken.iter().any(|one| one == found) {
        return Ok(decoded);
    }
    let taken = taken.join(", ");
    Err(Refusal::AlgorithmOfOthers { found, taken })
}

/// What tells a token from others in the audit log, where its `jti` does not belong: `kid`, and the SHA-256
/// of `jti` by which its use is remembered. Nothing of it is proven. `None`: it has no such form.
pub fn names(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return None;
    }
    let mut parts = text.split('.');
    let header = part("header", parts.next()?).ok()?;
    let claims = part("claims", parts.next()?).ok()?;
    let kid = header.get("kid").and_then(Value::as_str);
    let kid = kid.map_or_else(|| "no kid".to_owned(), |kid| format!("kid {}", shown(kid)));
    let jti = claims.get("jti").and_then(Value::as_str);
    let jti = jti.map_or_else(|| "no jti".to_owned(), |jti| format!("jti {}", sha256(jti)));
    Some(format!("{kid}, {jti}"))
}

impl Decoded {
    /// Whether `key`, which is the issuer's, made the signature with the algorithm that is named.
    ///
    /// # Errors
    ///
    /// [`Refusal::KeyMismatch`] or [`Refusal::Signature`].
    pub fn check_signature(&self, key: &Key) -> Result<(), Refusal> {
        if !key.fits(self.algorithm) {
            return Err(Refusal::KeyMismatch {
                alg: self.algorithm.as_str(),
                kid: shown(&self.kid),
                key: key.purpose(),
            });
        }
        if key.verifies(self.algorithm, self.signed.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(Refusal::Signature(shown(&self.kid)))
        }
    }
}

fn part(name: &'static str, text: &str) -> Result<Map<String, Value>, Refusal> {
    let octets = base64::decode_url(text).ok_or(Refusal::Encoding(name))?;
    strict::object(&octets).map_err(|why| Refusal::Json { part: name, why })
}

/// `jku`, `x5u`, `jwk` and `x5c` are not looked at: a token does not choose its key.
fn check_header(header: &Map<String, Value>, types: &[String]) -> Result<Algorithm, Refusal> {
    let named = header
        .get("alg")
        .and_then(Value::as_str)
        .unwrap_or("absent");
    let algorithm = Algorithm::parse(named).ok_or_else(|| Refusal::Algorithm(shown(named)))?;
    if header.contains_key("crit") {
        return Err(Refusal::Critical);
    }
    for nested in ["cty", "b64", "enc", "zip"] {
        if header.contains_key(nested) {
            return Err(Refusal::Nested(nested));
        }
    }
    match header.get("typ") {
        None => Ok(algorithm),
        Some(Value::String(found)) if types.iter().any(|t| same_type(t, found)) => Ok(algorithm),
        Some(found) => Err(Refusal::Type {
            found: shown(found.as_str().unwrap_or("not a text")),
            taken: types.join(", "),
        }),
    }
}

/// `application/` may be left out (RFC 7515 §4.1.9).
fn same_type(one: &str, other: &str) -> bool {
    let bare = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.strip_prefix("application/")
            .map_or(text.clone(), str::to_owned)
    };
    bare(one) == bare(other)
}
