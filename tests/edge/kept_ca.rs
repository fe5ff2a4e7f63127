//! The CA of a tunnel, kept by the daemon at a real edge: registered from nothing, rotated again and again while somebody
//! calls who trusts what the edge lists and nothing else, whatever is lost or killed meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use demo::stack::Programs;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::managed::{Managed, token};
use super::stand::{EDGE, Program, ports};
use super::toll::{Fate, Toll};
use super::world::{Signer, World};
use crate::cli::stage::{Ended, end, keyward};
use crate::rig::{Issuer, until};

/// Longer than the caller takes to look at the list once more.
const SETTLE: Duration = Duration::from_secs(3);

/// An edge with a tunnel that has nothing yet, the road to it, and a daemon that may manage it.
struct Kept {
    world: World,
    toll: Toll,
    signer: Signer,
    tunnel: (String, String),
    config: String,
    /// CA certificates that the daemon ever showed, by fingerprint.
    known: Mutex<BTreeMap<String, String>>,
}

impl Kept {
    async fn new() -> Self {
        let Managed {
            world,
            toll,
            signer,
            rule,
            tunnel: (id, domain),
        } = Managed::start().await;
        let access = world.write("access.json", r#"{"cidrs":["127.0.0.0/8"]}"#);
        let words = ["access", "set", &id, &access, "--if-version", "0"];
        world.command(&words).await;
        let at = world.folder.path().display();
        let text = format!(
            "state: {at}/daemon\ncontrol: {{socket: {at}/run/control.sock, subscribers: [0]}}\n\
             operator: {{socket: {at}/run/operator.sock}}\nhealth: {{listen_addr: '127.0.0.1:0'}}\n\
             api: {{url: '{url}', calls_per_minute: 6000}}\n\
             identity: {{url: '{url}', federation_rule: {rule}, source: {{file: {at}/identity}}}}\n\
             tunnels:\n  main:\n    provider: tunnels_api\n    tunnel_id: {id}\n    domain: {domain}\n\
             \x20   store: dir:{at}/store\n    ca: {{settle: {settle}s}}\n",
            url = toll.url,
            settle = SETTLE.as_secs(),
        );
        let config = world.write("keyward.yaml", &text);
        Self {
            world,
            toll,
            signer,
            tunnel: (id, domain),
            config,
            known: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// With a fresh identity token, since one buys once.
    fn daemon(&self) -> Child {
        self.world.write("identity", &token(&self.signer));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .unwrap();
        keyward(&["run", "--single-user", "--config", &self.config])
            .stderr(log)
            .spawn()
            .unwrap()
    }

    async fn proxy(&self) -> Program {
        let token = self
            .world
            .command(&["token", "reveal", &self.tunnel.0])
            .await;
        let token = token["tunnel_token"].as_str().unwrap();
        let secret = self.world.write("token", token);
        let (_, health) = ports();
        let at = self.world.folder.path().display();
        let text = format!(
            "health: {{listen_addr: '{health}'}}\ncontrol: {{socket: {at}/run/control.sock, replica: one}}\n\
             carriers:\n  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: ['{edge}']\n\
             \x20   allow_without_client_certificate: true\n    ca_file: {at}/front-ca.pem\n\
             \x20   tunnel: {id}\n    secret_file: {secret}\n    replica: one\n\
             upstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes:\n  up: http://{upstream}\n",
            port = self.world.address.port(),
            edge = self.world.address,
            id = self.tunnel.0,
            upstream = self.world.upstream.address,
        );
        let config = self.world.write("proxy.yaml", &text);
        let program = Programs::beside().unwrap().proxy;
        let words = ["--config", &*config];
        Program::start(&program, &words, health, self.path("proxy.log")).await
    }

    async fn keyward(&self, words: &[&str]) -> Ended {
        end(&mut self.command(words)).await
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = keyward(words);
        command.env("KEYWARD_OPERATOR_SOCKET", self.path("run/operator.sock"));
        command
    }

    /// The tunnel, as the daemon sees it; `None`: it does not run, or has not recovered yet.
    async fn status(&self) -> Option<Value> {
        let ended = self.keyward(&["status", "--json"]).await;
        let status = (ended.code == Some(0)).then(|| ended.json())?;
        let tunnel = status["tunnels"].get("main")?.clone();
        for name in ["ca", "standby_ca"] {
            if let (Some(sha256), Some(pem)) = (
                tunnel[name]["sha256"].as_str(),
                tunnel[name]["pem"].as_str(),
            ) {
                let mut known = self.known.lock().unwrap();
                known.insert(sha256.to_owned(), pem.to_owned());
            }
        }
        Some(tunnel)
    }

    /// Id and fingerprint of what is registered.
    async fn listed(&self) -> Vec<(String, String)> {
        let words = ["certificate", "list", &*self.tunnel.0];
        let listed = self.world.command(&words).await;
        let all = listed["data"].as_array().unwrap();
        let active = all.iter().filter(|one| one["archived_at"].is_null());
        let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        active
            .map(|one| (text(one, "id"), text(one, "fingerprint")))
            .collect()
    }

    /// Calls as somebody who trusts what the edge lists, and nothing else.
    async fn call(&self) -> u16 {
        self.status().await;
        let listed = self.listed().await;
        let trusted = {
            let known = self.known.lock().unwrap();
            let pems = listed.iter().filter_map(|(_, sha256)| known.get(sha256));
            pems.cloned().collect::<String>()
        };
        self.world.write("trusted.pem", &trusted);
        let host = format!("up.{}", self.tunnel.1);
        self.world.curl(&host, "/call", "trusted.pem", &[]).await.0
    }

    /// Waits for a CA that was rotated so often and is at rest.
    async fn rotated(&self, times: u64) -> Value {
        until(&format!("rotation {times}"), async || {
            let tunnel = self.status().await?;
            let over =
                tunnel["rotations"]["ca"] == times && tunnel["ca_slots"]["phase"] == "stable";
            over.then_some(tunnel)
        })
        .await
    }
}

fn rotate() -> [&'static str; 3] {
    ["rotate", "ca", "--json"]
}

#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
#[tokio::test]
async fn a_ca_is_registered_from_nothing_and_rotated_while_a_caller_who_trusts_the_list_keeps_calling()
 {
    let kept = Kept::new().await;
    // The first registration is answered by nobody.
    kept.toll.next("certificates HTTP", Fate::AnswerLost);
    let mut daemon = kept.daemon();
    let first = kept.rotated(0).await;
    until("the CA is registered", async || {
        let listed = kept.listed().await;
        (listed.len() == 1 && listed[0].1 == first["ca"]["sha256"]).then_some(())
    })
    .await;
    let _proxy = kept.proxy().await;
    until("a call", async || (kept.call().await == 200).then_some(())).await;

    let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let caller = async {
        let mut failed = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let status = kept.call().await;
            calls.fetch_add(1, Ordering::Relaxed);
            if status != 200 {
                failed.push(status);
            }
        }
        failed
    };
    let keeper = async {
        let ended = kept.keyward(&rotate()).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        kept.rotated(1).await;

        // Killed in the middle of it, as soon as the edge has the standby; and once more when it is switched.
        let mut order = kept.command(&rotate()).spawn().unwrap();
        until("the standby is registered", async || {
            (kept.listed().await.len() == 2).then_some(())
        })
        .await;
        daemon.kill().await.unwrap();
        let _ = order.wait().await;
        daemon = kept.daemon();
        until("it is switched", async || {
            let tunnel = kept.status().await?;
            (tunnel["ca_slots"]["phase"] == "switched").then_some(())
        })
        .await;
        daemon.kill().await.unwrap();
        daemon = kept.daemon();
        kept.rotated(2).await;

        // Both answers are lost.
        kept.toll.next("certificates HTTP", Fate::AnswerLost);
        kept.toll.next("/archive HTTP", Fate::AnswerLost);
        let ended = kept.keyward(&rotate()).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let last = kept.rotated(3).await;
        let listed = kept.listed().await;
        assert_eq!(listed.len(), 1, "one slot is empty at rest");
        assert_eq!(listed[0].1, last["ca"]["sha256"].as_str().unwrap());
        assert_ne!(last["ca"], first["ca"]);
        over.store(true, Ordering::Relaxed);
    };
    let (failed, ()) = tokio::join!(caller, keeper);
    let calls = calls.load(Ordering::Relaxed);
    assert_eq!(failed, Vec::<u16>::new(), "of {calls} calls");
    assert!(calls > 20, "{calls}");
    assert_eq!(
        kept.toll.passed("certificates HTTP").len(),
        4,
        "each was posted once"
    );
    drop(daemon);
}

#[tokio::test]
async fn a_strangers_ca_in_the_second_slot_is_an_alarm_and_never_archived() {
    let kept = Kept::new().await;
    let mut daemon = kept.daemon();
    let tunnel = kept.rotated(0).await;
    until("the CA is registered", async || {
        (kept.listed().await.len() == 1).then_some(())
    })
    .await;
    let _proxy = kept.proxy().await;
    until("a call", async || (kept.call().await == 200).then_some(())).await;
    let file = kept.world.write("theirs.pem", &Issuer::new().ca_pem());
    let words = ["certificate", "add", &*kept.tunnel.0, &*file];
    let theirs = kept.world.command(&words).await["id"].clone();
    // It looks every hour, and when it starts.
    daemon.kill().await.unwrap();
    let mut daemon = kept.daemon();
    until("the alarm", async || {
        let alarms = kept.status().await?["alarms"].to_string();
        let named = alarms.contains(theirs.as_str().unwrap());
        (alarms.contains("CONFLICT") && named).then_some(())
    })
    .await;
    let refused = kept.keyward(&["rotate", "ca"]).await;
    assert_ne!(refused.code, Some(0));
    let said = "both slots of the remote are taken";
    assert!(refused.stderr.contains(said), "{refused:?}");
    let ended = kept.keyward(&["rotate", "server-certificate"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(kept.call().await, 200, "service goes on");
    let ids: Vec<String> = kept.listed().await.into_iter().map(|one| one.0).collect();
    assert!(
        ids.contains(&theirs.as_str().unwrap().to_owned()),
        "{ids:?}"
    );
    assert_eq!(kept.toll.passed("/archive HTTP").len(), 0);

    // Somebody takes it away there, and the next rotation has room.
    let words = [
        "certificate",
        "archive",
        &*kept.tunnel.0,
        theirs.as_str().unwrap(),
    ];
    kept.world.command(&words).await;
    daemon.kill().await.unwrap();
    let _daemon = kept.daemon();
    until("no alarm", async || {
        (!kept.status().await?["alarms"]
            .to_string()
            .contains("CONFLICT"))
        .then_some(())
    })
    .await;
    assert_eq!(kept.status().await.unwrap()["ca"], tunnel["ca"]);
}
