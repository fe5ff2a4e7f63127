//! Who is woken when something happens on a connection.
//!
//! hyper joins the two halves of a connection by channels, and each message in them wakes whoever
//! polled last: here mostly the very task that is running, and for an idle connection the task of an
//! earlier caller. Each such wake polls a whole caller's connection for nothing. So a connection is
//! given a bell of its own, which rings through only while somebody waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The waker of one connection, whoever uses it.
#[derive(Debug)]
pub(super) struct Bell {
    /// The user has gone to sleep and has to be woken.
    asleep: AtomicBool,
    /// It rang while the user was awake.
    rung: AtomicBool,
    user: Mutex<Waker>,
}

impl Bell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            asleep: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            user: Mutex::new(Waker::noop().clone()),
        })
    }

    /// The user is awake, and looks at everything before it sleeps.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// The user is about to look, so earlier rings are answered.
    pub(super) fn answered(&self) {
        self.awake();
        self.rung.store(false, Ordering::SeqCst);
    }

    /// The user goes to sleep and wants to be woken through `waker`; at once, if it rang after the
    /// last look began.
    pub(super) fn sleep(&self, waker: &Waker) {
        self.user().clone_from(waker);
        self.asleep.store(true, Ordering::SeqCst);
        if self.rung.swap(false, Ordering::SeqCst) {
            waker.wake_by_ref();
        }
    }

    fn ring(&self) {
        if !self.asleep.load(Ordering::SeqCst) {
            self.rung.store(true, Ordering::SeqCst);
            // It may have fallen asleep between the two: then either side sees the other's mark.
            if !self.asleep.load(Ordering::SeqCst) {
                return;
            }
        }
        self.user().wake_by_ref();
    }

    fn user(&self) -> std::sync::MutexGuard<'_, Waker> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_bell_wakes_who_sleeps_and_nobody_who_is_awake() {
        let (bell, count) = (Bell::new(), Arc::new(Count::default()));
        let (ring, user) = (Waker::from(bell.clone()), Waker::from(count.clone()));
        ring.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        bell.answered();
        bell.sleep(&user);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        ring.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        bell.awake();
        ring.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_rang_after_the_last_look_wakes_at_once() {
        let (bell, count) = (Bell::new(), Arc::new(Count::default()));
        let (ring, user) = (Waker::from(bell.clone()), Waker::from(count.clone()));
        bell.answered();
        ring.wake_by_ref();
        bell.sleep(&user);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn no_ring_is_lost_between_two_threads() {
        let (bell, count) = (Bell::new(), Arc::new(Count::default()));
        let (ring, user) = (Waker::from(bell.clone()), Waker::from(count.clone()));
        for round in 0..2_000 {
            bell.answered();
            let before = count.0.load(Ordering::SeqCst);
            let ringer = std::thread::scope(|scope| {
                let other = scope.spawn(|| ring.wake_by_ref());
                bell.sleep(&user);
                other.join()
            });
            ringer.unwrap();
            assert!(
                count.0.load(Ordering::SeqCst) > before,
                "lost in round {round}"
            );
        }
    }
}
