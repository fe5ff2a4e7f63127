//! The daemon dies at any moment, by SIGKILL, in the middle of rotations: nothing is lost, nothing is
//! torn, nothing is used twice, and callers do not notice.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use harness::client::{HttpVersion, Revision};
use harness::stack::{Pipes, Program, Programs, Rotation};
use harness::{Running, options, until};
use pki::{CertifiedKey, Expectation, Origin};
use process::{Clock, SystemClock};
use serde_json::json;
use tokio::sync::oneshot;

/// How often the daemon is killed, each time a little later after the order.
const KILLS: u32 = 24;
/// How much later. The last kill hits long after an undisturbed rotation has ended.
const LATER: Duration = Duration::from_millis(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_in_the_middle_of_rotations_recovers_and_callers_do_not_notice() {
    let mut running = Running::start(options().unwrap()).await.unwrap();
    let calls = Calls::begin(&running).await;
    let mut seen = vec![at_rest(&running).await];
    for round in 0..KILLS {
        let what = [Rotation::ServerCertificate, Rotation::Ca][(round % 2) as usize];
        let ordered = running.stack.rotate(what);
        let _ = tokio::time::timeout(LATER * round, ordered).await;
        running.stack.daemon.kill().await;
        // Whole also in the middle of it.
        serial_in(&running.stack.paths.store);
        restart(&mut running).await;
        seen.push(at_rest(&running).await);
    }
    assert_eq!(used_twice(&seen), None, "{seen:?}");
    let serials: BTreeSet<&String> = seen.iter().map(|(_, serial)| serial).collect();
    assert!(serials.len() > 3, "no rotation came through: {seen:?}");
    assert!(
        calls.end().await > u64::from(KILLS),
        "nobody called meanwhile"
    );

    // And the next rotation is like any other.
    running.stack.rotate(Rotation::Ca).await.unwrap();
    let target = running.websocket();
    let session = running
        .session(target, HttpVersion::One, Revision::Sessions)
        .await
        .unwrap();
    let answer = session
        .call("echo", json!({ "text": "after" }))
        .await
        .unwrap();
    assert_eq!(answer, "after");
}

#[test]
fn what_is_used_twice_is_found() {
    let seen = |list: &[(u64, &str)]| {
        let list: Vec<_> = list
            .iter()
            .map(|(n, text)| (*n, (*text).to_owned()))
            .collect();
        used_twice(&list)
    };
    assert_eq!(
        seen(&[(1, "a"), (1, "a"), (2, "b"), (3, "b"), (4, "c")]),
        None
    );
    for bad in [
        &[(1, "a"), (1, "b")][..],
        &[(2, "a"), (1, "b")],
        &[(1, "a"), (2, "b"), (3, "a")],
    ] {
        assert!(seen(bad).is_some(), "{bad:?}");
    }
}

/// The generation in force, and the serial of the server certificate in the store.
async fn at_rest(running: &Running) -> (u64, String) {
    let generation = running.stack.generation().await.unwrap();
    (generation, serial_in(&running.stack.paths.store))
}

/// A generation that goes back or names two certificates, or a certificate that comes back.
fn used_twice(seen: &[(u64, String)]) -> Option<&'static str> {
    let mut serials = BTreeSet::new();
    let mut last: Option<&(u64, String)> = None;
    for one in seen {
        let (generation, serial) = one;
        let (before, same) = last.map_or((0, false), |(n, text)| (*n, text == serial));
        if *generation < before {
            return Some("a generation came back");
        }
        if *generation == before && !same {
            return Some("a generation has two certificates");
        }
        if !same && !serials.insert(serial) {
            return Some("a serial came back");
        }
        last = Some(one);
    }
    None
}

/// Calls without a pause, all the time.
struct Calls {
    stop: oneshot::Sender<()>,
    made: oneshot::Receiver<Result<u64, String>>,
}

impl Calls {
    async fn begin(running: &Running) -> Self {
        let target = running.stack.tls();
        let session = running
            .session(target, HttpVersion::Two, Revision::Stateless)
            .await
            .unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let (tell, made) = oneshot::channel();
        running.tasks.spawn(async move {
            let mut count = 0_u64;
            while stopped.try_recv().is_err() {
                let text = count.to_string();
                match session.call("echo", json!({ "text": text })).await {
                    Ok(answer) if answer == text => count += 1,
                    other => {
                        let _ = tell.send(Err(format!("call {count}: {other:?}")));
                        return;
                    }
                }
            }
            let _ = tell.send(Ok(count));
        });
        Self { stop, made }
    }

    async fn end(self) -> u64 {
        let _ = self.stop.send(());
        self.made.await.unwrap().unwrap()
    }
}

async fn restart(running: &mut Running) {
    let stack = &mut running.stack;
    let mut arguments = ["run", "--single-user", "--config"]
        .map(OsString::from)
        .to_vec();
    arguments.push(stack.paths.daemon_config.clone().into());
    let program = Programs::beside().unwrap().daemon;
    let logs = &stack.paths.logs;
    stack.daemon = Program::start("keyward", &program, &arguments, logs, Pipes::None).unwrap();
    let stack = &running.stack;
    // What was ordered before the kill is carried out now: what comes after it is another rotation.
    let back = until(
        "the daemon is back, at rest, and the proxy with it",
        async || {
            let status = stack.operator.status().await.unwrap_or_default();
            let operations = status["operations"].as_array();
            let at_rest =
                operations.is_some_and(|all| all.iter().all(|one| one["state"] != "running"));
            let replicas = status["replicas"].as_object();
            at_rest && replicas.is_some_and(|all| all.values().any(|one| one["connected"] == true))
        },
    );
    if let Err(error) = back.await {
        panic!("{error}: {:?}", stack.daemon.ended());
    }
}

/// Serial of the server certificate in the store, which has to be one whole: the key is the
/// certificate's, and the CA beside it signed it.
fn serial_in(store: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(store.join(name)).unwrap();
    let pair = CertifiedKey::from_pem(&read("tls.crt"), &read("tls.key")).unwrap();
    let ca = pki::Certificate::from_pem(&read("ca.crt")).unwrap();
    let expectation = Expectation::new(read("tunnel-domain").trim());
    let now = SystemClock.wall();
    let linted = pki::lint(&pair, &ca, &expectation, now, Origin::Foreign).unwrap();
    linted.certificate().serial().to_string()
}
