//! What a token claims, against what its issuer and the rule allow.

use serde_json::{Map, Value};

use super::refusal::shown;
use super::{Decoded, Refusal, SKEW};
use crate::state::{Issuer, Matcher, Rule, WithoutJti};

/// Longest `sub` and `jti`, bytes: both are stored.
const LONGEST: usize = 1024;

/// What was proven. Only [`compare`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// `sub`.
    pub subject: String,
    /// `jti`, if there is one.
    pub jti: Option<String>,
    /// `exp`, seconds since 1970.
    pub expires_at: u64,
}

/// One thing that was looked at, and what is wrong with it.
#[derive(Debug)]
pub struct Check {
    /// The claim, or the part of the rule.
    pub name: &'static str,
    /// What came of it.
    pub result: Result<(), Refusal>,
}

/// Checks the claims of a token. That its signature holds is the caller's to know.
///
/// # Errors
///
/// The first [`Refusal`] of [`checks`].
pub fn compare(
    decoded: &Decoded,
    rule: &Rule,
    issuer: &Issuer,
    now: u64,
) -> Result<Verified, Refusal> {
    for check in checks(decoded, rule, issuer, now) {
        check.result?;
    }
    let claims = &decoded.claims;
    let jti = claims.get("jti").map(|_| text(claims, "jti"));
    Ok(Verified {
        subject: text(claims, "sub")?.to_owned(),
        jti: jti.transpose()?.map(str::to_owned),
        expires_at: moment(claims, "exp")?,
    })
}

/// Everything that [`compare`] looks at, in its order, each with its result.
pub fn checks(decoded: &Decoded, rule: &Rule, issuer: &Issuer, now: u64) -> Vec<Check> {
    let (claims, matcher) = (&decoded.claims, &rule.r#match);
    let most = issuer.max_jwt_lifetime_seconds;
    let all = [
        ("iss", check_issuer(claims, &issuer.issuer_url)),
        ("aud", check_audience(claims, &matcher.audience)),
        ("exp", check_end(claims, now)),
        ("iat", check_issue(claims, now)),
        ("nbf", check_beginning(claims, now)),
        ("exp - iat", check_life(claims, most)),
        ("sub", text(claims, "sub").map(|_| ())),
        ("jti", check_jti(claims, issuer)),
        ("match.subject_prefix", check_subject(claims, matcher)),
        ("match.claims", check_claims(claims, matcher)),
        ("match.amr", check_methods(claims, matcher)),
        ("match.acr", check_class(claims, matcher)),
    ];
    all.into_iter()
        .map(|(name, result)| Check { name, result })
        .collect()
}

fn check_issuer(claims: &Map<String, Value>, wanted: &str) -> Result<(), Refusal> {
    let found = text(claims, "iss")?;
    if found == wanted {
        return Ok(());
    }
    Err(Refusal::Issuer {
        found: shown(found),
        wanted: shown(wanted),
    })
}

fn check_audience(claims: &Map<String, Value>, wanted: &str) -> Result<(), Refusal> {
    let wrong = || Refusal::Claim {
        claim: "aud",
        wanted: "a text or a list of texts",
    };
    let list = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(list)) => list
            .iter()
            .map(Value::as_str)
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    if list.contains(&wanted) {
        return Ok(());
    }
    Err(Refusal::Audience {
        found: shown(&list.join(", ")),
        wanted: shown(wanted),
    })
}

/// Rounded down: a part of a second is nobody's loss.
fn check_end(claims: &Map<String, Value>, now: u64) -> Result<(), Refusal> {
    let expires = moment(claims, "exp")?;
    if now >= expires.saturating_add(SKEW) {
        return Err(Refusal::Expired(now - expires));
    }
    Ok(())
}

fn check_issue(claims: &Map<String, Value>, now: u64) -> Result<(), Refusal> {
    let issued = moment(claims, "iat")?;
    if issued > now.saturating_add(SKEW) {
        return Err(Refusal::FromTheFuture(issued - now));
    }
    Ok(())
}

fn check_beginning(claims: &Map<String, Value>, now: u64) -> Result<(), Refusal> {
    if !claims.contains_key("nbf") {
        return Ok(());
    }
    let begins = moment(claims, "nbf")?;
    if begins > now.saturating_add(SKEW) {
        return Err(Refusal::NotYetValid(begins - now));
    }
    Ok(())
}

