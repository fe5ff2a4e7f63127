//! What happened: calls, streams, latencies, and the first thing that went wrong.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use process::metrics::Counter;

use crate::client::{CallError, Standing, chain};

/// A call is near a rotation when one is under way during it, or ended at most this long before it
/// began.
pub const NEAR: Duration = Duration::from_millis(100);

/// The first thing that went wrong.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Where on the path: `tcp`, `inner TLS`, `http`, `mcp`, `content`.
    pub layer: &'static str,
    /// Which lane and which call.
    pub who: String,
    /// What happened, with its whole chain.
    pub what: String,
    /// Time since the ledger was opened.
    pub at: Duration,
}

/// Counters of one run. Shared by everything that calls.
#[derive(Debug)]
pub struct Ledger {
    begun: Instant,
    /// Short calls, sessions begun included.
    pub made: Counter,
    /// Those of them that failed.
    pub failed: Counter,
    /// Calls that stream their progress.
    pub streams: Counter,
    /// Those of them that broke.
    pub broken: Counter,
    /// Event streams that stand for the whole session.
    pub standing: Arc<Standing>,
    /// Latency of short calls with no rotation near.
    pub quiet: Histogram,
    /// Latency of short calls with a rotation near.
    pub rotating: Histogram,
    first: OnceLock<Trouble>,
    rotations: Rotations,
}

#[derive(Debug, Default)]
struct Rotations {
    running: AtomicUsize,
    begun: AtomicU64,
    /// Microseconds since the ledger was opened; 0: none ended yet.
    ended: AtomicU64,
}

impl Ledger {
    /// Nothing happened yet.
    pub fn open() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            made: Counter::default(),
            failed: Counter::default(),
            streams: Counter::default(),
            broken: Counter::default(),
            standing: Arc::default(),
            quiet: Histogram::default(),
            rotating: Histogram::default(),
            first: OnceLock::new(),
            rotations: Rotations::default(),
        })
    }

    /// A rotation runs until the guard is dropped.
    pub fn rotating(&self) -> Rotating<'_> {
        self.rotations.running.fetch_add(1, Ordering::SeqCst);
        self.rotations.begun.fetch_add(1, Ordering::SeqCst);
        Rotating(self)
    }

    /// A short call begins.
    pub fn call(&self) -> Call<'_> {
        Call {
            ledger: self,
            near: self.near(),
            rotations: self.rotations.begun.load(Ordering::SeqCst),
            began: Instant::now(),
            asked: Duration::ZERO,
        }
    }

    /// A stream ended with `outcome`.
    pub fn stream(&self, who: &str, outcome: Result<(), CallError>) {
        if let Err(error) = outcome {
            self.broken.increment();
            self.trouble(who, &error);
        }
    }

    /// Streams opened, those that stand for a session included.
    pub fn streams_opened(&self) -> u64 {
        self.streams.get() + self.standing.opened.get()
    }

    /// Streams broken, those that stand for a session included.
    pub fn streams_broken(&self) -> u64 {
        self.broken.get() + self.standing.broken.get()
    }

    /// Nothing failed and nothing broke.
    pub fn is_clean(&self) -> bool {
        self.failed.get() == 0 && self.streams_broken() == 0
    }

    /// The first thing that went wrong.
    pub fn first(&self) -> Option<Trouble> {
        let standing = || {
            Some(Trouble {
                layer: "http",
                who: "the standing stream of a session".into(),
                what: self.standing.first.get()?.clone(),
                at: self.begun.elapsed(),
            })
        };
        self.first.get().cloned().or_else(standing)
    }

    fn trouble(&self, who: &str, error: &CallError) {
        let _ = self.first.set(Trouble {
            layer: error.layer(),
            who: who.to_owned(),
            what: chain(error),
            at: self.begun.elapsed(),
        });
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn near(&self) -> bool {
        let ended = self.rotations.ended.load(Ordering::SeqCst);
        self.rotations.running.load(Ordering::SeqCst) > 0
            || (ended > 0 && u128::from(self.now().saturating_sub(ended)) < NEAR.as_micros())
    }
}

/// While it lives a rotation runs.
#[derive(Debug)]
pub struct Rotating<'a>(&'a Ledger);

impl Drop for Rotating<'_> {
    fn drop(&mut self) {
        let rotations = &self.0.rotations;
        rotations.ended.store(self.0.now().max(1), Ordering::SeqCst);
        rotations.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A short call under way.
#[derive(Debug)]
pub struct Call<'a> {
    ledger: &'a Ledger,
    near: bool,
    rotations: u64,
    began: Instant,
    asked: Duration,
}

