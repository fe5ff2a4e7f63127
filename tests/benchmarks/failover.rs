//! `bench failover`: what is lost when an edge is killed.
//!
//! First one edge with a state, four proxies, callers and a client of its API that makes tunnels all the time: after each
//! `kill -9` and restart every connection of every proxy must be back, and every change that was answered must be there.
//! Then two edges behind one name and the agent's program: no call that began after the kill may fail.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use process::{Failure, Tasks};
use serde_json::json;
use tokio::time::sleep;
use tokio_rustls::rustls::ClientConfig;

use crate::agents;
use crate::caller::{Caller, HERE, get, trusting};
use crate::command::say;
use crate::figure::Findings;
use crate::machine::Program;
use crate::operator::{Api, Operator, member};
use crate::peers::{Workshop, text, upstream};
use crate::tunnel::{self, EDGE, Edge, ProxyOptions, SECRET, certificate, metric, until};

/// How often an edge is killed.
const ROUNDS: usize = 7;
/// Proxies, each with two connections.
const PROXIES: usize = 4;
/// Callers meanwhile.
const CALLERS: u8 = 16;
/// Between two calls of a caller, and between two changes of the state.
const PAUSE: Duration = Duration::from_millis(25);
const CHANGES: Duration = Duration::from_millis(100);
/// Between a recovery and the next kill. A proxy whose connections last for less than two seconds takes its time.
const BETWEEN: Duration = Duration::from_secs(5);

/// Measures both.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    match Box::pin(back(tasks)).await {
        Ok(seconds) => findings.absolute("failover.back", seconds),
        Err(failure) => say(&format!("failover.back: {failure}")),
    }
    findings.absolute("failover.failed", Box::pin(agents::lost(tasks)).await?);
    Ok(())
}

/// An edge with a state, its proxies, and a client of its API.
struct World {
    edge: Edge,
    api: Api,
    trust: Arc<ClientConfig>,
    host: String,
    _proxies: Vec<Program>,
    _origin: Program,
    _shop: Workshop,
}

/// Seconds from the start of the edge to the return of the last connection, in the slowest round.
async fn back(tasks: &Tasks) -> Result<f64, Failure> {
    let mut world = World::start(tasks).await?;
    let load = Arc::new(Load::default());
    world.load(&load, tasks);
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        sleep(BETWEEN).await;
        let (calls, changes) = (*lock(&load.answered), lock(&load.made).len());
        if calls == 0 || changes == 0 {
            let seen = format!("{calls} calls, {changes} changes");
            return Err(Failure::internal("there was no load").cause(seen));
        }
        world.edge.program.kill().await;
        let began = world.edge.again().await?;
        let health = world.edge.health;
        let all = async || metric(health, "keyward_edge_links").await == Some(8.0);
        until("every proxy is back", all).await?;
        let took = began.elapsed();
        slowest = slowest.max(took);
        let called = call(&world.host, &world.trust, (world.edge.address, HERE)).await;
        called.map_err(|error| Failure::internal("no call after the restart").caused_by(&error))?;
        say(&format!(
            "failover.back {round} {:.3} s after {calls} calls and {changes} changes",
            took.as_secs_f64()
        ));
    }
    load.over.store(true, Ordering::Relaxed);
    // Whatever was answered is there, and as it was.
    let made = lock(&load.made).clone();
    for id in &made {
        let path = format!("/v1/tunnels/{id}");
        let found = world.api.call(Method::GET, &path, None).await?;
        if member(&found.object, "display_name")? != "more" {
            return Err(Failure::internal("a tunnel is not what it was"));
        }
    }
    let count = made.len();
    say(&format!(
        "failover.back every one of {count} changes that were answered is there"
    ));
    Ok(slowest.as_secs_f64())
}

/// What goes on while the edge is killed.
#[derive(Default)]
struct Load {
    answered: Mutex<usize>,
    made: Mutex<BTreeSet<String>>,
    over: AtomicBool,
}

impl World {
    async fn start(tasks: &Tasks) -> Result<Self, Failure> {
        let shop = Workshop::new().await?;
        let origin = upstream(&shop).await?;
        certificate(&shop, "front", EDGE)?;
        let state = shop.path("state");
        let words = ["--state", text(&state)];
        let edge = tunnel::start_edge(&shop, "edge", "", &words).await?;
        let operator = Operator::new(&words)?;
        let api = Api::enter(&shop, &operator, edge.address, tasks).await?;
        let (id, domain) = api.tunnel(&shop, &operator).await?;
        let sha256 = pki::Fingerprint::of(SECRET.as_bytes()).to_string();
        api.post(
            &format!("/v1/tunnels/{id}/secrets"),
            &json!({"sha256": sha256}),
        )
        .await?;
        shop.write("secret", SECRET)?;
        let (edges, mut proxies) = ([edge.address], Vec::new());
        for number in 0..PROXIES {
            let options = ProxyOptions {
                name: &format!("replica-{number}"),
                tunnel: (&id, &domain),
                pair: ("leaf.crt", "leaf.key"),
                ..ProxyOptions::new(&edges, origin.address)
            };
            proxies.push(tunnel::proxy(&shop, options).await?);
        }
        Ok(Self {
            trust: trusting(&shop.path("leaf-ca.pem"))?,
            host: format!("up.{domain}"),
            edge,
            api,
            _proxies: proxies,
            _origin: origin.program,
            _shop: shop,
        })
    }
}

impl World {
    /// Callers, and somebody who makes tunnels, until it is over.
    fn load(&self, load: &Arc<Load>, tasks: &Tasks) {
        for number in 1..=CALLERS {
            let (load, trust) = (Arc::clone(load), Arc::clone(&self.trust));
            let (host, edge) = (self.host.clone(), self.edge.address);
            // Each is one agent, which is held to its limits.
            let from = Ipv4Addr::new(127, 0, 2, number);
            tasks.spawn(async move {
                while !load.over.load(Ordering::Relaxed) {
                    // Some calls have to fail: there is no edge for a while.
                    if call(&host, &trust, (edge, from)).await.is_ok() {
                        *lock(&load.answered) += 1;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        let (api, load) = (self.api.clone(), Arc::clone(load));
        tasks.spawn(async move {
            while !load.over.load(Ordering::Relaxed) {
                let made = api
                    .post("/v1/tunnels", &json!({"display_name": "more"}))
                    .await;
                let id = made.and_then(|made| member(&made.object, "id"));
                if let Ok(id) = id {
                    lock(&load.made).insert(id);
                }
                sleep(CHANGES).await;
            }
        });
    }
}

async fn call(
    host: &str,
    trust: &Arc<ClientConfig>,
    (edge, from): (SocketAddr, Ipv4Addr),
) -> io::Result<usize> {
    let mut caller = Caller::named(host, trust, edge, from).await?;
    caller.call(&get(host, "/")).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
