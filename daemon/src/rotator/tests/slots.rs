//! The CA of a tunnel whose remote can be asked, against slots that do as told and lose what they are told to lose.

use std::collections::BTreeSet;

use super::*;
use crate::remote::{Answer, Call, Lane};
use crate::status::SlotsStatus;
use crate::tunnels::{CallError, NotSent, Refusal as Refused, Unknown};

mod lists;

const SETTLE: u64 = 900;

/// What happens to the next call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// It never arrived.
    Lost,
    /// It was done, and the answer never came.
    Unheard,
    /// It was never sent.
    NotSent,
    /// The daemon is killed; it was done.
    KilledAfter,
    /// The daemon is killed; it was not.
    KilledBefore,
}

/// Two slots.
#[derive(Debug, Default)]
struct Slots {
    /// Id and fingerprint of what is not archived.
    listed: Vec<(String, String)>,
    /// Calls that arrived.
    added: Vec<String>,
    archived: Vec<String>,
    fates: Vec<Fate>,
    /// What is archived is listed all the same.
    lags: bool,
    /// What is listed cannot be archived, since it is not there.
    denies: bool,
    serial: usize,
}

impl Slots {
    fn certificates(&self) -> Vec<api::Certificate> {
        let certificate = |(id, fingerprint): &(String, String)| {
            let value = serde_json::json!({
                "id": id, "type": "tunnel_certificate", "tunnel_id": "tnl_1", "fingerprint": fingerprint,
                "expires_at": "2030-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z", "archived_at": null,
            });
            serde_json::from_value(value).unwrap()
        };
        self.listed.iter().map(certificate).collect()
    }

    fn fingerprints(&self) -> Vec<&str> {
        self.listed
            .iter()
            .map(|(_, sha256)| sha256.as_str())
            .collect()
    }

    fn carry_out(&mut self, call: &Call) -> Result<Answer, CallError> {
        let refuse = |text: &str| {
            Err(CallError::Refused(Refused {
                status: 409,
                kind: api::ErrorKind::InvalidRequestError,
                message: Some(text.to_owned()),
                request_id: None,
            }))
        };
        match call {
            Call::AddCertificate { pem } => {
                let fingerprint = Certificate::from_pem(pem)
                    .unwrap()
                    .fingerprint()
                    .to_string();
                self.added.push(fingerprint.clone());
                if self.listed.len() >= 2 {
                    return refuse("two certificates are active already");
                }
                self.serial += 1;
                self.listed
                    .insert(0, (format!("tcrt_{}", self.serial), fingerprint));
                Ok(Answer::Certificate(self.certificates().remove(0)))
            }
            Call::ArchiveCertificate { id, .. } => {
                self.archived.push(id.clone());
                if self.denies {
                    return refuse("there is none");
                }
                let all = self.certificates();
                let one = all.into_iter().find(|one| one.id == *id);
                if !self.lags {
                    self.listed.retain(|(other, _)| other != id);
                }
                one.map_or_else(
                    || refuse("there is none"),
                    |one| Ok(Answer::Certificate(one)),
                )
            }
            Call::Certificates => Ok(Answer::Certificates(self.certificates())),
            _ => refuse("not of the CA"),
        }
    }
}

/// A world, its daemon and its remote.
struct Case {
    world: World,
    engine: Engine,
    slots: Slots,
    killed: usize,
}

impl Case {
    fn new() -> Self {
        let world = World::remote("");
        let engine = world.start();
        Self {
            world,
            engine,
            slots: Slots::default(),
            killed: 0,
        }
    }

    /// Registered, and with a proxy that has the leaf.
    fn stable() -> Self {
        let mut case = Self::new();
        case.settle();
        case.follow();
        assert_eq!(case.ca().phase, "stable");
        case
    }

