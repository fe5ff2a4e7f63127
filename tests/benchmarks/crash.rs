//! `bench crash`: a daemon that is killed 300 times while everything that it keeps is rotated under load.
//!
//! It is killed with SIGKILL at random moments and started again at once, and nobody helps it. Rotations of all kinds are ordered
//! all along, whether there is somebody to order from or not. Callers believe what the edge lists and nothing else, as
//! verifiers that are told by the remote do, with `ca.settle` as the time that they have for it. In the end everything has to
//! come to rest by itself, with one CA and one secret at the edge: those that are in use.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use demo::ledger::Ledger;
use demo::stack::{EdgeState, Operator, OperatorError, TUNNEL};
use demo::trust::Trust;
use pki::Certificate;
use process::{Failure, Tasks};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::command::{say, tell};
use crate::figure::Findings;
use crate::kept::{KINDS, Kept, bring, count};

/// How often the daemon is killed.
const KILLS: u32 = 300;
/// How long a daemon lives. Half of them at most this long: many are killed before their proxies are back.
const SHORT: Duration = Duration::from_secs(1);
/// The other half at most this long: they get something done.
const LONG: Duration = Duration::from_secs(7);
/// Every fiftieth lives so long: a call that nobody answered is waited for for a minute before it is given up.
const WHOLE: Duration = Duration::from_secs(75);
const EVERY: u32 = 50;
/// What verifiers have to learn a CA; more than it takes callers here.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two orders, and two looks at what the edge lists.
const PACE: Duration = Duration::from_millis(200);
/// Everything is at rest within this after the last kill. A call that nobody answered alone is waited for for a minute.
const REST: Duration = Duration::from_secs(300);

/// Measures it.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let kills = count(KILLS)?;
    let mut kept = Kept::start(SETTLE, tasks).await?;
    let ledger = Ledger::open();
    let believers = Believers::of(&kept);
    let orders = Orders::default();
    let operator = kept.stack.operator.clone();
    let load = kept.load(&ledger, tasks).await?;
    let over = AtomicBool::new(false);
    let story = async {
        let rested = story(&mut kept, kills, &orders, &ledger).await;
        load.stop().await;
        over.store(true, Ordering::Relaxed);
        orders.over.store(true, Ordering::Relaxed);
        rested
    };
    let (rested, believed, ()) = tokio::join!(story, believers.run(&over), orders.run(&operator));
    tell(&ledger);
    let outcome = async {
        believed?;
        let status = rested?;
        Ok::<_, Failure>((
            orphans(&kept, &status).await?,
            doubles(&kept, &status, &orders).await?,
        ))
    };
    let outcome = outcome.await;
    let lost = ledger.failed.get() + ledger.streams_broken();
    let clean = lost == 0 && matches!(outcome, Ok((0, 0)));
    let stopped = kept.stop(!clean).await;
    let (orphans, doubles) = outcome?;
    stopped?;
    let whole = kills == KILLS;
    bring(findings, whole, "crash.failed", lost);
    bring(findings, whole, "crash.orphans", orphans);
    bring(findings, whole, "crash.doubles", doubles);
    Ok(())
}

