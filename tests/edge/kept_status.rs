//! What the status and the metrics of a daemon say that keeps every kind of credential at a real edge: what the journal, the
//! edge and each proxy have, how well the new CA is proven where, what ends first and what rotates next.

use control::{FromDaemon, Report, Role, TunnelReport, Verdicts};
use pki::Certificate;
use process::Tasks;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::managed::Managed;
use crate::cli::process::{Daemon, Place, Subscriber};
use crate::cli::stage::command;
use crate::rig::until;

const DAY: u64 = 86_400;

struct Case {
    place: Place,
    _managed: Managed,
}

impl Case {
    async fn start() -> Self {
        let managed = Managed::start().await;
        let more = "    client_ca: {}\n    ca: {settle: 1s}\n";
        Self {
            place: managed.place("builtin", "[0]", more),
            _managed: managed,
        }
    }

    async fn status(&self) -> Value {
        self.place.keyward(&["status", "--json"]).await.json()
    }

    /// One credential of the tunnel.
    async fn credential(&self, kind: &str) -> Value {
        of(&self.status().await, kind)
    }

    /// Waits until a credential is as it is meant to be.
    async fn until(&self, kind: &str, reached: impl Fn(&Value) -> bool) -> Value {
        until(kind, async || {
            Some(self.credential(kind).await).filter(|one| reached(one))
        })
        .await
    }

    async fn metrics(&self, daemon: &Daemon) -> String {
        let url = format!("http://{}/metrics", daemon.health());
        self.place.probe(0, "curl", &["-s", &url]).await.stdout
    }
}

fn of(status: &Value, kind: &str) -> Value {
    let all = status["tunnels"]["main"]["credentials"].as_array().unwrap();
    let one = all.iter().find(|one| one["kind"] == kind);
    one.cloned().unwrap_or_default()
}