    /// Calls are made and heard of, until there are none.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.world.turn(&mut self.engine);
            let mut asks = self.world.asks(&mut self.engine);
            asks.retain(|ask| ask.lane == Lane::Ca);
            let Some(ask) = asks.pop() else {
                return;
            };
            assert!(asks.is_empty(), "one call at a time");
            let fate = match ask.call {
                Call::Certificates => Fate::Done,
                _ => self.slots.fates.pop().unwrap_or(Fate::Done),
            };
            let lost = || {
                CallError::Unknown(Unknown::Unreadable {
                    why: "nothing",
                    request_id: None,
                })
            };
            let result = match fate {
                Fate::Done => self.slots.carry_out(&ask.call),
                Fate::Lost => Err(lost()),
                Fate::NotSent => Err(CallError::NotSent(NotSent::Identifier("x".to_owned()))),
                Fate::Unheard => {
                    let _ = self.slots.carry_out(&ask.call);
                    Err(lost())
                }
                Fate::KilledAfter | Fate::KilledBefore => {
                    if fate == Fate::KilledAfter {
                        let _ = self.slots.carry_out(&ask.call);
                    }
                    self.restart();
                    continue;
                }
            };
            self.world
                .tell(&mut self.engine, vec![Told { ask, result }]);
        }
        panic!("it never comes to rest: {:?}", self.slots);
    }

    fn restart(&mut self) {
        self.killed += 1;
        let config = self.world.config();
        // The lock of the one before goes with it.
        let spare = World::remote("");
        drop(std::mem::replace(&mut self.engine, spare.start()));
        self.world
            .board
            .publications
            .send_replace(Publications::new());
        self.engine = Engine::open(&config, &self.world.disk, self.world.moment()).unwrap();
    }

    fn pass(&mut self, seconds: u64) {
        self.world.pass(seconds);
        self.settle();
    }

    /// Every proxy in service takes what is published.
    fn follow(&mut self) {
        for _ in 0..8 {
            let before = self.world.credential().generation;
            self.keep_reports(|world| world.ack("one"));
            self.settle();
            if self.world.credential().generation == before {
                return;
            }
        }
        panic!("the generation never stays");
    }

    /// A proxy that connects anew would begin to count anew.
    fn keep_reports(&mut self, change: impl FnOnce(&World)) {
        let report = self
            .world
            .board
            .replicas
            .borrow()
            .get("one")
            .map(|one| one.report.clone());
        change(&self.world);
        if let Some(report) = report {
            self.world.board.replicas.send_modify(|replicas| {
                replicas.get_mut("one").unwrap().report = report;
            });
        }
    }

    /// Handshakes at the proxy, as it reports them.
    fn report(&mut self, handshakes: u64, refused: u64) {
        let leaf = leaf(&self.world.credential())
            .certificate()
            .fingerprint()
            .to_string();
        let generation = self.world.credential().generation;
        let (ca, verdicts) = (
            self.in_force(),
            control::Verdicts {
                accepted: handshakes,
                refused,
            },
        );
        self.world.board.replicas.send_modify(|replicas| {
            let report = &mut replicas.get_mut("one").unwrap().report;
            let mut all = report.tunnels.pop().unwrap_or_default().verdicts;
            all.insert(ca, verdicts);
            report.tunnels = vec![control::TunnelReport {
                tunnel: "main".to_owned(),
                generation,
                leaf_sha256: leaf,
                verdicts: all,
                ..control::TunnelReport::default()
            }];
        });
        self.settle();
    }

    fn order(&mut self, order: Order) -> Result<Operation, Refusal> {
        let outcome = self.world.order(&mut self.engine, order);
        // What the turn of the order asks is heard of like everything else.
        let asks = self.world.asks(&mut self.engine);
        for ask in asks.into_iter().filter(|ask| ask.lane == Lane::Ca) {
            let result = self.slots.carry_out(&ask.call);
            self.world
                .tell(&mut self.engine, vec![Told { ask, result }]);
        }
        self.settle();
        outcome
    }

    fn rotate(&mut self) -> Operation {
        self.order(switch(false)).unwrap()
    }

    fn ca(&self) -> SlotsStatus {
        self.world.status().ca_slots.unwrap()
    }

    fn alarms(&self) -> String {
        self.world.status().alarms.join("\n")
    }

    fn in_force(&self) -> String {
        self.world.status().ca.unwrap().sha256
    }
}

fn accept() -> Order {
    Order::RotateCa {
        tunnel: "main".to_owned(),
        trusted: false,
        standby: None,
        accept_unproven: true,
    }
}

