//! The command line: which benchmark, and how its figures are printed.

use demo::ledger::Ledger;
use std::io::Write as _;

use process::{Exit, Failure, Tasks};

use crate::figure::Findings;
use crate::list::{self, Bench};
use crate::{
    crash, cut, failover, footprint, idle, issue, proxy, relay, rotate, simulate, slow, swap,
    websocket,
};

/// `keyward-bench NAME [--json]` or `keyward-bench list`. Fails when a figure does not hold.
pub(crate) async fn run(tasks: Tasks) -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, names): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|word| word.starts_with('-'));
    let (json, name) = match (options.as_slice(), names.as_slice()) {
        ([], ["list"]) => return print(&list::text()),
        ([], [name]) => (false, *name),
        (["--json"], [name]) => (true, *name),
        _ => return Err(usage("one name, and at most --json")),
    };
    let bench = Bench::named(name).ok_or_else(|| usage(&format!("no benchmark {name}")))?;
    let mut findings = Findings::of(bench);
    // What failed is said at once; its figures are absent and do not hold.
    if let Err(failure) = Box::pin(measure(bench, &mut findings, &tasks)).await {
        say(&format!("{name}: {failure}"));
    }
    print(&if json {
        findings.json()
    } else {
        findings.table()
    })?;
    if findings.hold() {
        Ok(())
    } else {
        Err(Failure::internal("a figure does not hold"))
    }
}

async fn measure(bench: &Bench, findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    match bench.name {
        "swap" => swap::run(findings, tasks).await,
        "proxy" => proxy::run(findings).await,
        "websocket" => websocket::run(findings, tasks).await,
        "issue" => issue::run(findings),
        "footprint" => footprint::run(findings).await,
        "relay" => relay::run(findings).await,
        "idle" => idle::run(findings, tasks).await,
        "cut" => cut::run(findings, tasks).await,
        "failover" => failover::run(findings, tasks).await,
        "slow" => slow::run(findings, tasks).await,
        "simulate" => simulate::run(findings),
        "rotate" => rotate::run(findings, tasks).await,
        "crash" => crash::run(findings, tasks).await,
        name => Err(Failure::internal(format!(
            "{name} is listed and not written"
        ))),
    }
}

/// What was asked for, to standard output.
fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::internal("cannot print").caused_by(&error))
}

/// What happens meanwhile, to standard error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn usage(what: &str) -> Failure {
    Failure::new(Exit::Usage, what).next(format!(
        "tests/bench NAME [--json], where NAME is one of\n{}",
        list::text()
    ))
}

/// What callers saw, for a person.
pub(crate) fn tell(ledger: &Ledger) {
    say(&format!(
        "{} calls, {} streams",
        ledger.made.get(),
        ledger.streams_opened()
    ));
    if let Some(trouble) = ledger.first() {
        say(&format!(
            "first trouble, after {:?}, {}, {}: {}",
            trouble.at, trouble.layer, trouble.who, trouble.what
        ));
    }
}
