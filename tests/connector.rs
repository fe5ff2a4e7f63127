//! `keyward connector` between a real daemon and a double of cloudflared that does what the real one was seen to do.

pub(crate) mod edge;

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Child;

use crate::cli::process::{Daemon, KEYWARD, Place};
use crate::cli::stage::{command, copy, end, keyward, program};
use crate::rig::until;
use edge::Edge;

/// The uid of connectors in our images.
pub(crate) const CONNECTOR: u32 = 65_533;

/// A daemon, a connector of its own user, and the edge that the double registers with.
struct Case {
    place: Place,
    edge: Edge,
    daemon: Option<Daemon>,
    connector: Option<Child>,
}

impl Case {
    /// With a token that is in force.
    async fn start(more: &[&str]) -> Self {
        let mut case = Self::without_connector().await;
        case.connect(more);
        until("it is in service", async || case.edge.newest()).await;
        case
    }

    async fn without_connector() -> Self {
        let place = Place::new(KEYWARD);
        place.configure("subscribers: [0, 65533]");
        let edge = Edge::start("one").await;
        copy(&program("keyward"), &place.path("keyward-connector"));
        copy(&double(), &place.path("cloudflared"));
        let case = Self {
            daemon: None,
            connector: None,
            edge,
            place,
        };
        case.put(&case.edge.token("one"));
        Self {
            daemon: Some(case.place.serve().await),
            ..case
        }
    }

    fn connect(&mut self, more: &[&str]) {
        self.connect_to(&["--daemon-uid", "65531"], more);
    }

    /// `daemon`: whom it takes for the daemon.
    fn connect_to(&mut self, daemon: &[&str], more: &[&str]) {
        let [socket, double] =
            ["run/control.sock", "cloudflared"].map(|name| self.place.text(name));
        let words = [
            &["connector", "--socket", &socket, "--replica", "one"][..],
            daemon,
            &["--cloudflared", &double, "--grace", "2s"],
            more,
        ]
        .concat();
        let mut run = command(&self.place.path("keyward-connector"), &words);
        let log = std::fs::File::create(self.place.path("connector.log")).unwrap();
        run.stderr(log)
            .env("CANARY", "canary-of-the-environment")
            .env("SECRET", "of-the-connector-alone");
        std::os::unix::process::CommandExt::uid(run.as_std_mut(), CONNECTOR);
        std::os::unix::process::CommandExt::gid(run.as_std_mut(), KEYWARD);
        self.connector = Some(run.spawn().unwrap());
    }

