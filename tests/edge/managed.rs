//! A tunnel at a real edge that a workload may manage: what the daemon, `init` and `doctor` are tried against.

use serde_json::json;

use super::toll::Toll;
use super::world::{Signer, URL, World};
use crate::cli::process::{KEYWARD, Place};

const AUDIENCE: &str = "keyward-edge";
const WORKLOAD: &str = "workload";

/// An edge with a tunnel, the road to it, and a rule that lets the workload manage its tunnels.
pub(super) struct Managed {
    pub(super) world: World,
    pub(super) toll: Toll,
    pub(super) signer: Signer,
    pub(super) rule: String,
    /// Id and domain.
    pub(super) tunnel: (String, String),
}

impl Managed {
    /// With a tunnel that has nothing yet.
    pub(super) async fn start() -> Self {
        let world = World::start().await;
        let made = world.command(&["tunnel", "create", "--name", "main"]).await;
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let tunnel = (text("id"), text("domain"));
        Self::of(world, tunnel).await
    }

    /// With this one.
    pub(super) async fn of(world: World, tunnel: (String, String)) -> Self {
        let toll = Toll::before(&world).await;
        let signer = Signer::new();
        let issuer = world.believe(WORKLOAD, URL, &signer.jwks()).await;
        let words = ["--audience", AUDIENCE, "--subject", WORKLOAD];
        let rule = world.rule(WORKLOAD, &issuer, &words).await;
        Self {
            world,
            toll,
            signer,
            rule,
            tunnel,
        }
    }

    /// A place for the daemon that keeps it, with an identity token. `more` is written under the tunnel.
    pub(super) fn place(&self, connector: &str, subscribers: &str, more: &str) -> Place {
        let place = Place::new(KEYWARD);
        std::fs::remove_file(place.path("store/tunnel-token")).unwrap();
        std::fs::write(place.path("identity"), token(&self.signer)).unwrap();
        let root = place.directory.path().display();
        let (url, rule, (id, domain)) = (&self.toll.url, &self.rule, &self.tunnel);
        let config = format!(
            "state: {root}/state\n\
             control:\n  socket: {root}/run/control.sock\n  subscribers: {subscribers}\n\
             operator: {{socket: {root}/run/operator.sock}}\n\
             health: {{listen_addr: '127.0.0.1:0'}}\n\
             identity: {{url: '{url}', federation_rule: {rule}, source: {{file: {root}/identity}}}}\n\
             api: {{url: '{url}', calls_per_minute: 1000}}\n\
             tunnels:\n  main:\n    provider: tunnels_api\n    tunnel_id: {id}\n    connector: {connector}\n    \
             domain: {domain}\n    store: dir:{root}/store\n{more}"
        );
        std::fs::write(place.path("keyward.yaml"), config).unwrap();
        place
    }
}

/// A fresh identity token of the workload: one buys once.
pub(super) fn token(signer: &Signer) -> String {
    signer.sign(&json!({"iss": URL, "aud": AUDIENCE, "sub": WORKLOAD}))
}
