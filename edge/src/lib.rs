//! The tunnel edge that anyone can host: blind to what it carries.
//!
//! Proxies dial in and present a credential, agents call by server name, and bytes are relayed between
//! them that only the two of them can read. [`serve`] is the whole program; this page and the modules'
//! first lines are its map.

pub mod access;
pub mod agent;
pub mod asn;
pub mod assertion;
pub mod backed;
mod base64url;
pub mod command;
pub mod config;
pub mod directory;
pub mod fill;
pub mod fixed;
pub mod pinned;
pub mod plane;
pub mod relay;
pub mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::FutureExt;
use process::metrics::Exposition;
use process::{Clock, Drained, Exit, Failure, Health, SystemClock, Tasks};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use asn::Asns;
use backed::Backed;
use command::ServeArguments;
use config::Config;
use directory::Directory;
use fixed::Fixed;
use relay::{Answer, Front, Relay, Serving};

/// What is cut at the end of a drain has this long to leave.
const LEAVE: std::time::Duration = std::time::Duration::from_secs(1);

/// Relays until `tasks` is stopped, then drains.
///
/// # Errors
///
/// The configuration cannot be used, a port is taken, or an essential task ended.
pub async fn serve(options: ServeArguments, tasks: Tasks) -> Result<(), Failure> {
    let config = Config::load(&options.config)?;
    process::log::init(&config.log_level)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let front = Front::load(&config.certificate, &config.key).map_err(|error| {
        Failure::config("the edge's own certificate cannot be served")
            .caused_by(&error)
            .next("write a PEM chain and its key there")
    })?;
    let (directory, answer) = tunnels(&config, &options, clock, &tasks).await?;
    let asns = config.asns.clone().map(Asns::load).transpose();
    let asns =
        asns.map_err(|error| Failure::config("asn_file cannot be used").caused_by(&error))?;
    let asns = asns.unwrap_or_default();
    let told = directory.clone();
    tasks.essential(
        "asns",
        asns.clone().watch(tasks.clone(), move || told.touch()),
    );
    let listener = bind(config.listen, "the edge").await?;

    let cut = CancellationToken::new();
    let limits = config.limits;
    let relay = Relay {
        name: config.name.clone(),
        front: front.clone(),
        directory,
        asns,
        answer,
        limits,
        tasks: tasks.clone(),
        cut: cut.clone(),
    };
    let serving = relay.prepare();
    let probed = Tasks::new();
    let bound = bind(config.health, "the health listener").await?;
    probed.essential("health", page(&serving).serve(bound, probed.clone()));
    tasks.essential("front", front.watch(tasks.clone()));
    tasks.essential("relay", serving.serve(listener));
    tracing::info!(listen = %config.listen, name = config.name, "edge serves");

    tokio::select! {
        () = tasks.stopping() => {}
        () = probed.stopping() => {}
    }
    if tasks.drain(limits.drain).await != Drained::Clean {
        cut.cancel();
        if let Drained::Cut { left } = tasks.drain(LEAVE).await {
            tracing::warn!(left, "drain limit reached, connections cut");
        }
    }
    probed.stop();
    tasks.failure().or(probed.failure()).map_or(Ok(()), Err)
}

/// Which tunnels there are: from a file, or from the state with the Tunnels API in front of it.
async fn tunnels(
    config: &Config,
    options: &ServeArguments,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<(Directory, Answer), Failure> {
    if let Some(file) = &config.tunnels {
        let directory = Directory::new(instance(), clock, None);
        let fixed = Fixed::new(file.clone(), directory.clone());
        fixed.load()?;
        tasks.essential("tunnels", fixed.watch(tasks.clone()));
        return Ok((directory, nobody()));
    }
    let files = config.ca_files.clone();
    let cas = Arc::new(move || {
        let texts = files.iter().map(std::fs::read_to_string);
        texts.filter_map(Result::ok).collect()
    });
    let stale = config.stale_limit;
    let backed = Backed::open(&options.state, &config.name, instance(), cas, stale, clock).await?;
    let (directory, answer) = (backed.directory.clone(), backed.answer.clone());
    backed.keep(tasks);
    Ok((directory, answer))
}

async fn bind(addr: std::net::SocketAddr, who: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr).await.map_err(|error| {
        Failure::new(Exit::Unavailable, format!("{who} cannot listen on {addr}"))
            .caused_by(&error)
            .next("free the port, or configure another one")
    })
}

fn page(serving: &Serving) -> Health {
    let serving = serving.clone();
    Health {
        reasons: Arc::new(Vec::new),
        notes: Arc::new(Vec::new),
        metrics: Arc::new(move || {
            let mut page = Exposition::default();
            process::metrics::build_info(&mut page);
            serving.metrics(&mut page);
            page.finish()
        }),
        pages: Vec::new(),
    }
}

/// A control plane that is not there: tunnels come from a file.
fn nobody() -> Answer {
    Arc::new(|_, _| async { relay::no_such_path() }.boxed())
}

/// A name of this edge, new at each start.
fn instance() -> String {
    let mut bytes = [0; 8];
    // Without randomness all edges have one name, and a proxy counts them as one.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    format!("edg_{:016x}", u64::from_be_bytes(bytes))
}
