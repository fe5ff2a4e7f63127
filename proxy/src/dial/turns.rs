//! Which of the edge's addresses is tried first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// An address that did not answer comes last for this long.
const MUTE_FOR: Duration = Duration::from_secs(10);

/// Takes turns, so that every instance of the edge is reached, and remembers who kept us waiting.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: AtomicUsize,
    mute: Mutex<BTreeMap<SocketAddr, Instant>>,
}

impl Turns {
    /// All of them, beginning with another one each time; those that were mute come last.
    pub(super) fn order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut mute = self.mute.lock().unwrap_or_else(PoisonError::into_inner);
        mute.retain(|_, since| since.elapsed() < MUTE_FOR);
        addresses.sort_by_key(|address| mute.contains_key(address));
        addresses
    }

    /// `address` did not answer in time.
    pub(super) fn was_mute(&self, address: SocketAddr) {
        let mut mute = self.mute.lock().unwrap_or_else(PoisonError::into_inner);
        mute.insert(address, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_address_has_its_turn_and_a_mute_one_is_the_last_for_a_while() {
        let [one, two, three] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let turns = Turns::default();
        let first = |turns: &Turns| turns.order(vec![one, two, three])[0];
        assert_eq!([(); 4].map(|()| first(&turns)), [one, two, three, one]);
        turns.was_mute(two);
        for _ in 0..3 {
            assert_eq!(turns.order(vec![one, two, three])[2], two);
        }
        tokio::time::advance(MUTE_FOR).await;
        assert_eq!(first(&turns), two);
        assert!(turns.order(Vec::new()).is_empty());
    }
}
