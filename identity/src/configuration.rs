//! Which of the ways in is taken: the configuration file's, or one of those that the `ANTHROPIC_*` variables name.
//!
//! | First match wins | Way |
//! |---|---|
//! | 1 | `source` in the configuration file; variables fill what the file does not say, and replace nothing of it |
//! | 2 | `API_TOKEN`, else `ANTHROPIC_AUTH_TOKEN`: a ready access token, no exchange |
//! | 3 | `ANTHROPIC_PROFILE`: refused, because profiles are not read |
//! | 4 | `ANTHROPIC_IDENTITY_TOKEN_FILE`, else `ANTHROPIC_IDENTITY_TOKEN`, with `ANTHROPIC_FEDERATION_RULE_ID` |
//!
//! A variable that is set and empty is refused wherever it is looked at: the published SDKs disagree on what it means, and
//! whoever wrote it meant something. `ANTHROPIC_API_KEY` is not looked at, since no API key may manage tunnels.

use std::path::PathBuf;

use thiserror::Error;

use crate::exchange::DEFAULT_URL;
use crate::{Environment, Expectations, Federation, Secret, Source, check_url};

/// What the configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Where tokens are bought.
    pub url: Option<String>,
    /// PEM certificates that vouch for servers, besides the system's.
    pub ca_file: Option<PathBuf>,
    /// `fdrl_…`.
    pub rule: Option<String>,
    /// A UUID.
    pub organization: Option<String>,
    /// `svac_…`.
    pub service_account: Option<String>,
    /// `wrkspc_…` or `default`.
    pub workspace: Option<String>,
    /// Where the identity token comes from.
    pub source: Option<Source>,
    /// The issuer does not look for a `jti` that comes again (`check_jti: false`).
    pub reusable: bool,
    /// What the rule wants.
    pub expect: Expectations,
}

/// What is used.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The way in.
    pub credential: Credential,
    /// Who said so, for the log: the configuration or a variable's name.
    pub chosen: &'static str,
    /// Where tokens are bought.
    pub url: String,
    /// As in [`Given`].
    pub ca_file: Option<PathBuf>,
    /// As in [`Given`].
    pub expect: Expectations,
}

/// A way in.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A ready access token.
    Ready(Secret),
    /// An identity token, and what it buys an access token with.
    Federated {
        /// Where the identity token comes from.
        source: Box<Source>,
        /// Each of its tokens may be used once.
        single_use: bool,
        /// Which rule. `None`: nothing can be bought, and the identity token can be looked at.
        federation: Option<Federation>,
    },
}