#[test]
fn a_ca_is_registered_once_whatever_becomes_of_the_call() {
    for fate in [
        Fate::Done,
        Fate::Lost,
        Fate::Unheard,
        Fate::NotSent,
        Fate::KilledAfter,
        Fate::KilledBefore,
    ] {
        let mut case = Case::new();
        case.slots.fates.push(fate);
        case.settle();
        for _ in 0..4 {
            case.pass(30);
        }
        assert_eq!(case.slots.fingerprints(), [case.in_force()], "{fate:?}");
        let distinct: BTreeSet<&String> = case.slots.added.iter().collect();
        assert_eq!(distinct.len(), 1, "{fate:?}");
        assert_eq!(case.ca().used, Some(1));
        assert!(case.slots.archived.is_empty(), "{fate:?}");
        assert!(
            !case.alarms().contains("cannot be changed"),
            "{fate:?}: {}",
            case.alarms()
        );
    }
}

#[test]
fn a_request_that_nobody_answered_is_not_repeated_while_it_may_still_arrive() {
    let mut case = Case::new();
    case.slots.fates.push(Fate::Lost);
    case.settle();
    case.pass(59);
    assert!(case.slots.added.is_empty());
    case.pass(1);
    assert_eq!(case.slots.added.len(), 1);
}

/// Nobody said that verifiers know the standby.
#[test]
fn an_order_that_waits_for_the_remote_is_no_word_for_a_switch_by_hand() {
    let mut case = Case::new();
    let operation = case.world.order(&mut case.engine, switch(false)).unwrap();
    let in_force = case.in_force();
    case.world.provider = "static";
    case.restart();
    case.world.turn(&mut case.engine);
    assert_eq!(case.in_force(), in_force);
    let ended = case.world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
}

#[test]
fn with_another_tunnel_id_the_ca_is_registered_there() {
    let mut case = Case::stable();
    case.world.provider = "tunnels_api\n    tunnel_id: tnl_2";
    let before = std::mem::take(&mut case.slots);
    case.restart();
    case.pass(60);
    assert_eq!(case.slots.fingerprints(), before.fingerprints());
    assert_eq!(case.alarms(), "");
}

#[test]
fn a_rotation_settles_proves_itself_archives_and_destroys_in_this_order() {
    let mut case = Case::stable();
    let (old, next) = (
        case.in_force(),
        case.world.status().standby_ca.unwrap().sha256,
    );
    let old_leaf = case.world.credential().leaf.clone();
    let operation = case.rotate();
    assert_eq!(case.slots.fingerprints(), [&*next, &*old]);
    assert_eq!(case.ca().phase, "settling");
    case.pass(SETTLE - 1);
    assert_eq!(case.in_force(), old, "verifiers have not had their time");
    case.pass(1);
    assert_eq!(
        (case.ca().phase.as_str(), case.in_force()),
        ("switched", next.clone())
    );
    let credential = case.world.credential();
    assert_eq!(credential.fallback, Some(old_leaf));
    verify(&credential, case.world.wall);
    assert_eq!(
        case.world.ca_keys().len(),
        3,
        "old, new and another standby"
    );
    case.follow();
    case.pass(SETTLE);
    assert_eq!(case.ca().phase, "switched", "nobody has called yet");
    assert_eq!(case.slots.listed.len(), 2);
    case.report(1, 0);
    // The list is asked once more, and confirms; then the fallback is withdrawn.
    assert_eq!(case.ca().phase, "archived");
    assert_eq!(case.slots.fingerprints(), [&*next]);
    assert_eq!(case.world.credential().fallback, None);
    assert_eq!(
        case.world.ca_keys().len(),
        3,
        "a proxy may serve the fallback yet"
    );
    case.follow();
    assert_eq!(case.ca().phase, "stable");
    assert_eq!(case.world.ca_keys().len(), 2);
    assert_eq!(case.world.status().rotations.ca, 1);
    assert_eq!(
        case.world.operation(&operation.id).state,
        OperationState::Done
    );
    assert_eq!(case.world.credential().ca_certificates.len(), 1);
    assert_eq!(case.alarms(), "");
    let store = case.world.stored("ca.key");
    for set in std::fs::read_dir(case.world.path("store")).unwrap() {
        if let Ok(other) = std::fs::read_to_string(set.unwrap().path().join("ca.key")) {
            assert!(other == store, "an old CA key is still in the store");
        }
    }
}

