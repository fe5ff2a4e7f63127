//! `bench rotate`: 200 times everything that a daemon rotates, against an edge, under load.
//!
//! Server certificate, shared secret, and tunnel token with the CA after it rotate at the same time, and begin again as soon as
//! all of them are done: the old secret and the old CA archived at the edge, the new ones in use at the proxy.

use std::time::Duration;

use demo::ledger::Ledger;
use demo::stack::{Rotation, Stack};
use process::{Failure, Tasks};
use tokio::time::Instant;

use crate::command::{say, tell};
use crate::figure::Findings;
use crate::kept::{Kept, bring, count};

/// Of each kind.
const ROTATIONS: u32 = 200;
/// What the edge writes down of each, but of the server certificate, of which it knows nothing.
const AUDITED: [&str; 3] = [
    "tunnel_token_rotated",
    "tunnel_secret_archived",
    "tunnel_certificate_revoked",
];

/// Measures it.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let rotations = count(ROTATIONS)?;
    // Callers are given each CA before it signs.
    let kept = Kept::start(Duration::ZERO, tasks).await?;
    let ledger = Ledger::open();
    let load = kept.load(&ledger, tasks).await?;
    let began = Instant::now();
    let mut outcome = Ok(());
    for rotation in 1..=rotations {
        outcome = everything(&kept.stack, &ledger).await;
        if outcome.is_err() {
            break;
        }
        if rotation % 20 == 0 {
            say(&format!(
                "rotate {rotation}: {:.1} s, {} calls, {} failed, {} streams broken",
                began.elapsed().as_secs_f64(),
                ledger.made.get(),
                ledger.failed.get(),
                ledger.streams_broken()
            ));
        }
    }
    load.stop().await;
    tell(&ledger);
    if outcome.is_ok() {
        outcome = audited(&kept, rotations).await;
    }
    let kept = kept.stop(outcome.is_err() || !ledger.is_clean()).await;
    outcome.and(kept)?;
    let whole = rotations == ROTATIONS;
    bring(findings, whole, "rotate.failed", ledger.failed.get());
    bring(findings, whole, "rotate.broken", ledger.streams_broken());
    Ok(())
}

/// Whether the edge has the same to say.
async fn audited(kept: &Kept, rotations: u32) -> Result<(), Failure> {
    for action in AUDITED {
        let audited = kept.audited(action).await?;
        if audited != u64::from(rotations) {
            return Err(Failure::internal(format!(
                "the edge has {action} {audited} times and not {rotations}"
            )));
        }
    }
    Ok(())
}

/// One of each kind.
async fn everything(stack: &Stack, ledger: &Ledger) -> Result<(), Failure> {
    let _rotating = ledger.rotating();
    let authority = async {
        stack.rotate(Rotation::TunnelToken).await?;
        stack.rotate(Rotation::Ca).await
    };
    let all = tokio::try_join!(
        stack.rotate(Rotation::ServerCertificate),
        stack.rotate(Rotation::SharedSecret),
        authority,
    );
    all.map(drop).map_err(|error| error.failure())
}
