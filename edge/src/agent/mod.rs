//! The agent's side: a local HTTP server through which any MCP client reaches routes behind an edge.
//!
//! Outer TLS goes to the edge and inner TLS to the proxy, both with the client certificate, and what is
//! said is readable at the two ends alone. Callers of this machine are trusted as its user is: whoever
//! may connect to the port has the certificate's access, so it is on loopback unless somebody says
//! otherwise, and no page of another site gets in (`gate`).

mod answer;
mod body;
mod credentials;
mod dial;
mod error;
mod gate;
mod headers;
mod link;
mod pool;
mod resource;
mod rewrite;
mod serve;
mod snippets;
mod stdio;
mod target;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use process::{Drained, Exit, Failure, SystemClock, Tasks};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use credentials::CredentialFiles;
pub use snippets::snippets;
pub use stdio::StdioTarget;
pub use target::{BadTarget, EdgeUrl, Route, TunnelDomain};

use credentials::Credentials;
use dial::Dialer;
use gate::Names;
use pool::Pool;
use serve::Server;
use target::Edges;

/// What is in flight at the stop gets this long.
const DRAIN: Duration = Duration::from_secs(5);
/// What is cut at the end of a drain has this long to leave.
const LEAVE: Duration = Duration::from_secs(1);

/// Which tunnel, by which edges, with what.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Edges that serve the tunnel; at least one.
    pub edges: Vec<EdgeUrl>,
    /// Addresses in place of what their names resolve to.
    pub addresses: Vec<SocketAddr>,
    /// `<tunnel-domain>`.
    pub domain: TunnelDomain,
    /// Certificate, key and CAs.
    pub files: CredentialFiles,
}

/// Where callers may ask, and which.
#[derive(Clone, Debug)]
pub struct Door {
    /// The address.
    pub listen: SocketAddr,
    /// Names of this machine besides `localhost`.
    pub hosts: Vec<String>,
    /// Origins of pages that may ask, besides those of this machine.
    pub origins: Vec<String>,
}

/// Serves callers until `tasks` is stopped, then drains.
///
/// # Errors
///
/// A file cannot be used, the port is taken, or an essential task ended.
pub async fn serve(reach: Reach, door: Door, tasks: Tasks) -> Result<(), Failure> {
    let listen = door.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::new(Exit::Unavailable, format!("cannot listen on {listen}"))
            .caused_by(&error)
            .next("free the port, or choose another one with --listen")
    })?;
    let bound = listener.local_addr().unwrap_or(listen);
    let domain = reach.domain.0.clone();
    let pool = prepare(reach, &tasks)?;
    let names = Names {
        hosts: door
            .hosts
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        origins: door.origins,
    };
    let cut = CancellationToken::new();
    let server = Server::new(pool, names, tasks.clone(), cut.clone());
    tasks.essential("callers", server.serve(listener));
    tracing::info!(listen = %bound, domain, "agent serves");

    tasks.stopping().await;
    if tasks.drain(DRAIN).await != Drained::Clean {
        cut.cancel();
        if let Drained::Cut { left } = tasks.drain(LEAVE).await {
            tracing::debug!(left, "drain limit reached, connections cut");
        }
    }
    tasks.failure().map_or(Ok(()), Err)
}

/// Carries one client's messages between standard input and output and the server that `target` names.
///
/// # Errors
///
/// A file cannot be used, standard input cannot be read, or an essential task ended.
pub async fn bridge(reach: Reach, target: StdioTarget, tasks: Tasks) -> Result<(), Failure> {
    let pool = prepare(reach, &tasks)?;
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    let ended = stdio::run(pool, target, input, output, &tasks).await;
    tasks.drain(LEAVE).await;
    tasks.failure().map_or(ended, Err)
}

/// Reads the files and starts what looks after them.
fn prepare(reach: Reach, tasks: &Tasks) -> Result<Arc<Pool>, Failure> {
    let credentials = Credentials::load(reach.files, Arc::new(SystemClock));
    let credentials = credentials.map_err(|error| {
        Failure::config("the agent's files cannot be used")
            .caused_by(&error)
            .next(
                "give a PEM certificate with --cert, its key with --key, the tunnel's CA with --ca",
            )
    })?;
    let pool = Arc::new(Pool::new(Dialer {
        edges: Edges::new(reach.edges, reach.addresses),
        domain: reach.domain,
        credentials: credentials.subscribe(),
        tasks: tasks.clone(),
    }));
    tasks.essential("files", credentials.watch(tasks.clone()));
    tasks.essential("pool", Arc::clone(&pool).sweep(tasks.clone()));
    Ok(pool)
}
