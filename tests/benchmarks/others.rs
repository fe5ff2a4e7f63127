//! Callers that do nothing wrong while somebody else does, and how long their calls take.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process::{Failure, Tasks};
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

use crate::caller::{Caller, get};
use crate::cut::percentile;
use crate::tunnel::HOST;

/// How many there are. Each has an address of its own, and the limits of one.
const CALLERS: u8 = 32;
/// Of these every eighth makes a new connection for each call; the others keep theirs.
const NEW: u8 = 8;
/// Between two calls of one caller. Without it their own core is full, and what is measured is their queue.
const PAUSE: Duration = Duration::from_millis(25);

/// They call until this is dropped.
pub(crate) struct Others {
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Microseconds.
    latencies: Mutex<Vec<f64>>,
    trouble: Mutex<Option<String>>,
    over: AtomicBool,
}

impl Others {
    /// Begins to call through `edge`.
    pub(crate) fn start(edge: SocketAddr, trust: &Arc<ClientConfig>, tasks: &Tasks) -> Self {
        let seen = Arc::new(Seen::default());
        for number in 0..CALLERS {
            let (seen, trust) = (Arc::clone(&seen), Arc::clone(trust));
            tasks.spawn(async move {
                // They do not all begin at once.
                tokio::time::sleep(PAUSE * u32::from(number) / u32::from(CALLERS)).await;
                let from = Ipv4Addr::new(127, 0, 2, number + 1);
                let called = call(&seen, &trust, (edge, from), number % NEW == 0).await;
                if let Err(error) = called {
                    *lock(&seen.trouble) = Some(error.to_string());
                }
            });
        }
        Self { seen }
    }

    /// p99 of the calls that end within `window`, microseconds.
    ///
    /// # Errors
    ///
    /// A call failed.
    pub(crate) async fn window(&self, window: Duration) -> Result<f64, Failure> {
        lock(&self.seen.latencies).clear();
        tokio::time::sleep(window).await;
        let mut latencies = std::mem::take(&mut *lock(&self.seen.latencies));
        if let Some(trouble) = lock(&self.seen.trouble).take() {
            return Err(Failure::internal("a call of the others failed").cause(trouble));
        }
        percentile(&mut latencies, 99).ok_or_else(|| Failure::internal("the others did not call"))
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
    }
}

async fn call(
    seen: &Seen,
    trust: &Arc<ClientConfig>,
    (edge, from): (SocketAddr, Ipv4Addr),
    anew: bool,
) -> io::Result<()> {
    let request = get(HOST, "/");
    let mut kept = None;
    while !seen.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut caller = match kept.take() {
            Some(caller) => caller,
            None => Caller::connect(trust, edge, from).await?,
        };
        caller.call(&request).await?;
        lock(&seen.latencies).push(began.elapsed().as_secs_f64() * 1e6);
        if !anew {
            kept = Some(caller);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
