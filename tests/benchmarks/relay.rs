//! `bench relay`: what a request and a megabyte cost on the whole way through the tunnel, against rathole in front of nginx.
//!
//! A path is everything between the load generator and the upstream: edge and proxy of ours; nginx and both ends of the
//! tunnel of others. All of it shares the measured core, and its CPU time is added up. Passthrough, inner TLS without
//! client certificates, callers by their address.

use std::net::SocketAddr;
use std::sync::Arc;

use process::Failure;

use crate::command::say;
use crate::figure::{Findings, PAIRS};
use crate::load::{ON_LOOPBACK, Seen, download, wrk_named};
use crate::machine::Program;
use crate::peers::{BIG, Buffers, Workshop, nginx, upstream};
use crate::rivals::{self, Hop, Rival};
use crate::tunnel::{self, DOMAIN, HOST, ProxyOptions, SECRET, TUNNEL, UNLIMITED};

/// How long each side is under load before it is measured, and while it is.
const WARM_SECONDS: u32 = 1;
const SECONDS: u32 = 3;
/// Downloads of [`BIG`] bytes a measurement: about a gigabyte, for more than a hundred ticks of CPU time.
const DOWNLOADS: u32 = 64;

const PLAIN: &str = "rathole and nginx";
const NOISE: &str = "rathole with Noise and nginx";

/// Everything that is measured on the way to one listener.
struct Path {
    name: &'static str,
    address: SocketAddr,
    programs: Vec<Arc<Program>>,
}

/// CPU microseconds a request, and what the load generator saw; absent: it failed.
type Row = Vec<Option<(f64, Seen)>>;

/// Measures all of it.
pub(crate) async fn run(findings: &mut Findings) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let script = shop.write("on-loopback.lua", ON_LOOPBACK)?;
    let origin = upstream(&shop).await?;
    let end = nginx(&shop, origin.address, Buffers::Default).await?;
    let (behind, end) = (end.address, Arc::new(end.program));
    let ours = ours(&shop, origin.address).await?;
    let plain = rivals::rathole(&shop, Hop::Plain, behind).await?;
    let noise = rivals::rathole(&shop, Hop::Noise, behind).await?;
    let sides = [ours, path(PLAIN, plain, &end), path(NOISE, noise, &end)];
    for (connections, ids) in [
        (64, ["relay.plain_64", "relay.noise_64"]),
        (512, ["relay.plain_512", "relay.noise_512"]),
    ] {
        let rows = requests(&sides, connections, &script).await;
        for (at, (id, peer)) in ids.into_iter().zip([PLAIN, NOISE]).enumerate() {
            findings.compared(id, peer, &pairs(&rows, at + 1, |(cost, _)| Some(*cost)));
        }
    }
    let [ours, plain, _] = sides;
    let sides = [ours, plain];
    let rows = requests(&sides, 1, &script).await;
    findings.compared(
        "relay.plain_1",
        PLAIN,
        &pairs(&rows, 1, |(cost, _)| Some(*cost)),
    );
    findings.compared("relay.p50", PLAIN, &pairs(&rows, 1, |(_, seen)| seen.p50));
    findings.compared("relay.mb", PLAIN, &megabytes(&sides).await);
    report(&shop, behind, &end, &script).await;
    Ok(())
}

async fn ours(shop: &Workshop, upstream: SocketAddr) -> Result<Path, Failure> {
    shop.write("secret", SECRET)?;
    let edge = tunnel::edge(shop, &tunnel::entry(TUNNEL, DOMAIN, UNLIMITED), "").await?;
    let edges = [edge.address];
    let options = ProxyOptions {
        // As many as nginx keeps.
        more: "limits: {upstream_idle_connections: 1024}\n",
        ..ProxyOptions::new(&edges, upstream)
    };
    let proxy = tunnel::proxy(shop, options).await?;
    Ok(Path {
        name: "keyward-edge and keyward-proxy",
        address: edge.address,
        programs: vec![Arc::new(edge.program), Arc::new(proxy)],
    })
}

fn path(name: &'static str, rival: Rival, end: &Arc<Program>) -> Path {
    let [near, far] = rival.ends;
    Path {
        name,
        address: rival.address,
        programs: vec![Arc::new(near), Arc::new(far), Arc::clone(end)],
    }
}

impl Path {
    fn cpu_seconds(&self) -> f64 {
        self.programs
            .iter()
            .map(|program| program.cpu_seconds())
            .sum()
    }

    fn resident_mib(&self) -> f64 {
        self.programs
            .iter()
            .map(|program| program.resident_mib())
            .sum()
    }

