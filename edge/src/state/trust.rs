//! Whose identity tokens are believed, and what they buy: the documents, and what makes one mean something.
//!
//! A document is checked when it is made, so that whatever is in the database is a rule that opens no
//! more than its operator meant. Nothing here reads the database.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::assertion::Algorithm;

/// Longest life of an assertion unless the issuer says otherwise, seconds.
const DEFAULT_ASSERTION_LIFE: u64 = 3600;
/// 49 hours.
const MOST_ASSERTION_LIFE: u64 = 176_400;
/// Most values of `amr` or `acr` in a rule.
const MOST_FACTORS: usize = 16;
/// Shortest prefix of a network that an issuer may be in, IPv4 and IPv6: 10.0.0.0/8 and `fc00::/7`.
const SHORTEST_PREFIX: (u8, u8) = (8, 7);
/// Life of an access token unless the rule says otherwise, seconds.
const DEFAULT_TOKEN_LIFE: u64 = 3600;

/// Whose tokens are believed, and by which keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// `fdis_…`.
    #[serde(default)]
    pub id: String,
    /// For a person; `a-z`, `0-9`, `-`.
    pub name: String,
    /// Compared with `iss` byte for byte.
    pub issuer_url: String,
    /// Where the keys come from.
    pub keys: KeySource,
    /// Whether a `jti` is good for one exchange only.
    #[serde(default = "yes")]
    pub check_jti: bool,
    /// `exp − iat` at most, seconds, 1 to 176400.
    #[serde(default = "default_assertion_life")]
    pub max_jwt_lifetime_seconds: u64,
    /// Values of the header `typ` that are taken, in any case; absent is always taken.
    #[serde(default = "default_types")]
    pub accepted_types: Vec<String>,
    /// Private networks that discovery and the JWKS URL may reach.
    #[serde(default)]
    pub allowed_networks: Vec<ipnet::IpNet>,
    /// CA of the issuer's HTTPS, PEM, instead of the machine's.
    #[serde(default)]
    pub ca_cert_pem: Option<String>,
    /// What becomes of a token that has no `jti`, while `check_jti` holds.
    #[serde(default)]
    pub without_jti: WithoutJti,
    /// Values of the header `alg` that are taken; none: all that can be checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_algorithms: Vec<String>,
    /// Keys that were fetched for a smaller number serve no more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keys_number: u64,
}

/// What becomes of a token that has no `jti`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutJti {
    /// It is good for any number of exchanges: many workloads present one many times.
    #[default]
    Allow,
    /// It is good for one: its digest stands in for the `jti`.
    Once,
    /// It is good for none.
    Refuse,
}

/// Where the keys of an issuer come from. The token never decides this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeySource {
    /// `/.well-known/openid-configuration` below the base, by default the issuer's URL.
    Discovery {
        /// Another base.
        #[serde(default)]
        discovery_base: Option<String>,
    },
    /// A JWKS at this URL.
    ExplicitUrl {
        /// HTTPS.
        url: String,
    },
    /// These keys.
    Inline {
        /// JWKs (RFC 7517).
        keys: Vec<Value>,
    },
}

/// Which tokens of an issuer buy what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `fdrl_…`.
    #[serde(default)]
    pub id: String,
    /// For a person; `a-z`, `0-9`, `-`.
    pub name: String,
    /// `fdis_…`.
    pub issuer_id: String,
    /// All of it must hold.
    pub r#match: Matcher,
    /// What the access token may do.
    pub scope: Scope,
    /// The one tunnel that it may do it to; absent: all.
    #[serde(default)]
    pub tunnel_id: Option<String>,
    /// Life of the access token, seconds, 60 to 86400.
    #[serde(default = "default_token_life")]
    pub token_lifetime_seconds: u64,
}

impl Rule {
    /// What its operator may have meant more narrowly, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let subject = self.r#match.subject_prefix.as_deref().unwrap_or("*");
        let wide = match subject.strip_suffix('*') {
            Some("") => {
                "takes every subject that the issuer signs for: claims alone decide".to_owned()
            }
            Some(under) if under.ends_with([':', '/']) => format!(
                "takes everybody under {under}, who may be an organization or a namespace: name one workload, or be sure of all"
            ),
            _ => return Vec::new(),
        };
        vec![format!("match.subject_prefix: {subject} {wide}")]
    }
}

/// What a token must say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matcher {
    /// One of `aud`, exactly. A rule without it would take tokens that were meant for somebody else.
    pub audience: String,
    /// `sub` exactly, or its beginning before a final `*`.
    #[serde(default)]
    pub subject_prefix: Option<String>,
    /// Further claims that are strings, exactly.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
    /// How somebody must have signed in: each of these must be in `amr` (RFC 8176), such as `mfa`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// How well: `acr` must be one of these (`OpenID` Connect Core §2); empty: whatever it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr: Vec<String>,
}

/// What an access token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Everything that the Tunnels API offers.
    #[serde(rename = "workspace:manage_tunnels")]
    Manage,
    /// Read; no token, no change.
    #[serde(rename = "workspace:read_tunnels")]
    Read,
}

impl Scope {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manage => "workspace:manage_tunnels",
            Self::Read => "workspace:read_tunnels",
        }
    }

    /// Read back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Manage, Self::Read]
            .into_iter()
            .find(|scope| scope.as_str() == text)
    }
}

