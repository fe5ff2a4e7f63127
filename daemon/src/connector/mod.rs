//! `keyward connector`: keeps the stock connector, cloudflared, running on the tunnel token in force.
//!
//! ```text
//!            token                        starts, watches, ends
//! daemon ──────────▶ link ──▶ supervisor ───────────────────────▶ cloudflared (instance), and its successor
//!            ack ◀──────────┘             ◀─ registered, refused, ended
//! ```
//!
//! cloudflared reads its token once, at its start. Another token therefore means another process: the new one is
//! started, has to register, and only then is the old one told to end, with all the time that it takes to let its
//! streams finish. The token goes by a file descriptor, never by an argument, a variable or a disk.
//!
//! The last token stays in memory, so that a daemon that restarts or is gone changes nothing. What it does not do: carry
//! traffic, read a token from anybody but the daemon, talk to a Tunnels API.

mod instance;
mod link;
mod ready;
mod supervisor;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control::{Reason, Secret};
use process::{Failure, Health, Tasks};
use tokio::net::TcpListener;
use tokio::sync::watch;

use link::Link;
use supervisor::Supervisor;
pub(crate) use token::is_well_formed as is_documented;

/// Longest time that cloudflared gives its streams.
pub const LONGEST_GRACE: Duration = Duration::from_secs(180);

/// Nobody waits longer to take leave.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// What to run, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The daemon's control socket.
    pub socket: PathBuf,
    /// The daemon's uid; `None`: root or our own.
    pub daemon_uid: Option<u32>,
    /// Which tunnel; `None`: the daemon's only one.
    pub tunnel: Option<String>,
    /// Name of this connector, stable over restarts.
    pub replica: String,
    /// cloudflared.
    pub program: PathBuf,
    /// Where it brings what comes in: the proxy's `listen_addr`, as `http://HOST:PORT`.
    pub url: String,
    /// How long an old process lets its streams finish; at most [`LONGEST_GRACE`].
    pub grace: Duration,
    /// A process that has not registered after this long is given up.
    pub register_within: Duration,
    /// Names of variables that it is given; it gets no other.
    pub environment: Vec<String>,
    /// Options of `cloudflared tunnel` besides ours.
    pub options: Vec<String>,
    /// Where `/readyz` and `/metrics` are.
    pub health: Option<SocketAddr>,
}

/// A token as the daemon sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    tunnel: String,
    generation: u64,
    token: Secret,
}

/// How things stand, for the daemon and for whoever asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// The offer whose token a registered process has.
    held: Option<u64>,
    /// The offer that cannot be used, and why.
    refused: Option<(u64, Reason)>,
    /// A process is registered.
    registered: bool,
    /// Processes, those included that let their last streams finish.
    processes: usize,
    /// Processes started since the start.
    started: u64,
}

/// Runs until `tasks` are stopped; then until the last process has ended.
///
/// # Errors
///
/// The health listener cannot be bound (78).
pub async fn run(settings: Settings, tasks: &Tasks) -> Result<(), Failure> {
    let (offers, offered) = watch::channel(None);
    let (standings, standing) = watch::channel(Standing::default());
    if let Some(addr) = settings.health {
        let listener = TcpListener::bind(addr).await.map_err(|error| {
            Failure::config(format!("cannot listen on {addr}"))
                .caused_by(&error)
                .next("free the port or write another one with --health")
        })?;
        tasks.essential("health", health(&standing).serve(listener, tasks.clone()));
    }
    let link = Link {
        settings: settings.clone(),
        offers,
        standing,
    };
    tasks.essential("control channel", link.run());
    tracing::info!(
        build = process::BUILD,
        replica = settings.replica,
        "connector started"
    );
    Supervisor::new(settings, offered, standings, tasks.clone())
        .run()
        .await;
    // The daemon hears that nobody is missing.
    tasks.drain(LEAVE_LIMIT).await;
    tasks.failure().map_or(Ok(()), Err)
}

fn health(standing: &watch::Receiver<Standing>) -> Health {
    let (reasons, metrics) = (standing.clone(), standing.clone());
    Health {
        reasons: Arc::new(move || {
            let standing = reasons.borrow();
            let mut reasons = Vec::new();
            if !standing.registered {
                reasons.push("no cloudflared is registered".to_owned());
            }
            reasons
        }),
        notes: Arc::new(Vec::new),
        metrics: Arc::new(move || {
            let standing = metrics.borrow();
            format!(
                "# TYPE keyward_connector_processes gauge\nkeyward_connector_processes {}\n\
                 # TYPE keyward_connector_registered gauge\nkeyward_connector_registered {}\n\
                 # TYPE keyward_connector_starts_total counter\nkeyward_connector_starts_total {}\n",
                standing.processes,
                u8::from(standing.registered),
                standing.started
            )
        }),
        asked: Vec::new(),
        pages: Vec::new(),
    }
}
