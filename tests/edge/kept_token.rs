//! A daemon that keeps the token of a tunnel at a real edge, over a road that loses requests and answers: taken up, rotated
//! once for each order whatever is lost and whoever is killed, adopted when somebody else rotated it.

use control::{FromDaemon, FromSubscriber, Nack, Reason, Resource, Role};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Child;

use super::managed::Managed;
use super::toll::{Fate, Toll};
use super::world::World;
use crate::cli::process::{Daemon, KEYWARD, Place, Subscriber};
use crate::cli::stage::{Ended, command, copy, program};
use crate::connector::edge::Edge;
use crate::connector::{CONNECTOR, double, is_there};
use crate::rig::until;

/// An edge with a tunnel, the road to it, and a place for a daemon that keeps it.
struct Case {
    world: World,
    toll: Toll,
    tunnel: (String, String),
    place: Place,
}

impl Case {
    async fn start(connector: &str) -> Self {
        let managed = Managed::start().await;
        let place = managed.place(connector, "[0, 65533]", "");
        let Managed {
            world,
            toll,
            tunnel,
            ..
        } = managed;
        Self {
            world,
            toll,
            tunnel,
            place,
        }
    }

    /// The tunnel as the daemon sees it.
    async fn status(&self) -> Value {
        let status = self.place.keyward(&["status", "--json"]).await.json();
        status["tunnels"]["main"].clone()
    }

    async fn rotate(&self) -> Ended {
        self.place
            .keyward(&["rotate", "tunnel-token", "--json"])
            .await
    }

    fn stored(&self) -> Option<String> {
        std::fs::read_to_string(self.place.path("store/tunnel-token")).ok()
    }

    /// The token in force: id and value.
    async fn in_force(&self) -> (String, String) {
        let words = ["token", "reveal", &self.tunnel.0];
        let token = self.world.command(&words).await;
        let text = |name: &str| token[name].as_str().unwrap().to_owned();
        (text("id"), text("tunnel_token"))
    }

    /// How often the edge rotated the token, by its audit log.
    async fn rotations(&self) -> usize {
        let rows = self.world.command(&["audit", "--limit", "1000"]).await;
        let rows = rows["data"].as_array().unwrap();
        let done =
            |row: &&Value| row["action"] == "tunnel_token_rotated" && row["outcome"] == "done";
        rows.iter().filter(done).count()
    }

    /// Waits until the store has the token in force, under its id.
    async fn settled(&self) -> String {
        let (id, value) = self.in_force().await;
        until("the token in force is in the store", async || {
            let known = self.status().await["tunnel_token"]["id"] == id.as_str();
            (known && self.stored().as_ref() == Some(&value)).then_some(())
        })
        .await;
        value
    }

    /// Waits until a request of this kind has come since there were `before`.
    async fn passes(&self, part: &str, before: usize) {
        until("the call", async || {
            (self.toll.passed(part).len() > before).then_some(())
        })
        .await;
    }

    async fn phase(&self, phase: &str) {
        until("the phase", async || {
            let status = self.status().await;
            (status["tunnel_token"]["phase"] == phase).then_some(())
        })
        .await;
    }

    /// Orders and does not wait.
    fn order(&self) -> Child {
        let mut order = command(&self.place.path("keyward"), &["rotate", "tunnel-token"]);
        order.env(
            "KEYWARD_OPERATOR_SOCKET",
            self.place.path("run/operator.sock"),
        );
        order.spawn().unwrap()
    }
}

async fn kill(daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.end().await;
}

/// The next token that a connector is given.
async fn given(subscriber: &mut Subscriber) -> control::Tunnel {
    loop {
        if let FromDaemon::Tunnel(tunnel) = subscriber.next().await {
            return tunnel;
        }
    }
}

#[tokio::test]
async fn a_token_is_taken_into_the_store_and_rotated_once_for_each_order() {
    let case = Case::start("builtin").await;
    let daemon = case.place.serve().await;
    let first = case.settled().await;
    assert_eq!(case.toll.passed("reveal_token").len(), 1);
    for count in 1..=2 {
        let ended = case.rotate().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.json()["state"], "done");
        let value = case.settled().await;
        assert_ne!(value, first);
        assert_eq!(case.rotations().await, count);
        assert_eq!(case.status().await["rotations"]["tunnel_token"], count);
    }
    assert_eq!(case.status().await["alarms"], json!([]));
    // A restart asks for nothing.
    let asked = case.toll.passed("reveal_token").len();
    kill(daemon).await;
    let daemon = case.place.serve().await;
    let mut connector = case
        .place
        .subscribe_as(Role::Connector, "one", Vec::new())
        .await;
    assert_eq!(
        Some(given(&mut connector).await.token.expose().to_owned()),
        case.stored()
    );
    assert_eq!(case.toll.passed("reveal_token").len(), asked);
    for text in [daemon.log(), case.status().await.to_string()] {
        assert!(!text.contains("kwt-"), "{text}");
    }
}

