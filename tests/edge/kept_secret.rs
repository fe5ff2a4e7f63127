//! The shared secret of a tunnel, kept by the daemon: made, registered at the edge, sent to a proxy that dials, rotated
//! under calls, and taken up again by the daemon that follows one that was killed.

use std::cell::Cell;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::managed::{Managed, token};
use super::program::Program;
use super::toll::Toll;
use super::world::{Signer, World, sha256};
use crate::cli::process::{Daemon, KEYWARD, Place};
use crate::rig::until;

/// An edge, the daemon of one of its tunnels, and a proxy that has nothing but what that sends.
struct Case {
    world: World,
    toll: Toll,
    signer: Signer,
    tunnel: (String, String),
    place: Place,
}

impl Case {
    async fn start() -> Self {
        let world = World::start().await;
        let tunnel = world.tunnel().await;
        let managed = Managed::of(world, tunnel).await;
        let place = managed.place("builtin", "[0]", "    shared_secret: {quiet: 0s}\n");
        let Managed {
            world,
            toll,
            signer,
            tunnel,
            ..
        } = managed;
        Self {
            world,
            toll,
            signer,
            tunnel,
            place,
        }
    }

    /// A daemon with a fresh identity token.
    async fn daemon(&self) -> Daemon {
        std::fs::write(self.place.path("identity"), token(&self.signer)).unwrap();
        self.place.serve().await
    }

    /// A proxy with neither certificate nor secret of its own.
    async fn proxy(&self) -> Program {
        let world = &self.world;
        let text = world.proxy_config("p", &self.tunnel, "", &[world.address]);
        let secret = format!("    secret_file: {}\n", world.file("p.secret"));
        let files = text.lines().find(|line| line.starts_with("tls: ")).unwrap();
        let text = text.replace(&secret, "").replace(&format!("{files}\n"), "");
        let socket = self.place.text("run/control.sock");
        let control = format!("socket: {socket}, daemon_uid: {KEYWARD}, replica: p");
        let text = format!("{text}control: {{{control}, tunnels: [main]}}\n");
        world.proxy_with("p", &text).await
    }

    async fn status(&self) -> Value {
        let ended = self.place.keyward(&["status", "--json"]).await;
        serde_json::from_str(&ended.stdout).unwrap_or_default()
    }

    /// Waits until the old secrets of so many rotations are gone.
    async fn rotated(&self, times: u64) {
        until(&format!("{times} rotations"), async || {
            let status = self.status().await;
            let done = &status["tunnels"]["main"]["rotations"]["shared_secret"];
            (*done == json!(times)).then_some(())
        })
        .await;
    }

    /// What the edge has of the tunnel's secrets, archived ones too.
    async fn listed(&self) -> Vec<Value> {
        let words = ["secret", "list", &self.tunnel.0, "--archived"];
        let listed = self.world.command(&words).await;
        listed["data"].as_array().unwrap().clone()
    }

    /// The one value in custody.
    fn value(&self) -> String {
        let custody = std::fs::read_dir(self.place.path("state/custody/main")).unwrap();
        let paths = custody.map(|entry| entry.unwrap().path());
        let is_secret = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("secret-")
        };
        let secrets: Vec<_> = paths.filter(is_secret).collect();
        assert_eq!(secrets.len(), 1, "{secrets:?}");
        std::fs::read_to_string(&secrets[0]).unwrap()
    }

    /// Rotates three times; the daemon is killed during the third.
    async fn rotations(&self, daemon: Daemon, values: &mut Vec<String>) -> Daemon {
        for round in 1..=2 {
            let words = ["rotate", "shared-secret", "--json"];
            let ended = self.place.keyward(&words).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            self.rotated(round).await;
            values.push(self.value());
        }
        let added = self.toll.passed("/secrets HTTP").len();
        let words = ["rotate", "shared-secret"];
        let killed = async {
            until("another secret at the edge", async || {
                (self.toll.passed("/secrets HTTP").len() > added).then_some(())
            })
            .await;
            daemon.signal(Signal::KILL);
            daemon.end().await
        };
        let (ended, _) = tokio::join!(self.place.keyward(&words), killed);
        assert_ne!(ended.code, Some(0), "the daemon went away: {ended:?}");
        let daemon = self.daemon().await;
        self.rotated(3).await;
        values.push(self.value());
        daemon
    }
}

#[tokio::test]
async fn a_proxy_without_a_secret_serves_while_the_daemon_rotates_it_and_is_killed() {
    let case = Case::start().await;
    let daemon = case.daemon().await;
    let proxy = case.proxy().await;
    proxy.ready().await;
    let ca = std::fs::read_to_string(case.place.path("store/ca.crt")).unwrap();
    case.world.write("tunnel-ca.pem", &ca);
    let domain = &case.tunnel.1;
    until("a call", async || {
        (case.world.call(domain).await == 200).then_some(())
    })
    .await;

    let mut values = vec![case.value()];
    let over = Cell::new(false);
    let calls = async {
        let (mut made, mut failed) = (0, Vec::new());
        while !over.get() {
            let status = case.world.call(domain).await;
            made += 1;
            if status != 200 {
                failed.push(status);
            }
        }
        (made, failed)
    };
    let rotations = async {
        let daemon = case.rotations(daemon, &mut values).await;
        over.set(true);
        daemon
    };
    let ((made, failed), daemon) = tokio::join!(calls, rotations);
    assert_eq!(failed, Vec::<u16>::new(), "of {made} calls");
    assert!(made > 10, "{made}");

    let listed = case.listed().await;
    assert_eq!(listed.len(), values.len());
    let active: Vec<_> = listed
        .iter()
        .filter(|one| one["archived_at"].is_null())
        .collect();
    assert_eq!(active.len(), 1);
    let digest = sha256(values.last().unwrap());
    assert_eq!(active[0]["sha256"], json!(digest));
    let status = case.status().await;
    assert_eq!(
        status["tunnels"]["main"]["shared_secret"]["sha256"],
        json!(digest)
    );
    // Nothing was cut: each connection was bound to one after the other.
    let edge = case.world.edge.log();
    assert!(!edge.contains("proxy disconnected"), "{edge}");
    until("two connections on it", async || {
        let listed = case.listed().await;
        let live = listed.iter().find(|one| one["sha256"] == json!(digest));
        let live = live?["live"].as_array()?;
        let ours = live.iter().filter(|one| one["replica"] == "p");
        (live.len() == 2 && ours.count() == 2).then_some(())
    })
    .await;
    let journal = std::fs::read_to_string(case.place.path("state/journal.jsonl")).unwrap();
    for text in [edge, proxy.log(), daemon.log(), status.to_string(), journal] {
        assert!(values.iter().all(|value| !text.contains(value)), "{text}");
    }
}