#[test]
fn a_rotation_that_loses_calls_or_is_killed_at_any_of_them_ends_as_every_other() {
    use Fate::{KilledAfter, KilledBefore, Lost, NotSent, Unheard};
    for at in 0..2 {
        for fate in [Lost, Unheard, NotSent, KilledAfter, KilledBefore] {
            let mut case = Case::stable();
            let next = case.world.status().standby_ca.unwrap().sha256;
            case.rotate_with(at, fate);
            for _ in 0..16 {
                case.follow();
                case.report(5, 0);
                case.pass(SETTLE / 4);
            }
            let here = format!("{fate:?} at {at}");
            assert_eq!(
                (case.ca().phase.as_str(), case.in_force()),
                ("stable", next.clone()),
                "{here}"
            );
            assert_eq!(case.slots.fingerprints(), [&*next], "{here}");
            assert_eq!(case.world.ca_keys().len(), 2, "{here}");
            assert_eq!(case.world.status().rotations.ca, 1, "{here}");
            let operations = case.world.board.status.borrow().operations.clone();
            assert_eq!(
                operations.last().unwrap().state,
                OperationState::Done,
                "{here}"
            );
            let distinct: BTreeSet<&String> = case.slots.added.iter().collect();
            assert_eq!(distinct.len(), 2, "{here}");
        }
    }
}

impl Case {
    /// Orders; the call with this number, from 0 on, has this fate.
    fn rotate_with(&mut self, at: usize, fate: Fate) {
        self.slots.fates = vec![fate];
        self.slots.fates.extend(vec![Fate::Done; at]);
        let outcome = self.world.order(&mut self.engine, switch(false));
        outcome.unwrap();
        // The turn of the order has asked already, what `settle` hears of.
        self.restart();
        self.settle();
    }
}

#[test]
fn idle_proxies_hold_the_old_ca_until_somebody_answers_for_it_and_its_leaf_is_renewed_meanwhile() {
    let mut case = Case::stable();
    case.rotate();
    case.pass(SETTLE);
    case.follow();
    let first = case.world.credential().fallback.clone().unwrap();
    for _ in 0..9 {
        case.pass(DAY);
        case.follow();
        let credential = case.world.credential();
        verify(&credential, case.world.wall);
        let fallback = credential.fallback.clone().unwrap();
        assert!(
            fallback.not_after > case.world.wall + DAY,
            "it is renewed under its own CA"
        );
        let certificate = Certificate::from_pem(&fallback.chain).unwrap();
        let old = Certificate::from_pem(&credential.ca_certificates[1]).unwrap();
        assert_eq!(certificate.authority_key_id(), old.subject_key_id());
    }
    assert_ne!(case.world.credential().fallback.clone().unwrap(), first);
    assert!(case.slots.archived.is_empty());
    assert!(
        case.alarms()
            .contains("both slots of the remote have been held for 9 days"),
        "{}",
        case.alarms()
    );
    assert!(
        case.alarms().contains("nobody has called one yet"),
        "{}",
        case.alarms()
    );
    let accepted = case.order(accept()).unwrap();
    assert_eq!(accepted.state, OperationState::Done);
    assert_eq!(case.ca().accepted_by.as_deref(), Some("uid:1000"));
    case.follow();
    assert_eq!(case.ca().phase, "stable");
    assert_eq!(case.slots.listed.len(), 1);
    assert_eq!(case.alarms(), "");
    let refused = case.order(accept()).unwrap_err();
    assert!(refused.what.contains("waits for proof"), "{refused:?}");
}

#[test]
fn callers_who_refuse_the_new_ca_hold_it_up_and_a_few_alerts_do_not() {
    for (refused, phase) in [(9, "archived"), (60, "switched")] {
        let mut case = Case::stable();
        case.report(200, 0);
        case.rotate();
        case.pass(SETTLE);
        case.follow();
        case.report(0, 0);
        case.pass(SETTLE);
        case.report(200, refused);
        assert_eq!(case.ca().phase, phase, "{refused}");
        case.restart();
        case.pass(SETTLE);
        assert_eq!(case.ca().phase, phase, "{refused}");
        let held = case.alarms().contains("callers refuse the new CA");
        assert_eq!(held, phase == "switched", "{}", case.alarms());
    }
}

