//! A caller that means well and never stops: whatever is done to the proxy, its calls have to go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use super::{Carrier, Hello, Line, Proxy, until};

/// Calls through the proxy without pause, each second one on a new connection.
pub(crate) struct Canary {
    shared: Arc<Shared>,
    calls: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    made: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Canary {
    /// One caller for each of `carriers`.
    pub(crate) fn start(proxy: &Arc<Proxy>, hello: &Hello, carriers: &[Carrier]) -> Self {
        let shared = Arc::<Shared>::default();
        let mut calls = JoinSet::new();
        for carrier in carriers {
            let (proxy, hello, shared) = (proxy.clone(), hello.clone(), shared.clone());
            let carrier = *carrier;
            calls.spawn(async move { call(&proxy, carrier, &hello, &shared).await });
        }
        Self { shared, calls }
    }

    /// Calls made so far.
    pub(crate) fn made(&self) -> u64 {
        self.shared.made.load(Ordering::Relaxed)
    }

    /// Waits until `more` calls were made from now on.
    pub(crate) async fn more(&self, more: u64) {
        let goal = self.made() + more;
        until("a call", async || (self.made() >= goal).then_some(())).await;
    }

    /// Ends, after a few more calls, and checks that none of all has failed.
    pub(crate) async fn finish(mut self) {
        self.more(4).await;
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.calls.join_next().await {
            ended.unwrap();
        }
        let failed = self.shared.failed.lock().unwrap();
        assert!(
            failed.is_empty(),
            "{} calls failed: {failed:?}",
            failed.len()
        );
    }
}

async fn call(proxy: &Proxy, carrier: Carrier, hello: &Hello, shared: &Shared) {
    let mut kept: Option<Line> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let fresh = async {
            let mut line = Line::open(proxy, carrier, hello).await?;
            let answered = line.get("/canary").await?;
            Ok::<_, std::io::Error>((line, answered))
        };
        let outcome = match kept.take() {
            // One that was told to close is replaced: that is no failure.
            Some(mut line) => match line.get("/canary").await {
                Ok(answered) => Ok((None, answered)),
                Err(error) if line.notified || line.closed.is_some() => {
                    let _ = error;
                    continue;
                }
                Err(error) => Err(error),
            },
            None => fresh.await.map(|(line, answered)| (Some(line), answered)),
        };
        let failure = match outcome {
            Ok((line, answered)) => {
                let closes = answered
                    .head
                    .to_ascii_lowercase()
                    .contains("connection: close");
                kept = line.filter(|_| !closes);
                (answered.status != 200).then(|| format!("{answered:?}"))
            }
            Err(error) => Some(format!("{carrier:?}: {error}")),
        };
        match failure {
            None => drop(shared.made.fetch_add(1, Ordering::Relaxed)),
            Some(failure) => shared.failed.lock().unwrap().push(failure),
        }
    }
}
