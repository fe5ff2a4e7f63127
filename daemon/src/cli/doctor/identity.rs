//! `keyward doctor identity`: what this workload would say of itself, what its rule wants, and what the exchange says.
//!
//! The other side answers every refusal with the same words. So each claim is compared here, before anything is sent.

use std::path::{Path, PathBuf};

use identity::{
    Assertion, Check, Configuration, Credential, Environment, ExchangeError, Federation, Given,
    Http, HttpSettings, Minted, Refused, Verdict, checks, exchange,
};
use process::{Clock, Exit, Failure, SystemClock};
use serde_json::{Map, Value, json};

use super::advice::no_token;
use super::traps::traps;
use crate::cli::DEFAULT_CONFIG;
use crate::cli::output::{self, Ended};
use crate::cli::table::table;
use crate::config::Config;
use crate::remote::{configuration, no_rule, unreachable_or_unusable};

/// How far.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration [default: /etc/keyward/keyward.yaml if it is there, else variables alone]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Exchange it for an access token as well, which uses it up
    #[arg(long)]
    exchange: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// What was found out, as far as it went.
#[derive(Default)]
struct Report {
    text: String,
    json: Map<String, Value>,
}

pub(super) async fn identity(arguments: &Arguments) -> Result<(), Ended> {
    let mut report = Report::default();
    let outcome = examine(arguments, &mut report).await;
    if arguments.json {
        return match outcome {
            Ok(()) => output::json(&report.json).map_err(Ended::from),
            Err(failure) => Err(Ended {
                failure,
                besides: report.json,
            }),
        };
    }
    output::text(&report.text)?;
    outcome.map_err(Ended::from)
}

async fn examine(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let environment = Environment::process();
    let given = given(arguments.config.as_deref())?;
    let configuration = configuration(&given, &environment)?;
    report.say("chosen by", configuration.chosen);
    let settings = HttpSettings::from_environment(&environment, configuration.ca_file.clone());
    let Credential::Federated {
        source, federation, ..
    } = &configuration.credential
    else {
        report.say("identity", "a ready access token; nothing is exchanged");
        return Ok(());
    };
    let http = Http::new(settings).map_err(|error| unreachable_or_unusable(&error))?;
    report.say("source", source.name());
    let fetched = source.fetch(&http, &environment, SystemClock.wall()).await;
    let assertion = fetched.map_err(|error| no_token(&error, source))?;
    report.traps(&traps(source, assertion.claims(), &configuration.expect));
    compare(&assertion, &configuration, report)?;
    if !arguments.exchange {
        return Ok(());
    }
    let Some(federation) = federation else {
        return Err(no_rule());
    };
    match exchange(&http, federation, &assertion).await {
        Ok(minted) => {
            report.bought(&minted);
            Ok(())
        }
        Err(error) => Err(not_bought(&error, federation)),
    }
}

/// The section of the file, or nothing if there is no file and none was named.
pub(in crate::cli) fn given(named: Option<&Path>) -> Result<Given, Failure> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    if named.is_none() && !path.exists() {
        return Ok(Given::default());
    }
    Ok(Config::load(path)?.identity.unwrap_or_default())
}

/// Shows every claim; a token that will be refused is not sent.
fn compare(
    assertion: &Assertion,
    configuration: &Configuration,
    report: &mut Report,
) -> Result<(), Failure> {
    let now = SystemClock.wall();
    let all = checks(assertion.claims(), &configuration.expect, now);
    report.claims(assertion, &all);
    let bad: Vec<String> = all
        .iter()
        .filter(|check| check.verdict == Verdict::Bad)
        .map(|check| {
            let how = check.how.as_deref().unwrap_or_default();
            match (&check.found, &check.wanted) {
                (Some(found), Some(wanted)) => {
                    format!("{} is {found:?}, wanted is {wanted:?}: {how}", check.claim)
                }
                _ => format!("{}: {how}", check.claim),
            }
        })
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(
        Failure::config("the identity token would be refused, and was not sent")
            .cause(bad.join("; "))
            .next("change who issues it, or the rule; nothing else tells you which claim it is"),
    )
}