fn check_life(claims: &Map<String, Value>, most: u64) -> Result<(), Refusal> {
    let (expires, issued) = (moment(claims, "exp")?, moment(claims, "iat")?);
    let lives = expires
        .checked_sub(issued)
        .filter(|lives| *lives > 0)
        .ok_or(Refusal::EndsBeforeItBegins)?;
    if lives > most {
        return Err(Refusal::LivesTooLong { found: lives, most });
    }
    Ok(())
}

fn check_jti(claims: &Map<String, Value>, issuer: &Issuer) -> Result<(), Refusal> {
    match claims.get("jti") {
        None if issuer.check_jti && issuer.without_jti == WithoutJti::Refuse => Err(Refusal::NoJti),
        None => Ok(()),
        Some(_) => text(claims, "jti").map(|_| ()),
    }
}

fn check_subject(claims: &Map<String, Value>, matcher: &Matcher) -> Result<(), Refusal> {
    if let Some(wanted) = &matcher.subject_prefix {
        let subject = text(claims, "sub")?;
        let fits = match wanted.strip_suffix('*') {
            Some(prefix) => subject.starts_with(prefix),
            None => subject == wanted,
        };
        if !fits {
            return Err(Refusal::Subject {
                found: shown(subject),
                wanted: shown(wanted),
            });
        }
    }
    Ok(())
}

fn check_claims(claims: &Map<String, Value>, matcher: &Matcher) -> Result<(), Refusal> {
    for (claim, wanted) in &matcher.claims {
        let found = claims.get(claim).and_then(Value::as_str);
        if found != Some(wanted.as_str()) {
            return Err(Refusal::Match {
                claim: claim.clone(),
                found: found.map_or_else(|| "missing or not a text".to_owned(), shown),
                wanted: shown(wanted),
            });
        }
    }
    Ok(())
}

/// Whether somebody signed in by the means that the rule wants: `amr` is a list of texts.
fn check_methods(claims: &Map<String, Value>, matcher: &Matcher) -> Result<(), Refusal> {
    let listed = claims.get("amr").and_then(Value::as_array);
    let listed: Vec<&str> = listed
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if !matcher.amr.iter().all(|way| listed.contains(&way.as_str())) {
        return Err(Refusal::Factor {
            claim: "amr",
            found: shown(&listed.join(", ")),
            wanted: shown(&matcher.amr.join(", ")),
        });
    }
    Ok(())
}

/// Whether somebody signed in as well as the rule wants: `acr` is a text.
fn check_class(claims: &Map<String, Value>, matcher: &Matcher) -> Result<(), Refusal> {
    let found = claims
        .get("acr")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if matcher.acr.is_empty() || matcher.acr.iter().any(|class| class == found) {
        return Ok(());
    }
    Err(Refusal::Factor {
        claim: "acr",
        found: shown(found),
        wanted: shown(&matcher.acr.join(", ")),
    })
}

fn text<'a>(claims: &'a Map<String, Value>, claim: &'static str) -> Result<&'a str, Refusal> {
    claims
        .get(claim)
        .and_then(Value::as_str)
        .filter(|text| (1..=LONGEST).contains(&text.len()) && !text.contains(char::is_control))
        .ok_or(Refusal::Claim {
            claim,
            wanted: "a text of 1 to 1024 bytes that can be shown",
        })
}

/// `NumericDate` (RFC 7519 §2): a number, perhaps with a fraction, never a text.
fn moment(claims: &Map<String, Value>, claim: &'static str) -> Result<u64, Refusal> {
    // The year 9999: what is later is no date but a slip in the unit.
    const LAST: u64 = 253_402_300_799;
    let value = claims.get(claim);
    let whole = value.and_then(Value::as_u64);
    let seconds = whole.or_else(|| {
        let number = value?.as_f64().filter(|n| (0.0..1e12).contains(n))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was just compared: 0 to 10^12"
        )]
        Some(number as u64)
    });
    seconds
        .filter(|seconds| *seconds <= LAST)
        .ok_or(Refusal::Claim {
            claim,
            wanted: "a number of seconds since 1970",
        })
}
