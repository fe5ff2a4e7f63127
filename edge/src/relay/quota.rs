//! How much one caller may do: streams at once, and streams opened over time.
//!
//! A caller is a client certificate that was found good, else a source address, in IPv6 the /64 that it
//! stands for. Decided before anything is opened, and held until the stream ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::access::Limits;
use crate::source::network;

/// This many are known before anybody is forgotten.
const FORGET_AT: usize = 10_000;

/// Who is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// SHA-256 of a client certificate.
    Certificate(String),
    /// A source, as [`network`] has it.
    Address(IpAddr),
}

impl Key {
    /// Whoever comes from `address`.
    pub(super) fn of(address: IpAddr) -> Self {
        Self::Address(network(address))
    }
}

/// Everybody who is counted, for each tunnel. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Quotas(Arc<Mutex<Accounts>>);

#[derive(Debug, Default)]
struct Accounts {
    known: HashMap<(String, Key), Account>,
    /// Those worth keeping when they were looked at last.
    kept: usize,
}

impl Accounts {
    /// Keeps those with open streams, and those that have used up their allowance within the last minute,
    /// which brings every allowance back; whoever has some left loses nothing.
    fn forget(&mut self, now: Instant) {
        if self.known.len() < FORGET_AT.max(2 * self.kept) {
            return;
        }
        let old = now.checked_sub(Duration::from_secs(60));
        let used_up = |account: &Account| account.allowance < 1.0 && Some(account.at) > old;
        self.known
            .retain(|_, account| account.open > 0 || used_up(account));
        self.kept = self.known.len();
    }
}

#[derive(Debug)]
struct Account {
    open: u32,
    /// What may be opened at once now; grows back.
    allowance: f64,
    at: Instant,
}

impl Account {
    fn grow(&mut self, limits: Limits, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let grown = passed.as_secs_f64() * f64::from(limits.connections_per_minute) / 60.0;
        self.allowance = (self.allowance + grown).min(burst(limits));
        self.at = now;
    }
}

fn burst(limits: Limits) -> f64 {
    f64::from(limits.streams.max(1))
}

impl Quotas {
    /// A place for one more stream, held until it is dropped. `None`: too many.
    pub(super) fn enter(
        &self,
        tunnel: &str,
        key: &Key,
        limits: Limits,
        now: Instant,
    ) -> Option<Place> {
        let mut accounts = self.lock();
        accounts.forget(now);
        let name = (tunnel.to_owned(), key.clone());
        let account = accounts
            .known
            .entry(name.clone())
            .or_insert_with(|| Account {
                open: 0,
                allowance: burst(limits),
                at: now,
            });
        account.grow(limits, now);
        if account.open >= limits.streams || account.allowance < 1.0 {
            return None;
        }
        account.open += 1;
        account.allowance -= 1.0;
        Some(Place {
            quotas: self.clone(),
            name,
        })
    }

    /// Whether `key` has been let in within the last while.
    pub(super) fn knows(&self, tunnel: &str, key: &Key) -> bool {
        let name = (tunnel.to_owned(), key.clone());
        self.lock().known.contains_key(&name)
    }

