//! `keyward doctor`: walks the three layers of each tunnel, in the order in which a call meets them.

use std::net::SocketAddr;
use std::path::PathBuf;

use identity::{Call, Environment, Http, HttpSettings, Verb};
use process::{Chain, Clock, Exit, Failure, SystemClock, Tasks};
use serde_json::{Map, Value, json};

use super::layers::{Evidence, Finding, Layer, Report, examine};
use super::proxies::{self, Asked};
use crate::cli::output::{self, Ended};
use crate::cli::{DEFAULT_CONFIG, Target};
use crate::config::Config;
use crate::remote::configuration;

/// What to look at.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// One tunnel alone
    #[arg(long, value_name = "NAME")]
    tunnel: Option<String>,
    /// The health listener of a proxy, which is asked for its readiness, its carriers and its routes; may be repeated
    /// [default: 127.0.0.1:9464, if a proxy answers there]
    #[arg(long, value_name = "ADDRESS")]
    proxy: Vec<SocketAddr>,
    /// The daemon's configuration, for where the Tunnels API is
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn walk(arguments: &Arguments, tasks: &Tasks) -> Result<(), Ended> {
    let status = arguments.target.client(tasks).status().await?;
    let only = arguments.tunnel.as_deref();
    if let Some(name) = only.filter(|name| !status.tunnels.contains_key(*name)) {
        let known: Vec<&str> = status.tunnels.keys().map(String::as_str).collect();
        let failure = Failure::new(Exit::Usage, format!("there is no tunnel {name:?}"));
        return Err(failure
            .next(format!("name one of: {}", known.join(", ")))
            .into());
    }
    let mut asked = Vec::new();
    for addr in &arguments.proxy {
        asked.push(proxies::ask(*addr, &status, only).await);
    }
    if arguments.proxy.is_empty() {
        let near = proxies::ask(proxies::DEFAULT, &status, only).await;
        // Nobody said that there is one.
        asked.extend(Some(near).filter(|near: &Asked| near.said.is_ok()));
    }
    let mut tunnels = status.tunnels.values();
    let api = if tunnels.any(|one| one.provider == "tunnels_api") {
        api(arguments).await
    } else {
        None
    };
    let now = SystemClock.wall().duration_since(std::time::UNIX_EPOCH);
    let report = examine(&Evidence {
        status: &status,
        only,
        asked: &asked,
        api,
        now: now.map_or(0, |since| since.as_secs()),
    });
    tell(&report, arguments.json)
}

/// Whether anything answers where the Tunnels API is; `None`: nobody here knows where that is.
async fn api(arguments: &Arguments) -> Option<Result<(), String>> {
    let config = Config::load(&arguments.config).ok()?;
    let environment = Environment::process();
    let mut given = config.identity.clone().unwrap_or_default();
    if given.url.is_none() {
        given.url.clone_from(&config.api.url);
    }
    let known = configuration(&given, &environment).ok()?;
    let url = config.api.url.unwrap_or(known.url);
    let mut settings = HttpSettings::from_environment(&environment, known.ca_file);
    let place = identity::Place::of(&url, "").filter(|_| !config.api.addresses.is_empty());
    settings.addresses = place.map(|place| (place.host, config.api.addresses.clone()));
    let call = async || {
        Http::new(settings)?
            .call(Call {
                url: &url,
                query: &[],
                headers: &[],
                verb: Verb::Get,
            })
            .await
    };
    // Whatever it answers, it is there; whether it lets us in is for: doctor identity.
    Some(match call().await {
        Ok(_) => Ok(()),
        Err(error) => Err(Chain(&error).to_string()),
    })
}

fn tell(report: &Report, json: bool) -> Result<(), Ended> {
    let found = Ended {
        failure: failure(&report.findings),
        besides: if json { object(report) } else { Map::new() },
    };
    if !json {
        output::text(&report.text())?;
    } else if report.findings.is_empty() {
        return Ok(output::json(&found.besides)?);
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    Err(found)
}

/// The first in the order of layers is where to begin: what lies behind it cannot work before.
fn failure(findings: &[Finding]) -> Failure {
    let what = match findings.len() {
        1 => "something is wrong".to_owned(),
        count => format!("{count} things are wrong; begin with the first"),
    };
    let failure = Failure::new(Exit::Unavailable, what);
    match findings.first() {
        Some(first) => failure.cause(first.sentence()).next(first.next.clone()),
        None => failure,
    }
}

fn object(report: &Report) -> Map<String, Value> {
    let layers = report.verdicts.iter().map(|(tunnel, verdicts)| {
        let each = Layer::ALL.into_iter().zip(verdicts);
        let each = each.map(|(layer, verdict)| (layer.key().to_owned(), json!(verdict.word())));
        (tunnel.clone(), Value::Object(each.collect()))
    });
    let findings = report.findings.iter().map(|finding| {
        json!({"layer": finding.layer.key(), "tunnel": finding.tunnel, "what": finding.what, "next": finding.next})
    });
    let mut object = Map::new();
    object.insert("tunnels".to_owned(), Value::Object(layers.collect()));
    object.insert("findings".to_owned(), findings.collect());
    object.insert("notes".to_owned(), json!(report.notes));
    object
}
