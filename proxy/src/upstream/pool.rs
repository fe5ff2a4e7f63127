//! Idle connections to one upstream, last in first out, so that a burst's surplus ages and goes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Link;

#[allow(
    clippy::vec_box,
    reason = "a link goes in and out with each request, as a pointer"
)]
type Links = Vec<Box<Link>>;

#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Links>);

impl Idle {
    pub(super) fn take(&self) -> Option<Box<Link>> {
        self.lock().pop()
    }

    pub(super) fn put(&self, mut link: Box<Link>, limit: usize) {
        link.reused = true;
        link.idle = 0;
        let mut idle = self.lock();
        if idle.len() < limit {
            idle.push(link);
        }
    }

    /// Nobody polls an idle connection, so this is where a closed one is noticed and let go.
    pub(super) fn sweep(&self, ticks: u32) {
        self.lock().retain_mut(|link| {
            link.idle += 1;
            link.idle <= ticks && link.poll().is_pending()
        });
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
