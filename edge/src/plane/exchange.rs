//! `POST /v1/oauth/token`: an identity token buys an access token (RFC 7523 and RFC 8693).
//!
//! What is malformed is named. Everything else that is wrong is one answer, the same for an unknown
//! rule and a wrong signature; the reason is in the audit log under the answer's `request-id`.

use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderMap;

use super::answer::{Failed, Good};
use super::{Plane, body};
use crate::assertion::{LONGEST, Refusal, Verified, mark, names, verify};
use crate::state::{By, DatabaseError, Entry, Grant, Identifier, Outcome, Rule};

/// Shortest life of an access token, seconds.
const SHORTEST_LIFE: u64 = 60;

/// Either what the database did, or why not.
enum Denied {
    Refused(Refusal),
    NoRule,
    Organization(String),
    Database(DatabaseError),
}

impl Plane {
    pub(super) async fn exchange(
        &self,
        by: &By,
        source: IpAddr,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Good, Failed> {
        let form = body::is_form(headers);
        let asked: Result<api::Exchange, Failed> = if form {
            body::form(body)
        } else {
            body::json(body, headers)
        };
        let result = match asked {
            Ok(asked) => self.exchange_asked(by, source, &asked).await,
            Err(failed) => Err(failed),
        };
        result.map_err(|failed| if form { failed.oauth() } else { failed })
    }

    async fn exchange_asked(
        &self,
        by: &By,
        source: IpAddr,
        asked: &api::Exchange,
    ) -> Result<Good, Failed> {
        let (assertion, issued) = presented(asked)?;
        let rule = named_rule(asked)?;
        self.limits.rule(rule, source, self.settings.clock.boot())?;
        match self.buy(by, asked, assertion, rule).await {
            Ok((token, expires_in, scope)) => {
                let now = self.settings.clock.boot();
                self.limits.bought(rule, source, now);
                Ok(Good::json(&api::AccessToken {
                    access_token: token.expose().to_owned(),
                    token_type: "Bearer".to_owned(),
                    expires_in,
                    scope: scope.to_owned(),
                    issued_token_type: issued.map(str::to_owned),
                }))
            }
            Err(Denied::Database(error)) => Err(error.into()),
            Err(denied) => {
                let reason = match names(assertion) {
                    Some(names) => format!("{} ({names})", denied.reason()),
                    None => denied.reason(),
                };
                self.write_down(by, rule, &reason).await;
                Err(Failed::unauthenticated())
            }
        }
    }

    async fn buy(
        &self,
        by: &By,
        asked: &api::Exchange,
        assertion: &str,
        rule: &str,
    ) -> Result<(crate::state::Value, u64, &'static str), Denied> {
        if let (Some(ours), Some(theirs)) = (&self.settings.organization, &asked.organization_id)
            && ours != theirs
        {
            return Err(Denied::Organization(theirs.chars().take(64).collect()));
        }
        let found = self.state().rule(rule).await.map_err(Denied::Database)?;
        let (rule, issuer) = found.ok_or(Denied::NoRule)?;
        let verified = verify(assertion, &rule, &issuer, &self.keys, by.now)
            .await
            .map_err(Denied::Refused)?;
        let lives = life(&rule, &verified, by.now);
        let by = By {
            actor: format!("rule:{}:{}", rule.id, verified.subject),
            ..by.clone()
        };
        let grant = Grant {
            rule: rule.id,
            subject: verified.subject.clone(),
            scope: rule.scope,
            tunnel: rule.tunnel_id,
            expires_at: by.now + lives,
        };
        let mark = mark(&issuer, &verified, assertion);
        let minted = self
            .state()
            .mint(&by, &grant, mark.as_ref(), names(assertion).as_deref())
            .await;
        match minted.map_err(Denied::Database)? {
            Some(value) => Ok((value, lives, grant.scope.as_str())),
            None => Err(Denied::Refused(Refusal::Reused)),
        }
    }

    /// A flood of refusals is counted in the log, and does not fill the database.
    async fn write_down(&self, by: &By, rule: &str, reason: &str) {
        tracing::info!(
            request = by.request_id,
            actor = by.actor,
            reason,
            "a token exchange was refused"
        );
        if !self.limits.audit(self.settings.clock.boot()) {
            return;
        }
        let entry = Entry {
            action: "tunnel_access_token_refused",
            target: Some(rule),
            reason: Some(reason),
            tunnel: None,
        };
        if let Err(error) = self.state().note(by, entry, Outcome::Refused).await {
            tracing::error!(%error, "a refusal could not be written into the audit log");
        }
    }
}

impl Denied {
    fn reason(&self) -> String {
        match self {
            Self::NoRule => "no such rule, or it or its issuer is archived".to_owned(),
            Self::Organization(asked) => {
                format!("organization_id is {asked:?}, this edge's is another")
            }
            Self::Database(error) => error.to_string(),
            Self::Refused(refusal) => process::Chain(refusal).to_string(),
        }
    }
}

/// The JWT, and what RFC 8693 has the answer say of it.
fn presented(asked: &api::Exchange) -> Result<(&str, Option<&'static str>), Failed> {
    const TYPES: [&str; 2] = [
        "urn:ietf:params:oauth:token-type:jwt",
        "urn:ietf:params:oauth:token-type:id_token",
    ];
    let (name, token, issued) = match asked.grant_type.as_str() {
        api::grant::JWT_BEARER => ("assertion", asked.assertion.as_deref(), None),
        api::grant::TOKEN_EXCHANGE => {
            let kind = asked.subject_token_type.as_deref();
            if !kind.is_some_and(|kind| TYPES.contains(&kind)) {
                return Err(Failed::invalid(
                    "subject_token_type: must be urn:ietf:params:oauth:token-type:jwt or …:id_token",
                ));
            }
            let issued = "urn:ietf:params:oauth:token-type:access_token";
            (
                "subject_token",
                asked.subject_token.as_deref(),
                Some(issued),
            )
        }
        "" => return Err(Failed::invalid("grant_type: required")),
        _ => {
            return Err(Failed::invalid(
                "grant_type: must be urn:ietf:params:oauth:grant-type:jwt-bearer or …:token-exchange",
            ));
        }
    };
    match token {
        None | Some("") => Err(Failed::invalid(format!("{name}: required"))),
        Some(token) if token.len() > LONGEST => {
            Err(Failed::invalid(format!("{name}: may have {LONGEST} bytes")))
        }
        Some(token) => Ok((token, issued)),
    }
}

fn named_rule(asked: &api::Exchange) -> Result<&str, Failed> {
    let rule = asked.federation_rule_id.as_deref().unwrap_or_default();
    if rule.is_empty() {
        return Err(Failed::invalid("federation_rule_id: required"));
    }
    if !Identifier::Rule.fits(rule) {
        return Err(Failed::invalid("federation_rule_id: must look like fdrl_…"));
    }
    let shaped =
        |value: &Option<String>, fits: &dyn Fn(&str) -> bool| value.as_deref().is_none_or(fits);
    if !shaped(&asked.workspace_id, &|text| {
        text == "default" || text.starts_with("wrkspc_")
    }) {
        return Err(Failed::invalid(
            "workspace_id: must be default or look like wrkspc_…",
        ));
    }
    if !shaped(&asked.service_account_id, &|text| text.starts_with("svac_")) {
        return Err(Failed::invalid("service_account_id: must look like svac_…"));
    }
    Ok(rule)
}

/// What the rule gives, at most twice what is left of the assertion, at least a minute.
fn life(rule: &Rule, verified: &Verified, now: u64) -> u64 {
    let left = verified.expires_at.saturating_sub(now);
    rule.token_lifetime_seconds
        .min(left.saturating_mul(2))
        .max(SHORTEST_LIFE)
}
