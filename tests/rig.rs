//! What the tests of attacks, swaps and custody stand on: the real proxy as a process, a daemon that
//! is a control socket and nothing else, an upstream that notes what reaches it, and a caller whose
//! every byte can be held back.

pub(crate) mod canary;
pub(crate) mod credentials;
pub(crate) mod daemon;
pub(crate) mod line;
pub(crate) mod memory;
pub(crate) mod proxy;
pub(crate) mod screen;
pub(crate) mod upstream;

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

pub(crate) use canary::Canary;
pub(crate) use credentials::Issuer;
pub(crate) use daemon::{Answer, Daemon, Session};
pub(crate) use line::{Carrier, Hello, Line};
pub(crate) use proxy::{Proxy, Setup, page, status};
pub(crate) use upstream::Upstream;

/// Everything that is waited for comes within this on the slowest machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// `<tunnel-domain>` of every rig.
pub(crate) const DOMAIN: &str = "t.example";
/// The public name of the one route.
pub(crate) const HOST: &str = "up.t.example";
/// Name of the one tunnel.
pub(crate) const TUNNEL: &str = "main";

/// Waits until `look` finds something. Looks again and again, because what is looked at – a process, a
/// log, a file – tells nobody that it changed.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_for(LIMIT, what, look).await
}

/// The same for what takes its time.
pub(crate) async fn until_for<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let over = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < over, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A future that ends within the limit.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(LIMIT, future).await;
    result.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// Sends SIGHUP if the process can do anything about it yet, and says whether it could.
pub(crate) fn hang_up(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    if caught & 1 == 0 {
        return false;
    }
    let process = Pid::from_raw(process.try_into().unwrap()).unwrap();
    kill_process(process, Signal::HUP).unwrap();
    true
}

/// A proxy with its daemon and its upstream, the first credential in force.
pub(crate) struct Rig {
    pub(crate) issuer: Issuer,
    pub(crate) daemon: Daemon,
    pub(crate) session: Session,
    pub(crate) upstream: Upstream,
    pub(crate) proxy: Arc<Proxy>,
}

impl Rig {
    /// Starts all three; `setup` changes what the proxy is started with.
    pub(crate) async fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        let issuer = Issuer::new();
        let upstream = Upstream::start().await;
        let daemon = Daemon::bind();
        let setup = setup(Setup::new(&upstream).subscribed(daemon.socket()));
        let proxy = Arc::new(Proxy::start(&setup).await);
        let mut session = daemon.accept().await;
        let answer = session.offer(&issuer.credential(1)).await;
        assert_eq!(answer, Answer::Ack, "the first credential");
        until("readiness, but for routes", async || {
            let page = proxy.page("/readyz").await?;
            (page.starts_with('r') || page.contains("no routes yet")).then_some(())
        })
        .await;
        Self {
            issuer,
            daemon,
            session,
            upstream,
            proxy,
        }
    }
}
