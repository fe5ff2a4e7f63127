//! What whoever looks for a fault asks a running proxy: where it listens, and whether its upstreams can be dialled.
//!
//! It is found out when it is asked, by the code that calls go through. Nobody is asked who he is, so one answer is worked
//! on at a time, and nothing is sent to an upstream.

use std::sync::Arc;

use process::{Asked, Chain};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::carrier::Up;
use crate::forward::{Forwarder, Tried};

/// Where the health listener has it.
pub(crate) const PATH: &str = "/v1/checkup";

/// The answer, a stable object; see `docs/config.md`.
#[derive(Debug, Serialize)]
struct Checkup {
    reasons: Vec<String>,
    carriers: Vec<Carrier>,
    routes: Vec<Route>,
}

#[derive(Debug, Serialize)]
struct Carrier {
    name: String,
    addr: String,
}

#[derive(Debug, Serialize)]
struct Route {
    tunnel: Box<str>,
    #[serde(rename = "route")]
    name: String,
    upstream: String,
    error: Option<String>,
    next: Option<String>,
}

/// `reasons`: as `/readyz` has them.
pub(crate) fn page(
    reasons: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    forwarder: Forwarder,
    carriers: Up,
) -> Asked {
    let turn = Arc::new(Mutex::new(()));
    Arc::new(move || {
        let (reasons, turn) = (reasons.clone(), turn.clone());
        let (forwarder, carriers) = (forwarder.clone(), carriers.clone());
        Box::pin(async move {
            let _turn = turn.lock().await;
            let tried = forwarder.try_routes().await;
            let checkup = Checkup {
                reasons: reasons(),
                carriers: listening(&carriers),
                routes: tried.into_iter().map(route).collect(),
            };
            serde_json::to_string(&checkup).expect("our own types have string keys")
        })
    })
}

fn listening(carriers: &Up) -> Vec<Carrier> {
    let pairs = carriers.listening.iter().zip(&carriers.addresses);
    let carrier = |(name, addr): (&String, &std::net::SocketAddr)| Carrier {
        name: name.clone(),
        addr: addr.to_string(),
    };
    pairs.map(carrier).collect()
}

fn route(tried: Tried) -> Route {
    let error = tried.outcome.err();
    Route {
        tunnel: tried.tunnel,
        name: tried.route,
        upstream: tried.upstream,
        next: error.as_ref().map(crate::upstream::ConnectError::next),
        error: error.map(|error| Chain(&error).to_string()),
    }
}