/// Kills and starts again, then waits until everything is at rest: the status of then.
async fn story(
    kept: &mut Kept,
    kills: u32,
    orders: &Orders,
    ledger: &Ledger,
) -> Result<Value, Failure> {
    for kill in 1..=kills {
        let life = match kill {
            _ if kill % EVERY == 0 => WHOLE,
            _ if kill % 2 == 0 => SHORT.mul_f64(random()),
            _ => LONG.mul_f64(random()),
        };
        sleep(life).await;
        kept.stack.daemon.kill().await;
        kept.stack.start_daemon().map_err(|error| error.failure())?;
        if kill % 20 == 0 {
            say(&format!(
                "crash {kill}: {} orders taken, {} refused, {} without an answer; {} calls, {} failed, {} streams broken",
                orders.taken.load(Ordering::Relaxed),
                orders.refused.load(Ordering::Relaxed),
                orders.lost.load(Ordering::Relaxed),
                ledger.made.get(),
                ledger.failed.get(),
                ledger.streams_broken()
            ));
        }
    }
    orders.over.store(true, Ordering::Relaxed);
    let began = Instant::now();
    loop {
        let status = kept.stack.operator.status().await;
        match &status {
            Ok(status) if is_at_rest(status) => {
                say(&format!(
                    "crash: at rest {:.1} s after the last kill",
                    began.elapsed().as_secs_f64()
                ));
                return Ok(status.clone());
            }
            _ if began.elapsed() > REST => {
                let seen =
                    status.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(Failure::internal("it did not come to rest by itself").cause(seen));
            }
            _ => sleep(PACE).await,
        }
    }
}

/// Nothing is in flight, and nobody has to do anything.
fn is_at_rest(status: &Value) -> bool {
    let stable = |key: &str| at(status, key) == "stable";
    let running = status.get("operations").and_then(Value::as_array);
    let mut running = running.into_iter().flatten();
    stable("ca_slots/phase")
        && stable("tunnel_token/phase")
        && stable("shared_secret/phase")
        && at(status, "phase") == "serving"
        && running.all(|one| one.get("state").and_then(Value::as_str) != Some("running"))
}

/// What the edge has and should not have, or the other way round: a CA that does not sign, a secret that nobody is told of.
async fn orphans(kept: &Kept, status: &Value) -> Result<u64, Failure> {
    let mut orphans = 0;
    for (what, key, used) in [
        ("certificate", "fingerprint", at(status, "ca/sha256")),
        ("secret", "sha256", at(status, "shared_secret/sha256")),
    ] {
        let listed = listed(&kept.edge, what, key).await?;
        say(&format!("crash: {what}s at the edge: {}", listed.len()));
        orphans += listed.iter().filter(|one| *one != used).count();
        orphans += usize::from(!listed.iter().any(|one| one == used));
    }
    Ok(u64::try_from(orphans).unwrap_or(u64::MAX))
}

/// Rotations of the token that the edge made and nobody ordered, or that the daemon does not know of; and registrations of a CA
/// that was registered before.
async fn doubles(kept: &Kept, status: &Value, orders: &Orders) -> Result<u64, Failure> {
    let done = |kind: &str| number(status, &format!("rotations/{kind}"));
    let tokens = kept.audited("tunnel_token_rotated").await?;
    let ordered = orders.of_token.load(Ordering::Relaxed);
    let foreign = number(status, "tunnel_token/foreign_rotations");
    let added = kept.audited("tunnel_certificate_added").await?;
    let words = ["certificate", "list", &kept.edge.tunnel, "--archived"];
    let all = kept
        .edge
        .command(&words)
        .await
        .map_err(|error| error.failure())?;
    let mut times = BTreeMap::new();
    for one in all
        .get("data")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        *times
            .entry(text(one, "fingerprint").to_owned())
            .or_insert(0_u64) += 1;
    }
    let again: u64 = times.values().map(|times| times - 1).sum();
    say(&format!(
        "crash: rotations: {} server certificates, {} secrets, {} CAs of {added} registered, {} tokens by the daemon and {tokens} by the edge, at most {ordered} ordered",
        done("server_certificate"),
        done("shared_secret"),
        done("ca"),
        done("tunnel_token"),
    ));
    for kind in ["server_certificate", "shared_secret", "ca", "tunnel_token"] {
        if done(kind) == 0 {
            return Err(Failure::internal(format!("no {kind} was rotated")));
        }
    }
    Ok(tokens.abs_diff(done("tunnel_token")) + tokens.saturating_sub(ordered) + foreign + again)
}

/// Whoever orders rotations, all kinds in turn, as if nothing were.
#[derive(Default)]
struct Orders {
    taken: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    /// For the token, that may have been taken.
    of_token: AtomicU64,
    over: AtomicBool,
}

