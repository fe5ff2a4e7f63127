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
mod buckets;
pub mod ca_files;
mod causes;
pub mod command;
pub mod config;
pub mod directory;
pub mod fill;
pub mod fixed;
mod percent;
pub mod pinned;
pub mod plane;
pub mod prepare;
pub mod relay;
mod source;
pub mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::FutureExt;
use process::metrics::Exposition;
use process::{Clock, Drained, Exit, Failure, Health, SystemClock, Tasks};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use backed::Backed;
use ca_files::OwnCas;
use command::ServeArguments;
use config::Config;
use directory::Directory;
use fixed::Fixed;
use prepare::Prepared;
use relay::{Answer, Relay, Serving};

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
    let Prepared {
        front,
        cas,
        asns,
        tunnels,
    } = Prepared::load(&config, instance(), clock.clone())?;
    let (directory, answer) = match tunnels {
        Some(fixed) => from_file(fixed, &tasks),
        None => from_state(&config, &options, cas, clock, &tasks).await?,
    };
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
        directory: directory.clone(),
        asns,
        answer,
        limits,
        tasks: tasks.clone(),
        cut: cut.clone(),
    };
    let serving = relay.prepare();
    let probed = Tasks::new();
    let bound = bind(config.health, "the health listener").await?;
    probed.essential(
        "health",
        page(&serving, directory, tasks.clone()).serve(bound, probed.clone()),
    );
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

/// Tunnels from a file, and no Tunnels API.
fn from_file(fixed: Fixed, tasks: &Tasks) -> (Directory, Answer) {
    let directory = fixed.directory().clone();
    tasks.essential("tunnels", fixed.watch(tasks.clone()));
    (directory, nobody())
}

/// Tunnels from the state, with the Tunnels API in front of it.
async fn from_state(
    config: &Config,
    options: &ServeArguments,
    cas: OwnCas,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<(Directory, Answer), Failure> {
    tasks.essential("ca_files", cas.clone().watch(tasks.clone()));
    let cas = Arc::new(move || cas.texts());
    let backed = Backed::open(&options.state, config, instance(), cas, clock, tasks).await?;
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

/// Not ready: new work is refused, or soon will be.
fn page(serving: &Serving, directory: Directory, tasks: Tasks) -> Health {
    let serving = serving.clone();
    Health {
        reasons: Arc::new(move || {
            let stale = "stale: the database has not answered for stale_limit, new work is refused";
            let stopping = "stopping: what runs is drained, nothing new is accepted";
            let mut reasons = Vec::new();
            if directory.is_stale() {
                reasons.push(stale.to_owned());
            }
            if tasks.is_stopping() {
                reasons.push(stopping.to_owned());
            }
            reasons
        }),
        notes: Arc::new(Vec::new),
        metrics: Arc::new(move || {
            let mut page = Exposition::default();
            process::metrics::build_info(&mut page);
            serving.metrics(&mut page);
            page.finish()
        }),
        asked: Vec::new(),
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