impl Report {
    fn say(&mut self, name: &str, value: &str) {
        use std::fmt::Write;
        writeln!(self.text, "{name}: {value}").expect("writing to a string cannot fail");
        self.json.insert(name.replace(' ', "_"), value.into());
    }

    fn traps(&mut self, found: &[&str]) {
        for trap in found {
            self.text.push_str("note: ");
            self.text.push_str(trap);
            self.text.push('\n');
        }
        self.json.insert("notes".to_owned(), json!(found));
    }

    fn claims(&mut self, assertion: &Assertion, all: &[Check]) {
        let cell = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|check| {
                let verdict = match check.verdict {
                    Verdict::Good => "good",
                    Verdict::Warning => "look",
                    Verdict::Bad => "DIFFERS",
                };
                vec![
                    check.claim.clone(),
                    verdict.to_owned(),
                    cell(check.found.as_ref()),
                    cell(check.wanted.as_ref()),
                    cell(check.how.as_ref()),
                ]
            })
            .collect();
        let heading = ["CLAIM", "", "FOUND", "WANTED", "HOW"];
        self.text.push_str(&table(&heading, &rows));
        self.json.insert("checks".to_owned(), json!(all));
        let claims = assertion.claims().all().clone();
        self.json.insert("claims".to_owned(), claims.into());
    }

    fn bought(&mut self, minted: &Minted) {
        let life = minted.life.unwrap_or_default().as_secs();
        let request = minted.request_id.as_deref();
        self.say(
            "exchanged",
            &format!(
                "an access token for {life} s, scope {:?}, request {}",
                minted.scope,
                request.unwrap_or("-")
            ),
        );
        let object = json!({"expires_in": life, "scope": minted.scope, "request_id": request});
        self.json.insert("exchanged".to_owned(), object);
    }
}

/// What a failed exchange means.
fn not_bought(error: &ExchangeError, federation: &Federation) -> Failure {
    match error {
        ExchangeError::NotSent(cause) | ExchangeError::Unknown(cause) => {
            unreachable_or_unusable(cause)
        }
        ExchangeError::Refused(refused) => {
            let (exit, next) = meaning(refused, federation);
            Failure::new(exit, "the token exchange was refused")
                .cause(refused.to_string())
                .next(next)
        }
        other => Failure::new(Exit::Unavailable, "the token exchange gave no token")
            .caused_by(other)
            .next("look at identity.url: something else may be answering there"),
    }
}

/// In the order in which causes are found fastest.
fn meaning(refused: &Refused, federation: &Federation) -> (Exit, String) {
    let opaque = refused.status == 401
        || refused.error.as_deref() == Some("invalid_grant")
        || refused.error.as_deref() == Some("workspace_id_required");
    if opaque {
        let request = refused.request_id.as_deref().unwrap_or("-");
        let workspace = if federation.workspace.is_some() {
            "the service account's membership of that workspace"
        } else {
            "whether the rule has several workspaces, of which one must be named"
        };
        let next = format!(
            "look at the history of authentications (Console, or keyward-edge audit) for request {request}: if it is not \
             there, the rule's id is not known. Then at iss byte for byte, aud, sub and each claim of the rule, exp, nbf \
             and iat against the clock, whether the issuer's keys have this kid, {workspace}, and whether this token was \
             used before: a jti is good for once"
        );
        return (Exit::Permission, next);
    }
    let (exit, next) = match refused.status {
        400 | 404 | 405 | 422 => (
            Exit::Config,
            "change what it names: identity.url, federation_rule, organization, service_account or workspace",
        ),
        403 => (Exit::Permission, "look at the rule's scope"),
        300..=399 => (
            Exit::Config,
            "write the address that it is moved to: a token is not carried on",
        ),
        _ => (Exit::Unavailable, "wait, and try again with a fresh token"),
    };
    (exit, next.to_owned())
}
