//! The tunnel token against a remote that is played by hand.

use super::*;
use crate::disk::crash::{Crash, Kind};
use crate::remote::{Answer, Ask, Call, Lane};
use crate::tunnels::{CallError, NotSent, Refusal as Refused, TunnelToken, Unknown};

mod killed;
mod scheduled;

const DAY: u64 = 24 * HOUR;

/// The other side: the number of the token in force, and how often it was rotated by us.
#[derive(Default)]
struct Other {
    in_force: u32,
    rotations: u32,
    revealed: u32,
    calls: Vec<Call>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    AnswerLost,
    RequestLost,
    Refused(u16, &'static str),
    Malformed,
}

fn value(number: u32) -> String {
    let mut text = String::new();
    let form = format!(r#"{{"a":"account","t":"tunnel","s":"canary-{number}"}}"#);
    process::base64::encode(form.as_bytes(), &mut text);
    text
}

impl Other {
    fn token(&self) -> TunnelToken {
        TunnelToken {
            id: format!("ttok_{}", self.in_force),
            value: identity::Secret::new(value(self.in_force)),
        }
    }

    /// Deals with the call of the token's lane that is wanted, if there is one.
    fn answer(&mut self, world: &World, engine: &mut Engine, fate: Fate) -> bool {
        let mut asks = world.asks(engine);
        asks.retain(|ask| ask.lane == Lane::Token);
        let Some(ask) = asks.pop() else {
            return false;
        };
        let told = self.deal(ask, fate);
        world.tell(engine, vec![told]);
        true
    }

    fn deal(&mut self, ask: Ask, fate: Fate) -> Told {
        assert_eq!(ask.tunnel_id, "tnl_1");
        self.calls.push(ask.call.clone());
        let arrives = matches!(fate, Fate::Answered | Fate::AnswerLost | Fate::Malformed);
        match &ask.call {
            Call::RotateToken(_) if arrives => {
                self.in_force += 1;
                self.rotations += 1;
            }
            Call::RevealToken { .. } if arrives => self.revealed += 1,
            Call::RotateToken(_) | Call::RevealToken { .. } => {}
            other => panic!("{other:?} in the token's lane"),
        }
        let refusal = |status, message: &str| Refused {
            status,
            kind: match status {
                404 => api::ErrorKind::NotFoundError,
                _ => api::ErrorKind::Unknown,
            },
            message: Some(message.to_owned()),
            request_id: None,
        };
        let result = match fate {
            Fate::Answered => Ok(Answer::Token(self.token())),
            Fate::Malformed => Ok(Answer::Token(TunnelToken {
                value: identity::Secret::new("canary but no token".to_owned()),
                ..self.token()
            })),
            Fate::AnswerLost | Fate::RequestLost => {
                Err(CallError::Unknown(Unknown::Status(refusal(502, "gateway"))))
            }
            Fate::Refused(status, message) => Err(CallError::Refused(refusal(status, message))),
        };
        Told { ask, result }
    }

    /// Answers everything until nothing more is asked.
    fn settle(&mut self, world: &World, engine: &mut Engine) {
        for _ in 0..10 {
            if !self.answer(world, engine, Fate::Answered) {
                return;
            }
        }
        panic!("it asks for ever: {:?}", self.calls);
    }
}

fn rotation() -> Order {
    Order::RotateTunnelToken {
        tunnel: "main".to_owned(),
    }
}

fn published(world: &World) -> Option<(u64, String)> {
    let publications = world.board.publications.borrow();
    let token = publications["main"].token.as_ref()?;
    Some((token.generation, token.token.expose().to_owned()))
}

fn token_status(world: &World) -> crate::status::TokenStatus {
    world.status().tunnel_token.unwrap()
}

/// A connector that has acknowledged `generation`.
fn connector(world: &World, name: &str, generation: u64) {
    world.connect(name, 0);
    world.board.replicas.send_modify(|replicas| {
        let replica = replicas.get_mut(name).unwrap();
        replica.role = Role::Connector;
        replica.acks = [(("main".to_owned(), Resource::Tunnel), generation)].into();
    });
}

/// With a token in the store, known and published.
fn started() -> (World, Engine, Other) {
    let world = World::remote("");
    let mut engine = world.start();
    let mut other = Other::default();
    other.settle(&world, &mut engine);
    (world, engine, other)
}

#[test]
fn an_empty_store_gets_the_token_in_force_once_and_connectors_as_well() {
    let (mut world, mut engine, mut other) = started();
    assert_eq!(world.stored("tunnel-token"), value(0));
    assert_eq!(published(&world), Some((START, value(0))));
    let status = token_status(&world);
    assert_eq!(status.id.as_deref(), Some("ttok_0"));
    assert_eq!(
        (status.phase.as_str(), status.verified_at),
        ("stable", Some(START))
    );
    assert_eq!(other.revealed, 1);
    // Neither time nor a restart is an occasion.
    world.pass(6 * DAY);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    drop(engine);
    let mut engine = world.start();
    assert_eq!(published(&world), Some((START, value(0))));
    other.settle(&world, &mut engine);
    assert_eq!(other.revealed, 1);
    world.pass(2 * DAY);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(other.revealed, 2, "once a week");
    assert_eq!(published(&world), Some((START, value(0))));
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn a_token_that_init_left_is_published_before_anybody_is_asked() {
    let world = World::remote("");
    std::fs::create_dir_all(world.path("store")).unwrap();
    std::fs::write(world.path("store/tunnel-token"), value(0)).unwrap();
    let mut engine = world.start();
    assert_eq!(published(&world), Some((START, value(0))));
    Other::default().settle(&world, &mut engine);
    assert_eq!(published(&world), Some((START, value(0))), "it is the same");
    assert_eq!(token_status(&world).id.as_deref(), Some("ttok_0"));
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn an_order_rotates_once_and_is_done_when_every_connector_has_the_new_one() {
    let (world, mut engine, mut other) = started();
    connector(&world, "c", START);
    let credential = world.credential();
    let operation = world.order(&mut engine, rotation()).unwrap();
    assert_eq!(operation.what, "rotate tunnel-token");
    let again = world.order(&mut engine, rotation()).unwrap_err();
    assert!(again.what.starts_with("it is already running"), "{again:?}");
    assert!(
        other.answer(&world, &mut engine, Fate::Answered),
        "what is in force is read"
    );
    assert_eq!(token_status(&world).phase, "rotating");
    assert!(
        other.answer(&world, &mut engine, Fate::Answered),
        "it is rotated"
    );
    assert_eq!(token_status(&world).phase, "distributing");
    assert_eq!(world.stored("tunnel-token"), value(1));
    assert_eq!(published(&world), Some((START + 1, value(1))));
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Running
    );
    connector(&world, "c", START + 1);
    world.turn(&mut engine);
    let ended = world.operation(&operation.id);
    let said = (ended.state, ended.detail.as_str());
    let expected = "the tunnel token ttok_1 is in force, and every connector has it";
    assert_eq!(said, (OperationState::Done, expected));
    assert_eq!(
        world.credential(),
        credential,
        "the certificate is another matter: F10"
    );
    assert_eq!((other.rotations, other.revealed), (1, 2));
    assert_eq!(world.status().rotations.tunnel_token, 1);
    assert_eq!(world.status().alarms, Vec::<String>::new());
    // A stock remote is told nothing that it does not know.
    let Some(Call::RotateToken(call)) = other.calls.last() else {
        panic!("{:?}", other.calls);
    };
    assert_eq!(call.edge, None);
    assert!(call.reason.ends_with("by uid:1000"), "{}", call.reason);
}

/// `edge.md` §3: a key for a lost answer, and an hour for what is connected.
#[test]
fn an_edge_of_ours_gets_the_rotation_as_its_key_and_an_overlap_once_an_hour() {
    let mut world = World::remote("    connector: builtin\n");
    let mut engine = world.start();
    let mut other = Other::default();
    other.settle(&world, &mut engine);
    let mut keys = Vec::new();
    for overlap in [Some(HOUR), None, Some(HOUR)] {
        world.order(&mut engine, rotation()).unwrap();
        other.settle(&world, &mut engine);
        let Some(Call::RotateToken(call)) = other.calls.last() else {
            panic!("{:?}", other.calls);
        };
        let edge = call.edge.as_ref().unwrap();
        assert_eq!(edge.cut_old_after.map(|after| after.as_secs()), overlap);
        keys.push(edge.idempotency_key.clone());
        world.pass(if overlap.is_some() { 1 } else { HOUR + 60 });
        world.turn(&mut engine);
        other.settle(&world, &mut engine);
    }
    keys.dedup();
    assert_eq!(keys.len(), 3);
    assert_eq!(other.rotations, 3);
    assert_eq!(world.status().rotations.tunnel_token, 3);
}

/// F24, and finding 2 of the design.
#[test]
fn a_lost_answer_is_recovered_by_a_reveal_and_nothing_is_rotated_twice() {
    let (mut world, mut engine, mut other) = started();
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Answered);
    assert!(other.answer(&world, &mut engine, Fate::AnswerLost));
    assert_eq!(
        world.asks(&mut engine).len(),
        0,
        "it is left alone for a moment"
    );
    let running = world.operation(&operation.id);
    assert!(
        running.detail.contains("nobody knows what came of it"),
        "{running:?}"
    );
    world.pass(1);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    // What is in force goes out at once; whether it stays in force is certain a minute after the call.
    assert_eq!(published(&world), Some((START + 1, value(1))));
    assert_eq!(token_status(&world).phase, "distributing");
    world.pass(59);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    assert_eq!(other.rotations, 1);
    assert_eq!(token_status(&world).foreign_rotations, 0);
}

#[test]
fn a_call_that_never_arrived_is_made_once_more_when_it_cannot_be_on_its_way() {
    let (mut world, mut engine, mut other) = started();
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Answered);
    other.answer(&world, &mut engine, Fate::RequestLost);
    // The daemon may be gone meanwhile.
    drop(engine);
    let mut engine = world.start();
    other.settle(&world, &mut engine);
    assert_eq!((other.rotations, other.revealed), (0, 3));
    world.pass(59);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!((other.rotations, other.revealed), (0, 3));
    world.pass(1);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!((other.rotations, other.revealed), (1, 4));
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    let ids = other.calls.iter().filter_map(|call| match call {
        Call::RotateToken(rotation) => Some(rotation.reason.clone()),
        _ => None,
    });
    let ids: Vec<String> = ids.collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "under the same rotation");
}