    async fn request(
        &self,
        connections: u32,
        script: &std::path::Path,
    ) -> Result<(f64, Seen), Failure> {
        let load = (HOST, script);
        let _ = wrk_named(load, self.address, connections, WARM_SECONDS).await?;
        let before = self.cpu_seconds();
        let seen = wrk_named(load, self.address, connections, SECONDS).await?;
        Ok(((self.cpu_seconds() - before) / seen.requests * 1e6, seen))
    }

    /// CPU milliseconds a megabyte (10^6 bytes) carried.
    async fn megabyte(&self) -> Result<f64, Failure> {
        let _ = download(HOST, self.address, "/big", 4).await?;
        let before = self.cpu_seconds();
        let bytes = download(HOST, self.address, "/big", DOWNLOADS).await?;
        let used = self.cpu_seconds() - before;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let wanted = BIG as f64 * f64::from(DOWNLOADS);
        if bytes < wanted {
            let came = format!("{bytes} bytes came instead of {wanted}");
            return Err(Failure::internal(came));
        }
        Ok(used * 1e3 / (bytes / 1e6))
    }
}

async fn requests(sides: &[Path], connections: u32, script: &std::path::Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for pair in 0..PAIRS {
        let mut row = Row::new();
        for side in sides {
            row.push(said(pair, side, connections, script).await);
        }
        rows.push(row);
    }
    rows
}

/// One measurement, and a line about it.
async fn said(
    pair: usize,
    side: &Path,
    connections: u32,
    script: &std::path::Path,
) -> Option<(f64, Seen)> {
    let name = side.name;
    match side.request(connections, script).await {
        Ok((cost, seen)) => {
            say(&format!(
                "relay {connections:3} {pair} {name:30} {cost:6.1} us, {:6.0} a second, p50 {:?} us, p99 {:?} us, {:.1} MiB",
                seen.rate,
                seen.p50,
                seen.p99,
                side.resident_mib()
            ));
            Some((cost, seen))
        }
        Err(failure) => {
            say(&format!("relay {connections} {pair} {name}: {failure}"));
            None
        }
    }
}

/// (ours, the peer's) of those rows in which both are there.
fn pairs(rows: &[Row], peer: usize, pick: impl Fn(&(f64, Seen)) -> Option<f64>) -> Vec<(f64, f64)> {
    let value = |row: &Row, at: usize| row.get(at)?.as_ref().and_then(&pick);
    let both = |row| value(row, 0).zip(value(row, peer));
    rows.iter().filter_map(both).collect()
}

async fn megabytes(sides: &[Path; 2]) -> Vec<(f64, f64)> {
    let mut pairs = Vec::new();
    let [ours, plain] = sides;
    for pair in 0..PAIRS {
        match (ours.megabyte().await, plain.megabyte().await) {
            (Ok(one), Ok(other)) => {
                say(&format!(
                    "relay.mb {pair} {one:.2} ms, {} {other:.2} ms",
                    plain.name
                ));
                pairs.push((one, other));
            }
            (one, other) => say(&format!(
                "relay.mb {pair} {:?} {:?}",
                one.err(),
                other.err()
            )),
        }
    }
    pairs
}

/// What the others cost, once each: nothing depends on it.
async fn report(shop: &Workshop, behind: SocketAddr, end: &Arc<Program>, script: &std::path::Path) {
    let rivals = [
        ("ssh -R and nginx", rivals::ssh(shop, behind).await),
        ("bore and nginx", rivals::bore(shop, behind).await),
    ];
    for (name, rival) in rivals {
        match rival {
            Ok(rival) => {
                let side = path(name, rival, end);
                for connections in [64, 1] {
                    let _ = said(0, &side, connections, script).await;
                }
                match side.megabyte().await {
                    Ok(cost) => say(&format!("relay.mb 0 {name} {cost:.2} ms")),
                    Err(failure) => say(&format!("relay.mb 0 {name}: {failure}")),
                }
            }
            Err(failure) => say(&format!("{name} is not reported: {failure}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(p50: Option<f64>) -> Seen {
        Seen {
            requests: 1.0,
            rate: 1.0,
            p50,
            p99: None,
        }
    }

    #[test]
    fn a_row_in_which_a_side_failed_is_no_pair() {
        let rows = [
            vec![Some((1.0, seen(Some(5.0)))), Some((2.0, seen(None))), None],
            vec![None, Some((2.0, seen(None))), Some((3.0, seen(None)))],
        ];
        let cost = |(cost, _): &(f64, Seen)| Some(*cost);
        assert_eq!(pairs(&rows, 1, cost), [(1.0, 2.0)]);
        assert_eq!(pairs(&rows, 2, cost), []);
        assert_eq!(pairs(&rows, 1, |(_, seen)| seen.p50), []);
    }
}
