//! `bench slow`: what agents that stop reading, hang up or call far too often cost everybody else.
//!
//! Windows with and without them alternate, so that whatever else the machine does falls on both. Every limit is the
//! default; who calls from one source is one agent.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use process::{Failure, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

use crate::caller::{Caller, HERE, dial, get, trusting};
use crate::command::say;
use crate::figure::Findings;
use crate::others::Others;
use crate::peers::{Workshop, upstream};
use crate::tunnel::{
    self, DOMAIN, Edge, HOST, ProxyOptions, SECRET, TUNNEL, entry, metric, page, until,
};

/// Pairs of windows, and how long each is.
const WINDOWS: u32 = 14;
const WINDOW: Duration = Duration::from_secs(3);
/// What somebody has begun or ended has settled after this.
const SETTLE: Duration = Duration::from_millis(700);

/// Agents that stop reading a download, and the receive buffer of each: what stands still is then mostly in the tunnel.
const STALLED: u8 = 64;
const NARROW: u32 = 32 << 10;
/// Agents that hang up, how many at once, and from how many addresses.
const ABORTED: usize = 100_000;
const AT_ONCE: usize = 64;
const SOURCES: usize = 250;
/// Ten times the 3,000 connections a minute that one agent has.
const FLOOD: Duration = Duration::from_millis(2);
/// What the proxy writes when it loses a connection to the edge.
const ENDED: &str = "connection to the edge ended";

struct World {
    shop: Workshop,
    edge: Edge,
    trust: Arc<ClientConfig>,
    tasks: Tasks,
}

/// Measures all three.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let origin = upstream(&shop).await?;
    shop.write("secret", SECRET)?;
    let access = "cidrs: ['127.0.0.0/8']";
    let edge = tunnel::edge(&shop, &entry(TUNNEL, DOMAIN, access), "").await?;
    let edges = [edge.address];
    let options = ProxyOptions {
        log_level: "info",
        ..ProxyOptions::new(&edges, origin.address)
    };
    let _proxy = tunnel::proxy(&shop, options).await?;
    let trust = trusting(&shop.path("cert.pem"))?;
    let world = World {
        shop,
        edge,
        trust,
        tasks: tasks.clone(),
    };
    world.connected().await?;
    let others = Others::start(world.edge.address, &world.trust, tasks);
    sleep(SETTLE).await;
    match world.stalled(&others).await {
        Ok(pairs) => findings.compared("slow.stalled", "windows without them", &pairs),
        Err(failure) => say(&format!("slow.stalled: {failure}")),
    }
    match world.flood(&others).await {
        Ok(pairs) => findings.compared("slow.flood", "windows without it", &pairs),
        Err(failure) => say(&format!("slow.flood: {failure}")),
    }
    drop(others);
    findings.absolute("slow.aborted", world.aborted().await?);
    Ok(())
}

impl World {
    /// Waits until the proxy has its connections.
    async fn connected(&self) -> Result<(), Failure> {
        let both = async || metric(self.edge.health, "keyward_edge_links").await == Some(2.0);
        until("the proxy's connections", both).await
    }

    /// An agent's connection.
    async fn caller(&self) -> Result<Caller, Failure> {
        let caller = Caller::connect(&self.trust, self.edge.address, HERE).await;
        caller.map_err(|error| Failure::internal("no call").caused_by(&error))
    }

    /// p99 of the others with agents that have stopped reading, and without.
    async fn stalled(&self, others: &Others) -> Result<Vec<(f64, f64)>, Failure> {
        let mut pairs = Vec::new();
        for window in 0..WINDOWS {
            let without = others.window(WINDOW).await?;
            let mut held = Vec::new();
            for number in 0..STALLED {
                let from = Ipv4Addr::new(127, 0, 4, number + 1);
                let mut caller = Caller::narrow(NARROW, &self.trust, self.edge.address, from)
                    .await
                    .map_err(|error| Failure::internal("not served").caused_by(&error))?;
                let asked = caller.ask(&get(HOST, "/big")).await;
                asked.map_err(|error| Failure::internal("not served").caused_by(&error))?;
                held.push(caller);
            }
            sleep(SETTLE).await;
            let with = others.window(WINDOW).await?;
            let streams = metric(self.edge.health, "keyward_edge_streams").await;
            if streams.is_none_or(|streams| streams < f64::from(STALLED)) {
                return Err(Failure::internal("those that stopped reading did not stay"));
            }
            say(&format!(
                "slow.stalled {window} p99 {without:.0} us without, {with:.0} us with"
            ));
            pairs.push((with, without));
            drop(held);
            sleep(SETTLE).await;
        }
        Ok(pairs)
    }

