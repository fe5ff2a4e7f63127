//! `keyward doctor` against a real daemon, a real proxy and a real edge: nothing is found where everything works, and each
//! layer that is broken for real is named, with the next thing to do.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::managed::Managed;
use super::program::Program;
use super::stand::ports;
use super::toll::Toll;
use super::world::World;
use crate::cli::process::{Daemon, KEYWARD, Place};
use crate::cli::stage::Ended;
use crate::rig::until;

/// A tunnel that works: its edge, its daemon, and a proxy that dials and listens as well.
struct Case {
    world: World,
    _toll: Toll,
    tunnel: (String, String),
    place: Place,
    health: SocketAddr,
    daemon: Option<Daemon>,
}

impl Case {
    async fn start() -> Self {
        let managed = Managed::start().await;
        let place = managed.place("builtin", "[0]", "");
        let Managed {
            world,
            toll,
            tunnel,
            ..
        } = managed;
        let daemon = place.serve().await;
        Self {
            world,
            _toll: toll,
            tunnel,
            place,
            health: ports().1,
            daemon: Some(daemon),
        }
    }

    /// A proxy that has everything from the daemon, on every carrier, with these routes.
    async fn proxy(&self, routes: &str) -> Program {
        let world = &self.world;
        let text = world.proxy_config("p", &self.tunnel, "", &[world.address]);
        let secret = format!("    secret_file: {}\n", world.file("p.secret"));
        let gone = ["tls: ", "health: ", "routes:", "  up: "];
        let kept = text.replace(&secret, "");
        let kept = kept
            .lines()
            .filter(|line| !gone.iter().any(|one| line.starts_with(one)));
        let kept: Vec<&str> = kept.collect();
        let (tls, websocket) = ports();
        let socket = self.place.text("run/control.sock");
        let text = format!(
            "health: {{listen_addr: '{health}'}}\nlisten_addr: '{websocket}'\n{kept}\n\
             control: {{socket: {socket}, daemon_uid: {KEYWARD}, replica: p, tunnels: [main]}}\nroutes: {routes}\n",
            health = self.health,
            kept = kept.join("\n").replace(
                "carriers:\n",
                &format!("carriers:\n  tls: {{listen_addr: '{tls}'}}\n")
            ),
        );
        let proxy = world.proxy_with("p", &text).await;
        until("it is ready", async || {
            let page = proxy.page("/readyz").await?;
            page.starts_with("ready").then_some(())
        })
        .await;
        proxy
    }

    async fn doctor(&self, more: &[&str]) -> Ended {
        let config = self.place.text("keyward.yaml");
        let health = self.health.to_string();
        let words = ["doctor", "--config", &config, "--proxy", &health];
        self.place.keyward(&[&words[..], more].concat()).await
    }

    /// Waits until it finds something of this layer with this part, and gives that and the whole.
    async fn finds(&self, layer: &str, part: &str) -> (Value, Value) {
        until(part, async || {
            let ended = self.doctor(&["--json"]).await;
            let json = ended.json();
            let findings = json["findings"].as_array().cloned().unwrap_or_default();
            let found = findings.into_iter().find(|one| {
                one["layer"] == layer && one["what"].as_str().unwrap().contains(part)
            })?;
            assert_eq!(ended.code, Some(69), "{ended:?}");
            assert_eq!(json["exit"], 69);
            assert!(!found["next"].as_str().unwrap().is_empty(), "{found}");
            Some((found, json))
        })
        .await
    }

    /// Waits until nothing is found.
    async fn well(&self) -> Value {
        until("nothing is found", async || {
            let ended = self.doctor(&["--json"]).await;
            (ended.code == Some(0)).then(|| ended.json())
        })
        .await
    }

    fn up(&self) -> String {
        format!("{{up: 'http://{}'}}", self.world.upstream.address)
    }
}

#[tokio::test]
async fn where_everything_works_each_layer_is_good_and_a_handshake_leaves_no_proof() {
    let case = Case::start().await;
    let proxy = case.proxy(&case.up()).await;
    let report = case.well().await;
    let good = json!({"outbound": "good", "inner_tls": "good", "routing": "good"});
    assert_eq!(report["tunnels"]["main"], good, "{report}");
    assert_eq!(report["notes"], json!([]), "{report}");
    // Handshakes were begun over both carriers, and none of them counts.
    assert_eq!(proxy.metric("keyward_handshakes_total").await, 0);
    let page = proxy.page("/metrics").await.unwrap();
    assert!(!page.contains("unknown_ca"), "{page}");
    assert!(proxy.metric("keyward_accepted_total").await >= 2);
    let ended = case.doctor(&[]).await;
    let expected = "TUNNEL  OUTBOUND  INNER TLS  ROUTING\nmain    good      good       good\n";
    assert_eq!(ended.stdout, expected, "{ended:?}");
    let ended = case.doctor(&["--tunnel", "other"]).await;
    assert_eq!(ended.code, Some(64), "{ended:?}");
}