#[test]
fn a_rotation_by_somebody_else_is_adopted_with_an_alarm() {
    let (mut world, mut engine, mut other) = started();
    connector(&world, "c", START);
    other.in_force = 7;
    let key = ("main".to_owned(), Resource::Tunnel);
    world.board.replicas.send_modify(|replicas| {
        let replica = replicas.get_mut("c").unwrap();
        replica.nacks.insert(key, (START, Reason::TokenRefused));
    });
    world.pass(60);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(published(&world), Some((START + 1, value(7))));
    assert_eq!(world.stored("tunnel-token"), value(7));
    assert_eq!(token_status(&world).foreign_rotations, 1);
    let said = "FOREIGN_ROTATION: somebody else rotated the tunnel token, ttok_7 is in force";
    let alarms = world.status().alarms;
    assert!(
        alarms.iter().any(|alarm| alarm.starts_with(said)),
        "{alarms:?}"
    );
    // It is still said after a restart.
    drop(engine);
    drop(world.start());
    let alarms = world.status().alarms;
    assert!(
        alarms.iter().any(|alarm| alarm.starts_with(said)),
        "{alarms:?}"
    );
}

#[test]
fn a_refusal_ends_the_rotation_and_another_access_token_or_a_quieter_minute_does_not() {
    let (mut world, mut engine, mut other) = started();
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Answered);
    other.answer(
        &world,
        &mut engine,
        Fate::Refused(409, "two tokens are active"),
    );
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(
        ended.detail.contains("409, two tokens are active"),
        "{ended:?}"
    );
    let alarms = world.status().alarms;
    let said = "the remote refused to rotate the tunnel token (409)";
    assert!(alarms[0].starts_with(said), "{alarms:?}");
    other.settle(&world, &mut engine);
    assert_eq!(other.rotations, 0);
    assert_eq!(token_status(&world).phase, "stable");

    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Answered);
    other.answer(&world, &mut engine, Fate::Refused(401, "expired"));
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Running
    );
    world.pass(1);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    assert_eq!(other.rotations, 1);
    assert_eq!(world.status().alarms, Vec::<String>::new());
    // Nothing is asked for ever.
    let operation = world.order(&mut engine, rotation()).unwrap();
    for _ in 0..3 {
        other.answer(&world, &mut engine, Fate::Answered);
        other.answer(&world, &mut engine, Fate::Refused(401, "no"));
        world.pass(8);
        world.turn(&mut engine);
    }
    assert_eq!(world.operation(&operation.id).state, OperationState::Failed);
    assert_eq!(world.asks(&mut engine).len(), 0);
}