/// F24: the answer is lost on the way, or somebody in between answers instead.
#[tokio::test]
async fn a_lost_answer_is_recovered_by_a_reveal_and_nothing_is_rotated_twice() {
    for fate in [Fate::AnswerLost, Fate::AnsweredBy("502 Bad Gateway")] {
        let case = Case::start("external").await;
        let _daemon = case.place.serve().await;
        let first = case.settled().await;
        case.toll.next("rotate_token", fate);
        let _order = case.order();
        case.phase("distributing").await;
        assert_ne!(case.settled().await, first);
        assert_eq!(case.rotations().await, 1);
        assert_eq!(case.toll.passed("rotate_token").len(), 1);
        assert_eq!(case.status().await["tunnel_token"]["foreign_rotations"], 0);
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_call_goes_on_and_rotates_once() {
    for fate in [Fate::RequestLost, Fate::AnswerLost] {
        let case = Case::start("external").await;
        for part in ["oauth/token", "reveal_token"] {
            case.toll.next(part, fate);
            let before = case.toll.passed(part).len();
            let daemon = case.place.start(&[]);
            case.passes(part, before).await;
            kill(daemon).await;
        }
        let daemon = case.place.serve().await;
        let first = case.settled().await;

        // At the look before.
        let before = case.toll.passed("reveal_token").len();
        case.toll.next("reveal_token", fate);
        let order = case.order();
        case.passes("reveal_token", before).await;
        kill(daemon).await;
        drop(order);
        let daemon = case.place.serve().await;
        until("it is done", async || {
            let rotations = &case.status().await["rotations"]["tunnel_token"];
            (*rotations == 1).then_some(())
        })
        .await;
        let second = case.settled().await;
        assert_ne!(first, second);
        assert_eq!(case.rotations().await, 1);

        // At the call itself.
        case.toll.next("rotate_token", fate);
        let order = case.order();
        case.passes("rotate_token", 1).await;
        kill(daemon).await;
        drop(order);
        let before = case.toll.passed("reveal_token").len();
        let _daemon = case.place.serve().await;
        case.passes("reveal_token", before).await;
        let phase = match fate {
            // It may be on its way: a minute has to pass.
            Fate::RequestLost => "rotating",
            _ => "distributing",
        };
        case.phase(phase).await;
        let third = case.settled().await;
        assert_eq!(third == second, fate == Fate::RequestLost);
        let applied = 1 + usize::from(fate == Fate::AnswerLost);
        assert_eq!(case.rotations().await, applied, "{fate:?}");
        assert_eq!(case.toll.passed("rotate_token").len(), 2, "{fate:?}");
        assert_eq!(case.status().await["tunnel_token"]["foreign_rotations"], 0);
    }
}

#[tokio::test]
async fn a_rotation_by_somebody_else_is_adopted_with_an_alarm_when_a_connector_is_refused() {
    let case = Case::start("external").await;
    let daemon = case.place.serve().await;
    let first = case.settled().await;
    let mut connector = case
        .place
        .subscribe_as(Role::Connector, "one", Vec::new())
        .await;
    let old = given(&mut connector).await;
    assert_eq!(old.token.expose(), first);
    case.world
        .command(&["token", "rotate", &case.tunnel.0])
        .await;
    connector
        .send(FromSubscriber::Nack(Nack {
            resource: Resource::Tunnel,
            tunnel: "main".to_owned(),
            generation: old.generation,
            reason: Reason::TokenRefused,
        }))
        .await;
    let new = given(&mut connector).await;
    assert_eq!(new.generation, old.generation + 1);
    assert_eq!(new.token.expose(), case.settled().await);
    assert_ne!(new.token.expose(), first);
    let alarms = case.status().await["alarms"].to_string();
    assert!(alarms.contains("FOREIGN_ROTATION"), "{alarms}");
    assert!(daemon.log().contains("FOREIGN_ROTATION"));
    assert_eq!(
        case.rotations().await,
        1,
        "nobody rotates against somebody else"
    );
}

#[tokio::test]
async fn a_tunnel_that_is_archived_refuses_the_order_and_what_was_given_out_stays() {
    let case = Case::start("external").await;
    let _daemon = case.place.serve().await;
    let value = case.settled().await;
    case.world
        .command(&["tunnel", "archive", &case.tunnel.0])
        .await;
    let ended = case.rotate().await;
    assert_eq!(ended.code, Some(70), "{ended:?}");
    assert!(ended.stdout.contains("archived"), "{ended:?}");
    assert_eq!(case.stored(), Some(value));
    assert_eq!(case.status().await["tunnel_token"]["phase"], "archived");
    let ended = case.rotate().await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert_eq!(case.rotations().await, 0);
}

/// F54: not done before the connector registered with it.
#[tokio::test]
async fn a_connector_gets_the_new_token_and_its_old_process_is_drained() {
    let case = Case::start("cloudflared").await;
    let far = Edge::start("nothing").await;
    case.toll.dresses(far.dresses());
    let daemon = case.place.serve().await;
    until("a token", async || case.stored()).await;
    let _connector = connect(&case.place);
    let old = until("it is in service", async || far.newest()).await;
    until("it is acknowledged", async || {
        let status = case.place.keyward(&["status", "--json"]).await.json();
        status["replicas"]["one"]["acked"]["main"].as_u64()
    })
    .await;
    far.call_all_along();
    let ended = case.rotate().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let new = far.newest().unwrap();
    assert_ne!(
        new.pid, old.pid,
        "done means that the new one is registered"
    );
    until("the old one is gone", async || {
        (!is_there(old.pid)).then_some(())
    })
    .await;
    let (calls, failed) = far.calls();
    assert!(calls > 10 && failed == 0, "{failed} of {calls}");
    assert_eq!(far.registrations(), (2, 0));
    assert_eq!(case.rotations().await, 1);
    drop(daemon);
}

fn connect(place: &Place) -> Child {
    copy(&program("keyward"), &place.path("keyward-connector"));
    copy(&double(), &place.path("cloudflared"));
    let [socket, double] = ["run/control.sock", "cloudflared"].map(|name| place.text(name));
    let words = [
        "connector",
        "--socket",
        &socket,
        "--daemon-uid",
        "65531",
        "--replica",
        "one",
        "--cloudflared",
        &double,
        "--grace",
        "2s",
    ];
    let mut run = command(&place.path("keyward-connector"), &words);
    let log = std::fs::File::create(place.path("connector.log")).unwrap();
    run.stderr(log);
    std::os::unix::process::CommandExt::uid(run.as_std_mut(), CONNECTOR);
    std::os::unix::process::CommandExt::gid(run.as_std_mut(), KEYWARD);
    run.spawn().unwrap()
}

#[tokio::test]
async fn somebody_elses_connector_is_restarted_on_the_new_token_before_its_rotation_is_done() {
    let folder = crate::cli::stage::open_directory();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::os::unix::fs::chown(folder.path(), Some(KEYWARD), None).unwrap();
    let connector = format!("external\n    restart: [/bin/sh, {}]", path("script"));
    let case = Case::start(&connector).await;
    let store = case.place.text("store/tunnel-token");
    let good = format!("cat '{store}' > '{}'", path("seen"));
    std::fs::write(path("script"), &good).unwrap();
    let daemon = case.place.serve().await;
    let first = case.settled().await;
    // The schedule that it allows is there.
    let holder = async || {
        let status = case.status().await;
        let all = status["credentials"].as_array().unwrap().clone();
        all.into_iter()
            .find(|one| one["kind"] == "tunnel-token")
            .unwrap()
    };
    until("it counts as a connector", async || {
        let token = holder().await;
        (token["replicas"]["restart:main"]["in_force"] == true).then_some(())
    })
    .await;
    assert_eq!(holder().await["next"]["by"], "schedule");
    let ended = case.rotate().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let second = case.settled().await;
    assert_ne!(first, second);
    assert_eq!(std::fs::read_to_string(path("seen")).unwrap(), second);

    std::fs::write(path("script"), "exit 3\n").unwrap();
    let _order = case.order();
    until("it is told of", async || {
        let alarms = case.status().await["alarms"].to_string();
        alarms
            .contains("the connector was not restarted")
            .then_some(())
    })
    .await;
    assert_eq!(case.status().await["rotations"]["tunnel_token"], 1);
    kill(daemon).await;
    std::fs::write(path("script"), &good).unwrap();
    let daemon = case.place.serve().await;
    until("the next daemon goes on", async || {
        (case.status().await["rotations"]["tunnel_token"] == 2).then_some(())
    })
    .await;
    let third = case.settled().await;
    assert_eq!(std::fs::read_to_string(path("seen")).unwrap(), third);
    assert_eq!(case.status().await["alarms"], json!([]));
    assert_eq!(case.rotations().await, 2);
    assert!(!daemon.log().contains("kwt-"));
}
