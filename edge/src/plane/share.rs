//! How much of what a rule gives goes to whom.
//!
//! Anybody may name any rule, so a limit that all who name one share would be a weapon against those whom
//! it is for. What a rule gives is three shares of the same size, by what is known of the source: that it
//! bought something under this rule within a day, nothing, or that it has tried something within ten
//! minutes. Whoever floods from few sources is among the last after the first try, and takes nothing of
//! what others need; whoever has very many takes at most what is given to strangers.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::buckets::{Buckets, Rate};

/// So long a source that bought something is known by that.
const PROVEN: Duration = Duration::from_secs(24 * 3600);
/// So long a source that tried something is known by that.
const TRIED: Duration = Duration::from_secs(600);
/// Most of either that are remembered.
const MOST: usize = 50_000;
/// Where there is no room, what is forgotten anyway is looked for so often at most.
const SWEEP: Duration = Duration::from_secs(1);

/// What is known of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Share {
    Proven,
    Stranger,
    Tried,
}

/// The shares of all rules.
#[derive(Debug)]
pub(super) struct Shares {
    buckets: Buckets<(String, Share)>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    bought: Recent<(String, IpAddr)>,
    /// Whatever the rule: names of rules can be made up without end.
    tried: Recent<IpAddr>,
}

/// When something was last seen, for as long as that means anything.
#[derive(Debug)]
struct Recent<K> {
    life: Duration,
    at: HashMap<K, Duration>,
    swept: Option<Duration>,
}

impl Shares {
    /// Each share of each rule is of this size.
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            buckets: Buckets::new(rate),
            seen: Mutex::new(Seen {
                bought: Recent::new(PROVEN),
                tried: Recent::new(TRIED),
            }),
        }
    }

    pub(super) fn rate(&self) -> Rate {
        self.buckets.rate()
    }

    /// Takes one exchange under `rule` for `source`; `false`: there is none.
    pub(super) fn take(&self, rule: &str, source: IpAddr, now: Duration) -> bool {
        let share = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let tried = seen.tried.has(&source, now);
            // Before it is known how this one ends, or else many at once would all be the first.
            seen.tried.note(source, now);
            match (seen.bought.has(&(rule.to_owned(), source), now), tried) {
                (true, _) => Share::Proven,
                (false, true) => Share::Tried,
                (false, false) => Share::Stranger,
            }
        };
        let taken = |share| self.buckets.take((rule.to_owned(), share), now);
        taken(share) || (share != Share::Tried && taken(Share::Tried))
    }

    /// `source` bought something under `rule`.
    pub(super) fn bought(&self, rule: &str, source: IpAddr, now: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.bought.note((rule.to_owned(), source), now);
    }
}

impl<K: Eq + Hash> Recent<K> {
    fn new(life: Duration) -> Self {
        Self {
            life,
            at: HashMap::new(),
            swept: None,
        }
    }

    fn has(&self, key: &K, now: Duration) -> bool {
        let at = self.at.get(key);
        at.is_some_and(|at| now.saturating_sub(*at) < self.life)
    }

    /// Where there is no room it is not remembered.
    fn note(&mut self, key: K, now: Duration) {
        let due = self.swept.is_none_or(|swept| now >= swept + SWEEP);
        if self.at.len() >= MOST && due {
            let life = self.life;
            self.at.retain(|_, at| now.saturating_sub(*at) < life);
            self.swept = Some(now);
        }
        if self.at.len() < MOST || self.at.contains_key(&key) {
            self.at.insert(key, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "fdrl_1";

    fn shares() -> Shares {
        Shares::new(Rate {
            burst: 10,
            per_minute: 1,
        })
    }

    fn source(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    #[test]
    fn a_flood_from_few_takes_nothing_of_what_strangers_and_known_ones_need() {
        let (shares, now) = (shares(), Duration::from_secs(1));
        assert!(shares.take(RULE, source(1), now));
        shares.bought(RULE, source(1), now);
        let flood = (0..500).filter(|n| shares.take(RULE, source(100 + n % 5), now));
        assert_eq!(flood.count(), 15, "five first tries, and the last share");
        assert!(shares.take(RULE, source(2), now), "a stranger");
        assert!(shares.take(RULE, source(1), now), "a known one");
    }

    #[test]
    fn a_flood_from_very_many_takes_at_most_what_strangers_get() {
        let (shares, now) = (shares(), Duration::from_secs(1));
        assert!(shares.take(RULE, source(1), now));
        shares.bought(RULE, source(1), now);
        let flood = (0..100_000).filter(|n| shares.take(RULE, source(100 + n), now));
        assert_eq!(
            flood.count(),
            19,
            "one of the strangers' share was the known one's"
        );
        assert!(!shares.take(RULE, source(2), now));
        for _ in 0..10 {
            assert!(shares.take(RULE, source(1), now));
        }
        assert!(!shares.take(RULE, source(1), now));
        assert!(shares.take("fdrl_2", source(3), now), "another rule");
        assert!(shares.seen.lock().unwrap().tried.at.len() <= MOST);
    }

    #[test]
    fn who_bought_is_known_for_a_day_and_who_tried_for_ten_minutes() {
        let (shares, at) = (shares(), Duration::from_secs);
        let mut recent = Recent::new(TRIED);
        recent.note(1, at(0));
        assert!(recent.has(&1, at(599)) && !recent.has(&1, at(600)));
        shares.bought(RULE, source(1), at(0));
        let seen = shares.seen.lock().unwrap();
        let known = |rule: &str, now| seen.bought.has(&(rule.to_owned(), source(1)), now);
        assert!(known(RULE, at(86_399)) && !known(RULE, at(86_400)));
        assert!(!known("fdrl_2", at(1)), "under this rule alone");
    }

    #[test]
    fn what_is_forgotten_makes_room() {
        let mut recent = Recent::new(TRIED);
        for n in 0..=MOST {
            recent.note(n, Duration::ZERO);
        }
        assert!(!recent.has(&MOST, Duration::ZERO));
        recent.note(MOST, Duration::from_secs(600));
        assert!(recent.has(&MOST, Duration::from_secs(600)));
    }
}
