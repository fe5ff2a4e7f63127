//! Issuers of identity tokens, and the rules by which their tokens buy access.
//!
//! Both are made by the operator alone. A document is checked when it is made, so that whatever is in
//! the database is a rule that means something.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{By, ChangeError, DatabaseError, Entry, Identifier, State, random_identifier, signed};

/// Longest life of an assertion unless the issuer says otherwise, seconds.
const DEFAULT_ASSERTION_LIFE: u64 = 3600;
/// 49 hours.
const MOST_ASSERTION_LIFE: u64 = 176_400;
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

impl State {
    /// Believes an issuer from now on. Gives it its id.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] for a document that cannot work, [`ChangeError::Conflict`] for a name
    /// that is taken.
    pub async fn add_issuer(&self, by: &By, issuer: &Issuer) -> Result<Issuer, ChangeError> {
        let mut issuer = issuer.clone();
        check_issuer(&issuer).map_err(ChangeError::Invalid)?;
        issuer.id = random_identifier(Identifier::Issuer);
        let mut change = self.change(by).await?;
        change.free_name("issuer", &issuer.name).await?;
        sqlx::query(
            "INSERT INTO issuer (id, position, name, document, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&issuer.id)
        .bind(change.number)
        .bind(&issuer.name)
        .bind(document(&issuer))
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        let entry = made("federation_issuer_created", &issuer.id);
        change.commit(entry).await?;
        Ok(issuer)
    }

    /// Lets tokens that match buy access from now on. Gives the rule its id.
    ///
    /// # Errors
    ///
    /// As [`add_issuer`](Self::add_issuer), and [`ChangeError::NotFound`] for its issuer or tunnel.
    pub async fn add_rule(&self, by: &By, rule: &Rule) -> Result<Rule, ChangeError> {
        let mut rule = rule.clone();
        check_rule(&rule).map_err(ChangeError::Invalid)?;
        rule.id = random_identifier(Identifier::Rule);
        let mut change = self.change(by).await?;
        change.free_name("rule", &rule.name).await?;
        let issuer: Option<(String,)> =
            sqlx::query_as("SELECT id FROM issuer WHERE id = $1 AND archived_at IS NULL")
                .bind(&rule.issuer_id)
                .fetch_optional(&mut *change.transaction)
                .await?;
        issuer.ok_or(ChangeError::NotFound("issuer"))?;
        if let Some(tunnel) = &rule.tunnel_id {
            change.usable_tunnel(tunnel).await?;
        }
        sqlx::query(
            "INSERT INTO rule (id, position, name, issuer, document, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&rule.id)
        .bind(change.number)
        .bind(&rule.name)
        .bind(&rule.issuer_id)
        .bind(document(&rule))
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        change
            .commit(made("federation_rule_created", &rule.id))
            .await?;
        Ok(rule)
    }

    /// Ends a rule and every access token that was bought by it.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_rule(&self, by: &By, id: &str) -> Result<(), ChangeError> {
        self.archive_federation(by, "rule", id).await
    }

    /// Ends an issuer, its rules, and every access token that was bought by them.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_issuer(&self, by: &By, id: &str) -> Result<(), ChangeError> {
        self.archive_federation(by, "issuer", id).await
    }

    async fn archive_federation(
        &self,
        by: &By,
        table: &'static str,
        id: &str,
    ) -> Result<(), ChangeError> {
        let mut change = self.change(by).await?;
        let done = sqlx::query(&format!(
            "UPDATE {table} SET archived_at = $1 WHERE id = $2 AND archived_at IS NULL"
        ))
        .bind(signed(by.now))
        .bind(id)
        .execute(&mut *change.transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(ChangeError::NotFound(table));
        }
        if table == "issuer" {
            let rules =
                "UPDATE rule SET archived_at = $1 WHERE issuer = $2 AND archived_at IS NULL";
            change.stamp(rules, id).await?;
        }
        let action = format!("federation_{table}_archived");
        change.commit(made(&action, id)).await?;
        Ok(())
    }

    /// A rule that is in force, with its issuer.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn rule(&self, id: &str) -> Result<Option<(Rule, Issuer)>, DatabaseError> {
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT r.document, i.document FROM rule r JOIN issuer i ON i.id = r.issuer
             WHERE r.id = $1 AND r.archived_at IS NULL AND i.archived_at IS NULL",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        // A document that this release cannot read is no rule: it opens nothing.
        Ok(row.and_then(|(rule, issuer)| {
            Some((
                serde_json::from_str(&rule).ok()?,
                serde_json::from_str(&issuer).ok()?,
            ))
        }))
    }

    /// Rules in force, with their issuers, oldest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn rules(&self) -> Result<Vec<(Rule, Issuer)>, DatabaseError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT r.id FROM rule r JOIN issuer i ON i.id = r.issuer
             WHERE r.archived_at IS NULL AND i.archived_at IS NULL ORDER BY r.position",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut rules = Vec::with_capacity(rows.len());
        for (id,) in rows {
            rules.extend(self.rule(&id).await?);
        }
        Ok(rules)
    }

    /// Issuers in force, oldest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn issuers(&self) -> Result<Vec<Issuer>, DatabaseError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT document FROM issuer WHERE archived_at IS NULL ORDER BY position",
        )
        .fetch_all(&self.pool)
        .await?;
        let read = |(document,): (String,)| serde_json::from_str(&document).ok();
        Ok(rows.into_iter().filter_map(read).collect())
    }
}

impl super::Change<'_> {
    async fn free_name(&mut self, table: &'static str, name: &str) -> Result<(), ChangeError> {
        let taken: Option<(String,)> =
            sqlx::query_as(&format!("SELECT id FROM {table} WHERE name = $1"))
                .bind(name)
                .fetch_optional(&mut *self.transaction)
                .await?;
        match taken {
            None => Ok(()),
            Some((id,)) => Err(ChangeError::Conflict(format!(
                "name: is taken by {id}, which may be archived"
            ))),
        }
    }
}

fn check_issuer(issuer: &Issuer) -> Result<(), String> {
    check_name(&issuer.name)?;
    if issuer.issuer_url.is_empty() || issuer.issuer_url.len() > 2048 {
        return Err("issuer_url: must be 1 to 2048 characters long".to_owned());
    }
    if !(1..=MOST_ASSERTION_LIFE).contains(&issuer.max_jwt_lifetime_seconds) {
        return Err("max_jwt_lifetime_seconds: must be from 1 to 176400".to_owned());
    }
    crate::assertion::check_key_source(issuer)
}

fn check_rule(rule: &Rule) -> Result<(), String> {
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
    if !(60..=86_400).contains(&rule.token_lifetime_seconds) {
        return Err("token_lifetime_seconds: must be from 60 to 86400".to_owned());
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if (1..=255).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err("name: must be 1 to 255 of a-z, 0-9 and -".to_owned())
    }
}

fn document(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("plain data has a JSON form")
}

fn made<'a>(action: &'a str, id: &'a str) -> Entry<'a> {
    Entry {
        action,
        target: Some(id),
        ..Entry::default()
    }
}

fn yes() -> bool {
    true
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
