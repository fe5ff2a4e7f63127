//! From what the configuration and the variables say to a client of the Tunnels API.

use std::sync::Arc;

use identity::{
    Configuration, Credential, Environment, Fetcher, Given, Http, HttpError, HttpSettings, Place,
    Tokens,
};
use process::{Clock, Exit, Failure};

use crate::config::ApiConfig;
use crate::tunnels::{Settings, Tunnels};

/// A client of `api`, as whoever `given` and `environment` say we are. Nobody is called yet.
///
/// # Errors
///
/// Nobody says who we are, or what they say cannot be used; exit code 78.
pub fn connect(
    given: &Given,
    api: &ApiConfig,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
) -> Result<Tunnels, Failure> {
    let mut given = given.clone();
    if given.url.is_none() && environment.text("ANTHROPIC_BASE_URL").is_none() {
        given.url.clone_from(&api.url);
    }
    let configuration = configuration(&given, environment)?;
    let url = api.url.clone().unwrap_or_else(|| configuration.url.clone());
    let mut settings = HttpSettings::from_environment(environment, configuration.ca_file.clone());
    let place = Place::of(&url, "").filter(|_| !api.addresses.is_empty());
    settings.addresses = place.map(|place| (place.host, api.addresses.clone()));
    let http = Http::new(settings).map_err(|error| unreachable_or_unusable(&error))?;
    let tokens = tokens(configuration, &http, environment, clock)?;
    let settings = Settings {
        url,
        edition: None,
        calls_per_minute: api.calls_per_minute,
    };
    Ok(Tunnels::new(http, tokens, settings, clock.clone()))
}

fn tokens(
    configuration: Configuration,
    http: &Http,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
) -> Result<Tokens, Failure> {
    match configuration.credential {
        Credential::Ready(token) => Ok(Tokens::ready(token, clock.clone())),
        Credential::Federated {
            source,
            single_use,
            federation: Some(federation),
        } => {
            let fetcher = Fetcher::new(*source, http.clone(), environment.clone(), single_use);
            Ok(Tokens::federated(fetcher, federation, clock.clone()))
        }
        Credential::Federated { .. } => Err(no_rule()),
    }
}

/// What the file and the variables say together.
pub(crate) fn configuration(
    given: &Given,
    environment: &Environment,
) -> Result<Configuration, Failure> {
    given.with(environment).map_err(|error| {
        Failure::config(error.to_string()).next(
            "write identity: into keyward.yaml, or set the variables; docs/config.md has both",
        )
    })
}

/// There is nothing to exchange an identity token by.
pub(crate) fn no_rule() -> Failure {
    Failure::config("no federation rule is named").next(
        "write identity.federation_rule, or set ANTHROPIC_FEDERATION_RULE_ID, to the rule's id",
    )
}

/// A call that did not come about.
pub fn unreachable_or_unusable(error: &HttpError) -> Failure {
    let (exit, next) = match error {
        HttpError::Settings { .. } => (
            Exit::Config,
            "change that setting; docs/config.md has every one",
        ),
        _ => (
            Exit::Unavailable,
            "look at the network, HTTPS_PROXY and NO_PROXY, and at identity.ca_file if TLS is inspected",
        ),
    };
    Failure::new(exit, "the call could not be made")
        .caused_by(error)
        .next(next)
}
