//! The second half of `bench failover`: two edges behind one name, one proxy on both, the agent's program in front of them,
//! and one of the edges killed again and again while MCP clients call.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use process::{Failure, Tasks};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::caller::{Caller, get};
use crate::command::say;
use crate::machine::{MEASURED, Program, free_port};
use crate::ours::shipped;
use crate::peers::{Workshop, text, upstream};
use crate::tunnel::{
    self, DOMAIN, EDGE, Edge, ProxyOptions, SECRET, TUNNEL, certificate, client_certificate, entry,
    metric, until,
};

/// How often one of the two is killed; they take turns.
const ROUNDS: usize = 10;
/// Callers meanwhile, and how long each waits between two calls.
const CALLERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(5);
/// How long both serve, and how long one of them does.
const SPAN: Duration = Duration::from_secs(1);
/// A call that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);

/// A call that failed.
struct Lost {
    began: Instant,
    ended: Instant,
    why: String,
}

#[derive(Default)]
struct Ledger {
    made: usize,
    lost: Vec<Lost>,
}

struct World {
    edges: [Edge; 2],
    listen: SocketAddr,
    _programs: (Program, Program),
    _origin: Program,
    _shop: Workshop,
}

/// How many calls failed that had not begun when an edge was killed.
pub(crate) async fn lost(tasks: &Tasks) -> Result<f64, Failure> {
    let mut world = World::start().await?;
    let (ledger, over) = (
        Arc::new(Mutex::new(Ledger::default())),
        Arc::new(AtomicBool::new(false)),
    );
    for _ in 0..CALLERS {
        tasks.spawn(calls(world.listen, Arc::clone(&ledger), Arc::clone(&over)));
    }
    let mut killed = Vec::new();
    for round in 0..ROUNDS {
        sleep(SPAN).await;
        let edge = world.edges.get_mut(round % 2).expect("there are two");
        edge.program.kill().await;
        killed.push(Instant::now());
        let before = made(&ledger);
        sleep(SPAN).await;
        let alone = made(&ledger) - before;
        let _ = edge.again().await?;
        let back = async || metric(edge.health, "keyward_edge_links").await == Some(2.0);
        until("the proxy is back", back).await?;
        say(&format!(
            "failover.failed {round} {alone} calls through the other edge alone"
        ));
        if alone == 0 {
            return Err(Failure::internal("nobody called while one edge was gone"));
        }
    }
    over.store(true, Ordering::Relaxed);
    let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh: Vec<&Lost> = ledger
        .lost
        .iter()
        .filter(|lost| !lost.had_begun(&killed))
        .collect();
    say(&format!(
        "failover.failed {} calls, {} failed, {} of them begun before a kill; first: {:?}",
        ledger.made,
        ledger.lost.len(),
        ledger.lost.len() - fresh.len(),
        fresh.first().map(|lost| &lost.why)
    ));
    Ok(f64::from(u32::try_from(fresh.len()).unwrap_or(u32::MAX)))
}

impl Lost {
    /// Whether it was under way at one of these moments.
    fn had_begun(&self, killed: &[Instant]) -> bool {
        killed
            .iter()
            .any(|at| self.began <= *at && *at <= self.ended)
    }
}