#[tokio::test]
async fn a_proxy_that_has_lost_its_edge_is_found_in_the_first_layer() {
    let mut case = Case::start().await;
    let _proxy = case.proxy(&case.up()).await;
    case.well().await;
    case.world.edge.end(Signal::KILL).await;
    let (found, report) = case
        .finds("outbound", "p has no connection to the tunnel's edge")
        .await;
    assert!(
        found["next"]
            .as_str()
            .unwrap()
            .contains("carriers.edge.url"),
        "{found}"
    );
    assert_eq!(report["tunnels"]["main"]["inner_tls"], "good", "{report}");
    assert_eq!(report["tunnels"]["main"]["routing"], "good", "{report}");
    case.finds("outbound", "the Tunnels API is not reached")
        .await;
    let ended = case.doctor(&[]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stdout.contains("\n  next: "), "{ended:?}");
    assert!(ended.stderr.contains("outbound connection"), "{ended:?}");
}

#[tokio::test]
async fn a_ca_that_is_not_registered_and_another_ones_certificate_are_found_in_the_second() {
    let mut case = Case::start().await;
    let mut proxy = case.proxy(&case.up()).await;
    case.well().await;
    // Somebody archives it.
    let words = ["certificate", "list", &case.tunnel.0];
    let listed = case.world.command(&words).await;
    let id = listed["data"][0]["id"].as_str().unwrap();
    let words = ["certificate", "archive", &case.tunnel.0, id];
    case.world.command(&words).await;
    // A daemon looks when it starts.
    let daemon = case.daemon.take().unwrap();
    daemon.signal(Signal::KILL);
    daemon.end().await;
    case.daemon = Some(case.place.serve().await);
    let (found, _) = case
        .finds("inner_tls", "does not list the CA in force")
        .await;
    assert!(
        found["next"]
            .as_str()
            .unwrap()
            .contains("keyward rotate ca"),
        "{found}"
    );
    proxy.end(Signal::KILL).await;
    // A proxy that no daemon feeds, with a certificate of somebody else's CA.
    let pair = case.world.issuer.pair_of(
        &crate::rig::credentials::server(&case.tunnel.1, std::time::Duration::from_secs(86_400)),
        crate::rig::credentials::now(),
    );
    case.world.write("leaf.crt", &pair.chain_pem());
    case.world.write("leaf.key", &pair.key_pem());
    let (tls, _) = ports();
    let at = case.world.folder.path().display();
    let text = format!(
        "tunnel_domain: {domain}\nhealth: {{listen_addr: '{health}'}}\n\
         tls: {{cert_file: {at}/leaf.crt, key_file: {at}/leaf.key}}\ncarriers: {{tls: {{listen_addr: '{tls}'}}}}\n\
         upstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes: {up}\n",
        domain = case.tunnel.1,
        health = case.health,
        up = case.up(),
    );
    let _stranger = case.world.proxy_with("stranger", &text).await;
    // As long as it has no certificate yet, another thing is wrong.
    let (found, _) = case.finds("inner_tls", "UnknownIssuer").await;
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("a handshake over carrier tls"), "{found}");
    assert!(
        found["next"].as_str().unwrap().contains("control.socket"),
        "{found}"
    );
    let (found, _) = case.finds("outbound", "no proxy is subscribed").await;
    assert!(
        found["next"]
            .as_str()
            .unwrap()
            .contains("control.subscribers"),
        "{found}"
    );
}

#[tokio::test]
async fn routes_that_lead_nowhere_are_found_in_the_third_with_what_to_write() {
    let case = Case::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let routes = format!(
        "{{up: 'http://{}', closed: 'http://{nobody}', denied: 'http://10.255.255.1:80', unknown: 'http://name.invalid:80'}}",
        case.world.upstream.address
    );
    let _proxy = case.proxy(&routes).await;
    // Until the daemon and the edge know each other.
    until("only routes are wrong", async || {
        let report = case.doctor(&["--json"]).await.json();
        let layers = &report["tunnels"]["main"];
        (layers["outbound"] == "good" && layers["inner_tls"] == "good").then_some(())
    })
    .await;
    let (found, report) = case.finds("routing", "route closed leads to http://").await;
    assert!(
        found["next"].as_str().unwrap().contains("start the server"),
        "{found}"
    );
    assert_eq!(report["tunnels"]["main"]["outbound"], "good", "{report}");
    assert_eq!(report["tunnels"]["main"]["inner_tls"], "good", "{report}");
    let (found, _) = case
        .finds(
            "routing",
            "IP validation failed: 10.255.255.1 is not a private address",
        )
        .await;
    let line = "upstream: {allowed_ips: [\"127.0.0.0/8\", \"10.255.255.1/32\"]}";
    assert!(found["next"].as_str().unwrap().contains(line), "{found}");
    let (found, report) = case.finds("routing", "cannot resolve name.invalid").await;
    assert!(
        found["next"].as_str().unwrap().contains("look the name up"),
        "{found}"
    );
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 3, "{report}");
}

#[tokio::test]
async fn without_a_daemon_it_says_so_and_where_to_begin() {
    let place = Place::new(KEYWARD);
    let ended = place.keyward(&["doctor", "--json"]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let json = ended.json();
    assert!(
        json["error"]["next"]
            .as_str()
            .unwrap()
            .contains("start keyward run"),
        "{json}"
    );
}