    /// Puts a token into the store, as whoever rotates it does.
    fn put(&self, token: &str) {
        let (path, next) = (
            self.place.path("store/tunnel-token"),
            self.place.path("next"),
        );
        std::fs::write(&next, token).unwrap();
        std::os::unix::fs::chown(&next, Some(KEYWARD), Some(KEYWARD)).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    /// The daemon looks at its store at each turn; an order makes one.
    async fn publish(&self, token: &str) {
        self.put(token);
        let ended = self
            .place
            .keyward(&["rotate", "server-certificate", "--json"])
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// What the daemon knows of the connector.
    async fn seen(&self) -> Value {
        let status = self.place.keyward(&["status", "--json"]).await.json();
        status["replicas"]["one"].clone()
    }

    /// Waits until it is acknowledged in a later generation than `before`.
    async fn acked(&self, before: u64) -> u64 {
        until("it is acknowledged", async || {
            let acked = self.seen().await["acked"]["main"].as_u64();
            acked.filter(|acked| *acked > before)
        })
        .await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("connector.log")).unwrap()
    }

    async fn logged(&self, text: &str) {
        until("it is logged", async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }
}

pub(crate) fn double() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/cloudflared")
}

pub(crate) fn is_there(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}/exe"))
        .symlink_metadata()
        .is_ok()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn another_token_means_another_process_and_no_call_is_lost_between_them() {
    let case = Case::start(&[]).await;
    let first = case.acked(0).await;
    case.edge.call_all_along();
    let old = case.edge.newest().unwrap();
    case.edge.rotate("two");
    case.publish(&case.edge.token("two")).await;
    case.acked(first).await;
    let new = until("a successor", async || {
        case.edge.newest().filter(|new| new.pid != old.pid)
    })
    .await;
    // The old one has no new calls, and lets those that it has finish.
    until("it leaves", async || {
        let seen = case.log().contains("Initiating graceful shutdown");
        seen.then_some(())
    })
    .await;
    assert!(old.call().await, "a stream of the old one goes on");
    until("it is gone", async || (!is_there(old.pid)).then_some(())).await;
    assert!(is_there(new.pid));
    assert_eq!(
        case.seen().await["report"]["carriers"],
        serde_json::json!(["cloudflared"])
    );
    let (calls, failed) = case.edge.calls();
    assert!(calls > 100 && failed == 0, "{failed} of {calls}");
    assert_eq!(case.edge.registrations(), (2, 0));
}

#[tokio::test]
async fn the_token_is_in_no_argument_no_variable_no_file_and_no_log() {
    let case = Case::start(&["--environment", "CANARY"]).await;
    let token = case.edge.token("one");
    let pid = case.edge.newest().unwrap().pid;
    let connector = case.connector.as_ref().unwrap().id().unwrap();
    for pid in [pid, connector] {
        for part in ["cmdline", "environ"] {
            let read = std::fs::read(format!("/proc/{pid}/{part}")).unwrap();
            let text = String::from_utf8_lossy(&read);
            assert!(!text.contains(&token), "{part} of {pid}");
        }
    }
    // It was given what was named and nothing else.
    let given = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(given, b"CANARY=canary-of-the-environment\0");
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let arguments = String::from_utf8(arguments).unwrap().replace('\0', " ");
    for wanted in [
        "--metrics 127.0.0.1:0",
        "--management-diagnostics=false",
        "--no-autoupdate",
        "--url http://127.0.0.1:8080",
    ] {
        assert!(arguments.contains(wanted), "{arguments}");
    }
    // An interrupt from the terminal is for the connector, which ends it with grace.
    let process = Pid::from_raw(pid.cast_signed());
    assert_eq!(rustix::process::getpgid(process).ok(), process);
    assert!(!case.log().contains(&token));
    assert!(!case.log().contains(token.trim_end_matches('=')));
    // No descriptor of the connector leads to it any more.
    for entry in std::fs::read_dir(format!("/proc/{connector}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        assert!(
            !target.to_string_lossy().contains("tunnel-token"),
            "{target:?}"
        );
    }
}

#[tokio::test]
async fn a_token_that_is_refused_costs_nothing_and_the_daemon_hears_of_it() {
    let case = Case::start(&[]).await;
    let first = case.acked(0).await;
    let old = case.edge.newest().unwrap();
    case.edge.call_all_along();
    case.publish(&case.edge.token("wrong")).await;
    until("the daemon knows", async || {
        (case.seen().await["refused"]["main"] == "token_refused").then_some(())
    })
    .await;
    let status = case.place.keyward(&["status", "--json"]).await.json();
    let alarms = status["tunnels"]["main"]["alarms"].to_string();
    assert!(
        alarms.contains("one: the tunnel's edge does not accept the token of generation "),
        "{alarms}"
    );
    assert!(is_there(old.pid));
    let same = case.log().matches("Unable to establish connection").count();
    assert!((1..10).contains(&same), "{same} lines of 5000 a process");
    // It may come into force late, so it is tried again, after one second and after two more.
    until("two other tries", async || {
        (case.edge.registrations().1 > 2).then_some(())
    })
    .await;
    let refusals = case.edge.refusals();
    let pauses = refusals[2].duration_since(refusals[0]);
    assert!(pauses >= Duration::from_secs(3), "{pauses:?}");
    case.edge.rotate("wrong");
    case.acked(first).await;
    let (calls, failed) = case.edge.calls();
    assert!(calls > 100 && failed == 0, "{failed} of {calls}");
}

/// It has connections that live on, and comes back by itself once its token is good again.
#[tokio::test]
async fn a_process_in_service_whose_token_is_refused_serves_on() {
    let case = Case::start(&[]).await;
    case.acked(0).await;
    let only = case.edge.newest().unwrap();
    only.refuse();
    case.logged("the tunnel's edge does not accept the token")
        .await;
    // Answered after thousands of lines that it has to say of it.
    only.refuse();
    assert!(only.call().await);
    assert_eq!(case.edge.newest().unwrap().pid, only.pid);
    assert!(!case.log().contains("Initiating graceful shutdown"));
    assert_eq!(case.edge.registrations(), (1, 0));
}

#[tokio::test]
async fn a_socket_of_another_uid_is_told_nothing_and_starts_nothing() {
    let mut case = Case::without_connector().await;
    for daemon in [&["--daemon-uid", "65530"][..], &[]] {
        case.connect_to(daemon, &[]);
        case.logged("the control socket is served by uid 65531, which is not the daemon's")
            .await;
        let seen = case.seen().await;
        assert!(seen.is_null(), "{seen}");
    }
    assert_eq!(case.edge.registrations(), (0, 0));
}

#[tokio::test]
async fn health_is_ready_while_a_process_is_registered_and_shows_what_was_started() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = free.local_addr().unwrap();
    drop(free);
    let case = Case::start(&["--health", &health.to_string()]).await;
    let shown = async |path: &str, wanted: &str| {
        until(wanted, async || {
            let page = format!("\n{}", crate::rig::page(health, path).await?);
            page.contains(&format!("\n{wanted}")).then_some(())
        })
        .await;
    };
    shown("/readyz", "ready\n").await;
    shown("/metrics", "keyward_connector_registered 1\n").await;
    shown("/metrics", "keyward_connector_processes 1\n").await;
    case.edge.is_silent(true);
    signal(case.edge.newest().unwrap().pid, Signal::KILL);
    shown("/readyz", "not ready\nno cloudflared is registered\n").await;
    shown("/metrics", "keyward_connector_registered 0\n").await;
    shown("/metrics", "keyward_connector_starts_total 2\n").await;
}

