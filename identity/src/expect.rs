//! What a token claims, beside what its rule wants: which claim differs, and how.
//!
//! The other side answers every refusal with the same words, so that what it looks at is looked at here, in its order.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::assertion::seconds;
use crate::{Claims, SKEW};

/// `exp` − `iat` that an issuer is given by default, seconds.
const USUAL_LIFE: u64 = 3600;
/// The most that an issuer can be given, seconds.
const LONGEST_LIFE: u64 = 176_400;

/// What the rule and its issuer want, as far as anybody wrote it down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    /// `iss`, byte for byte.
    pub issuer: Option<String>,
    /// `sub`, or how it begins, if this ends in `*`.
    pub subject: Option<String>,
    /// Among `aud`.
    pub audience: Option<String>,
    /// Further claims of the top level, which are strings.
    pub claims: BTreeMap<String, String>,
}

/// How one claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it is wanted, or as anybody would want it.
    Good,
    /// It depends on what the issuer is allowed to.
    Warning,
    /// It will be refused.
    Bad,
}

/// One claim, looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The claim.
    pub claim: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What the token has.
    pub found: Option<String>,
    /// What was to be there, if that is one text.
    pub wanted: Option<String>,
    /// What is wrong with it, in words.
    pub how: Option<String>,
}

/// Looks at everything that the other side looks at, in its order.
pub fn checks(claims: &Claims, expected: &Expectations, now: SystemTime) -> Vec<Check> {
    let now = seconds(now);
    let mut all = vec![algorithm(claims), key_id(claims)];
    all.push(equal("iss", claims.text("iss"), expected.issuer.as_deref()));
    all.push(audience(claims, expected.audience.as_deref()));
    all.push(subject(claims, expected.subject.as_deref()));
    for (name, wanted) in &expected.claims {
        all.push(further(claims, name, wanted));
    }
    all.extend(times(claims, now));
    all.push(token_id(claims));
    all
}

fn check(claim: &str, found: Option<&str>, wanted: Option<&str>, how: Option<String>) -> Check {
    Check {
        claim: claim.to_owned(),
        verdict: if how.is_some() {
            Verdict::Bad
        } else {
            Verdict::Good
        },
        found: found.map(str::to_owned),
        wanted: wanted.map(str::to_owned),
        how,
    }
}

fn algorithm(claims: &Claims) -> Check {
    const KNOWN: [&str; 9] = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    ];
    let found = claims.algorithm();
    let known = found.is_some_and(|name| KNOWN.contains(&name));
    let how = (!known).then(|| format!("only {} are taken", KNOWN.join(", ")));
    check("alg", found, None, how)
}

fn key_id(claims: &Claims) -> Check {
    let found = claims.key_id();
    let how = found.is_none().then(|| "it has to name its key".to_owned());
    check("kid", found, None, how)
}

fn equal(claim: &str, found: Option<&str>, wanted: Option<&str>) -> Check {
    let how = match (found, wanted) {
        (None | Some(""), _) => Some("it is missing".to_owned()),
        (Some(found), Some(wanted)) => difference(found, wanted),
        (Some(_), None) => None,
    };
    check(claim, found, wanted, how)
}

fn audience(claims: &Claims, wanted: Option<&str>) -> Check {
    let all = claims.audience();
    let found = (!all.is_empty()).then(|| all.join(", "));
    let how = match (all.as_slice(), wanted) {
        ([], _) => Some("it is missing".to_owned()),
        (all, Some(wanted)) if !all.contains(&wanted) => match all {
            [one] => difference(one, wanted),
            _ => Some("none of them is it".to_owned()),
        },
        _ => None,
    };
    check("aud", found.as_deref(), wanted, how)
}

fn subject(claims: &Claims, wanted: Option<&str>) -> Check {
    let found = claims.text("sub");
    if let (Some(found), Some(begin)) = (found, wanted.and_then(|text| text.strip_suffix('*'))) {
        let how = (!found.starts_with(begin)).then(|| {
            let same: String = found.chars().take(begin.chars().count()).collect();
            difference(&same, begin).unwrap_or_default()
        });
        return check("sub", Some(found), wanted, how);
    }
    equal("sub", found, wanted)
}

fn further(claims: &Claims, name: &str, wanted: &str) -> Check {
    match claims.value(name) {
        None | Some(Value::String(_)) => equal(name, claims.text(name), Some(wanted)),
        Some(other) => {
            let how = "it is no string, and only strings are compared".to_owned();
            check(name, Some(&other.to_string()), Some(wanted), Some(how))
        }
    }
}

