//! Real MCP calls through networks that toxiproxy makes bad, between agent and edge and between edge and proxy: what
//! TCP survives costs no call, and after what it does not survive everything is there again.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use demo::client::{CallError, Http, HttpVersion, Revision, Session, Standing, Target, Transport};
use demo::sample::{self, Sample};
use demo::trust::Trust;
use process::Tasks;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::stand::{OPEN, Program, Stand, ports};
use crate::real::installed;
use crate::rig::{HOST, until};

/// toxiproxy with a way to the edge for agents and one for proxies.
struct Toxic {
    api: SocketAddr,
    _child: Child,
}

impl Toxic {
    async fn start() -> Self {
        let (api, _) = ports();
        let child = Command::new(installed("bin/toxiproxy"))
            .args([
                "-host",
                &api.ip().to_string(),
                "-port",
                &api.port().to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it is installed: tests/install.sh");
        let this = Self { api, _child: child };
        until("toxiproxy", async || {
            this.try_ask("GET", "/version", None).await
        })
        .await;
        this
    }

    /// A way called `name` that leads to `to`: its address.
    async fn way(&self, name: &str, to: SocketAddr) -> SocketAddr {
        let listen = format!("{}:0", self.api.ip());
        let way =
            json!({"name": name, "listen": listen, "upstream": to.to_string(), "enabled": true});
        let made = self.ask("POST", "/proxies", Some(way)).await;
        let made: Value = serde_json::from_str(&made).unwrap();
        made["listen"].as_str().unwrap().parse().unwrap()
    }

    /// Makes both directions of a way bad.
    async fn add(&self, way: &str, kind: &str, attributes: Value) {
        for stream in ["upstream", "downstream"] {
            let toxic =
                json!({"name": stream, "type": kind, "stream": stream, "attributes": attributes});
            let path = format!("/proxies/{way}/toxics");
            self.ask("POST", &path, Some(toxic)).await;
        }
    }

    /// Makes it good again.
    async fn remove(&self, way: &str) {
        for stream in ["upstream", "downstream"] {
            let path = format!("/proxies/{way}/toxics/{stream}");
            self.ask("DELETE", &path, None).await;
        }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> String {
        let asked = self.try_ask(method, path, body).await;
        asked.unwrap_or_else(|| panic!("{method} {path}"))
    }

    async fn try_ask(&self, method: &str, path: &str, body: Option<Value>) -> Option<String> {
        let body = body.map_or_else(String::new, |body| body.to_string());
        let output = Command::new("curl")
            .args(["-sS", "-f", "-X", method, "-d", &body])
            .arg(format!("http://{}{path}", self.api))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(said)
    }
}

/// Everything, with the official SDK's server behind it.
struct World {
    stand: Stand,
    proxy: Program,
    toxic: Toxic,
    agents: SocketAddr,
    trust: Arc<Trust>,
    tasks: Tasks,
}

impl World {
    async fn start() -> Self {
        let tasks = Tasks::new();
        let sample = Sample::start(([127, 0, 0, 1], 0).into(), &tasks)
            .await
            .unwrap();
        let stand = Stand::start(0, OPEN).await;
        let toxic = Toxic::start().await;
        let agents = toxic.way("agents", stand.address).await;
        let proxies = toxic.way("proxies", stand.address).await;
        let (_, health) = ports();
        let config = stand.config("toxic", "", "", health);
        let upstream = format!("up: http://{}", stand.upstream.address);
        let config = config
            .replace(&upstream, &format!("up: http://{}", sample.address))
            .replace(&format!("['{}']", stand.address), &format!("['{proxies}']"));
        let proxy = stand.with_config("toxic", &config).await;
        proxy.ready().await;
        stand.links(2).await;
        let trust = Trust::new();
        trust.hold(&[stand.issuer.ca_pem()]).unwrap();
        Self {
            stand,
            proxy,
            toxic,
            agents,
            trust,
            tasks,
        }
    }

    /// A whole session: every kind of call that there is.
    async fn session(&self, revision: Revision) -> Result<(), CallError> {
        let target = Target {
            address: self.agents,
            host: HOST.to_owned(),
        };
        let http = Http::new(target, HttpVersion::One, &self.trust, &self.tasks)?;
        let transport = Transport::new(http, sample::PATH, Arc::new(Standing::default()));
        let session = Session::begin(transport, revision).await?;
        for length in [1, 1000, 100_000] {
            let text = "x".repeat(length);
            let said = session.call("echo", json!({"text": text})).await?;
            assert_eq!(said.len(), length);
        }
        session.count(5, Duration::from_millis(50)).await?;
        session.end().await;
        Ok(())
    }

    async fn both(&self, what: &str) {
        for revision in [Revision::Sessions, Revision::Stateless] {
            if let Err(error) = self.session(revision).await {
                panic!("{what}, {revision:?}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tcp_survives_costs_no_call_and_no_connection() {
    let world = World::start().await;
    world.both("nothing").await;
    let toxics = [
        ("latency", json!({"latency": 20, "jitter": 15})),
        (
            "slicer",
            json!({"average_size": 40, "size_variation": 30, "delay": 50}),
        ),
        ("bandwidth", json!({"rate": 400})),
    ];
    for way in ["agents", "proxies"] {
        for (kind, attributes) in &toxics {
            world.toxic.add(way, kind, attributes.clone()).await;
            world.both(&format!("{kind} at {way}")).await;
            world.toxic.remove(way).await;
        }
    }
    assert!(!world.stand.edge.log().contains("proxy disconnected"));
    world.tasks.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_what_tcp_does_not_survive_everything_is_there_again() {
    let world = World::start().await;
    // Callers who are cut are their own concern: the tunnel does not notice.
    for (kind, attributes) in [
        ("reset_peer", json!({"timeout": 0})),
        ("limit_data", json!({"bytes": 20_000})),
    ] {
        world.toxic.add("agents", kind, attributes).await;
        assert!(world.session(Revision::Stateless).await.is_err(), "{kind}");
        world.toxic.remove("agents").await;
        world.both(kind).await;
        assert!(
            !world.stand.edge.log().contains("proxy disconnected"),
            "{kind}"
        );
    }
    // A proxy whose connections are reset, or end after so many bytes, again and again.
    for (kind, attributes) in [
        ("reset_peer", json!({"timeout": 0})),
        ("limit_data", json!({"bytes": 8_000})),
    ] {
        let before = world.stand.edge.log().matches("proxy disconnected").count();
        world.toxic.add("proxies", kind, attributes).await;
        assert!(world.session(Revision::Stateless).await.is_err(), "{kind}");
        if kind == "limit_data" {
            // Whoever takes the place of one that has ended ends as well, with what is asked of it.
            until("one end after the other", async || {
                let _ = world.session(Revision::Stateless).await;
                let ends = world.stand.edge.log();
                let ends = ends.matches("proxy disconnected").count();
                (ends >= before + 3).then_some(())
            })
            .await;
        }
        world.toxic.remove("proxies").await;
        world.stand.links(2).await;
        world.proxy.ready().await;
        until("calls again", async || {
            world.session(Revision::Stateless).await.ok()
        })
        .await;
        world.both(kind).await;
    }
    world.tasks.stop();
}