    /// The same with one agent that comes at ten times its limit.
    async fn flood(&self, others: &Others) -> Result<Vec<(f64, f64)>, Failure> {
        let hello = hello(&self.trust)?;
        let before = self.refused().await;
        let mut pairs = Vec::new();
        for window in 0..WINDOWS {
            let without = others.window(WINDOW).await?;
            let (address, words) = (self.edge.address, Arc::clone(&hello));
            let until = Instant::now() + SETTLE + WINDOW;
            let tasks = self.tasks.clone();
            self.tasks.spawn(async move {
                let mut pace = interval(FLOOD);
                while Instant::now() < until {
                    pace.tick().await;
                    let words = Arc::clone(&words);
                    tasks.spawn(async move {
                        let from = Ipv4Addr::new(127, 0, 3, 1);
                        let _ =
                            timeout(WINDOW, abort(address, from, &words, Patience::Answer)).await;
                    });
                }
            });
            sleep(SETTLE).await;
            let with = others.window(WINDOW).await?;
            say(&format!(
                "slow.flood {window} p99 {without:.0} us without, {with:.0} us with"
            ));
            pairs.push((with, without));
            sleep(SETTLE).await;
        }
        let refused = self.refused().await - before;
        say(&format!(
            "slow.flood {refused} connections were refused as too many"
        ));
        if refused < 1000.0 {
            return Err(Failure::internal("the agent was not held to its limit"));
        }
        Ok(pairs)
    }

    async fn refused(&self) -> f64 {
        let name = "keyward_edge_refusals_total{reason=\"too_many\"}";
        metric(self.edge.health, name).await.unwrap_or_default()
    }

    /// How many connections of the proxy ended while agents hung up and one went on calling.
    async fn aborted(&self) -> Result<f64, Failure> {
        let mut faithful = self.caller().await?;
        let hello = hello(&self.trust)?;
        let accepted = async || metric(self.edge.health, "keyward_edge_accepted_total").await;
        let (began, before) = (Instant::now(), accepted().await.unwrap_or_default());
        let one = async |number: usize| {
            let low = u8::try_from(number % SOURCES).unwrap_or_default();
            let from = Ipv4Addr::new(127, 0, 5, low + 1);
            let patience = match number % 3 {
                0 => Patience::None,
                1 => Patience::Moment,
                _ => Patience::Answer,
            };
            abort(self.edge.address, from, &hello, patience).await
        };
        let aborted = stream::iter(0..ABORTED).map(one).buffer_unordered(AT_ONCE);
        let crowd = aborted.filter(|ended| std::future::ready(ended.is_err()));
        let calling = async {
            loop {
                let called = faithful.call(&get(HOST, "/")).await;
                if let Err(error) = called {
                    return Failure::internal("the connection of who stayed broke")
                        .caused_by(&error);
                }
                sleep(SETTLE).await;
            }
        };
        let failed = tokio::select! {
            failed = crowd.count() => failed,
            failure = calling => return Err(failure),
        };
        let came = accepted().await.unwrap_or_default() - before;
        let quiet = async || metric(self.edge.health, "keyward_edge_streams").await == Some(1.0);
        until("the aborted streams' end", quiet).await?;
        let log = std::fs::read_to_string(self.shop.path("replica.log")).unwrap_or_default();
        let ended = log.lines().filter(|line| line.contains(ENDED)).count();
        let links = metric(self.edge.health, "keyward_edge_links").await;
        say(&format!(
            "slow.aborted {came} connections in {:.1} s, {failed} not made; {ended} of the proxy's ended, {links:?} are there; {}",
            began.elapsed().as_secs_f64(),
            self.refusals().await
        ));
        if failed > 0 || links != Some(2.0) {
            return Err(Failure::internal(
                "not every agent came as far as to hang up",
            ));
        }
        Ok(f64::from(u32::try_from(ended).unwrap_or(u32::MAX)))
    }

    async fn refusals(&self) -> String {
        let page = page(self.edge.health, "/metrics").await.unwrap_or_default();
        let lines = page.lines().filter(|line| line.contains("refusals_total{"));
        lines.collect::<Vec<_>>().join(", ")
    }
}

/// How long an agent waits before it hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// Not at all.
    None,
    /// Until the edge has opened a stream, perhaps.
    Moment,
    /// Until the first byte of an answer.
    Answer,
}

/// Says hello and hangs up, by a reset.
async fn abort(to: SocketAddr, from: Ipv4Addr, hello: &[u8], patience: Patience) -> io::Result<()> {
    let mut stream = dial(to, from).await?;
    stream.set_zero_linger()?;
    stream.write_all(hello).await?;
    match patience {
        Patience::None => {}
        Patience::Moment => sleep(Duration::from_millis(1)).await,
        Patience::Answer => {
            let _ = stream.read(&mut [0]).await;
        }
    }
    Ok(())
}

/// What a caller says first. All say the same: whoever means it makes one of its own.
fn hello(trust: &Arc<ClientConfig>) -> Result<Arc<[u8]>, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::internal("no hello").caused_by(error);
    let name = ServerName::try_from(HOST).map_err(|error| failed(&error))?;
    let client = ClientConnection::new(Arc::clone(trust), name);
    let mut client = client.map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    client
        .write_tls(&mut bytes)
        .map_err(|error| failed(&error))?;
    Ok(bytes.into())
}
