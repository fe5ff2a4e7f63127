//! Answers that anybody can have, each in memory once however many are being sent it: whoever asks often and
//! reads slowly holds next to nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest;
use bytes::Bytes;

/// Those that have been sent are looked for once so many are known.
const SWEEP: usize = 1000;

/// Answers that are being sent, by their SHA-256.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<Vec<u8>, Weak<Bytes>>>);

/// One of them.
struct Held(Arc<Bytes>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Shared {
    /// `answer`, or one that says the same and is being sent.
    pub(super) fn of(&self, answer: Bytes) -> Bytes {
        let name = digest::digest(&digest::SHA256, &answer).as_ref().to_vec();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = known.get(&name).and_then(Weak::upgrade) {
            return Bytes::from_owner(Held(held));
        }
        if known.len() >= SWEEP {
            known.retain(|_, answer| answer.strong_count() > 0);
        }
        let held = Arc::new(answer);
        known.insert(name, Arc::downgrade(&held));
        Bytes::from_owner(Held(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_is_there_once_for_as_long_as_it_is_sent() {
        let shared = Shared::default();
        let answer = |number: usize| shared.of(Bytes::from(format!("answer {number}")));
        let (one, same, other) = (answer(1), answer(1), answer(2));
        assert_eq!(one, same);
        assert_eq!(one.as_ptr(), same.as_ptr());
        assert_ne!(one, other);
        drop((one, same));
        let name = digest::digest(&digest::SHA256, b"answer 1");
        let known = shared.0.lock().unwrap().get(name.as_ref()).cloned();
        assert!(known.unwrap().upgrade().is_none());
        for number in 0..10 * SWEEP {
            answer(number);
        }
        assert!(shared.0.lock().unwrap().len() <= SWEEP);
        assert_eq!(other, answer(2));
    }
}
