//! `bench idle`: what an agent's connection holds when nothing moves on it, and what a connected tunnel does.
//!
//! Memory is the proportional set size of the whole process, before and after: what others call "per connection" without
//! the allocator's own keeping is not what a machine has to have.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use process::{Failure, Tasks};
use tokio::net::TcpListener;
use tokio_rustls::rustls::ClientConfig;

use crate::caller::{Caller, HERE, post, trusting};
use crate::command::say;
use crate::far::Far;
use crate::figure::Findings;
use crate::peers::Workshop;
use crate::tunnel::{
    self, DOMAIN, Edge, ProxyOptions, SECRET, TUNNEL, UNLIMITED, entry, metric, until,
};

/// Agents' connections.
const AGENTS: usize = 10_000;
/// Bytes each way on each of them.
const BYTES: usize = 64 << 10;
/// Opened at once.
const AT_ONCE: usize = 32;
/// Connected tunnels, and the connections that a proxy holds for each.
const TUNNELS: usize = 1_000;
const LINKS: usize = 2;
/// What has moved has come to rest after this.
const REST: Duration = Duration::from_secs(5);

/// The proxy takes ten thousand connections as it is configured, and closes those that are idle for two minutes.
const PATIENT: &str = "limits: {connections: 20000, idle_timeout: 1h}\n";

/// Measures both.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    agents(findings, tasks).await?;
    tunnels(findings, tasks).await
}

async fn agents(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    shop.write("secret", SECRET)?;
    let upstream = echo(tasks).await?;
    let edge = tunnel::edge(&shop, &entry(TUNNEL, DOMAIN, UNLIMITED), "").await?;
    let edges = [edge.address];
    let options = ProxyOptions {
        more: PATIENT,
        ..ProxyOptions::new(&edges, upstream)
    };
    let proxy = tunnel::proxy(&shop, options).await?;
    let trust = trusting(&shop.path("cert.pem"))?;

    // What is made once – threads, arenas, the connections to the upstream – is made before.
    drop(open(&edge, &trust, 2 * AT_ONCE).await?);
    streams(&edge, 0).await?;
    let before = [edge.program.proportional_kib(), proxy.proportional_kib()];
    let mut callers = open(&edge, &trust, AGENTS).await?;
    tokio::time::sleep(REST).await;
    streams(&edge, AGENTS).await?;
    let after = [edge.program.proportional_kib(), proxy.proportional_kib()];
    for ((id, before), after) in ["idle.edge", "idle.proxy"]
        .into_iter()
        .zip(before)
        .zip(after)
    {
        let each = (after - before) / count(AGENTS);
        say(&format!(
            "{id} {before:.0} KiB before, {after:.0} KiB with {AGENTS} idle connections"
        ));
        findings.absolute(id, each);
    }
    // They were idle and not gone.
    for caller in callers.iter_mut().step_by(97) {
        let called = caller.call(&post(1)).await;
        called
            .map_err(|error| Failure::internal("an idle connection is dead").caused_by(&error))?;
    }
    drop(callers);
    streams(&edge, 0).await?;
    tokio::time::sleep(REST).await;
    say(&format!(
        "idle, when they have gone: edge {:.0} KiB, proxy {:.0} KiB",
        edge.program.proportional_kib(),
        proxy.proportional_kib()
    ));
    Ok(())
}

/// `count` connections, each of which has carried [`BYTES`] each way.
async fn open(
    edge: &Edge,
    trust: &Arc<ClientConfig>,
    count: usize,
) -> Result<Vec<Caller>, Failure> {
    let request = post(BYTES);
    let one = async |_| {
        let mut caller = Caller::connect(trust, edge.address, HERE).await?;
        let length = caller.call(&request).await?;
        if length == BYTES {
            Ok(caller)
        } else {
            Err(std::io::Error::other(format!("{length} bytes came")))
        }
    };
    let opened: Vec<Result<Caller, std::io::Error>> = stream::iter(0..count)
        .map(one)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let opened: Result<Vec<Caller>, _> = opened.into_iter().collect();
    opened.map_err(|error| Failure::internal("an agent was not served").caused_by(&error))
}

async fn streams(edge: &Edge, wanted: usize) -> Result<(), Failure> {
    let holds = async || metric(edge.health, "keyward_edge_streams").await == Some(count(wanted));
    until(&format!("{wanted} streams"), holds).await
}

/// An upstream that answers with as much as it was given.
async fn echo(tasks: &Tasks) -> Result<SocketAddr, Failure> {
    let failed = |error: std::io::Error| Failure::internal("no upstream").caused_by(&error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let stopping = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopping.stopping() => return,
            };
            let Ok((socket, _)) = accepted else { continue };
            let serving =
                http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(back));
            let stopping = stopping.clone();
            stopping.clone().spawn(async move {
                tokio::select! {
                    _ = serving => {}
                    () = stopping.stopping() => {}
                }
            });
        }
    });
    Ok(address)
}

async fn back(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

async fn tunnels(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let entries: String = (0..TUNNELS)
        .map(|number| {
            let domain = format!("t{number}.example");
            entry(&format!("tnl_{number}"), &domain, UNLIMITED)
        })
        .collect();
    let edge = tunnel::edge(&shop, &(entry(TUNNEL, DOMAIN, UNLIMITED) + &entries), "").await?;
    let trust = trusting(&shop.path("front-ca.pem"))?;
    let attach = async |number: Option<usize>| {
        let id = number.map_or_else(|| TUNNEL.to_owned(), |number| format!("tnl_{number}"));
        let attached = Far::attach((edge.address, HERE), &trust, (&id, SECRET), tasks).await?;
        let mut far = attached
            .map_err(|status| Failure::internal(format!("a proxy was refused: {status}")))?;
        far.bound().await?;
        Ok::<Far, Failure>(far)
    };
    // One that comes and goes, for what is made once.
    drop(attach(None).await?);
    links(&edge, 0).await?;
    let before = edge.program.proportional_kib();
    let mut held = Vec::new();
    let mut coming = FuturesUnordered::new();
    for number in 0..TUNNELS * LINKS {
        coming.push(attach(Some(number / LINKS)));
        if coming.len() == AT_ONCE {
            held.extend(coming.next().await.transpose()?);
        }
    }
    while let Some(far) = coming.next().await {
        held.push(far?);
    }
    tokio::time::sleep(REST).await;
    links(&edge, TUNNELS * LINKS).await?;
    let after = edge.program.proportional_kib();
    say(&format!(
        "idle.tunnel {before:.0} KiB before, {after:.0} KiB with {TUNNELS} tunnels of {LINKS} connections"
    ));
    if held.iter().all(|far| far.has_ended().is_none()) {
        findings.absolute("idle.tunnel", (after - before) / count(TUNNELS));
    }
    Ok(())
}

async fn links(edge: &Edge, wanted: usize) -> Result<(), Failure> {
    let holds = async || metric(edge.health, "keyward_edge_links").await == Some(count(wanted));
    until(&format!("{wanted} connections of proxies"), holds).await
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