/// F42.
#[test]
fn a_strangers_ca_is_never_archived_and_holds_up_nothing_but_the_next_rotation() {
    let mut case = Case::stable();
    let theirs = ("tcrt_x".to_owned(), "f".repeat(64));
    case.slots.listed.push(theirs.clone());
    case.pass(HOUR);
    assert!(case.alarms().contains("CONFLICT"), "{}", case.alarms());
    assert!(case.alarms().contains("tcrt_x"));
    let refused = case.order(switch(false)).unwrap_err();
    assert_eq!(refused.what, "both slots of the remote are taken");
    let generation = case.world.credential().generation;
    for _ in 0..200 {
        case.pass(DAY);
        case.follow();
    }
    // Half its life is over by now.
    assert!(case.alarms().contains("WAIT_SLOT"), "{}", case.alarms());
    assert!(
        case.world.credential().generation > generation + 100,
        "leaves are renewed"
    );
    assert!(case.slots.archived.is_empty());
    assert!(case.slots.listed.contains(&theirs));
    // Its owner takes it away, and what was due begins.
    case.slots.listed.retain(|one| *one != theirs);
    case.pass(HOUR);
    assert_eq!(case.ca().phase, "settling");
    assert_eq!(case.alarms(), "");
}

#[test]
fn a_ca_that_somebody_archived_stays_archived_and_its_successor_is_registered_when_ordered() {
    let mut case = Case::stable();
    let (served, next) = (
        case.world.credential(),
        case.world.status().standby_ca.unwrap().sha256,
    );
    case.slots.listed.clear();
    case.pass(HOUR);
    assert!(case.alarms().contains("LOST"), "{}", case.alarms());
    assert_eq!(case.slots.added.len(), 1);
    assert_eq!(
        case.world.credential(),
        served,
        "nothing is taken from anybody"
    );
    case.rotate();
    assert_eq!(case.slots.fingerprints(), [&*next]);
    case.pass(SETTLE);
    assert_eq!(case.in_force(), next);
    assert!(!case.alarms().contains("LOST"));
}

#[test]
fn a_remote_that_does_not_answer_is_an_alarm_and_nothing_is_decided() {
    let mut case = Case::new();
    let lost = || {
        CallError::Unknown(Unknown::Unreadable {
            why: "nothing",
            request_id: None,
        })
    };
    for pause in [1, 2, 4, 8] {
        let mut asks = case.world.asks(&mut case.engine);
        asks.retain(|ask| ask.lane == Lane::Ca);
        let ask = asks.pop().unwrap();
        assert_eq!(ask.call, Call::Certificates);
        case.world.tell(
            &mut case.engine,
            vec![Told {
                ask,
                result: Err(lost()),
            }],
        );
        assert!(
            case.alarms()
                .contains("the CAs of the tunnel cannot be listed")
        );
        case.world.pass(pause);
        case.world.turn(&mut case.engine);
    }
    case.settle();
    assert_eq!(case.slots.listed.len(), 1);
    assert!(!case.alarms().contains("cannot be listed"));
}

/// F35: what destroys waits for a clock that can be believed.
#[test]
fn a_clock_that_jumped_neither_switches_nor_archives_nor_destroys() {
    let mut case = Case::stable();
    let old = case.in_force();
    case.rotate();
    case.world.wall += SETTLE;
    case.settle();
    assert_eq!(case.in_force(), old);
    assert!(case.alarms().contains("the wall clock jumped"));
    case.pass(HOUR + 1);
    assert_ne!(case.in_force(), old);
    case.follow();
    case.report(3, 0);
    case.world.wall += 2 * HOUR;
    case.settle();
    assert_eq!(case.ca().phase, "switched");
    assert!(case.slots.archived.is_empty());
    case.pass(HOUR + 1);
    assert_eq!(case.slots.archived.len(), 1);
}
