//! `bench websocket`: what the carrier `websocket` costs over the carrier `tls`, in one proxy, with the same load.
//!
//! The far peer is the demo's bridge, which makes WebSocket messages of what wrk sends; it runs in this program, on the
//! load's core, and is not measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use demo::bridge::{Bridge, BridgeOptions};
use process::{Failure, Tasks};

use crate::command::say;
use crate::figure::{Findings, PAIRS};
use crate::load::wrk;
use crate::machine::Program;
use crate::ours;
use crate::peers::{Workshop, upstream};

const WARM_SECONDS: u32 = 1;
const SECONDS: u32 = 4;
const CONNECTIONS: u32 = 64;

/// Measures it.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let origin = upstream(&shop).await?;
    let ours = ours::proxy(&shop, origin.address).await?;
    let options = BridgeOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        connector: ours.websocket,
        host: "localhost".to_owned(),
        path: "/".to_owned(),
        ping: Duration::from_secs(10),
        varied: false,
    };
    let bridge = Bridge::start(options, tasks)
        .await
        .map_err(|error| Failure::internal("no bridge").caused_by(&error))?;
    let mut pairs = Vec::new();
    for pair in 0..PAIRS {
        let program = &ours.server.program;
        let websocket = cost(program, bridge.address).await;
        let tls = cost(program, ours.server.address).await;
        match (websocket, tls) {
            (Ok(websocket), Ok(tls)) => {
                say(&format!(
                    "websocket.ratio {pair} websocket {websocket:.1} us, tls {tls:.1} us, {:.1} MiB",
                    program.resident_mib()
                ));
                pairs.push((websocket, tls));
            }
            (websocket, tls) => say(&format!(
                "websocket.ratio {pair} {:?} {:?}",
                websocket.err(),
                tls.err()
            )),
        }
    }
    findings.compared("websocket.ratio", "our carrier tls", &pairs);
    Ok(())
}

/// CPU microseconds a request.
async fn cost(program: &Program, address: SocketAddr) -> Result<f64, Failure> {
    let _ = wrk(address, CONNECTIONS, WARM_SECONDS).await?;
    let before = program.cpu_seconds();
    let seen = wrk(address, CONNECTIONS, SECONDS).await?;
    Ok((program.cpu_seconds() - before) / seen.requests * 1e6)
}
