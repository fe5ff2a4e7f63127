//! The daemon: owns the keys, the time and the journal of a tunnel's credentials.
//!
//! [`run`] is the whole program; [`cli`] is what a person types. Tasks talk to each other over the
//! [`board`] and know nothing else of one another.

pub mod board;
pub mod cli;
pub mod config;
pub mod connector;
pub mod credential;
mod custody;
mod disk;
mod health;
pub mod init;
pub mod journal;
pub mod operator;
pub mod publisher;
pub mod remote;
pub mod renew;
mod restart;
pub mod rotation;
pub mod rotator;
pub mod schedule;
mod served;
pub mod socket;
pub mod status;
mod store;
mod swapped;
mod time;
pub mod tunnels;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::identity::Environment;
use process::{Clock, Drained, Failure, SystemClock, Tasks};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use board::{Board, Request};
use config::{Config, HealthListener};
use health::Observer;
use operator::Operator;
use publisher::{Limits, Publisher};
use remote::Remote;
use restart::Restarter;
use rotator::Rotator;
use status::Status;

/// Orders that wait for the rotator; more are made to wait at the operator socket.
const ORDERS: usize = 16;
/// A stop waits this long for what runs. Proxies keep serving without the daemon, so it is short.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the daemon with the configuration at `path` until `tasks` are stopped.
///
/// # Errors
///
/// The configuration cannot be used (78), a place is denied or taken (77, 78), or an essential task
/// ended (70).
pub async fn run(path: &Path, single_user: bool, tasks: &Tasks) -> Result<(), Failure> {
    let config = Config::load(path)?;
    process::log::init(&config.log_level)?;
    apart(&config, single_user)?;
    for note in config.notes() {
        tracing::info!(note, "configuration implies");
    }
    for warning in config.warnings() {
        tracing::warn!(warning, "configuration deserves a thought");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (board, orders) = board();
    // Bind early, serve when ready: a second daemon ends here, before it touches any state.
    let (publisher, operator) = bind(&config, &board, &clock)?;
    let health = listen(config.health).await?;
    let remote = remote(&config, &clock)?;
    let rotator = Rotator::open(&config, clock.clone(), remote.clone())?;
    let restarters = Restarter::all(&config, &board, &clock);
    let tunnels: BTreeSet<String> = config.tunnels.into_keys().collect();
    let names: Vec<&str> = tunnels.iter().map(String::as_str).collect();
    let names = names.join(",");
    tracing::info!(build = process::BUILD, tunnels = names, "keyward started");

    tasks.essential("rotator", rotator.run(board.clone(), orders, tasks.clone()));
    for restarter in restarters {
        tasks.spawn(restarter.run(tasks.clone()));
    }
    tasks.essential("publisher", publisher.run(tasks.clone()));
    tasks.essential("operator", operator.run(tasks.clone()));
    if let Some(listener) = health {
        let health = Observer::new(board, clock, tunnels, remote).health(tasks);
        tasks.essential("health", health.serve(listener, tasks.clone()));
    }
    tasks.stopping().await;
    match tasks.drain(DRAIN).await {
        Drained::Clean => tracing::info!("keyward stopped"),
        Drained::Cut { left } => tracing::warn!(left, "keyward stopped before its tasks ended"),
    }
    tasks.failure().map_or(Ok(()), Err)
}

/// The other side of the tunnels that have one which can be asked.
fn remote(config: &Config, clock: &Arc<dyn Clock>) -> Result<Option<Remote>, Failure> {
    let any = config.tunnels.values().any(|one| one.remote().is_some());
    any.then(|| {
        let given = config.identity.clone().unwrap_or_default();
        let environment = Environment::process();
        remote::connect(&given, &config.api, &environment, clock).map(Remote::new)
    })
    .transpose()
}

/// Where the tasks meet, with nothing on it yet, and the orders that come in over it.
fn board() -> (Board, mpsc::Receiver<Request>) {
    let (requests, received) = mpsc::channel(ORDERS);
    let status = Status {
        build: process::BUILD.to_owned(),
        ..Status::default()
    };
    let board = Board {
        publications: watch::Sender::default(),
        replicas: watch::Sender::default(),
        status: watch::Sender::new(Arc::new(status)),
        requests,
    };
    (board, received)
}

/// The sockets of both channels.
fn bind(
    config: &Config,
    board: &Board,
    clock: &Arc<dyn Clock>,
) -> Result<(Publisher, Operator), Failure> {
    let group = config.control.group.as_ref();
    let group = group.map(config::Group::resolve).transpose()?;
    let tunnels: BTreeSet<String> = config.tunnels.keys().cloned().collect();
    let publisher = Publisher::bind(
        publisher::Settings {
            socket: config.control.socket.clone(),
            group,
            subscribers: config.control.subscribers.iter().copied().collect(),
            tunnels: tunnels.clone(),
        },
        Limits::default(),
        board.clone(),
        clock.clone(),
    )?;
    let operator = Operator::bind(
        operator::Settings {
            socket: config.operator.socket.clone(),
            group,
            operators: config.operator.operators.iter().copied().collect(),
            tunnels,
        },
        board.clone(),
    )?;
    Ok((publisher, operator))
}

/// A subscriber that runs as the daemon's own user could read its memory and its store: then the
/// separation of the two programs is worth nothing.
fn apart(config: &Config, single_user: bool) -> Result<(), Failure> {
    let own = rustix::process::geteuid().as_raw();
    if !config.control.subscribers.contains(&own) {
        return Ok(());
    }
    if single_user {
        tracing::warn!(uid = own, "a subscriber runs as the daemon's own user");
        return Ok(());
    }
    Err(Failure::config(format!(
        "control.subscribers lists uid {own}, the daemon's own"
    ))
    .cause("a proxy of that user could read the CA key out of the daemon's files and memory")
    .next("run the proxy as another user and list that one, or try things out with --single-user"))
}

async fn listen(health: HealthListener) -> Result<Option<TcpListener>, Failure> {
    match TcpListener::bind(health.addr).await {
        Ok(listener) => {
            let addr = listener.local_addr().unwrap_or(health.addr);
            tracing::info!(%addr, "health listener bound");
            Ok(Some(listener))
        }
        Err(error) if health.explicit => Err(Failure::config(format!(
            "cannot listen on health.listen_addr {}",
            health.addr
        ))
        .caused_by(&error)
        .next("free the port or write another one")),
        Err(error) => {
            tracing::warn!(addr = %health.addr, %error, "no health listener");
            Ok(None)
        }
    }
}