#[tokio::test]
async fn a_token_that_is_none_starts_nothing() {
    let case = Case::start(&[]).await;
    let pid = case.edge.newest().unwrap().pid;
    case.publish("bm90IGEgdG9rZW4=").await;
    until("the daemon knows", async || {
        (case.seen().await["refused"]["main"] == "malformed").then_some(())
    })
    .await;
    assert_eq!(case.edge.newest().unwrap().pid, pid);
    assert_eq!(case.edge.registrations(), (1, 0));
}

#[tokio::test]
async fn a_process_that_does_not_register_is_given_up_and_the_one_in_service_stays() {
    let case = Case::start(&["--register-within", "2s"]).await;
    let first = case.acked(0).await;
    let old = case.edge.newest().unwrap();
    case.edge.call_all_along();
    case.edge.rotate("two");
    case.edge.is_silent(true);
    case.publish(&case.edge.token("two")).await;
    case.logged("cloudflared did not register in time").await;
    assert!(is_there(old.pid));
    case.edge.is_silent(false);
    case.acked(first).await;
    let (calls, failed) = case.edge.calls();
    assert!(calls > 100 && failed == 0, "{failed} of {calls}");
}

#[tokio::test]
async fn without_its_daemon_it_goes_on_and_starts_what_died_with_the_token_that_it_has() {
    let mut case = Case::start(&[]).await;
    case.acked(0).await;
    let daemon = case.daemon.take().unwrap();
    daemon.signal(Signal::KILL);
    daemon.end().await;
    case.logged("control channel ended").await;
    let first = case.edge.newest().unwrap();
    signal(first.pid, Signal::KILL);
    let second = until("another one", async || {
        case.edge.newest().filter(|new| new.pid != first.pid)
    })
    .await;
    assert!(second.call().await);
    // A daemon that comes back finds all as it was, and restarts nothing.
    case.daemon = Some(case.place.serve().await);
    until("it is subscribed", async || {
        let seen = case.seen().await;
        (seen["connected"] == true && !seen["acked"]["main"].is_null()).then_some(())
    })
    .await;
    assert_eq!(case.edge.newest().unwrap().pid, second.pid);
    assert_eq!(case.edge.registrations(), (2, 0));
}

#[tokio::test]
async fn a_stop_ends_what_it_started_and_lets_streams_finish() {
    let mut case = Case::start(&[]).await;
    let last = case.edge.newest().unwrap();
    let mut connector = case.connector.take().unwrap();
    signal(connector.id().unwrap(), Signal::TERM);
    case.logged("Initiating graceful shutdown").await;
    assert!(last.call().await);
    let status = tokio::time::timeout(Duration::from_secs(60), connector.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(0));
    assert!(!is_there(last.pid));
    // It took its leave, so that nobody waits for it.
    until("it has left", async || {
        (case.seen().await["connected"] == false).then_some(())
    })
    .await;
    let log = std::fs::read_to_string(case.place.path("log")).unwrap();
    assert!(log.contains("the connector stops"), "{log}");
}

#[tokio::test]
async fn what_is_ours_to_set_is_refused() {
    for option in [
        "--token=x",
        "--metrics",
        "--management-diagnostics=true",
        "--config=/x",
    ] {
        let ended = end(&mut keyward(&["connector", "--", option])).await;
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(
            ended.stderr.contains("of cloudflared cannot be set"),
            "{ended:?}"
        );
    }
    let ended = end(&mut keyward(&["connector", "--grace", "4m"])).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
    let ended = end(keyward(&["connector"]).env("PATH", "/nowhere")).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains("there is no cloudflared in PATH"),
        "{ended:?}"
    );
}
