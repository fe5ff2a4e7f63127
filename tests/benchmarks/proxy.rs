//! `bench proxy`: what a request and a megabyte cost, against nginx and haproxy doing the same.

use process::Failure;

use crate::command::say;
use crate::figure::{Findings, PAIRS, median};
use crate::load::{Seen, download, h2load, wrk};
use crate::machine::Program;
use crate::ours;
use crate::peers::{BIG, Buffers, Server, Workshop, haproxy, nginx, upstream};

/// How long each side is under load before it is measured, and while it is.
const WARM_SECONDS: u32 = 1;
const SECONDS: u32 = 4;

/// Downloads of [`BIG`] bytes a measurement: about two gigabytes, for more than fifty ticks of CPU time.
const DOWNLOADS: u32 = 128;

/// A kind of load on small requests.
#[derive(Clone, Copy, Debug)]
enum Load {
    Http1(u32),
    Http2,
}

/// Measures all of it.
pub(crate) async fn run(findings: &mut Findings) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let origin = upstream(&shop).await?;
    let sides = [
        (
            "keyward-proxy",
            ours::proxy(&shop, origin.address).await?.server,
        ),
        (
            "nginx",
            nginx(&shop, origin.address, Buffers::Default).await?,
        ),
        (
            "haproxy",
            haproxy(&shop, origin.address, Buffers::Default).await?,
        ),
    ];
    let cases = [
        ("proxy.h1_64", Load::Http1(64)),
        ("proxy.h2", Load::Http2),
        ("proxy.h1_1", Load::Http1(1)),
    ];
    for (id, load) in cases {
        let costs = requests(id, &sides, load).await;
        against_the_lowest(findings, id, &sides, &costs);
    }
    let [ours, default_nginx, default_haproxy] = sides;
    let sides = [
        ours,
        default_nginx,
        default_haproxy,
        (
            "nginx with 64 KiB buffers",
            nginx(&shop, origin.address, Buffers::Kib64).await?,
        ),
        (
            "haproxy with 64 KiB buffers",
            haproxy(&shop, origin.address, Buffers::Kib64).await?,
        ),
    ];
    let costs = megabytes("proxy.mb", &sides).await;
    against_the_lowest(findings, "proxy.mb", &sides, &costs);
    Ok(())
}

/// One row a pair, one column a side; a pair in which a side failed has no row.
type Costs = Vec<Vec<f64>>;

async fn requests(id: &str, sides: &[(&'static str, Server)], load: Load) -> Costs {
    let mut costs = Costs::new();
    for pair in 0..PAIRS {
        let mut row = Vec::new();
        for (name, server) in sides {
            match request_cost(server, load).await {
                Ok((cost, seen)) => {
                    let resident = server.program.resident_mib();
                    say(&format!(
                        "{id} {pair} {name:14} {cost:6.1} us, {:6.0} a second, p50 {:?} us, p99 {:?} us, {resident:.1} MiB",
                        seen.rate, seen.p50, seen.p99
                    ));
                    row.push(cost);
                }
                Err(failure) => say(&format!("{id} {pair} {name}: {failure}")),
            }
        }
        costs.extend((row.len() == sides.len()).then_some(row));
    }
    costs
}

/// CPU microseconds a request.
async fn request_cost(server: &Server, load: Load) -> Result<(f64, Seen), Failure> {
    let _ = apply(server, load, WARM_SECONDS).await?;
    let before = server.program.cpu_seconds();
    let seen = apply(server, load, SECONDS).await?;
    let used = server.program.cpu_seconds() - before;
    Ok((used / seen.requests * 1e6, seen))
}

async fn apply(server: &Server, load: Load, seconds: u32) -> Result<Seen, Failure> {
    match load {
        Load::Http1(connections) => wrk(server.address, connections, seconds).await,
        Load::Http2 => h2load(server.address, seconds).await,
    }
}

async fn megabytes(id: &str, sides: &[(&'static str, Server)]) -> Costs {
    let mut costs = Costs::new();
    for pair in 0..PAIRS {
        let mut row = Vec::new();
        for (name, server) in sides {
            match megabyte_cost(&server.program, server).await {
                Ok(cost) => {
                    say(&format!(
                        "{id} {pair} {name:28} {cost:5.2} ms, {:.1} MiB",
                        server.program.resident_mib()
                    ));
                    row.push(cost);
                }
                Err(failure) => say(&format!("{id} {pair} {name}: {failure}")),
            }
        }
        costs.extend((row.len() == sides.len()).then_some(row));
    }
    costs
}

/// CPU milliseconds a megabyte (10^6 bytes) carried.
async fn megabyte_cost(program: &Program, server: &Server) -> Result<f64, Failure> {
    let _ = download("localhost", server.address, "/big", 4).await?;
    let before = program.cpu_seconds();
    let bytes = download("localhost", server.address, "/big", DOWNLOADS).await?;
    let used = program.cpu_seconds() - before;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let wanted = BIG as f64 * f64::from(DOWNLOADS);
    if bytes < wanted {
        return Err(Failure::internal(format!(
            "{bytes} bytes came instead of {wanted}"
        )));
    }
    Ok(used * 1e3 / (bytes / 1e6))
}

/// Compares the first side with that other one whose median is the lowest.
fn against_the_lowest(
    findings: &mut Findings,
    id: &str,
    sides: &[(&'static str, Server)],
    costs: &Costs,
) {
    let column = |at: usize| {
        costs
            .iter()
            .filter_map(|row| row.get(at).copied())
            .collect::<Vec<_>>()
    };
    let peers = sides.iter().enumerate().skip(1);
    let lowest = peers
        .filter_map(|(at, (name, _))| Some((at, *name, median(&column(at))?)))
        .min_by(|left, right| left.2.total_cmp(&right.2));
    if let Some((at, peer, _)) = lowest {
        let pairs: Vec<(f64, f64)> = column(0).into_iter().zip(column(at)).collect();
        findings.compared(id, peer, &pairs);
    }
}
