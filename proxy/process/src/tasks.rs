//! Everything that runs has an owner that waits for it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use crate::Failure;

/// Owner of the tasks of a program. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failure: Arc<OnceLock<Failure>>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All work ended by itself.
    Clean,
    /// The limit came first.
    Cut {
        /// Tasks that were still running.
        left: usize,
    },
}

/// What hyper spawns is waited for like everything else.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

impl Tasks {
    /// An owner of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` until it ends; [`drain`](Self::drain) waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Runs a task without which the program is of no use: if it ends, fails or panics before the
    /// stop, everything stops and [`failure`](Self::failure) says why.
    pub fn essential(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        let handle = self.tracker.spawn(task);
        let this = self.clone();
        self.tracker.spawn(async move {
            let failure = match handle.await {
                Ok(Ok(())) if this.stop.is_cancelled() => return,
                Ok(Ok(())) => Failure::internal(format!("essential task {name} ended")),
                Ok(Err(failure)) => failure,
                Err(error) => Failure::internal(format!("essential task {name}")).caused_by(&error),
            };
            tracing::error!(task = name, error = %failure, "essential task failed");
            let _ = this.failure.set(failure);
            this.stop.cancel();
        });
    }

    /// Tells every task to come to an end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves once [`stop`](Self::stop) was called.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until all tasks have ended, at most `limit`. Idle means immediate.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.stop.cancel();
        self.tracker.close();
        match tokio::time::timeout(limit, self.tracker.wait()).await {
            Ok(()) => Drained::Clean,
            Err(_) => Drained::Cut {
                left: self.tracker.len(),
            },
        }
    }

    /// Why an essential task ended, if one did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_idle_drain_is_immediate_and_clean() {
        assert_eq!(
            Tasks::new().drain(Duration::from_secs(60)).await,
            Drained::Clean
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_limit() {
        let tasks = Tasks::new();
        tasks.spawn(std::future::pending());
        assert_eq!(
            tasks.drain(Duration::from_secs(1)).await,
            Drained::Cut { left: 1 }
        );
    }

    #[tokio::test]
    async fn an_essential_task_that_panics_stops_everything() {
        let tasks = Tasks::new();
        tasks.essential("fragile", async { panic!("on purpose") });
        tasks.stopping().await;
        assert!(
            tasks
                .failure()
                .expect("it failed")
                .to_string()
                .contains("fragile")
        );
    }

    #[tokio::test]
    async fn an_essential_task_that_ends_after_the_stop_is_no_failure() {
        let tasks = Tasks::new();
        let inner = tasks.clone();
        tasks.essential("polite", async move {
            inner.stopping().await;
            Ok(())
        });
        assert_eq!(tasks.drain(Duration::from_secs(60)).await, Drained::Clean);
        assert_eq!(tasks.failure(), None);
    }
}
