//! Counters, and the Prometheus text format, version 0.0.4.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts up for ever.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// Adds one until the guard is dropped, unless `limit` are counted already: a bound that no race
    /// can pass.
    pub fn hold_below(&self, limit: u64) -> Option<Held<'_>> {
        let room = |count| (count < limit).then_some(count + 1);
        let held = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        held.ok().map(|_| Held(self))
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says which build this is, on `page`: the usual gauge that is always 1.
pub fn build_info(page: &mut Exposition) {
    let name = "keyward_build_info";
    page.family(name, "gauge", "Which build this is.");
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", env!("KEYWARD_COMMIT")),
        ("target", env!("KEYWARD_TARGET")),
    ];
    page.sample(name, &labels, 1);
}

/// One page of metrics in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric; `kind` is `counter` or `gauge`. Its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample. Label values may be any text.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let escaped = text
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            let opening = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{opening}{label}=\"{escaped}\"");
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{closing} {value}");
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_format_says() {
        let mut page = Exposition::default();
        page.family("calls_total", "counter", "Calls.");
        page.sample("calls_total", &[("a", "x\"y"), ("b", "z")], 3);
        page.sample("plain", &[], 0.5);
        assert_eq!(
            page.finish(),
            "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
             calls_total{a=\"x\\\"y\",b=\"z\"} 3\nplain 0.5\n"
        );
    }

    #[test]
    fn a_gauge_falls_when_its_guard_goes() {
        let gauge = Gauge::default();
        let held = gauge.hold();
        assert_eq!(gauge.get(), 1);
        assert!(gauge.hold_below(1).is_none());
        drop(held);
        assert_eq!(gauge.get(), 0);
        let held = gauge.hold_below(1);
        assert!(held.is_some() && gauge.hold_below(1).is_none());
    }
}
