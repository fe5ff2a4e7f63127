//! Who is still in a handshake, so that a swap can say when nobody is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Counts the handshakes that run under one generation and lets none end after it was shut.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    empty: Notify,
    shut: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    inside: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Handshakes may begin.
    #[default]
    Open,
    /// Those that began may end.
    Closed,
    /// None may end any more.
    Shut,
}

impl Gate {
    /// Lets a handshake begin; `false`: a later generation is published, take that one.
    pub(super) fn enter(&self) -> bool {
        let mut state = self.lock();
        let open = state.phase == Phase::Open;
        state.inside += usize::from(open);
        open
    }

    /// A handshake that entered has ended; `true`: in time, so that its connection may live.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        state.inside -= 1;
        if state.inside == 0 && state.phase != Phase::Open {
            self.empty.notify_waiters();
        }
        state.phase != Phase::Shut
    }

    /// No handshake begins any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closed;
        }
    }

    /// No handshake ends any more: those inside are told to give up, and one that ends all the same
    /// is told by [`leave`](Self::leave) that it came too late.
    pub(super) fn shut(&self) {
        self.lock().phase = Phase::Shut;
        self.shut.cancel();
    }

    /// Nobody is inside, or those inside cannot end.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.inside == 0 || state.phase == Phase::Shut
    }

    /// Resolves once nobody is inside. To be called after [`close`](Self::close).
    pub(super) async fn emptied(&self) {
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            empty.as_mut().enable();
            if self.is_empty() {
                return;
            }
            tokio::select! {
                () = empty => {}
                () = self.shut.cancelled() => {}
            }
        }
    }

    /// Resolves once the gate was shut.
    pub(super) async fn shutting(&self) {
        self.shut.cancelled().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics; a poisoned state would be as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_ends_after_the_gate_was_shut_came_too_late() {
        let gate = Gate::default();
        assert!(gate.enter() && gate.enter());
        gate.close();
        assert!(!gate.enter(), "nobody begins on a closed gate");
        assert!(gate.leave(), "who was inside may end");
        gate.shut();
        assert!(!gate.leave(), "but not after the gate was shut");
    }

    #[tokio::test]
    async fn an_emptied_gate_wakes_who_waits() {
        let gate = Gate::default();
        assert!(gate.enter());
        gate.close();
        let waiting = gate.emptied();
        tokio::join!(waiting, async { assert!(gate.leave()) });
    }
}
