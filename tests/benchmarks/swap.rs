//! `bench swap`: what a rotation costs those who call meanwhile, and what is left of ten thousand of them.
//!
//! The whole stack stands on loopback as the demo starts it: the proxy on the measured core, everything else – daemon,
//! sample server, connector double, bridge and callers – on the other. Windows without rotation and with ten a second
//! alternate, so that whatever else the machine does falls on both.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use demo::bridge::{Bridge, BridgeOptions};
use demo::client::{Revision, Target};
use demo::ledger::Ledger;
use demo::load::{Lane, Load, Plan, Rest, Server};
use demo::sample;
use demo::stack::{Programs, Rotation, Stack, StackOptions};
use process::{Failure, Tasks};
use tokio::time::{Instant, sleep, sleep_until};

use crate::command::{say, tell};
use crate::figure::Findings;
use crate::machine::{MEASURED, output, resident_mib};
use crate::ours::shipped;

/// Pairs of windows, and how long each is.
const WINDOWS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(5);

/// Time between two rotations in a window with rotations.
const PACE: Duration = Duration::from_millis(100);

/// What the sample server takes for every other call, on average: 64 calls are always in flight. Were none of them slow, the
/// callers' own core would be full, and what is measured would be their queue – in which the daemon stands too and makes no ten
/// rotations a second.
const SLOW: Duration = Duration::from_millis(250);

/// Swaps over which resident memory is compared.
const SWAPS: u32 = 10_000;

/// The stack is warm, allocator and all, after this.
const WARM: Duration = Duration::from_secs(5);

/// Measures all of it.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let ledger = Ledger::open();
    latency(findings, &ledger, tasks).await?;
    memory(findings, &ledger, tasks).await?;

    let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    tell(&ledger);
    findings.absolute("swap.failed", count(ledger.failed.get()));
    findings.absolute("swap.broken", count(ledger.streams_broken()));
    Ok(())
}

/// What 64 callers and 16 streams notice.
async fn latency(
    findings: &mut Findings,
    ledger: &Arc<Ledger>,
    tasks: &Tasks,
) -> Result<(), Failure> {
    let stand = Stand::start(tasks).await?;
    let plan = plan(&stand.lanes, 8, 2, Rest::InFlight(SLOW));
    let load = stand.load(plan, ledger, tasks).await?;
    let windows = windows(&stand.stack, ledger).await?;
    load.stop().await;
    findings.compared("swap.p99", "windows without rotation", &windows);
    stand.stop().await
}

/// What ten thousand swaps leave behind in a proxy that has seen nothing else: memory that another part had it take, and
/// that lies free in its allocator, would be room for a leak that nobody sees.
async fn memory(
    findings: &mut Findings,
    ledger: &Arc<Ledger>,
    tasks: &Tasks,
) -> Result<(), Failure> {
    let stand = Stand::start(tasks).await?;
    // A little traffic goes on, so that connections of every generation come and go.
    let plan = plan(&stand.lanes, 1, 1, Rest::Asleep(Duration::from_millis(50)));
    let load = stand.load(plan, ledger, tasks).await?;
    sleep(WARM).await;
    let before = resident_mib(stand.proxy);
    say(&format!("swap.rss before the first swap, {before:.2} MiB"));
    let began = Instant::now();
    for swap in 1..=SWAPS {
        rotate(&stand.stack).await?;
        if swap % 1000 == 0 {
            say(&format!(
                "swap.rss {swap} swaps, {:.1} s, {:.2} MiB",
                began.elapsed().as_secs_f64(),
                resident_mib(stand.proxy)
            ));
        }
    }
    findings.absolute("swap.rss", resident_mib(stand.proxy) - before);
    load.stop().await;
    stand.stop().await
}

/// Programs of its own for each part, the proxy on the measured core.
struct Stand {
    stack: Stack,
    proxy: u32,
    lanes: Vec<Lane>,
}