impl Orders {
    async fn run(&self, operator: &Operator) {
        for kind in KINDS.iter().cycle() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let outcome = operator.order(*kind).await;
            let count = match &outcome {
                Ok(_) => &self.taken,
                Err(OperatorError::Refused { .. }) => &self.refused,
                Err(_) => &self.lost,
            };
            count.fetch_add(1, Ordering::Relaxed);
            let refused = matches!(outcome, Err(OperatorError::Refused { .. }));
            if *kind == demo::stack::Rotation::TunnelToken && !refused {
                self.of_token.fetch_add(1, Ordering::Relaxed);
            }
            sleep(PACE).await;
        }
    }
}

/// Callers, who believe what the edge lists.
struct Believers {
    edge: EdgeState,
    trust: Arc<Trust>,
    /// Where the certificates are of which the edge lists fingerprints alone.
    custody: PathBuf,
}

impl Believers {
    fn of(kept: &Kept) -> Self {
        Self {
            edge: kept.edge.clone(),
            trust: Arc::clone(kept.stack.trust()),
            custody: kept.stack.paths.root.join("state/custody").join(TUNNEL),
        }
    }

    /// Looks at the list again and again.
    async fn run(&self, over: &AtomicBool) -> Result<(), Failure> {
        let mut known = BTreeMap::new();
        let mut before = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let mut listed = listed(&self.edge, "certificate", "fingerprint").await?;
            listed.sort();
            if listed != before && self.learn(&mut known, &listed) {
                let pems: Vec<&str> = listed
                    .iter()
                    .filter_map(|sha256| known.get(sha256).map(String::as_str))
                    .collect();
                let failed = |error: &dyn std::error::Error| {
                    Failure::internal("what the edge lists cannot be believed").caused_by(error)
                };
                self.trust.hold(&pems).map_err(|error| failed(&error))?;
                before = listed;
            }
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Whether the certificates of all of these are known now.
    fn learn(&self, known: &mut BTreeMap<String, String>, listed: &[String]) -> bool {
        let entries = std::fs::read_dir(&self.custody).into_iter().flatten();
        for path in entries.flatten().map(|entry| entry.path()) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if let Ok(certificate) = Certificate::from_pem(&text) {
                known.insert(certificate.fingerprint().to_string(), text);
            }
        }
        listed.iter().all(|sha256| known.contains_key(sha256))
    }
}

/// What the edge lists of the tunnel and is not archived.
async fn listed(edge: &EdgeState, what: &str, key: &str) -> Result<Vec<String>, Failure> {
    let listed = edge.command(&[what, "list", &edge.tunnel]).await;
    let listed = listed.map_err(|error| error.failure())?;
    let data = listed.get("data").and_then(Value::as_array);
    let all = data.into_iter().flatten();
    let active = all.filter(|one| one.get("archived_at").is_none_or(Value::is_null));
    Ok(active.map(|one| text(one, key).to_owned()).collect())
}

/// From 0 to 1.
fn random() -> f64 {
    let bytes = pki::Serial::random().to_string();
    let digits = bytes
        .get(bytes.len().saturating_sub(6)..)
        .unwrap_or_default();
    f64::from(u32::from_str_radix(digits, 16).unwrap_or_default()) / f64::from(1 << 24)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    let text = object.get(key).and_then(Value::as_str);
    text.unwrap_or_default()
}

/// A text of the tunnel's status.
fn at<'a>(status: &'a Value, key: &str) -> &'a str {
    let found = status.pointer(&format!("/tunnels/{TUNNEL}/{key}"));
    found.and_then(Value::as_str).unwrap_or_default()
}

/// A number of it.
fn number(status: &Value, key: &str) -> u64 {
    let found = status.pointer(&format!("/tunnels/{TUNNEL}/{key}"));
    found.and_then(Value::as_u64).unwrap_or_default()
}
