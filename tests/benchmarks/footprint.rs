//! `bench footprint`: what the proxy takes without doing anything.

use std::collections::BTreeSet;

use process::Failure;

use crate::command::say;
use crate::figure::{Findings, PAIRS, median};
use crate::machine::output;
use crate::ours::{self, shipped};
use crate::peers::{Workshop, upstream};

/// Measures it.
pub(crate) async fn run(findings: &mut Findings) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let origin = upstream(&shop).await?;
    let mut resident = Vec::new();
    for start in 0..PAIRS {
        // Its listener is the last thing that it makes.
        let ours = ours::proxy(&shop, origin.address).await?;
        let mib = ours.server.program.resident_mib();
        say(&format!("footprint.rss {start} {mib:.2} MiB"));
        resident.push(mib);
        ours.server.program.stop().await;
    }
    if let Some(mib) = median(&resident) {
        findings.absolute("footprint.rss", mib);
    }
    findings.absolute("footprint.packages", packages().await?);
    if let Some(bytes) = size() {
        findings.absolute("footprint.size", bytes);
    }
    Ok(())
}

async fn packages() -> Result<f64, Failure> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy/Cargo.toml");
    let tree = "cargo tree --locked -e normal --prefix none --format {p} --target x86_64-unknown-linux-gnu --manifest-path";
    let command: Vec<&str> = tree.split(' ').chain([manifest]).collect();
    let text = output(&command).await?;
    let names: BTreeSet<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    let others = names
        .iter()
        .filter(|name| !name.starts_with("keyward-proxy "))
        .count();
    Ok(f64::from(u32::try_from(others).unwrap_or(u32::MAX)))
}

fn size() -> Option<f64> {
    let bytes = std::fs::metadata(shipped("keyward-proxy").ok()?)
        .ok()?
        .len();
    Some(f64::from(u32::try_from(bytes).ok()?))
}