/// Unix seconds.
fn now() -> u64 {
    let now = crate::rig::credentials::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// A proxy takes up whatever it is sent, and says how many handshakes it has completed with the last.
async fn follow(mut proxy: Subscriber, mut completed: watch::Receiver<u64>) {
    let mut last = None;
    loop {
        tokio::select! {
            message = proxy.some() => {
                if let FromDaemon::Credential(credential) = message {
                    proxy.ack(credential.generation).await;
                    last = Some(credential);
                }
            }
            changed = completed.changed() => if changed.is_err() { return },
        }
        if let Some(credential) = &last {
            let count = *completed.borrow();
            tell(&mut proxy, credential, count).await;
        }
    }
}

async fn tell(proxy: &mut Subscriber, credential: &control::Credential, completed: u64) {
    let leaf = Certificate::from_pem(&credential.leaf.chain).unwrap();
    let leaf = leaf.fingerprint().to_string();
    // The CA that signs comes first.
    let ca = Certificate::from_pem(&credential.ca_certificates[0]).unwrap();
    let verdicts = Verdicts {
        accepted: completed,
        refused: 0,
    };
    let report = TunnelReport {
        tunnel: "main".to_owned(),
        generation: credential.generation,
        leaf_sha256: leaf.clone(),
        handshakes: [(leaf, completed)].into(),
        verdicts: [(ca.fingerprint().to_string(), verdicts)].into(),
        ..TunnelReport::default()
    };
    let report = Report {
        tunnels: vec![report],
        carriers: vec!["edge".to_owned()],
    };
    proxy.report(&report).await;
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn the_status_says_of_every_credential_what_each_has_and_what_comes_next() {
    let case = Case::start().await;
    let daemon = case.place.serve().await;
    let tasks = Tasks::new();
    let mut completed = Vec::new();
    for name in ["p", "q"] {
        let proxy = case.place.subscribe_as(Role::Proxy, name, Vec::new()).await;
        let (count, counted) = watch::channel(0);
        tasks.spawn(follow(proxy, counted));
        completed.push(count);
    }
    let listed = |one: &Value| one["remote"]["state"] == "in_force";
    for kind in ["ca", "tunnel-token", "shared-secret"] {
        case.until(kind, listed).await;
    }
    let both = |one: &Value| {
        one["replicas"]["p"]["in_force"] == true && one["replicas"]["q"]["in_force"] == true
    };
    for kind in ["server-certificate", "ca", "client-ca"] {
        case.until(kind, both).await;
    }
    let status = case.status().await;
    let tunnel = &status["tunnels"]["main"];
    let leaf = of(&status, "server-certificate");
    assert_eq!(leaf["journal"], tunnel["server_certificate"]["sha256"]);
    assert_eq!(leaf["generation"], tunnel["generation"]);
    assert_eq!(leaf["remote"], Value::Null);
    assert_eq!(leaf["phase"], "serving");
    assert_eq!(
        leaf["next"],
        json!({"at": tunnel["renew_at"], "by": "deadline"})
    );
    let ca = of(&status, "ca");
    assert_eq!(ca["journal"], tunnel["ca"]["sha256"]);
    assert!(
        ca["remote"]["id"].as_str().unwrap().starts_with("tcrt_"),
        "{ca}"
    );
    assert_eq!(ca["replicas"]["p"]["proof"], Value::Null);
    // At half of its year.
    let due = number(&ca["next"]["at"]) - now();
    assert!((180 * DAY..185 * DAY).contains(&due), "{ca}");
    assert_eq!(ca["next"]["by"], "deadline");
    assert_eq!(of(&status, "standby-ca")["remote"]["state"], "missing");
    assert_eq!(of(&status, "client-ca")["next"], Value::Null);
    let token = of(&status, "tunnel-token");
    assert_eq!(token["journal"], tunnel["tunnel_token"]["id"]);
    let secret = of(&status, "shared-secret");
    assert_eq!(secret["journal"], tunnel["shared_secret"]["sha256"]);
    for one in [&token, &secret] {
        assert_eq!(one["not_after"], Value::Null, "{one}");
        assert_eq!(one["next"]["by"], "schedule");
        let due = number(&one["next"]["at"]).saturating_sub(now());
        assert!((1..=7 * DAY).contains(&due), "{one}");
    }
    let outage = &status["first_outage"];
    assert_eq!(*outage, tunnel["first_outage"]);
    assert_eq!(outage["what"], "server-certificate");
    // A week, less the seconds since it was issued.
    assert!([6, 7].contains(&number(&outage["days"])), "{outage}");
    assert_eq!(outage["at"], leaf["not_after"]);

    let metrics = case.metrics(&daemon).await;
    for line in [
        "keyward_cred_expiry_seconds{tunnel=\"main\",kind=\"ca\",where=\"remote\"} 315",
        "keyward_cred_generation{tunnel=\"main\",kind=\"tunnel-token\",where=\"journal\"} ",
        "keyward_cred_generation{tunnel=\"main\",kind=\"shared-secret\",where=\"journal\"} ",
        "keyward_rotation_phase{tunnel=\"main\",kind=\"shared-secret\",phase=\"stable\"} 1\n",
        "keyward_rotation_phase_age_seconds{tunnel=\"main\",kind=\"server-certificate\"} ",
        "keyward_rotation_phase_age_seconds{tunnel=\"main\",kind=\"ca\"} ",
        "keyward_rotation_phase_age_seconds{tunnel=\"main\",kind=\"tunnel-token\"} ",
        "keyward_rotation_phase_age_seconds{tunnel=\"main\",kind=\"shared-secret\"} ",
        "keyward_next_rotation_seconds{tunnel=\"main\",kind=\"tunnel-token\",by=\"schedule\"} ",
        "keyward_next_rotation_seconds{tunnel=\"main\",kind=\"server-certificate\",by=\"deadline\"} ",
        "keyward_first_outage_seconds{tunnel=\"main\",kind=\"server-certificate\"} 60",
        "keyward_ca_slots_used{tunnel=\"main\"} 1\n",
        "keyward_conflict{tunnel=\"main\"} 0\n",
        "keyward_remote_calls_total{tunnel=\"main\",call=\"add_certificate\",outcome=\"done\"} 1\n",
        "keyward_noncall_unknown_outcome_total{tunnel=\"main\",call=\"rotate_token\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    assert!(
        !metrics.contains("keyward_remote_ca_propagation_seconds{"),
        "{metrics}"
    );

    // A rotation: the proof of each proxy is of its own grade.
    let mut order = command(&case.place.path("keyward"), &["rotate", "ca"]);
    order.env(
        "KEYWARD_OPERATOR_SOCKET",
        case.place.path("run/operator.sock"),
    );
    let _order = order.spawn().unwrap();
    completed[0].send_replace(3);
    let ca = case
        .until("ca", |one| {
            one["replicas"]["p"]["proof"] == "observed" && both(one)
        })
        .await;
    assert_eq!(ca["replicas"]["q"]["proof"], "settled", "{ca}");
    assert_eq!(ca["phase"], "switched");
    let old = case.credential("old-ca").await;
    assert_eq!(old["remote"]["state"], "in_force", "{old}");
    assert_eq!(old["replicas"]["p"]["in_force"], false, "{old}");
    let text = case.place.keyward(&["status"]).await.stdout;
    for part in [
        "ca of main at p: observed\n",
        "ca of main at q: settled\n",
        "2/2 settled",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    until("it is measured", async || {
        let metrics = case.metrics(&daemon).await;
        let line = "keyward_remote_ca_propagation_seconds{tunnel=\"main\"} ";
        metrics.contains(line).then_some(())
    })
    .await;
    completed[1].send_replace(1);
    case.until("ca", |one| one["phase"] == "stable").await;
    assert_eq!(case.credential("old-ca").await, Value::Null);
}
