//! The command line, and which of the three programs in this one runs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Parser, Subcommand};
use process::{Exit, Failure, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connector::{Connector, ConnectorOptions};
use crate::ledger::NEAR;
use crate::run::{self, Options};
use crate::sample::Sample;

/// Any port of this machine alone.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[derive(Debug, Parser)]
#[command(
    name = "keyward-demo",
    version = process::BUILD,
    about = "Calls real MCP through the whole stack while every credential rotates",
    after_help = after_help(),
)]
struct Arguments {
    /// How long at least, and how many rotations of the server certificate; CA, tunnel token and shared secret rotate half as often
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,

    /// Your own MCP server instead of the sample one, such as `http://127.0.0.1:8000/mcp`; it gets
    /// `initialize`, `ping` and `tools/list` and nothing else
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,

    /// End with exactly one JSON object on standard output; everything else on standard error
    #[arg(long)]
    json: bool,

    /// Leave configuration, keys and logs where they are
    #[arg(long)]
    keep: bool,

    #[command(subcommand)]
    part: Option<Part>,
}

/// What the demo starts of itself.
#[derive(Debug, Subcommand)]
enum Part {
    /// The sample MCP server
    #[command(hide = true)]
    Sample {
        #[arg(long, default_value_t = ANY)]
        listen: SocketAddr,
    },
    /// The double of the stock connector
    #[command(hide = true)]
    Connector {
        #[arg(long)]
        origin: SocketAddr,
        #[arg(long, default_value_t = ANY)]
        listen: SocketAddr,
        #[arg(long, default_value_t = ANY)]
        metrics: SocketAddr,
        #[arg(long, value_parser = milliseconds, default_value = "30000ms")]
        grace_period: Duration,
    },
}

fn after_help() -> String {
    format!(
        "Everything runs on 127.0.0.1, each program as a process of its own, and is gone afterwards.\n\n\
         Latency is told twice: \"rotating\" are the short calls during which a rotation was under way or \
         that began less than {} ms after one; \"quiet\" are all others.\n\n\
         Exit code: 0 nothing was lost, 1 a call failed or a stream broke, 64 wrong arguments, 69 the server \
         of --upstream or a program of the stack is not there, 70 the stack did not do its work.",
        NEAR.as_millis()
    )
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").and_then(|text| text.parse().ok());
    number
        .map(Duration::from_millis)
        .ok_or_else(|| "write milliseconds, as 500ms".to_owned())
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell when even standard error is closed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(Exit::Usage as u8)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match arguments.part {
        Some(Part::Sample { listen }) => process::start(move |tasks| sample(listen, tasks)),
        Some(Part::Connector {
            origin,
            listen,
            metrics,
            grace_period: grace,
        }) => {
            let options = ConnectorOptions {
                listen,
                metrics,
                origin,
                grace,
            };
            process::start(move |tasks| connector(options, tasks))
        }
        None => demo(Options {
            seconds: arguments.seconds,
            upstream: arguments.upstream,
            json: arguments.json,
            keep: arguments.keep,
        }),
    }
}

fn demo(options: Options) -> ExitCode {
    let lost = Arc::new(OnceLock::new());
    let told = Arc::clone(&lost);
    let code = process::start(move |tasks| async move {
        let outcome = run::run(options, &tasks).await?;
        let _ = told.set(!outcome.is_clean());
        Ok(())
    });
    match lost.get() {
        // The one place where 1 is used: the demo worked, and what it watches did not.
        Some(true) => ExitCode::from(1),
        Some(false) | None => code,
    }
}

async fn sample(listen: SocketAddr, tasks: Tasks) -> Result<(), Failure> {
    process::log::init("warn")?;
    let sample = Sample::start(listen, &tasks).await;
    let sample = sample.map_err(|error| bind(&error))?;
    announce(&[("address", sample.address)]).await;
    until_stopped(&tasks, Duration::from_secs(5)).await
}

async fn connector(options: ConnectorOptions, tasks: Tasks) -> Result<(), Failure> {
    process::log::init("info")?;
    let grace = options.grace;
    let connector = Connector::start(options, &tasks).await;
    let connector = connector.map_err(|error| bind(&error))?;
    announce(&[
        ("address", connector.address),
        ("metrics", connector.metrics),
    ])
    .await;
    until_stopped(&tasks, grace + Duration::from_secs(1)).await
}

fn bind(error: &std::io::Error) -> Failure {
    Failure::internal("cannot listen").caused_by(error)
}

/// Says where it listens, for the program that started this one.
async fn announce(addresses: &[(&str, SocketAddr)]) {
    let addresses: BTreeMap<_, _> = addresses.iter().copied().collect();
    let mut line = serde_json::json!(addresses).to_string();
    line.push('\n');
    let mut output = tokio::io::stdout();
    // If nobody listens any more, the end of standard input says so next.
    let _ = output.write_all(line.as_bytes()).await;
    let _ = output.flush().await;
}

/// Runs until a signal, or until whoever started this program is gone.
async fn until_stopped(tasks: &Tasks, drain: Duration) -> Result<(), Failure> {
    let stop = tasks.clone();
    tasks.spawn(async move {
        let mut byte = [0];
        let gone = async { while let Ok(1..) = tokio::io::stdin().read(&mut byte).await {} };
        tokio::select! {
            () = gone => stop.stop(),
            () = stop.stopping() => {}
        }
    });
    tasks.stopping().await;
    tasks.drain(drain).await;
    tasks.failure().map_or(Ok(()), Err)
}
