//! The shared secret against a remote that keeps what `keyward-edge` keeps, and can lose what is said.

use control::Role;

use super::*;
use crate::remote::{Answer, Call, Lane, Told};
use crate::rotation::shared_secret::{Phase, State};
use crate::tunnels::{CallError, Refusal as Refused};

const HASTY: &str = "    connector: builtin\n    shared_secret: {quiet: 0s}\n";
const ROTATE: fn() -> Order = || Order::RotateSharedSecret {
    tunnel: "main".to_owned(),
};

/// What the other side has, and what was asked of it.
#[derive(Default)]
struct Edge {
    secrets: Vec<api::Secret>,
    asked: Vec<Call>,
    /// Answers that do not arrive.
    deaf: bool,
}

impl Edge {
    /// Makes the calls that are wanted until there is none.
    fn serve(&mut self, world: &World, engine: &mut Engine) {
        for _ in 0..50 {
            let mut asks = world.asks(engine);
            asks.retain(|ask| ask.lane == Lane::Secret);
            if asks.is_empty() {
                return;
            }
            let told = asks.into_iter().map(|ask| {
                let result = self.make(&ask.call);
                let result = if self.deaf { Err(lost()) } else { result };
                Told { ask, result }
            });
            let told = told.collect();
            world.tell(engine, told);
        }
        panic!("it never comes to rest: {:?}", self.asked);
    }