    /// Whether `key` might open one more stream over time; takes nothing.
    pub(super) fn has_left(&self, tunnel: &str, key: &Key, limits: Limits, now: Instant) -> bool {
        let name = (tunnel.to_owned(), key.clone());
        let mut accounts = self.lock();
        accounts.known.get_mut(&name).is_none_or(|account| {
            account.grow(limits, now);
            account.allowance >= 1.0
        })
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream that counts.
#[derive(Debug)]
pub(super) struct Place {
    quotas: Quotas,
    name: (String, Key),
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(account) = self.quotas.lock().known.get_mut(&self.name) {
            account.open = account.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Key {
        Key::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_of_version_six_counts_with_its_network() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn streams_at_once_are_limited_and_one_that_ends_makes_room() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 2,
            connections_per_minute: 60_000,
        };
        let key = address("192.0.2.1");
        let first = quotas.enter("t", &key, limits, now).unwrap();
        let _second = quotas.enter("t", &key, limits, now).unwrap();
        assert!(quotas.enter("t", &key, limits, now).is_none());
        assert!(
            quotas.enter("u", &key, limits, now).is_some(),
            "of another tunnel"
        );
        drop(first);
        let later = now + Duration::from_secs(1);
        assert!(quotas.enter("t", &key, limits, later).is_some());
    }

    #[test]
    fn a_crowd_takes_no_more_room_and_frees_nobody_who_has_used_up_his_allowance() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 2,
            connections_per_minute: 60,
        };
        let source = |number: u32| Key::Address(IpAddr::from(number.to_be_bytes()));
        let _open = quotas.enter("t", &source(0), limits, now).unwrap();
        for _ in 0..2 {
            drop(quotas.enter("t", &source(1), limits, now));
        }
        for number in 2..100_000 {
            assert!(quotas.enter("t", &source(number), limits, now).is_some());
        }
        assert!(quotas.lock().known.len() <= FORGET_AT);
        assert!(quotas.enter("t", &source(1), limits, now).is_none());
        let _second = quotas.enter("t", &source(0), limits, now).unwrap();
        assert!(
            quotas.enter("t", &source(0), limits, now).is_none(),
            "still open"
        );
    }

    #[test]
    fn streams_over_time_are_limited() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 10,
            connections_per_minute: 60,
        };
        let key = address("192.0.2.1");
        let opened = |now| {
            let tries = (0..100).map(|_| quotas.enter("t", &key, limits, now));
            tries.flatten().count()
        };
        assert_eq!(opened(now), 10, "at once");
        assert_eq!(opened(now + Duration::from_secs(3)), 3);
        assert_eq!(opened(now + Duration::from_secs(3)), 0);
    }

    #[test]
    fn to_look_at_what_is_left_takes_nothing_and_knows_nobody() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 1,
            connections_per_minute: 1,
        };
        let key = address("192.0.2.1");
        for _ in 0..3 {
            assert!(quotas.has_left("t", &key, limits, now));
        }
        assert!(!quotas.knows("t", &key));
        drop(quotas.enter("t", &key, limits, now).unwrap());
        assert!(quotas.knows("t", &key) && !quotas.knows("u", &key));
        assert!(!quotas.has_left("t", &key, limits, now));
        let later = now + Duration::from_secs(60);
        assert!(quotas.has_left("t", &key, limits, later));
    }

    #[test]
    fn streams_at_once_are_limited_however_slowly_they_come() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 2,
            connections_per_minute: 60,
        };
        let (key, minute) = (address("192.0.2.1"), Duration::from_secs(60));
        let first = quotas.enter("t", &key, limits, now).unwrap();
        let _second = quotas.enter("t", &key, limits, now + minute).unwrap();
        assert!(quotas.enter("t", &key, limits, now + 2 * minute).is_none());
        drop(first);
        assert!(quotas.enter("t", &key, limits, now + 2 * minute).is_some());
    }

    #[test]
    fn nobody_saves_up_more_than_the_streams_at_once() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 10,
            connections_per_minute: 60,
        };
        let key = address("192.0.2.1");
        drop(quotas.enter("t", &key, limits, now).unwrap());
        let later = now + Duration::from_secs(3600);
        let tries = (0..100).map(|_| quotas.enter("t", &key, limits, later));
        assert_eq!(tries.flatten().count(), 10);
    }

    #[test]
    fn callers_without_streams_are_forgotten_after_a_minute_and_others_are_not() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = Limits {
            streams: 1,
            connections_per_minute: 60,
        };
        let key = address("192.0.2.1");
        let _open = quotas.enter("t", &key, limits, now).unwrap();
        for number in 1..FORGET_AT {
            let other = Key::Certificate(number.to_string());
            assert!(quotas.enter("t", &other, limits, now).is_some());
        }
        let later = now + Duration::from_secs(61);
        assert!(quotas.enter("t", &key, limits, later).is_none(), "open");
        assert_eq!(quotas.lock().known.len(), 1);
    }
}