impl Stand {
    async fn start(tasks: &Tasks) -> Result<Self, Failure> {
        let mut programs = Programs::beside().map_err(|error| error.failure())?;
        programs.proxy = shipped("keyward-proxy")?;
        let mut options = StackOptions::new(programs);
        "warn".clone_into(&mut options.log_level);
        let stack = Stack::start(options, tasks)
            .await
            .map_err(|error| error.failure())?;
        let proxy = stack
            .proxy
            .id()
            .ok_or_else(|| Failure::internal("the proxy ended"))?;
        output(&["taskset", "-a", "-c", "-p", MEASURED, &proxy.to_string()]).await?;
        let lanes = lanes(&stack, tasks).await?;
        Ok(Self {
            stack,
            proxy,
            lanes,
        })
    }

    async fn load(&self, plan: Plan, ledger: &Arc<Ledger>, tasks: &Tasks) -> Result<Load, Failure> {
        let load = Load::start(&plan, self.stack.trust(), ledger, tasks).await;
        load.map_err(|(lane, error)| {
            Failure::internal(format!("no session over {}", lane.name())).caused_by(&error)
        })
    }

    /// Ends the programs; whatever they have to complain of is an error.
    async fn stop(self) -> Result<(), Failure> {
        let complaints = self.stack.stop(false).await;
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(Failure::internal(complaints.join(", ")))
        }
    }
}

/// Microseconds at p99 with rotation and without, a pair of windows each.
async fn windows(stack: &Stack, ledger: &Ledger) -> Result<Vec<(f64, f64)>, Failure> {
    let p99 = |histogram: &demo::ledger::Histogram| {
        f64::from(u32::try_from(histogram.take().percentile(99)).unwrap_or(u32::MAX))
    };
    let mut pairs = Vec::new();
    sleep(WARM).await;
    let rotations = u32::try_from(WINDOW.as_millis() / PACE.as_millis()).unwrap_or(u32::MAX);
    for window in 0..WINDOWS {
        let _ = (ledger.quiet.take(), ledger.rotating.take());
        sleep(WINDOW).await;
        let quiet = p99(&ledger.quiet);
        let _ = ledger.rotating.take();
        let began = Instant::now();
        for rotation in 0..rotations {
            sleep_until(began + PACE * rotation).await;
            let _rotating = ledger.rotating();
            rotate(stack).await?;
        }
        sleep_until(began + WINDOW).await;
        let rotating = p99(&ledger.rotating);
        let rate = f64::from(rotations) / began.elapsed().as_secs_f64();
        say(&format!(
            "swap.p99 {window} {quiet:.0} us without, {rotating:.0} us with {rate:.1} rotations a second"
        ));
        if rate < 9.5 {
            return Err(Failure::internal(format!(
                "{rate:.1} rotations a second instead of 10"
            )));
        }
        pairs.push((rotating, quiet));
    }
    Ok(pairs)
}

async fn rotate(stack: &Stack) -> Result<(), Failure> {
    stack
        .rotate(Rotation::ServerCertificate)
        .await
        .map_err(|error| error.failure())
}

/// Both carriers, both versions of HTTP, both revisions of MCP: eight ways.
async fn lanes(stack: &Stack, tasks: &Tasks) -> Result<Vec<Lane>, Failure> {
    let options = BridgeOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        connector: stack.connector_address,
        host: stack.host(),
        path: "/".to_owned(),
        ping: Duration::from_secs(1),
        varied: false,
    };
    let bridge = Bridge::start(options, tasks)
        .await
        .map_err(|error| Failure::internal("no bridge").caused_by(&error))?;
    let websocket = Target {
        address: bridge.address,
        host: stack.host(),
    };
    Ok(Lane::all(
        &[("websocket", websocket), ("tls", stack.tls())],
        &[Revision::Sessions, Revision::Stateless],
    ))
}

/// `callers` calls and `streams` streams in flight on each lane.
fn plan(lanes: &[Lane], callers: usize, streams: usize, rest: Rest) -> Plan {
    Plan {
        lanes: lanes.to_vec(),
        path: sample::PATH.to_owned(),
        server: Server::Sample,
        callers,
        rest,
        streams,
        // Three seconds: a stream that begins under one generation lives through thirty more.
        steps: 30,
        interval: Duration::from_millis(100),
    }
}