    fn make(&mut self, call: &Call) -> Result<Answer, CallError> {
        self.asked.push(call.clone());
        match call {
            Call::Secrets => {
                let active = |one: &&api::Secret| one.archived_at.is_none();
                Ok(Answer::Secrets(
                    self.secrets.iter().filter(active).cloned().collect(),
                ))
            }
            Call::AddSecret { sha256 } => self.add(sha256),
            Call::ArchiveSecret { id, .. } => {
                let secret = self.secrets.iter_mut().find(|one| one.id == *id).unwrap();
                secret.archived_at = Some(api::Timestamp::from_seconds(START));
                secret.live.clear();
                Ok(Answer::Secret(secret.clone()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, sha256: &str) -> Result<Answer, CallError> {
        if let Some(secret) = self.secrets.iter().find(|one| one.sha256 == sha256) {
            return match secret.archived_at {
                None => Ok(Answer::Secret(secret.clone())),
                Some(_) => Err(refused(409)),
            };
        }
        if self.active().len() >= 2 {
            return Err(refused(409));
        }
        let secret = api::Secret {
            id: format!("tsec_{}", self.secrets.len() + 1),
            r#type: "tunnel_secret".to_owned(),
            tunnel_id: "tnl_1".to_owned(),
            sha256: sha256.to_owned(),
            created_at: api::Timestamp::from_seconds(START),
            archived_at: None,
            last_used_at: None,
            live: Vec::new(),
            enforced: None,
        };
        self.secrets.push(secret.clone());
        Ok(Answer::Secret(secret))
    }

    fn active(&self) -> Vec<&str> {
        let active = self.secrets.iter().filter(|one| one.archived_at.is_none());
        active.map(|one| one.id.as_str()).collect()
    }

    /// A proxy's connections, all on this secret.
    fn bind(&mut self, replica: &str, sha256: &str) {
        for secret in &mut self.secrets {
            secret.live.retain(|live| live.replica != replica);
            if secret.sha256 == sha256 {
                secret.last_used_at = Some(api::Timestamp::from_seconds(START));
                secret.live.push(api::LiveConnection {
                    replica: replica.to_owned(),
                    address: "198.51.100.9:5000".to_owned(),
                    instance: "edge-1".to_owned(),
                });
            }
        }
    }

    fn adds(&self) -> usize {
        let adds = |call: &&Call| matches!(call, Call::AddSecret { .. });
        self.asked.iter().filter(adds).count()
    }
}

fn refused(status: u16) -> CallError {
    CallError::Refused(Refused {
        status,
        kind: api::ErrorKind::Unknown,
        message: None,
        request_id: None,
    })
}

fn lost() -> CallError {
    CallError::Unknown(crate::tunnels::Unknown::Unreadable {
        why: "it was lost",
        request_id: None,
    })
}

impl World {
    fn secret(&self) -> Arc<control::Tunnel> {
        let publications = self.board.publications.borrow();
        publications["main"].secret.clone().unwrap()
    }

    /// What the edge has to know of it.
    fn digest(&self) -> String {
        pki::Fingerprint::of(self.secret().token.expose().as_bytes()).to_string()
    }

    /// A proxy that dials; all its connections stand on `generation`.
    fn dial(&self, name: &str, generation: u64) {
        self.connect(name, 1);
        self.board.replicas.send_modify(|replicas| {
            let replica = replicas.get_mut(name).unwrap();
            replica.dials = vec!["main".to_owned()];
            let key = ("main".to_owned(), Resource::Tunnel);
            replica.acks.insert(key, generation);
            assert_eq!(replica.role, Role::Proxy);
        });
    }

    /// A proxy follows what is published.
    fn follow(&self, edge: &mut Edge, name: &str) {
        edge.bind(name, &self.digest());
        self.dial(name, self.secret().generation);
    }

    /// A turn, and the calls that it wants.
    fn step(&self, edge: &mut Edge, engine: &mut Engine) {
        self.turn(engine);
        edge.serve(self, engine);
    }

    fn values(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path("state/custody/main")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("secret-")).collect()
    }

    fn journalled(&self) -> State {
        let journal = std::fs::read_to_string(self.path("state/journal.jsonl")).unwrap();
        let mut records = journal.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record
        });
        let last = records.rfind(|record| record["kind"] == "shared_secret");
        serde_json::from_value(last.unwrap()["state"].clone()).unwrap()
    }
}

/// A daemon whose first secret is out, and a proxy that dials with it.
fn begun(world: &World) -> (Engine, Edge) {
    let mut edge = Edge::default();
    let mut engine = world.start();
    edge.serve(world, &mut engine);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    (engine, edge)
}

#[test]
fn the_first_secret_is_made_registered_by_its_digest_and_sent_to_proxies_that_dial() {
    let world = World::remote(HASTY);
    let (_engine, edge) = begun(&world);
    let secret = world.secret();
    assert_eq!(
        process::base64::decode_url(secret.token.expose())
            .unwrap()
            .len(),
        32
    );
    assert_eq!(edge.secrets.len(), 1);
    assert_eq!(edge.secrets[0].sha256, world.digest());
    assert!(secret.generation >= START);
    let status = world.status().shared_secret.unwrap();
    assert_eq!(
        (status.generation, &*status.phase),
        (secret.generation, "stable")
    );
    assert_eq!(status.sha256, world.digest());
    // The value is in custody, and nowhere else.
    let file = &world.values()[0];
    let kept = std::fs::read_to_string(world.path("state/custody/main").join(file)).unwrap();
    assert_eq!(kept, secret.token.expose());
    let journal = std::fs::read_to_string(world.path("state/journal.jsonl")).unwrap();
    let status = serde_json::to_string(&*world.board.status.borrow()).unwrap();
    for text in [journal, status] {
        assert!(!text.contains(secret.token.expose()));
    }
}

#[test]
fn where_the_proxy_does_not_dial_an_edge_there_is_none() {
    for settings in ["", "    connector: cloudflared\n"] {
        let world = World::remote(settings);
        let mut engine = world.start();
        assert!(
            world
                .asks(&mut engine)
                .iter()
                .all(|ask| ask.lane != Lane::Secret)
        );
        let refused = world.order(&mut engine, ROTATE()).unwrap_err();
        assert!(refused.what.contains("no shared secret"), "{refused:?}");
    }
    let world = World::with("    connector: builtin\n");
    let mut engine = world.start();
    assert_eq!(world.asks(&mut engine), []);
    assert_eq!(world.status().shared_secret, None);
}

#[test]
fn an_ordered_rotation_goes_from_the_remote_to_the_proxies_and_takes_the_old_one_away() {
    let world = World::remote(HASTY);
    let (mut engine, mut edge) = begun(&world);
    let first = world.digest();
    for round in 1..=3 {
        let before = world.secret();
        let operation = world.order(&mut engine, ROTATE()).unwrap();
        edge.serve(&world, &mut engine);
        let secret = world.secret();
        assert!(secret.generation > before.generation);
        assert_eq!(edge.active().len(), 2, "the old one opens as well");
        assert_eq!(
            world.operation(&operation.id).state,
            OperationState::Running
        );
        world.follow(&mut edge, "p");
        world.step(&mut edge, &mut engine);
        assert_eq!(edge.active(), [format!("tsec_{}", round + 1)]);
        let operation = world.operation(&operation.id);
        assert_eq!(
            operation.state,
            OperationState::Done,
            "{}",
            operation.detail
        );
        assert_eq!(world.status().rotations.shared_secret, round);
        assert_eq!(world.values().len(), 1, "the old value is destroyed");
    }
    assert_ne!(world.digest(), first);
    assert_eq!(edge.adds(), 4);
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

/// I11
#[test]
fn a_daemon_that_is_killed_after_any_call_or_turn_goes_on_where_it_was() {
    for kill_after in 0..14 {
        let mut world = World::remote(HASTY);
        let (mut engine, mut edge) = begun(&world);
        let operation = world.order(&mut engine, ROTATE()).unwrap();
        let mut left = kill_after;
        let mut ended = None;
        for _ in 0..40 {
            if left == 0 {
                drop(engine);
                world.pass(1);
                world.board.replicas.send_replace(Replicas::new());
                engine = world.start();
                world.dial("p", 0);
            }
            left -= 1;
            let mut asks = world.asks(&mut engine);
            asks.retain(|ask| ask.lane == Lane::Secret);
            let told = asks.into_iter().map(|ask| {
                let result = edge.make(&ask.call);
                Told { ask, result }
            });
            let told = told.collect();
            if left != 0 {
                world.tell(&mut engine, told);
            }
            let published = world.board.publications.borrow()["main"].secret.is_some();
            if published {
                world.follow(&mut edge, "p");
            }
            world.turn(&mut engine);
            // A daemon knows the operations of the one before that have not ended.
            let status = world.board.status.borrow().clone();
            let mut shown = status.operations.iter();
            ended = shown.find(|one| one.id == operation.id).cloned().or(ended);
        }
        assert_eq!(world.status().rotations.shared_secret, 1, "{kill_after}");
        assert_eq!(edge.active(), ["tsec_2"], "{kill_after}");
        assert_eq!(edge.secrets.len(), 2, "one rotation, one secret");
        assert_eq!(world.values().len(), 1);
        assert_eq!(edge.secrets[1].sha256, world.digest());
        let ended = ended.unwrap();
        assert_eq!(ended.state, OperationState::Done, "{kill_after}: {ended:?}");
    }
}

#[test]
fn a_proxy_that_has_not_followed_keeps_the_old_one_and_a_restart_does_not_forget_it() {
    let mut world = World::remote(HASTY);
    let (mut engine, mut edge) = begun(&world);
    let old = world.digest();
    world.follow(&mut edge, "q");
    world.step(&mut edge, &mut engine);
    let operation = world.order(&mut engine, ROTATE()).unwrap();
    edge.serve(&world, &mut engine);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active().len(), 2);
    world.pass(11);
    world.step(&mut edge, &mut engine);
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(ended.detail.contains("connection of q"), "{}", ended.detail);
    // Only one of the two comes back to the next process at once.
    drop(engine);
    world.board.replicas.send_replace(Replicas::new());
    let mut engine = world.start();
    world.pass(60);
    world.dial("p", 0);
    world.step(&mut edge, &mut engine);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active().len(), 2);
    assert!(
        edge.secrets
            .iter()
            .any(|one| one.sha256 == old && !one.live.is_empty())
    );
    world.follow(&mut edge, "q");
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active(), ["tsec_2"]);
}

