//! What the run looks like: live on a terminal, a line a second elsewhere, a table at the end.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::ledger::{Histogram, Ledger};
use crate::run::Done;

/// Everything that is counted.
#[derive(Clone, Copy)]
pub(crate) struct Counts<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) done: &'a Done,
}

/// Where the report goes.
pub(crate) struct Screen {
    json: bool,
    live: bool,
    /// Lines of the live table that stand on the screen.
    drawn: usize,
}

#[derive(Serialize)]
struct Summary {
    calls: Calls,
    streams: Streams,
    rotations: Rotations,
    latency_us: Latency,
}

#[derive(Serialize)]
struct Calls {
    made: u64,
    failed: u64,
}

#[derive(Serialize)]
struct Streams {
    opened: u64,
    broken: u64,
}

#[derive(Serialize)]
struct Rotations {
    server_certificate: u64,
    ca: u64,
    tunnel_token: u64,
    shared_secret: u64,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p50_rotating: u64,
    p99_rotating: u64,
}

impl Counts<'_> {
    fn summary(&self) -> Summary {
        let ledger = self.ledger;
        Summary {
            calls: Calls {
                made: ledger.made.get(),
                failed: ledger.failed.get(),
            },
            streams: Streams {
                opened: ledger.streams_opened(),
                broken: ledger.streams_broken(),
            },
            rotations: Rotations {
                server_certificate: self.done.server_certificate.load(Ordering::Relaxed),
                ca: self.done.ca.load(Ordering::Relaxed),
                tunnel_token: self.done.tunnel_token.load(Ordering::Relaxed),
                shared_secret: self.done.shared_secret.load(Ordering::Relaxed),
            },
            latency_us: Latency {
                p50: ledger.quiet.percentile(50),
                p99: ledger.quiet.percentile(99),
                p50_rotating: ledger.rotating.percentile(50),
                p99_rotating: ledger.rotating.percentile(99),
            },
        }
    }

    fn table(&self) -> Vec<String> {
        let summary = self.summary();
        let latency = |name: &str, histogram: &Histogram| {
            format!(
                "  {name:<22}{:>12}{:>12}{:>12}",
                millis(histogram.percentile(50)),
                millis(histogram.percentile(99)),
                histogram.count(),
            )
        };
        vec![
            format!("  {:<22}{:>12}{:>12}", "", "made", "failed"),
            format!(
                "  {:<22}{:>12}{:>12}",
                "calls", summary.calls.made, summary.calls.failed
            ),
            format!(
                "  {:<22}{:>12}{:>12}",
                "streams", summary.streams.opened, summary.streams.broken
            ),
            String::new(),
            format!("  {:<22}{:>12}", "rotations", "done"),
            format!(
                "  {:<22}{:>12}",
                "server certificate", summary.rotations.server_certificate
            ),
            format!("  {:<22}{:>12}", "ca", summary.rotations.ca),
            format!(
                "  {:<22}{:>12}",
                "tunnel token", summary.rotations.tunnel_token
            ),
            format!(
                "  {:<22}{:>12}",
                "shared secret", summary.rotations.shared_secret
            ),
            String::new(),
            format!(
                "  {:<22}{:>12}{:>12}{:>12}",
                "latency of calls", "p50", "p99", "calls"
            ),
            latency("quiet", &self.ledger.quiet),
            latency("rotating", &self.ledger.rotating),
        ]
    }

    fn line(&self, elapsed: Duration) -> String {
        let summary = self.summary();
        format!(
            "{:>4} s  calls {} failed {}  streams {} broken {}  rotations {} + {} + {} + {}  p50 {} p99 {}",
            elapsed.as_secs(),
            summary.calls.made,
            summary.calls.failed,
            summary.streams.opened,
            summary.streams.broken,
            summary.rotations.server_certificate,
            summary.rotations.ca,
            summary.rotations.tunnel_token,
            summary.rotations.shared_secret,
            millis(summary.latency_us.p50_rotating),
            millis(summary.latency_us.p99_rotating),
        )
    }
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let live = if json {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        Self {
            json,
            live,
            drawn: 0,
        }
    }

    /// Shows how it goes, for ever.
    pub(crate) async fn follow(&mut self, counts: &Counts<'_>, began: Instant, seconds: u32) {
        let pace = Duration::from_millis(if self.live { 200 } else { 1000 });
        loop {
            sleep(pace).await;
            if self.live {
                let mut lines = counts.table();
                let elapsed = began.elapsed().as_secs();
                lines.insert(0, format!("{elapsed} s of {seconds} s"));
                self.draw(&lines);
            } else {
                self.say(&counts.line(began.elapsed()));
            }
        }
    }

    /// The table at the end, and what went wrong first.
    pub(crate) fn finish(
        &mut self,
        counts: &Counts<'_>,
        elapsed: Duration,
        connections: u64,
        seen: usize,
    ) {
        let mut lines = vec![
            format!(
                "{:.1} s, {connections} connections, {seen} server certificates seen, every answer checked",
                elapsed.as_secs_f64()
            ),
            String::new(),
        ];
        lines.extend(counts.table());
        lines.push(String::new());
        if counts.ledger.is_clean() {
            lines.push("nothing was lost".to_owned());
        } else {
            lines.push(format!(
                "LOST: {} calls failed, {} streams broke",
                counts.ledger.failed.get(),
                counts.ledger.streams_broken()
            ));
        }
        if let Some(trouble) = counts.ledger.first() {
            lines.push(format!(
                "first failure after {:.1} s in the layer {}, {}: {}",
                trouble.at.as_secs_f64(),
                trouble.layer,
                trouble.who,
                trouble.what
            ));
        }
        self.draw(&lines);
        self.drawn = 0;
    }

    /// The object that `--json` promises.
    pub(crate) fn result(&self, counts: &Counts<'_>) {
        if self.json {
            let summary = serde_json::to_string(&counts.summary());
            let summary = summary.expect("numbers under fixed names are JSON");
            // A closed pipe is the reader's decision.
            let _ = writeln!(std::io::stdout(), "{summary}");
        }
    }

    /// One line of news. It stays above the live table.
    pub(crate) fn say(&mut self, line: &str) {
        let drawn = std::mem::take(&mut self.drawn);
        self.write(&format!("{}{line}\n", erase(drawn)));
    }

    fn draw(&mut self, lines: &[String]) {
        let text = format!("{}{}\n", erase(self.drawn), lines.join("\n"));
        if self.live {
            self.drawn = lines.len();
        }
        self.write(&text);
    }

    fn write(&self, text: &str) {
        // A closed pipe is the reader's decision; the verdict is the exit code.
        let _ = if self.json {
            write!(std::io::stderr(), "{text}")
        } else {
            write!(std::io::stdout(), "{text}")
        };
    }
}

/// Moves up over `lines` and clears from there.
fn erase(lines: usize) -> String {
    if lines == 0 {
        return String::new();
    }
    format!("\x1b[{lines}A\x1b[J")
}

/// Microseconds as milliseconds.
fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}
