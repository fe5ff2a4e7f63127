//! `keyward-edge issuer` and `keyward-edge rule`.

use std::path::PathBuf;

use clap::Subcommand;
use process::{Exit, Failure};
use serde_json::{Value, json};

use super::open::Session;
use super::output::{failed, print, read};
use crate::state::{Issuer, KeySource, Matcher, Rule, Scope, WithoutJti};

#[derive(Debug, Subcommand)]
pub(super) enum IssuerCommand {
    /// Believe an issuer; its keys come from its discovery document unless told otherwise
    Add(Box<AddIssuer>),
    /// List the issuers that are believed
    List,
    /// Fetch an issuer's keys anew: those that every edge has of it serve no more
    Refresh {
        /// `fdis_…`
        issuer: String,
    },
    /// Believe an issuer no longer: its rules and what was bought by them end with it
    Archive {
        /// `fdis_…`
        issuer: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddIssuer {
    /// For people: `a-z`, `0-9`, `-`
    #[arg(long)]
    name: String,
    /// What `iss` must be, byte for byte
    #[arg(long)]
    url: String,
    /// Discover below this URL instead
    #[arg(long, value_name = "URL", conflicts_with_all = ["jwks_url", "jwks_file"])]
    discovery_base: Option<String>,
    /// The key set is at this URL
    #[arg(long, value_name = "URL", conflicts_with = "jwks_file")]
    jwks_url: Option<String>,
    /// The key set is this file, and is not fetched
    #[arg(long, value_name = "PATH")]
    jwks_file: Option<PathBuf>,
    /// Let a `jti` be used more than once
    #[arg(long)]
    reuse_jti: bool,
    /// What becomes of tokens without `jti`: allow, once or refuse
    #[arg(long, value_name = "POLICY", default_value = "allow", value_parser = without_jti)]
    without_jti: WithoutJti,
    /// Longest life of an assertion, seconds, 1 to 176400
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    max_jwt_lifetime: u64,
    /// A `typ` that is taken, beside none; may be repeated [default: JWT, JOSE]
    #[arg(long, value_name = "TYP")]
    accept_type: Vec<String>,
    /// An `alg` that is taken, such as ES256; may be repeated [default: RS, PS and ES with 256, 384, 512]
    #[arg(long, value_name = "ALG")]
    accept_algorithm: Vec<String>,
    /// A private network that the issuer may be in; may be repeated
    #[arg(long, value_name = "CIDR")]
    allow_network: Vec<ipnet::IpNet>,
    /// CA certificates of the issuer's HTTPS, PEM [default: those of this machine]
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum RuleCommand {
    /// Let tokens that match buy access
    Add(Box<AddRule>),
    /// List the rules in force
    List,
    /// End a rule and what was bought by it
    Archive {
        /// `fdrl_…`
        rule: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddRule {
    /// For people: `a-z`, `0-9`, `-`
    #[arg(long)]
    name: String,
    /// `fdis_…`
    #[arg(long)]
    issuer: String,
    /// What `aud` must have
    #[arg(long)]
    audience: String,
    /// What `sub` must be, or begin with before a final `*`
    #[arg(long)]
    subject: Option<String>,
    /// A claim that must be this text; may be repeated, all have to fit
    #[arg(long, value_name = "NAME=TEXT", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// A way of signing in that `amr` must list, such as mfa; may be repeated, all have to be there
    #[arg(long, value_name = "METHOD")]
    amr: Vec<String>,
    /// A class of sign-in that `acr` may be; may be repeated, one has to fit
    #[arg(long, value_name = "CLASS")]
    acr: Vec<String>,
    /// What the access token may do: `workspace:manage_tunnels`, `workspace:read_tunnels`
    #[arg(long, default_value = Scope::Manage.as_str(), value_parser = scope)]
    scope: Scope,
    /// The one tunnel that it may do it to
    #[arg(long, value_name = "TUNNEL")]
    tunnel: Option<String>,
    /// Life of the access token, seconds, 60 to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    token_lifetime: u64,
}

pub(super) async fn issuer(command: IssuerCommand, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    match command {
        IssuerCommand::Add(add) => {
            let added = state.add_issuer(by, &add.issuer()?).await;
            print(&added.map_err(|error| failed(&error))?)
        }
        IssuerCommand::List => {
            let data = state.issuers().await;
            let data = data.map_err(|error| failed(&error.into()))?;
            print(&json!({ "data": data }))
        }
        IssuerCommand::Refresh { issuer } => {
            let refreshed = state.refresh_issuer(by, &issuer).await;
            refreshed.map_err(|error| failed(&error))?;
            print(&json!({ "id": issuer, "refreshed": true }))
        }
        IssuerCommand::Archive { issuer } => {
            let archived = state.archive_issuer(by, &issuer).await;
            archived.map_err(|error| failed(&error))?;
            print(&json!({ "id": issuer, "archived": true }))
        }
    }
}

pub(super) async fn rule(command: RuleCommand, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    match command {
        RuleCommand::Add(add) => {
            let added = state.add_rule(by, &add.rule()).await;
            let added = added.map_err(|error| failed(&error))?;
            let mut object = json!(added);
            let warnings = added.warnings();
            if let Some(object) = object.as_object_mut().filter(|_| !warnings.is_empty()) {
                object.insert("warnings".to_owned(), json!(warnings));
            }
            print(&object)
        }
        RuleCommand::List => {
            let rules = state.rules().await;
            let rules = rules.map_err(|error| failed(&error.into()))?;
            let data: Vec<Rule> = rules.into_iter().map(|(rule, _)| rule).collect();
            print(&json!({ "data": data }))
        }
        RuleCommand::Archive { rule } => {
            let archived = state.archive_rule(by, &rule).await;
            archived.map_err(|error| failed(&error))?;
            print(&json!({ "id": rule, "archived": true }))
        }
    }
}

impl AddIssuer {
    fn issuer(self) -> Result<Issuer, Failure> {
        let keys = match (self.jwks_url, &self.jwks_file) {
            (Some(url), _) => KeySource::ExplicitUrl { url },
            (None, Some(file)) => KeySource::Inline { keys: keys(file)? },
            (None, None) => KeySource::Discovery {
                discovery_base: self.discovery_base,
            },
        };
        let accepted_types = if self.accept_type.is_empty() {
            vec!["JWT".to_owned(), "JOSE".to_owned()]
        } else {
            self.accept_type
        };
        Ok(Issuer {
            id: String::new(),
            name: self.name,
            issuer_url: self.url,
            keys,
            check_jti: !self.reuse_jti,
            without_jti: self.without_jti,
            max_jwt_lifetime_seconds: self.max_jwt_lifetime,
            accepted_types,
            accepted_algorithms: self.accept_algorithm,
            keys_number: 0,
            allowed_networks: self.allow_network,
            ca_cert_pem: self.ca_file.as_deref().map(read).transpose()?,
        })
    }
}

impl AddRule {
    fn rule(self) -> Rule {
        Rule {
            id: String::new(),
            name: self.name,
            issuer_id: self.issuer,
            r#match: Matcher {
                audience: self.audience,
                subject_prefix: self.subject,
                claims: self.claim.into_iter().collect(),
                amr: self.amr,
                acr: self.acr,
            },
            scope: self.scope,
            tunnel_id: self.tunnel,
            token_lifetime_seconds: self.token_lifetime,
        }
    }
}

/// A JWKS, or only the list in it.
fn keys(file: &std::path::Path) -> Result<Vec<Value>, Failure> {
    let wrong = || Failure::new(Exit::Usage, format!("{} is no key set", file.display()));
    let set: Value =
        serde_json::from_str(&read(file)?).map_err(|error| wrong().caused_by(&error))?;
    let list = set.get("keys").unwrap_or(&set).as_array();
    list.cloned().ok_or_else(wrong)
}

fn claim(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=TEXT")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn scope(text: &str) -> Result<Scope, &'static str> {
    Scope::parse(text).ok_or("must be workspace:manage_tunnels or workspace:read_tunnels")
}

fn without_jti(text: &str) -> Result<WithoutJti, &'static str> {
    let read = serde_json::from_value(Value::from(text));
    read.map_err(|_| "must be allow, once or refuse")
}