impl World {
    async fn start() -> Result<Self, Failure> {
        let shop = Workshop::new().await?;
        let origin = upstream(&shop).await?;
        certificate(&shop, "front", EDGE)?;
        certificate(&shop, "leaf", DOMAIN)?;
        client_certificate(&shop)?;
        shop.write("secret", SECRET)?;
        let ca = shop.path("client-ca.pem");
        let access = format!(
            "client_ca_files: [{}], clients: ['agent.example']",
            ca.display()
        );
        let tunnels = format!("instances: 2\ntunnels:\n{}", entry(TUNNEL, DOMAIN, &access));
        let more = format!(
            "tunnels_file: {}\n",
            shop.write("tunnels.yaml", &tunnels)?.display()
        );
        // One name, one port, two addresses.
        let first = free_port().await?;
        let second = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), first.port()));
        let at = ("first", first, free_port().await?);
        let one = tunnel::start_edge_at(&shop, at, &more, &[]).await?;
        let at = ("second", second, free_port().await?);
        let other = tunnel::start_edge_at(&shop, at, &more, &[]).await?;
        let edges = [first, second];
        let options = ProxyOptions {
            pair: ("leaf.crt", "leaf.key"),
            client_ca: Some("client-ca.pem"),
            ..ProxyOptions::new(&edges, origin.address)
        };
        let proxy = tunnel::proxy(&shop, options).await?;
        for edge in [&one, &other] {
            let both = async || metric(edge.health, "keyward_edge_links").await == Some(2.0);
            until("the proxy is connected to each edge", both).await?;
        }
        let listen = free_port().await?;
        let agent = agent(&shop, edges, listen).await?;
        Ok(Self {
            edges: [one, other],
            listen,
            _programs: (proxy, agent),
            _origin: origin.program,
            _shop: shop,
        })
    }
}

async fn agent(
    shop: &Workshop,
    edges: [SocketAddr; 2],
    listen: SocketAddr,
) -> Result<Program, Failure> {
    let [first, second] = edges;
    let url = format!("https://{EDGE}:{}", first.port());
    let (first, second, asked) = (first.to_string(), second.to_string(), listen.to_string());
    let paths =
        ["front-ca.pem", "client.crt", "client.key", "leaf-ca.pem"].map(|name| shop.path(name));
    let [edge_ca, certificate, key, ca] = paths.each_ref().map(|path| text(path));
    let (program, log) = (shipped("keyward-edge")?, shop.path("agent.log"));
    let mut agent = Program::start(
        MEASURED,
        &[
            text(&program),
            "agent",
            "--edge",
            &url,
            "--edge-address",
            &first,
            "--edge-address",
            &second,
            "--edge-ca",
            edge_ca,
            "--tunnel-domain",
            DOMAIN,
            "--cert",
            certificate,
            "--key",
            key,
            "--ca",
            ca,
            "--listen",
            &asked,
            "--log-level",
            "warn",
        ],
        &log,
    )?;
    let listening = agent.listening(listen).await;
    listening.map_err(|failure| failure.next(std::fs::read_to_string(&log).unwrap_or_default()))?;
    Ok(agent)
}

async fn calls(agent: SocketAddr, ledger: Arc<Mutex<Ledger>>, over: Arc<AtomicBool>) {
    let request = get(&format!("up.localhost:{}", agent.port()), "/");
    let mut kept = None;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let called = timeout(LIMIT, one(&mut kept, agent, &request)).await;
        let called = called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let ended = Instant::now();
        {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.made += 1;
            if let Err(error) = &called {
                let why = error.to_string();
                ledger.lost.push(Lost { began, ended, why });
            }
        }
        if called.is_err() {
            kept = None;
        }
        sleep(PAUSE).await;
    }
}

async fn one(
    kept: &mut Option<Caller<TcpStream>>,
    agent: SocketAddr,
    request: &[u8],
) -> io::Result<()> {
    let caller = match kept {
        Some(caller) => caller,
        None => kept.insert(Caller::plain(agent).await?),
    };
    caller.call(request).await.map(drop)
}

fn made(ledger: &Mutex<Ledger>) -> usize {
    ledger.lock().unwrap_or_else(PoisonError::into_inner).made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_had_begun_when_it_was_under_way_at_a_kill() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let lost = |began, ended| Lost {
            began: at(began),
            ended: at(ended),
            why: String::new(),
        };
        let killed = [at(10), at(20)];
        assert!(lost(9, 11).had_begun(&killed) && lost(20, 21).had_begun(&killed));
        assert!(!lost(11, 12).had_begun(&killed) && !lost(21, 22).had_begun(&killed));
        assert!(!lost(5, 9).had_begun(&killed));
    }
}
