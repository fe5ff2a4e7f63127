//! Whether the proxy is ready, and how others ask.
//!
//! Ready is a leaf in date and a carrier that is up. What callers make of the leaf counts against it
//! only when they have refused it for a while without a single success: `credential` decides that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use process::metrics::Exposition;
use process::{Clock, Exit, Failure, Health, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::carrier::Up;
use crate::checkup;
use crate::config::HealthListener;
use crate::credential::Credentials;
use crate::dial::Roster;
use crate::forward::Forwarder;
use crate::socket;
use crate::telemetry::Telemetry;

/// A listener on this machine that takes longer is not well.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Status line and reasons; more is not read.
const PROBE_LENGTH: u64 = 16 << 10;

/// What the health listener is to say.
pub(crate) fn page(
    credentials: &Credentials,
    forwarder: &Forwarder,
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    carriers: Up,
) -> Health {
    let (ready, shown, kept) = (
        credentials.clone(),
        credentials.clone(),
        credentials.clone(),
    );
    let dialled = forwarder.clone();
    let (forwarder, routes) = (forwarder.clone(), forwarder.clone());
    let (edge, roster) = (carriers.edge.clone(), carriers.edge.clone());
    let up = carriers.clone();
    let reasons: Arc<dyn Fn() -> Vec<String> + Send + Sync> = Arc::new(move || {
        let mut reasons = ready.reasons();
        let tunnels = ready.current();
        let waiting = tunnels.iter().map(|serving| &*serving.tunnel.name);
        reasons.extend(waiting.filter(|name| routes.policy_pending(name)).map(|name| {
                format!("tunnel {name}: no routes yet; write them under the tunnel in the daemon's file, or in this proxy's")
            }));
        reasons.extend(up.reason());
        if tasks.is_stopping() {
            reasons.push("draining".to_owned());
        }
        reasons
    });
    Health {
        reasons: reasons.clone(),
        notes: Arc::new(move || {
            let mut notes = kept.notes();
            notes.extend(roster.iter().flat_map(Roster::notes));
            notes
        }),
        metrics: Arc::new(move || {
            let mut page = Exposition::default();
            telemetry.page(&mut page, &shown, &*clock);
            forwarder.metrics(&mut page);
            if let Some(edge) = &edge {
                let name = "keyward_edge_connections";
                page.family(name, "gauge", "Connections that the edge has bound.");
                page.sample(name, &[], edge.connections());
            }
            page.finish()
        }),
        pages: Vec::new(),
        asked: vec![(checkup::PATH, checkup::page(reasons, dialled, carriers))],
    }
}

/// Answers until `tasks` is stopped, which is after the drain: who drains says so.
pub(crate) fn serve(
    health: Health,
    listener: HealthListener,
    tasks: &Tasks,
) -> Result<(), Failure> {
    match socket::listen(listener.addr) {
        Ok(bound) => tasks.essential("health", health.serve(bound, tasks.clone())),
        Err(error) if listener.explicit => {
            let what = format!("the health listener cannot listen on {}", listener.addr);
            return Err(Failure::new(Exit::Unavailable, what)
                .caused_by(&error)
                .next("free the port, or configure another one"));
        }
        // Nobody asked for it, and the stock proxy's file must do unchanged.
        Err(error) => tracing::warn!(addr = %listener.addr, %error, "no health listener"),
    }
    Ok(())
}

/// Asks the health listener at `addr` whether the proxy is ready.
///
/// # Errors
///
/// It is not, or does not answer within five seconds; exit code 69.
pub async fn probe(addr: SocketAddr) -> Result<(), Failure> {
    let addr = dialled(addr);
    let unavailable = |what: &str| Failure::new(Exit::Unavailable, what);
    let answer = match tokio::time::timeout(PROBE_LIMIT, ask(addr)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let what = format!("the health listener at {addr} does not answer");
            return Err(unavailable(&what)
                .caused_by(&error)
                .next("is the proxy running?"));
        }
        Err(_) => return Err(unavailable("the health listener takes too long to answer")),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(unavailable("the proxy is not ready")
        .cause(body.lines().skip(1).collect::<Vec<_>>().join("; ")))
}

async fn ask(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PROBE_LENGTH).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A listener on every address is asked on loopback.
fn dialled(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}