pub(super) fn check_issuer(issuer: &Issuer) -> Result<(), String> {
    check_name(&issuer.name)?;
    if issuer.issuer_url.is_empty() || issuer.issuer_url.len() > 2048 {
        return Err("issuer_url: must be 1 to 2048 characters long".to_owned());
    }
    if !(1..=MOST_ASSERTION_LIFE).contains(&issuer.max_jwt_lifetime_seconds) {
        return Err("max_jwt_lifetime_seconds: must be from 1 to 176400".to_owned());
    }
    check_networks(&issuer.allowed_networks)?;
    let unknown = |name: &&String| Algorithm::parse(name).is_none();
    if let Some(unknown) = issuer.accepted_algorithms.iter().find(unknown) {
        return Err(format!(
            "accepted_algorithms: {unknown} is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512"
        ));
    }
    crate::assertion::check_key_source(issuer)
}

/// A list of everything is no list: discovery could be sent to any address of the edge's own network.
fn check_networks(networks: &[ipnet::IpNet]) -> Result<(), String> {
    let shortest = |network: &ipnet::IpNet| match network {
        ipnet::IpNet::V4(_) => SHORTEST_PREFIX.0,
        ipnet::IpNet::V6(_) => SHORTEST_PREFIX.1,
    };
    let wide = |network: &ipnet::IpNet| network.prefix_len() < shortest(network);
    match networks.iter().enumerate().find(|(_, one)| wide(one)) {
        None => Ok(()),
        Some((index, network)) => Err(format!(
            "allowed_networks[{index}]: {network} is wider than /{}: name the issuer's own network (--allow-network), such as 10.20.0.0/16",
            shortest(network)
        )),
    }
}

pub(super) fn check_rule(rule: &Rule) -> Result<(), String> {
    check_name(&rule.name)?;
    let matcher = &rule.r#match;
    if matcher.audience.is_empty() {
        return Err("match.audience: must not be empty".to_owned());
    }
    let subject = matcher.subject_prefix.as_deref();
    let anybody = matches!(subject, None | Some("" | "*"));
    if subject == Some("") {
        return Err("match.subject_prefix: must not be empty".to_owned());
    }
    if anybody && matcher.claims.is_empty() {
        let text = "match: a rule that takes every subject of its issuer needs claims";
        return Err(text.to_owned());
    }
    if subject.is_some_and(|s| s.strip_suffix('*').unwrap_or(s).contains('*')) {
        return Err("match.subject_prefix: a * stands at the end only".to_owned());
    }
    for (name, list) in [("amr", &matcher.amr), ("acr", &matcher.acr)] {
        if list.len() > MOST_FACTORS || list.iter().any(String::is_empty) {
            return Err(format!(
                "match.{name}: must be at most {MOST_FACTORS} texts that are not empty"
            ));
        }
    }
    if !(60..=86_400).contains(&rule.token_lifetime_seconds) {
        return Err("token_lifetime_seconds: must be from 60 to 86400".to_owned());
    }
    Ok(())
}

/// Issuers that sign for everybody in the world: what starts a subject of one of their tenants, and the
/// claims that name one.
const SHARED: [(&str, &str, &[&str]); 3] = [
    (
        "https://token.actions.githubusercontent.com",
        "repo:",
        &[
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "enterprise",
            "enterprise_id",
        ],
    ),
    (
        "https://gitlab.com",
        "project_path:",
        &[
            "namespace_id",
            "namespace_path",
            "project_id",
            "project_path",
        ],
    ),
    ("https://accounts.google.com", "", &["email", "hd"]),
];

/// Whether a rule for an issuer that many share says whose tokens it means.
pub(super) fn check_pinned(rule: &Rule, issuer: &Issuer) -> Result<(), String> {
    let Some((url, start, claims)) = SHARED
        .iter()
        .find(|(url, ..)| issuer.issuer_url.trim_end_matches('/') == *url)
    else {
        return Ok(());
    };
    let matcher = &rule.r#match;
    let named = claims
        .iter()
        .any(|claim| matcher.claims.contains_key(*claim));
    let subject = matcher.subject_prefix.as_deref().unwrap_or_default();
    let pinned = match subject.strip_suffix('*') {
        // As far as the owner's end: `repo:owner*` is somebody else's `repo:owner2/…`, too.
        Some(prefix) => prefix
            .strip_prefix(start)
            .is_some_and(|rest| !start.is_empty() && rest.contains('/')),
        None => !subject.is_empty(),
    };
    if named || pinned {
        return Ok(());
    }
    Err(format!(
        "match: {url} signs for everybody: name a tenant by a claim ({}) or by a subject as far as its owner",
        claims.join(", ")
    ))
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if (1..=255).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err("name: must be 1 to 255 of a-z, 0-9 and -".to_owned())
    }
}

fn yes() -> bool {
    true
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn default_assertion_life() -> u64 {
    DEFAULT_ASSERTION_LIFE
}

/// Not `at+jwt` or `logout+jwt` (RFC 8725 §3.11): an issuer that has nothing else must say so.
fn default_types() -> Vec<String> {
    vec!["JWT".to_owned(), "JOSE".to_owned()]
}

fn default_token_life() -> u64 {
    DEFAULT_TOKEN_LIFE
}

#[cfg(test)]
mod tests;
