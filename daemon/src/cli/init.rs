//! `keyward init`: the stock `setup init` with its documented flags and variables.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueHint;
use identity::{Environment, check_url};
use process::{Clock, Exit, Failure, SystemClock};

use super::doctor::given;
use super::output;
use super::renew_cert::{cert_duration, store};
use super::table::until;
use crate::config::ApiConfig;
use crate::init::{Order, Outcome, init as bring};
use crate::remote::connect;
use crate::tunnels::Tunnels;

/// One run makes about ten calls.
const CALLS_PER_MINUTE: u32 = 60;

/// The stock flags, and where an identity is configured.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(
        long,
        value_name = "URL",
        value_hint = ValueHint::Url,
        help = "The Tunnels API [default: API_URL, else where tokens are bought]"
    )]
    api_url: Option<String>,
    #[arg(
        long,
        value_name = "ID",
        value_hint = ValueHint::Other,
        help = "The tunnel, tnl_… [default: TUNNEL_ID]"
    )]
    tunnel_id: Option<String>,
    /// The store that is filled: dir:PATH
    #[arg(long, value_name = "dir:PATH", value_parser = store)]
    output: PathBuf,
    /// Life of the server certificate, when one has to be issued
    #[arg(long, default_value = "2160h", value_name = "DURATION", value_hint = ValueHint::Other, value_parser = cert_duration)]
    cert_duration: Duration,
    /// Any text; another one than in the last run rotates the tunnel's token
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other)]
    token_version: Option<String>,
    /// The configuration whose identity: is used [default: /etc/keyward/keyward.yaml if it is there, else variables alone]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Print what became of it as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn init(arguments: &Arguments) -> Result<(), Failure> {
    let environment = Environment::process();
    let text = |flag: &Option<String>, name: &str| {
        let value = || environment.text(name).map(|text| text.expose().to_owned());
        flag.clone().or_else(value).filter(|text| !text.is_empty())
    };
    let tunnel = text(&arguments.tunnel_id, "TUNNEL_ID").ok_or_else(|| {
        Failure::new(Exit::Usage, "no tunnel is named")
            .next("say --tunnel-id tnl_…, or set TUNNEL_ID; the Console and keyward-edge tunnel list show it")
    })?;
    let order = Order {
        tunnel,
        store: arguments.output.clone(),
        cert_duration: arguments.cert_duration,
        token_version: arguments.token_version.clone(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let api_url = text(&arguments.api_url, "API_URL");
    let api = api(arguments, api_url, &environment, &clock)?;
    let outcome = bring(&order, &api, clock.as_ref()).await?;
    if arguments.json {
        return output::json(&outcome);
    }
    output::text(&told(&outcome, crate::rotator::unix(clock.wall())))
}

/// The client, for whoever the configuration and the variables say we are.
fn api(
    arguments: &Arguments,
    api_url: Option<String>,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
) -> Result<Tunnels, Failure> {
    if let Some(url) = &api_url {
        check_url(url).map_err(|why| {
            Failure::new(Exit::Usage, "--api-url cannot be used")
                .cause(why)
                .next("write it as https://api.example.com")
        })?;
    }
    let given = given(arguments.config.as_deref())?;
    let api = ApiConfig {
        url: api_url,
        addresses: Vec::new(),
        calls_per_minute: CALLS_PER_MINUTE,
    };
    connect(&given, &api, environment, clock)
}

fn told(outcome: &Outcome, now: u64) -> String {
    let (ca, leaf) = (&outcome.ca, &outcome.server_certificate);
    let token = &outcome.tunnel_token;
    let or = |changed: bool, yes: &'static str, no: &'static str| if changed { yes } else { no };
    format!(
        "tunnel: {} {}\nCA: {}, {}, sha256 {}, ends {}\nserver certificate: {}, sha256 {}, ends {}\ntunnel token: {}, {}\n",
        outcome.tunnel_id,
        outcome.tunnel_domain,
        or(ca.made, "made", "kept"),
        or(ca.registered, "registered", "was registered"),
        ca.sha256,
        until(ca.not_after, now),
        or(leaf.issued, "issued", "kept"),
        leaf.sha256,
        until(leaf.not_after, now),
        or(token.rotated, "rotated", "kept"),
        token.id,
    )
}