/// F53
#[test]
fn the_old_one_stays_for_as_long_as_the_configuration_says_and_over_a_restart() {
    let mut world = World::remote("    connector: builtin\n");
    let (mut engine, mut edge) = begun(&world);
    world.order(&mut engine, ROTATE()).unwrap();
    edge.serve(&world, &mut engine);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    assert_eq!(world.journalled().rotation.unwrap().phase, Phase::Quiet);
    world.pass(HOUR / 2);
    drop(engine);
    let mut engine = world.start();
    edge.serve(&world, &mut engine);
    world.pass(HOUR / 2 - 1);
    world.dial("p", world.secret().generation);
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active().len(), 2);
    world.pass(1);
    world.dial("p", world.secret().generation);
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active(), ["tsec_2"]);
}

#[test]
fn a_thief_on_the_old_one_is_named_and_cut() {
    let mut world = World::remote(HASTY);
    let (mut engine, mut edge) = begun(&world);
    world.pass(60);
    let old = world.digest();
    edge.bind("thief", &old);
    world.order(&mut engine, ROTATE()).unwrap();
    edge.serve(&world, &mut engine);
    edge.bind("thief", &old);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active(), ["tsec_2"]);
    let alarms = world.status().alarms;
    let said = "unknown_holder: \"thief\" at 198.51.100.9:5000";
    assert!(alarms.iter().any(|one| one.starts_with(said)), "{alarms:?}");
}

