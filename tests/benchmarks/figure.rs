//! What a benchmark finds: figures with a bar, as a table for a person and as one object for a program.

use std::fmt::Write as _;

use serde::Serialize;

use crate::list::{Bench, Wanted};

/// Pairs of a comparison. Fewer and the figure does not hold.
pub(crate) const PAIRS: usize = 7;

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    id: &'static str,
    what: &'static str,
    /// Median of ours; absent: could not be measured.
    ours: Option<f64>,
    /// Whom it is compared with; absent: with the bar alone.
    peer: Option<String>,
    peer_value: Option<f64>,
    /// Median of the pairs' ratios, ours to the peer's.
    ratio: Option<f64>,
    bar: f64,
    /// Whether it was measured, often enough, and is within the bar.
    holds: bool,
}

/// The figures of one benchmark. What is not found by the end does not hold.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findings {
    bench: &'static str,
    figures: Vec<Figure>,
}

impl Findings {
    /// Nothing found yet.
    pub(crate) fn of(bench: &Bench) -> Self {
        let missing = |wanted: &Wanted| Figure {
            id: wanted.id,
            what: wanted.what,
            ours: None,
            peer: None,
            peer_value: None,
            ratio: None,
            bar: wanted.bar,
            holds: false,
        };
        Self {
            bench: bench.name,
            figures: bench.figures.iter().map(missing).collect(),
        }
    }

    /// A value that is compared with the bar itself.
    pub(crate) fn absolute(&mut self, id: &str, ours: f64) {
        let figure = self.figure(id);
        figure.ours = Some(ours);
        figure.holds = ours <= figure.bar;
    }

    /// A value that is compared with a peer's, pair by pair. `pairs` are (ours, the peer's).
    pub(crate) fn compared(&mut self, id: &str, peer: &str, pairs: &[(f64, f64)]) {
        let of = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
        let figure = self.figure(id);
        figure.ours = of(|(ours, _)| *ours);
        figure.peer = Some(peer.to_owned());
        figure.peer_value = of(|(_, peer)| *peer);
        figure.ratio = of(|(ours, peer)| ours / peer);
        figure.holds =
            pairs.len() >= PAIRS && figure.ratio.is_some_and(|ratio| ratio <= figure.bar);
    }

    /// Whether every figure was measured and is within its bar.
    pub(crate) fn hold(&self) -> bool {
        self.figures.iter().all(|figure| figure.holds)
    }

    /// For a program.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("figures are numbers and text") + "\n"
    }

    /// For a person.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:18} {:>12} {:>12} {:>7} {:>9}  holds  what\n",
            "figure", "ours", "peer", "ratio", "bar"
        );
        let number = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
        };
        for figure in &self.figures {
            let peer = figure
                .peer
                .as_deref()
                .map_or_else(String::new, |peer| format!(", against {peer}"));
            let (ours, theirs, ratio) = (
                number(figure.ours),
                number(figure.peer_value),
                number(figure.ratio),
            );
            let holds = if figure.holds { "yes" } else { "NO" };
            let (id, bar, what) = (figure.id, figure.bar, figure.what);
            let _ = writeln!(
                text,
                "{id:18} {ours:>12} {theirs:>12} {ratio:>7} {bar:>9}  {holds:5}  {what}{peer}"
            );
        }
        text
    }

    fn figure(&mut self, id: &str) -> &mut Figure {
        self.figures
            .iter_mut()
            .find(|figure| figure.id == id)
            .expect("a benchmark brings the figures of its list")
    }
}

/// The middle of `values`, or the mean of the two middle ones; none of an empty slice or of one that is not all finite.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    if sorted.iter().any(|value| !value.is_finite()) {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let high = sorted.get(middle).copied()?;
    if sorted.len() % 2 == 1 {
        return Some(high);
    }
    sorted.get(middle - 1).map(|low| f64::midpoint(*low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BENCH: Bench = Bench {
        name: "a",
        shows: "",
        peer: "",
        figures: &[Wanted {
            id: "a.b",
            what: "w",
            bar: 0.6,
        }],
    };

    fn compared(pairs: &[(f64, f64)]) -> bool {
        let mut findings = Findings::of(&BENCH);
        findings.compared("a.b", "peer", pairs);
        findings.hold()
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_comparison_needs_seven_pairs_within_the_bar() {
        let pairs = [(1.0, 2.0); PAIRS];
        assert!(compared(&pairs));
        assert!(!compared(&pairs[1..]));
        assert!(!compared(&[(1.3, 2.0); PAIRS]));
        assert!(!compared(&[]));
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let mut findings = Findings::of(&BENCH);
        assert!(!findings.hold());
        findings.absolute("a.b", 0.7);
        assert!(!findings.hold());
        findings.absolute("a.b", 0.6);
        assert!(findings.hold());
    }

    #[test]
    fn the_object_has_the_fields_that_readers_expect() {
        let wanted = r#"{"bench":"a","figures":[{"id":"a.b","what":"w","ours":null,"peer":null,"peer_value":null,"ratio":null,"bar":0.6,"holds":false}]}"#;
        assert_eq!(Findings::of(&BENCH).json(), format!("{wanted}\n"));
    }
}