impl Call<'_> {
    /// The server is asked to take this long, which is no latency.
    #[must_use]
    pub fn less(self, asked: Duration) -> Self {
        Self { asked, ..self }
    }

    /// The call ended with `outcome`.
    pub fn end(self, who: &str, outcome: Result<(), CallError>) {
        let took = self.began.elapsed().saturating_sub(self.asked);
        self.ledger.made.increment();
        if let Err(error) = outcome {
            self.ledger.failed.increment();
            self.ledger.trouble(who, &error);
            return;
        }
        let begun = self.ledger.rotations.begun.load(Ordering::SeqCst);
        if self.near || begun != self.rotations {
            self.ledger.rotating.record(took);
        } else {
            self.ledger.quiet.record(took);
        }
    }
}

/// Octaves of microseconds, each in this many steps: an error of at most 1/32.
const STEPS: usize = 32;
/// Up to 2^36 µs, 19 hours.
const OCTAVES: usize = 32;

/// Latencies in fixed memory.
#[derive(Debug)]
pub struct Histogram(Box<[AtomicU64]>);

impl Default for Histogram {
    fn default() -> Self {
        Self((0..STEPS * OCTAVES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Histogram {
    /// Adds one.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let last = self.0.len() - 1;
        if let Some(slot) = self.0.get(slot(micros).min(last)) {
            slot.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes out what was added so far.
    #[must_use]
    pub fn take(&self) -> Self {
        let slots = self.0.iter();
        Self(
            slots
                .map(|slot| AtomicU64::new(slot.swap(0, Ordering::Relaxed)))
                .collect(),
        )
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).sum()
    }

    /// The latency in microseconds that `percent` of a hundred did not exceed; 0 when empty.
    pub fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (index, slot) in self.0.iter().enumerate() {
            seen += slot.load(Ordering::Relaxed);
            if seen >= wanted && seen > 0 {
                return upper(index);
            }
        }
        0
    }
}

/// Below `STEPS` each microsecond has its slot, above it each octave has `STEPS`.
fn slot(micros: u64) -> usize {
    let steps = STEPS as u64;
    if micros < steps {
        return usize::try_from(micros).unwrap_or(0);
    }
    let octave = u64::from(micros.ilog2() - STEPS.ilog2());
    let step = (micros >> octave) - steps;
    usize::try_from((octave + 1) * steps + step).unwrap_or(usize::MAX)
}

/// The largest value of a slot, in microseconds.
fn upper(slot: usize) -> u64 {
    if slot < STEPS {
        return slot as u64;
    }
    let (octave, step) = (slot / STEPS - 1, slot % STEPS);
    (((STEPS + step + 1) as u64) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_off_by_at_most_one_part_in_thirty_two() {
        for exact in [0, 1, 31, 32, 33, 999, 1_000, 123_456, 60_000_000] {
            let histogram = Histogram::default();
            histogram.record(Duration::from_micros(exact));
            let told = histogram.percentile(50);
            assert!(
                told >= exact && told <= exact + exact / 32 + 1,
                "{exact} {told}"
            );
        }
    }

    #[test]
    fn percentiles_follow_the_order() {
        let histogram = Histogram::default();
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let (half, most) = (histogram.percentile(50), histogram.percentile(99));
        assert!((50_000..52_000).contains(&half), "{half}");
        assert!((99_000..103_000).contains(&most), "{most}");
    }

    #[test]
    fn what_was_taken_out_is_counted_apart() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1));
        let taken = histogram.take();
        histogram.record(Duration::from_millis(9));
        assert_eq!((taken.count(), histogram.count()), (1, 1));
        assert!(taken.percentile(99) < 2_000 && histogram.percentile(99) > 8_000);
    }

    #[test]
    fn an_empty_histogram_says_nothing() {
        assert_eq!(Histogram::default().percentile(99), 0);
    }

    #[test]
    fn a_call_with_a_rotation_near_is_told_apart() {
        let ledger = Ledger::open();
        ledger.call().end("quiet", Ok(()));
        let rotation = ledger.rotating();
        ledger.call().end("during", Ok(()));
        drop(rotation);
        ledger.call().end("just after", Ok(()));
        let call = ledger.call();
        drop(ledger.rotating());
        call.end("a whole rotation inside", Ok(()));
        assert_eq!((ledger.quiet.count(), ledger.rotating.count()), (1, 3));
    }

    #[test]
    fn the_first_failure_is_kept_with_its_layer() {
        let ledger = Ledger::open();
        let failed = |what: &str| Err(CallError::Content(what.into()));
        ledger.call().end("one", failed("first"));
        ledger.stream("two", failed("second"));
        let first = ledger.first().expect("there was trouble");
        assert_eq!((first.layer, first.who.as_str()), ("content", "one"));
        assert!(first.what.contains("first") && !ledger.is_clean());
    }
}