#[test]
fn a_strangers_secret_is_an_alarm_and_stays() {
    let world = World::remote(HASTY);
    let mut edge = Edge::default();
    edge.add(&"f".repeat(64)).unwrap();
    let mut engine = world.start();
    edge.serve(&world, &mut engine);
    assert_eq!(edge.active(), ["tsec_1", "tsec_2"]);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    let alarms = world.status().alarms;
    assert!(
        alarms
            .iter()
            .any(|one| one.starts_with("CONFLICT: the remote takes the shared secret tsec_1")),
        "{alarms:?}"
    );
    world.order(&mut engine, ROTATE()).unwrap();
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active(), ["tsec_1", "tsec_2"]);
    assert_eq!(edge.adds(), 1, "there is no room");
}

#[test]
fn a_remote_that_is_silent_is_told_of_ends_the_order_and_is_asked_ever_more_rarely() {
    let mut world = World::remote(HASTY);
    let (mut engine, mut edge) = begun(&world);
    edge.deaf = true;
    let operation = world.order(&mut engine, ROTATE()).unwrap();
    let mut asked = Vec::new();
    for _ in 0..40 {
        edge.serve(&world, &mut engine);
        asked.push(edge.asked.len());
        world.pass(1);
        world.dial("p", world.secret().generation);
        world.turn(&mut engine);
    }
    asked.dedup();
    assert!(asked.len() < 8, "{asked:?}");
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(
        ended
            .detail
            .contains("shared secret: the Tunnels API was called"),
        "{ended:?}"
    );
    // It goes on by itself.
    edge.deaf = false;
    world.pass(HOUR);
    world.dial("p", world.secret().generation);
    world.step(&mut edge, &mut engine);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    assert_eq!(edge.active().len(), 1);
    assert_eq!(world.status().rotations.shared_secret, 1);
}

#[test]
fn a_secret_that_somebody_archived_is_replaced_without_an_order() {
    let world = World::remote(HASTY);
    let (mut engine, mut edge) = begun(&world);
    let old = world.digest();
    edge.secrets[0].archived_at = Some(api::Timestamp::from_seconds(START));
    edge.secrets[0].live.clear();
    world.board.replicas.send_modify(|replicas| {
        let key = ("main".to_owned(), Resource::Tunnel);
        let generation = world.secret().generation;
        let refused = (generation, Reason::TokenRefused);
        replicas.get_mut("p").unwrap().nacks.insert(key, refused);
    });
    world.step(&mut edge, &mut engine);
    assert_ne!(world.digest(), old);
    assert_eq!(edge.active(), ["tsec_2"]);
    world.follow(&mut edge, "p");
    world.step(&mut edge, &mut engine);
    assert_eq!(world.status().shared_secret.unwrap().phase, "stable");
    assert_eq!(world.values().len(), 1);
}

#[test]
fn a_value_that_is_not_in_custody_any_more_is_replaced_and_nothing_is_sent_that_is_not_it() {
    for content in [None, Some("another")] {
        let world = World::remote(HASTY);
        let (engine, mut edge) = begun(&world);
        drop(engine);
        let file = world.path("state/custody/main").join(&world.values()[0]);
        match content {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => std::fs::write(&file, text).unwrap(),
        }
        let mut engine = world.start();
        world.dial("p", 0);
        assert_eq!(world.board.publications.borrow()["main"].secret, None);
        edge.serve(&world, &mut engine);
        world.step(&mut edge, &mut engine);
        assert_eq!(edge.active().len(), 2);
        world.follow(&mut edge, "p");
        world.step(&mut edge, &mut engine);
        assert_eq!(edge.active(), ["tsec_2"]);
        assert_eq!(edge.secrets[1].sha256, world.digest());
    }
}
