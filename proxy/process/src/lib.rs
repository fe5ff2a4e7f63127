//! What every program of ours does, so that none does it its own way.
//!
//! [`start`] makes the runtime, takes the signals, switches core dumps off and turns the outcome
//! into an exit code. [`Tasks`] owns everything that runs; [`Health`] answers who asks how it is;
//! [`Clock`] is the only reader of time. This crate is linked by the proxy and therefore lean.

pub mod base64;
mod chain;
mod clock;
mod failure;
mod firewall;
mod harden;
mod health;
pub mod log;
pub mod metrics;
mod stalling;
mod tasks;
mod twin;

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use chain::Chain;
pub use clock::{Clock, SystemClock, rfc3339};
pub use failure::{Exit, Failure};
pub use firewall::Firewall;
pub use health::{Asked, Health, Page};
pub use stalling::Stalling;
pub use tasks::{Drained, Tasks};
pub use twin::twin;

/// Version, commit and target of this build.
pub const BUILD: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("KEYWARD_COMMIT"),
    " ",
    env!("KEYWARD_TARGET"),
    ")"
);

/// Runs a program to its end and says how it ended.
///
/// The first SIGTERM or SIGINT stops `tasks`, upon which `run` is expected to drain and return. SIGTERM
/// again changes nothing: managers repeat it, and their own limit ends with SIGKILL. A second SIGINT is
/// a person who does not want to wait, and ends the process at once. SIGHUP is ignored from here on:
/// whoever wants it takes it with [`tokio::signal`], and it never ends the process. An error is printed
/// to standard error.
pub fn start<R, F>(run: R) -> ExitCode
where
    R: FnOnce(Tasks) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(supervise(run));
        // Name look-ups run on threads that nobody can interrupt: do not wait for them.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// One core: one thread, since a work-stealing scheduler would only add hand-overs.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let single = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let mut builder = if single {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::internal("cannot start").caused_by(&error))
}

async fn supervise<R, F>(run: R) -> Result<(), Failure>
where
    R: FnOnce(Tasks) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let signals = Signals::take()?;
    harden::apply();
    let tasks = Tasks::new();
    tokio::select! {
        outcome = run(tasks.clone()) => outcome,
        () = signals.interrupted(&tasks) => {
            Err(Failure::internal("stopped by a second SIGINT, without draining"))
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    _hang_up: Signal,
}

impl Signals {
    fn take() -> Result<Self, Failure> {
        let take = |kind| {
            signal(kind).map_err(|error| Failure::internal("cannot take signals").caused_by(&error))
        };
        Ok(Self {
            _hang_up: take(SignalKind::hangup())?,
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// Stops `tasks` at the first signal; resolves at the second SIGINT. One of each is no second one: a
    /// terminal interrupts a whole group of processes, and the parent among them passes its stop on.
    async fn interrupted(mut self, tasks: &Tasks) {
        let mut once = false;
        loop {
            let interrupt = tokio::select! {
                _ = self.terminate.recv() => false,
                _ = self.interrupt.recv() => true,
            };
            if interrupt && once {
                return;
            }
            once |= interrupt;
            if !tasks.is_stopping() {
                tracing::info!("shutting down");
                tasks.stop();
            }
        }
    }
}