fn times(claims: &Claims, now: u64) -> Vec<Check> {
    let skew = SKEW.as_secs();
    let (end, begin, issued) = (
        claims.moment("exp"),
        claims.moment("nbf"),
        claims.moment("iat"),
    );
    let missing = |value: Option<u64>| value.is_none().then(|| "it is missing".to_owned());
    let past =
        |at: u64| (now >= at.saturating_add(skew)).then(|| format!("it was {} s ago", now - at));
    let ahead = |at: u64| {
        (at > now + skew).then(|| format!("it is in {} s: whose clock is wrong", at - now))
    };
    let time = |claim: &str, value: Option<u64>, how: Option<String>| {
        let found = value.map(|at| at.to_string());
        check(claim, found.as_deref(), None, how)
    };
    let mut all = vec![
        time("exp", end, missing(end).or_else(|| past(end?))),
        time("iat", issued, missing(issued).or_else(|| ahead(issued?))),
    ];
    if begin.is_some() {
        all.push(time("nbf", begin, begin.and_then(ahead)));
    }
    if let (Some(end), Some(issued)) = (end, issued) {
        let life = end.saturating_sub(issued);
        let how = (life > USUAL_LIFE).then(|| {
            format!("the issuer's max_jwt_lifetime_seconds has to allow it: {USUAL_LIFE} is usual, {LONGEST_LIFE} the most")
        });
        let mut lives = time("exp - iat", Some(life), how);
        if lives.how.is_some() && life <= LONGEST_LIFE {
            lives.verdict = Verdict::Warning;
        }
        all.push(lives);
    }
    all
}

fn token_id(claims: &Claims) -> Check {
    check("jti", claims.token_id(), None, None)
}

/// In which way two texts differ; `None` if they do not.
fn difference(found: &str, wanted: &str) -> Option<String> {
    if found == wanted {
        return None;
    }
    let bare = |text: &str| {
        let text = text.strip_prefix("https://").unwrap_or(text);
        text.trim_end_matches('/').to_owned()
    };
    let how = if found.eq_ignore_ascii_case(wanted) {
        "they differ in upper and lower case".to_owned()
    } else if found.trim() == wanted.trim() {
        "they differ in white space".to_owned()
    } else if found.trim_end_matches('/') == wanted.trim_end_matches('/') {
        "they differ in the slash at the end".to_owned()
    } else if bare(found) == bare(wanted) {
        "they differ in https:// at the beginning".to_owned()
    } else {
        let same = found.bytes().zip(wanted.bytes());
        let at = same.take_while(|(one, other)| one == other).count();
        format!("they differ from byte {} on", at + 1)
    };
    Some(how)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Assertion;
    use crate::assertion::tests::{at, token};

    fn looked_at(claims: &Value, expected: &Expectations) -> BTreeMap<String, Check> {
        let read = Assertion::read(&token(claims)).unwrap();
        let all = checks(read.claims(), expected, at(1000));
        all.into_iter()
            .map(|check| (check.claim.clone(), check))
            .collect()
    }

    #[test]
    fn each_claim_that_differs_is_named_with_how_it_differs() {
        let expected = Expectations {
            issuer: Some("https://issuer.example".to_owned()),
            subject: Some("repo:acme/infra:*".to_owned()),
            audience: Some("https://api.anthropic.com".to_owned()),
            claims: [("event", "push"), ("id", "65")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let claims = json!({
            "iss": "https://issuer.example/", "sub": "repo:Acme/infra:ref", "aud": "api.anthropic.com",
            "event": "pull_request", "id": 65, "exp": 900, "iat": 1100,
        });
        let found = looked_at(&claims, &expected);
        for (claim, how) in [
            ("iss", "they differ in the slash at the end"),
            ("sub", "they differ in upper and lower case"),
            ("aud", "they differ in https:// at the beginning"),
            ("event", "they differ from byte 3 on"),
            ("id", "it is no string, and only strings are compared"),
            ("exp", "it was 100 s ago"),
            ("iat", "it is in 100 s: whose clock is wrong"),
        ] {
            assert_eq!(found[claim].how.as_deref(), Some(how), "{claim}");
            assert_eq!(found[claim].verdict, Verdict::Bad);
        }
        assert_eq!(found["aud"].found.as_deref(), Some("api.anthropic.com"));
        assert_eq!(
            found["aud"].wanted.as_deref(),
            Some("https://api.anthropic.com")
        );
    }

    #[test]
    fn a_token_that_is_as_it_is_wanted_is_good() {
        let expected = Expectations {
            issuer: Some("i".to_owned()),
            subject: Some("system:*".to_owned()),
            audience: Some("b".to_owned()),
            claims: BTreeMap::new(),
        };
        let mut claims = json!({
            "iss": "i", "sub": "system:x", "aud": ["a", "b"], "exp": 1500, "iat": 1000, "nbf": 1000
        });
        let found = looked_at(&claims, &expected);
        assert!(
            found.values().all(|check| check.verdict == Verdict::Good),
            "{found:?}"
        );
        claims["exp"] = json!(1000 + USUAL_LIFE + 1);
        let found = looked_at(&claims, &expected);
        assert_eq!(found["exp - iat"].verdict, Verdict::Warning);
        claims["exp"] = json!(1000 + LONGEST_LIFE + 1);
        let found = looked_at(&claims, &expected);
        assert_eq!(found["exp - iat"].verdict, Verdict::Bad);
    }
}
