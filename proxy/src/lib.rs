//! The data plane of an MCP tunnel: carriers in, upstreams out, one credential in between.
//!
//! Inner TLS ends here, with a certificate that the daemon or files provide and that is swapped while
//! traffic flows. [`run`] is the whole program; this page and the modules' first lines are its map.

mod alert;
pub mod carrier;
mod checkup;
pub mod config;
mod connection;
mod control;
pub mod credential;
mod dial;
mod files;
pub mod forward;
mod handshake;
pub mod health;
mod one_of;
pub mod reload;
pub mod route;
mod secret_file;
mod socket;
mod telemetry;
#[cfg(test)]
mod tests;
mod token;
pub mod upstream;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;

use process::{Clock, Drained, Failure, SystemClock, Tasks};
use tokio_util::sync::CancellationToken;

use carrier::{Carriers, Door, Up};
use config::{Config, Limits, RouteSource};
use connection::{Connections, LEAVE};
use credential::{Credentials, Why};
use dial::{Dialler, Pushed};
use forward::Forwarder;
use handshake::Handshakes;
use telemetry::Telemetry;
use watched::Watch;

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Stands before the `tunnel_domain` of the file.
    pub tunnel_domain: Option<String>,
}

/// Carries traffic until `tasks` is stopped, then drains.
///
/// # Errors
///
/// The configuration cannot be used, a port is taken, or an essential task ended.
pub async fn run(options: Options, tasks: Tasks) -> Result<(), Failure> {
    let config = Config::load(&options.config, options.tunnel_domain.as_deref())?;
    process::log::init(&config.log_level)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let limits = config.limits;
    let telemetry = Arc::new(Telemetry::default());
    let forwarder = Forwarder::new(&config, &tasks)?;
    let credentials = Credentials::new(clock.clone(), tasks.clone(), limits.swap_grace);
    let cut = CancellationToken::new();
    let door = door(&limits, &credentials, &forwarder, &telemetry, &tasks, &cut);

    // Ports before work: a taken one is found out at once.
    let carriers = Carriers::bind(&config)?;
    let edge = config.edge.clone();
    let dialler = edge.map(|edge| Dialler::new(edge, limits.drain, door.clone(), &tasks));
    let dialler = dialler.transpose()?;
    let up = Up {
        listening: carriers.names(),
        addresses: carriers.addresses(),
        edge: dialler.as_ref().map(Dialler::roster),
    };
    let page = health::page(
        &credentials,
        &forwarder,
        telemetry,
        clock,
        tasks.clone(),
        up.clone(),
    );
    let probed = Tasks::new();
    health::serve(page, config.health, &probed)?;
    let pushed = dialler.as_ref().and_then(Dialler::pushed);
    subscribe(&config, &credentials, &forwarder, (up, pushed), &tasks);
    if matches!(config.routes, RouteSource::File(_)) {
        reload::watch(options, forwarder, &tasks);
    }
    tasks.spawn(credentials.clone().watch_expiry());
    carriers.listen(&door);
    if let Some(dialler) = dialler {
        tasks.essential(dial::NAME, dialler.run());
    }

    tokio::select! {
        () = tasks.stopping() => {}
        () = probed.stopping() => {}
    }
    drain(&tasks, &credentials, &cut, limits.shutdown_timeout).await;
    probed.stop();
    tasks.failure().or(probed.failure()).map_or(Ok(()), Err)
}

/// Where every carrier brings its connections.
fn door(
    limits: &Limits,
    credentials: &Credentials,
    forwarder: &Forwarder,
    telemetry: &Arc<Telemetry>,
    tasks: &Tasks,
    cut: &CancellationToken,
) -> Door {
    let connections = Connections::new(
        forwarder.clone(),
        telemetry.clone(),
        limits,
        tasks,
        cut.clone(),
    );
    let pending = limits.pending_handshakes;
    let handshakes = Handshakes::new(credentials.clone(), telemetry.clone(), pending);
    Door {
        handshakes: Arc::new(handshakes),
        connections: Arc::new(connections),
        telemetry: telemetry.clone(),
        tasks: tasks.clone(),
        handshake_timeout: limits.handshake_timeout,
        limit: limits.connections,
        patient: false,
    }
}

/// Begins to listen to those who bring credentials: files, the daemon, or both.
fn subscribe(
    config: &Config,
    credentials: &Credentials,
    forwarder: &Forwarder,
    (carriers, pushed): (Up, Option<Pushed>),
    tasks: &Tasks,
) {
    let routed = matches!(config.routes, RouteSource::Daemon).then(|| forwarder.clone());
    if let Some(files) = &config.files {
        let files = files::Files::new(files.clone(), config, credentials.clone(), routed.clone());
        tasks.essential("files", Watch::new(files).run(tasks.clone()));
    }
    if let Some(source) = &config.control {
        let subscriber = control::Subscriber {
            source: source.clone(),
            credentials: credentials.clone(),
            forwarder: forwarder.clone(),
            routed,
            carriers,
            pushed,
            tasks: tasks.clone(),
        };
        tasks.essential("control", subscriber.run());
    }
}

/// Everything in flight gets the whole of `limit`; event streams, which never end by themselves, are
/// then ended cleanly, and what has not left a moment later is cut.
async fn drain(
    tasks: &Tasks,
    credentials: &Credentials,
    cut: &CancellationToken,
    limit: std::time::Duration,
) {
    credentials.end_all(Why::Stopping);
    if tasks.drain(limit).await == Drained::Clean {
        tracing::info!("drained");
        return;
    }
    cut.cancel();
    match tasks.drain(LEAVE + LEAVE / 2).await {
        Drained::Clean => tracing::info!("drained after the cut"),
        Drained::Cut { left } => tracing::warn!(left, "drain limit reached, connections cut"),
    }
}