/// F03: a permission that is missing is not waited for.
#[test]
fn a_reveal_that_is_refused_ends_the_rotation_before_it_began() {
    let (mut world, mut engine, mut other) = started();
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Refused(403, "no scope"));
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(ended.detail.contains("403, no scope"), "{ended:?}");
    assert_eq!(token_status(&world).phase, "stable");
    let alarms = world.status().alarms;
    assert!(alarms[0].contains("403, no scope"), "{alarms:?}");
    world.pass(60);
    world.turn(&mut engine);
    assert_eq!(world.asks(&mut engine).len(), 0);
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.settle(&world, &mut engine);
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn what_was_never_sent_is_sent_later_and_nobody_has_to_order_it_again() {
    let (mut world, mut engine, mut other) = started();
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Answered);
    let ask = world.asks(&mut engine).pop().unwrap();
    let paced = NotSent::Paced(Duration::from_secs(9));
    let result = Err(CallError::NotSent(paced));
    world.tell(&mut engine, vec![Told { ask, result }]);
    assert_eq!(token_status(&world).phase, "intent");
    let running = world.operation(&operation.id);
    assert!(
        running.detail.contains("left alone for another 9 s"),
        "{running:?}"
    );
    assert_eq!(
        world.status().alarms,
        Vec::<String>::new(),
        "to wait is no trouble"
    );
    world.pass(8);
    world.turn(&mut engine);
    assert!(!other.answer(&world, &mut engine, Fate::Answered));
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Running
    );
    world.pass(1);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    assert_eq!(other.rotations, 1);
}