/// Why there is no way in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// A variable that is set and says nothing.
    #[error("the variable {0} is empty")]
    Empty(&'static str),
    /// `ANTHROPIC_PROFILE`.
    #[error("ANTHROPIC_PROFILE is set, and profiles are not read")]
    Profile,
    /// Nobody says where an identity comes from.
    #[error("no identity is configured")]
    Nothing,
    /// A value of the wrong form.
    #[error("{what} is {value:?}: {why}")]
    Form {
        /// Key or variable.
        what: &'static str,
        /// What it is; never a secret.
        value: String,
        /// What it has to be.
        why: &'static str,
    },
    /// Anthropic's exchange needs it.
    #[error("no organization is named, and {DEFAULT_URL} wants one")]
    Organization,
    /// The address of the exchange.
    #[error("the URL of the token exchange cannot be used: {0}")]
    Url(&'static str),
}

impl Given {
    /// Puts what the file says and what the variables say together.
    ///
    /// # Errors
    ///
    /// [`ConfigurationError`].
    pub fn with(&self, environment: &Environment) -> Result<Configuration, ConfigurationError> {
        let (chosen, credential) = match &self.source {
            Some(source) => ("the configuration", Some(source.clone())),
            None => (environment_way(environment)?, None),
        };
        let url = or_variable(self.url.as_deref(), environment, "ANTHROPIC_BASE_URL")?;
        let url = url.unwrap_or_else(|| DEFAULT_URL.to_owned());
        check_url(&url).map_err(ConfigurationError::Url)?;
        let credential = match (chosen, credential) {
            (name @ ("API_TOKEN" | "ANTHROPIC_AUTH_TOKEN"), _) => {
                let token = variable(environment, name)?.ok_or(ConfigurationError::Nothing)?;
                Credential::Ready(Secret::new(token.expose().trim().to_owned()))
            }
            (name, source) => Credential::Federated {
                source: Box::new(match source {
                    Some(source) => source,
                    None => environment_source(name, environment)?,
                }),
                single_use: !self.reusable,
                federation: self.federation(&url, environment)?,
            },
        };
        Ok(Configuration {
            credential,
            chosen,
            url,
            ca_file: self.ca_file.clone(),
            expect: self.expect.clone(),
        })
    }

    fn federation(
        &self,
        url: &str,
        environment: &Environment,
    ) -> Result<Option<Federation>, ConfigurationError> {
        let read = |given: Option<&str>, name, begins: &[&str], why| {
            let value = or_variable(given, environment, name)?;
            match value {
                Some(value) if !begins.iter().any(|text| value.starts_with(text)) => {
                    Err(ConfigurationError::Form {
                        what: name,
                        value,
                        why,
                    })
                }
                value => Ok(value),
            }
        };
        let rule = read(
            self.rule.as_deref(),
            "ANTHROPIC_FEDERATION_RULE_ID",
            &["fdrl_"],
            "write the rule's id, fdrl_…",
        )?;
        let organization = or_variable(
            self.organization.as_deref(),
            environment,
            "ANTHROPIC_ORGANIZATION_ID",
        )?;
        let service_account = read(
            self.service_account.as_deref(),
            "ANTHROPIC_SERVICE_ACCOUNT_ID",
            &["svac_"],
            "write the service account's id, svac_…",
        )?;
        let workspace = read(
            self.workspace.as_deref(),
            "ANTHROPIC_WORKSPACE_ID",
            &["wrkspc_", "default"],
            "write the workspace's id, wrkspc_…, or default",
        )?;
        let Some(rule) = rule else { return Ok(None) };
        if organization.is_none() && url == DEFAULT_URL {
            return Err(ConfigurationError::Organization);
        }
        Ok(Some(Federation {
            url: url.to_owned(),
            rule,
            organization,
            service_account,
            workspace,
        }))
    }
}

/// Which variable names the way in.
fn environment_way(environment: &Environment) -> Result<&'static str, ConfigurationError> {
    for name in [
        "API_TOKEN",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_PROFILE",
        "ANTHROPIC_IDENTITY_TOKEN_FILE",
        "ANTHROPIC_IDENTITY_TOKEN",
    ] {
        if variable(environment, name)?.is_some() {
            return match name {
                "ANTHROPIC_PROFILE" => Err(ConfigurationError::Profile),
                name => Ok(name),
            };
        }
    }
    Err(ConfigurationError::Nothing)
}

fn environment_source(
    name: &'static str,
    environment: &Environment,
) -> Result<Source, ConfigurationError> {
    if name == "ANTHROPIC_IDENTITY_TOKEN" {
        return Ok(Source::Environment(name.to_owned()));
    }
    let path = variable(environment, name)?.ok_or(ConfigurationError::Nothing)?;
    Ok(Source::File(PathBuf::from(path.expose())))
}

/// A variable that is not empty.
fn variable(
    environment: &Environment,
    name: &'static str,
) -> Result<Option<Secret>, ConfigurationError> {
    match environment.text(name) {
        Some(value) if value.expose().trim().is_empty() => Err(ConfigurationError::Empty(name)),
        value => Ok(value),
    }
}