#[test]
fn what_is_no_token_is_an_alarm_and_not_stored() {
    let (mut world, mut engine, mut other) = started();
    std::fs::remove_file(world.path("store/tunnel-token")).unwrap();
    world.turn(&mut engine);
    assert!(other.answer(&world, &mut engine, Fate::Malformed));
    assert!(!world.path("store/tunnel-token").exists());
    assert_eq!(
        published(&world),
        Some((START, value(0))),
        "what is out stays"
    );
    let alarms = world.status().alarms;
    assert!(
        alarms[0].contains("not of the documented form"),
        "{alarms:?}"
    );
    world.turn(&mut engine);
    assert_eq!(world.asks(&mut engine).len(), 0, "not at once again");
    world.pass(HOUR);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(world.stored("tunnel-token"), value(0));
    // A rotation that gives one took place, and is over.
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.answer(&world, &mut engine, Fate::Answered);
    other.answer(&world, &mut engine, Fate::Malformed);
    assert_eq!(world.operation(&operation.id).state, OperationState::Failed);
    assert_eq!(world.stored("tunnel-token"), value(0));
    world.pass(HOUR);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(other.rotations, 1);
    assert_eq!(world.stored("tunnel-token"), value(1));
    assert_eq!(token_status(&world).foreign_rotations, 0);
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn a_tunnel_that_was_archived_is_said_and_what_is_in_service_goes_on() {
    for (status, message) in [(404, "no such tunnel"), (409, "the tunnel is archived")] {
        let (world, mut engine, mut other) = started();
        let before = published(&world);
        let operation = world.order(&mut engine, rotation()).unwrap();
        other.answer(&world, &mut engine, Fate::Refused(status, message));
        assert_eq!(world.operation(&operation.id).state, OperationState::Failed);
        assert_eq!(token_status(&world).phase, "archived");
        let alarms = world.status().alarms;
        assert!(alarms[0].contains("archived"), "{alarms:?}");
        assert_eq!(published(&world), before);
        assert_eq!(world.stored("tunnel-token"), value(0));
        let refused = world.order(&mut engine, rotation()).unwrap_err();
        assert!(refused.what.contains("archived"), "{refused:?}");
        assert_eq!(other.rotations, 0);
    }
}

#[test]
fn an_order_is_refused_with_what_speaks_against_it() {
    let by_hand = World::new();
    let mut engine = by_hand.start();
    let refused = by_hand.order(&mut engine, rotation()).unwrap_err();
    assert!(refused.what.contains("provider: static"), "{refused:?}");
    assert!(refused.next.contains("store/tunnel-token"), "{refused:?}");

    let (mut world, mut engine, mut other) = started();
    connector(&world, "c", START - 1);
    let refused = world.order(&mut engine, rotation()).unwrap_err();
    assert!(refused.what.contains("a connector is away"), "{refused:?}");
    connector(&world, "c", START);
    world.wall += 365 * DAY;
    let refused = world.order(&mut engine, rotation()).unwrap_err();
    assert!(
        refused.what.contains("the clock cannot be believed"),
        "{refused:?}"
    );
    other.settle(&world, &mut engine);
    assert_eq!(other.rotations, 0);
}

#[test]
fn connectors_that_do_not_follow_are_named_and_the_order_ends_without_them() {
    let (mut world, mut engine, mut other) = started();
    connector(&world, "c", START);
    let operation = world.order(&mut engine, rotation()).unwrap();
    other.settle(&world, &mut engine);
    world.pass(600);
    world.turn(&mut engine);
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(ended.detail.contains("have not taken it: c"), "{ended:?}");
    let alarms = world.status().alarms;
    assert!(
        alarms
            .iter()
            .any(|alarm| alarm.ends_with("have not taken it: c")),
        "{alarms:?}"
    );
    let refused = world.order(&mut engine, rotation()).unwrap_err();
    assert!(refused.what.contains("is not over"), "{refused:?}");
    connector(&world, "c", START + 1);
    world.turn(&mut engine);
    assert_eq!(world.status().rotations.tunnel_token, 1);
    assert_eq!(other.rotations, 1);
}

/// F09, F22: a disk that takes nothing stops the call before it is made, and a value that came is not asked for again.
#[test]
fn a_full_disk_rotates_nothing_and_loses_nothing() {
    let mut calls = 0;
    for steps in 0..40 {
        let mut world = World::remote("");
        let mut other = Other::default();
        {
            let mut engine = world.start();
            other.settle(&world, &mut engine);
        }
        let full = Crash::after(u64::MAX, Kind::Full);
        world.disk = Disk {
            crash: Some(full.clone()),
        };
        let mut engine = world.start();
        full.leave(steps);
        let _ = world.order(&mut engine, rotation());
        for _ in 0..5 {
            other.answer(&world, &mut engine, Fate::Answered);
            world.pass(1);
            world.turn(&mut engine);
        }
        calls += other.rotations;
        let revealed = other.revealed;
        full.relieve();
        for _ in 0..5 {
            world.pass(300);
            world.turn(&mut engine);
            other.settle(&world, &mut engine);
        }
        assert!(other.rotations <= 1, "{steps}");
        assert!(other.revealed <= revealed + 2, "{steps}");
        assert_eq!(
            world.stored("tunnel-token"),
            value(other.in_force),
            "{steps}"
        );
        assert_eq!(
            published(&world).unwrap().1,
            value(other.in_force),
            "{steps}"
        );
    }
    assert!(calls > 0);
}

/// I8, F51.
#[test]
fn no_token_is_in_journal_or_status() {
    let (world, mut engine, mut other) = started();
    world.order(&mut engine, rotation()).unwrap();
    other.settle(&world, &mut engine);
    let journal = std::fs::read_to_string(world.path("state/journal.jsonl")).unwrap();
    let status = serde_json::to_string(&**world.board.status.borrow()).unwrap();
    for number in [0, 1] {
        for text in [&journal, &status] {
            assert!(text.contains("ttok_1"));
            assert!(!text.contains(&value(number)) && !text.contains("canary-"));
        }
    }
    // The state before the call, and its end, are for a person to read.
    assert!(journal.contains(r#""phase":"rotating""#));
    assert!(journal.contains(r#""remote_before":"ttok_0""#));
}

/// A journal of the build before had the number and the digest alone.
#[test]
fn the_record_of_an_older_build_is_gone_on_with() {
    let world = World::new();
    std::fs::create_dir_all(world.path("store")).unwrap();
    std::fs::write(world.path("store/tunnel-token"), value(0)).unwrap();
    drop(world.start());
    let path = world.path("state/journal.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let digest = pki::Fingerprint::of(value(0).as_bytes());
    let lines = text.lines().map(|line| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "tunnel_token" {
            record["state"] = serde_json::json!({"generation": 41, "sha256": digest.to_string()});
        }
        format!("{record}\n")
    });
    let text: String = lines.collect();
    assert!(text.contains("\"generation\":41"));
    std::fs::write(&path, text).unwrap();
    drop(world.start());
    assert_eq!(published(&world), Some((41, value(0))));
    std::fs::write(world.path("store/tunnel-token"), value(1)).unwrap();
    drop(world.start());
    assert_eq!(published(&world), Some((42, value(1))));
}