fn or_variable(
    given: Option<&str>,
    environment: &Environment,
    name: &'static str,
) -> Result<Option<String>, ConfigurationError> {
    if let Some(given) = given {
        return Ok(Some(given.to_owned()));
    }
    let value = variable(environment, name)?;
    Ok(value.map(|value| value.expose().trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: (&str, &str) = ("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_1");
    const ORGANIZATION: (&str, &str) = ("ANTHROPIC_ORGANIZATION_ID", "an-organization");

    fn read(variables: &[(&str, &str)]) -> Result<Configuration, ConfigurationError> {
        Given::default().with(&Environment::of(variables))
    }

    #[test]
    fn the_first_way_in_that_is_named_is_taken() {
        let all = [
            ("API_TOKEN", "ready"),
            ("ANTHROPIC_AUTH_TOKEN", "other"),
            ("ANTHROPIC_IDENTITY_TOKEN_FILE", "/token"),
            ("ANTHROPIC_IDENTITY_TOKEN", "eyJ"),
        ];
        for (from, chosen) in [
            (0, "API_TOKEN"),
            (1, "ANTHROPIC_AUTH_TOKEN"),
            (2, "ANTHROPIC_IDENTITY_TOKEN_FILE"),
            (3, "ANTHROPIC_IDENTITY_TOKEN"),
        ] {
            let configuration = read(&[&all[from..], &[RULE, ORGANIZATION]].concat()).unwrap();
            assert_eq!(configuration.chosen, chosen);
            match configuration.credential {
                Credential::Ready(token) => assert_eq!(token.expose(), all[from].1),
                Credential::Federated {
                    source, federation, ..
                } => {
                    let wanted = match from {
                        2 => Source::File(PathBuf::from("/token")),
                        _ => Source::Environment("ANTHROPIC_IDENTITY_TOKEN".to_owned()),
                    };
                    assert_eq!(*source, wanted);
                    assert_eq!(federation.unwrap().rule, "fdrl_1");
                }
            }
        }
        assert_eq!(read(&[RULE]).unwrap_err(), ConfigurationError::Nothing);
    }

    #[test]
    fn variables_fill_what_the_file_leaves_open_and_replace_nothing() {
        let given = Given {
            url: Some("https://api.edge.example".to_owned()),
            source: Some(Source::File(PathBuf::from("/ours"))),
            rule: Some("fdrl_ours".to_owned()),
            ..Given::default()
        };
        let environment = Environment::of(&[
            RULE,
            ORGANIZATION,
            ("API_TOKEN", "ready"),
            ("ANTHROPIC_BASE_URL", "https://other.example"),
        ]);
        let configuration = given.with(&environment).unwrap();
        assert_eq!(configuration.url, "https://api.edge.example");
        let Credential::Federated {
            source, federation, ..
        } = configuration.credential
        else {
            panic!("the file's source is taken");
        };
        assert_eq!(*source, Source::File(PathBuf::from("/ours")));
        let federation = federation.unwrap();
        assert_eq!(federation.rule, "fdrl_ours");
        assert_eq!(federation.organization.as_deref(), Some("an-organization"));
    }

    #[test]
    fn a_variable_that_is_empty_is_refused_by_its_name() {
        for name in [
            "API_TOKEN",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_PROFILE",
            "ANTHROPIC_IDENTITY_TOKEN_FILE",
        ] {
            let variables = [(name, ""), ("ANTHROPIC_IDENTITY_TOKEN", "x"), RULE];
            assert_eq!(
                read(&variables).unwrap_err(),
                ConfigurationError::Empty(name)
            );
        }
        for name in ["ANTHROPIC_WORKSPACE_ID", "ANTHROPIC_BASE_URL", RULE.0] {
            let variables = [("ANTHROPIC_IDENTITY_TOKEN", "x"), (name, " ")];
            assert_eq!(
                read(&variables).unwrap_err(),
                ConfigurationError::Empty(name)
            );
        }
    }

    #[test]
    fn what_would_be_refused_far_away_is_refused_here() {
        let token = ("ANTHROPIC_IDENTITY_TOKEN", "x");
        let profile = read(&[("ANTHROPIC_PROFILE", "p"), token]).unwrap_err();
        assert_eq!(profile, ConfigurationError::Profile);
        assert_eq!(
            read(&[token, RULE]).unwrap_err(),
            ConfigurationError::Organization
        );
        let plain = read(&[token, ("ANTHROPIC_BASE_URL", "http://api.example.com")]);
        assert!(matches!(plain.unwrap_err(), ConfigurationError::Url(_)));
        let form = read(&[token, (RULE.0, "rule_1")]).unwrap_err();
        assert!(form.to_string().contains("\"rule_1\""), "{form}");
        let nothing_to_buy_with = read(&[token]).unwrap();
        assert!(matches!(
            nothing_to_buy_with.credential,
            Credential::Federated {
                federation: None,
                ..
            }
        ));
    }
}
