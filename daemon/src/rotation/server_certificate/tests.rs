use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const LIFE: u64 = 7 * DAY;

fn leaf(id: &str, issuer: &str, issued_at: u64) -> Leaf {
    Leaf {
        id: id.to_owned(),
        sha256: format!("sha-{id}"),
        serial: format!("serial-{id}"),
        issuer: issuer.to_owned(),
        issued_at,
        not_before: issued_at - 300,
        not_after: issued_at + LIFE,
        rekey_at: issued_at + DAY,
        page_at: issued_at + LIFE * 17 / 20,
        generation: 1,
        foreign: false,
    }
}

fn issuer(name: &str) -> Issuer {
    Issuer {
        sha256: name.to_owned(),
        last_second: NOW + 365 * DAY,
    }
}

/// All is well and nothing is wanted.
fn calm() -> Seen {
    Seen {
        issuer: Some(issuer("ca")),
        lifetime: LIFE,
        serving_usable: true,
        fits: true,
        published: u64::MAX,
        ..Seen::default()
    }
}

fn serving(issued_at: u64) -> State {
    State {
        generation: 1,
        serving: Some(leaf("old", "ca", issued_at)),
        ..State::default()
    }
}

fn witness(acked: u64) -> Witness {
    Witness {
        name: "a".to_owned(),
        connected: true,
        acked,
        refused: None,
        serves: acked,
    }
}

/// The table of rotation.md §5.2, row by row: what is seen in a phase, and the step that follows.
#[test]
fn every_phase_has_its_step() {
    let begun = serving(NOW).begun("new".into(), Cause::Ordered, "uid:0", "ca", NOW);
    let keyed = begun.keyed("1".into());
    let signed = keyed.signed(leaf("new", "ca", NOW));
    let checked = signed.checked(0);
    let published = checked.published();
    let adopted = published.adopted();
    let keys = Seen {
        key_usable: true,
        ..calm()
    };
    let fresh = Seen {
        serial_fresh: true,
        ..keys.clone()
    };
    let both = Seen {
        certificate_usable: true,
        ..keys.clone()
    };
    let acked = Seen {
        witnesses: vec![witness(2)],
        ..calm()
    };
    let waiting = Seen {
        witnesses: vec![witness(1)],
        ..calm()
    };
    let overdue = Seen {
        overdue: true,
        ..waiting.clone()
    };
    let adopt = |missing: &[&str]| Action::Adopt {
        missing: missing.iter().map(|name| (*name).to_owned()).collect(),
    };
    for (state, seen, action) in [
        (&State::default(), &calm(), Action::Begin(Cause::Missing)),
        (&begun, &calm(), Action::MakeKey),
        (&keyed, &fresh, Action::Sign),
        // After a crash: the certificate may be there, and if not the serial number may be used.
        (&keyed, &both, Action::TakeCertificate),
        (&keyed, &keys, Action::DrawSerial),
        (&keyed, &calm(), Action::Abandon("its key is lost")),
        (&signed, &both, Action::Check),
        (&signed, &keys, Action::DrawSerial),
        (&signed, &calm(), Action::Abandon("its key is lost")),
        (&checked, &calm(), Action::Publish),
        (&published, &calm(), adopt(&[])),
        (&published, &acked, adopt(&[])),
        (&published, &waiting, Action::Wait(NOW + 1)),
        (&published, &overdue, adopt(&["a"])),
        (&adopted, &acked, Action::Retire(0)),
        (&adopted.retired(0), &acked, Action::Wait(NOW + DAY)),
    ] {
        assert_eq!(next(state, seen, NOW), action, "{} {seen:?}", state.phase());
    }
    let phases = [&begun, &keyed, &signed, &checked, &published, &adopted];
    let names = phases.map(State::phase);
    assert_eq!(
        names,
        ["begun", "keyed", "signed", "checked", "published", "soak"]
    );
    assert_eq!(published.kept, [leaf("old", "ca", NOW)]);
    assert_eq!(adopted.done, 1);
}

/// I6
#[test]
fn an_earlier_leaf_is_kept_until_every_proxy_in_service_has_the_newer_one() {
    let mut state = serving(NOW);
    state.generation = 2;
    state.serving = Some(Leaf {
        generation: 2,
        ..leaf("new", "ca", NOW)
    });
    state.kept = vec![leaf("old", "ca", NOW), leaf("older", "ca", NOW)];
    let gone = |acked: u64| Witness {
        name: "gone".to_owned(),
        connected: false,
        ..witness(acked)
    };
    for (witnesses, keeps) in [
        (vec![witness(2)], 0),
        (vec![witness(2), gone(2)], 0),
        (vec![witness(1)], 2),
        (vec![witness(2), gone(1)], 2),
        (vec![gone(1)], 2),
        // Nobody is no evidence: one earlier leaf stays.
        (vec![], 1),
    ] {
        let seen = Seen {
            witnesses,
            overdue: true,
            ..calm()
        };
        let action = next(&state, &seen, NOW);
        if keeps == 2 {
            assert!(matches!(action, Action::Wait(_)), "{action:?} {seen:?}");
        } else {
            assert_eq!(action, Action::Retire(keeps), "{seen:?}");
        }
        let ids: Vec<_> = state
            .retired(keeps)
            .kept
            .into_iter()
            .map(|leaf| leaf.id)
            .collect();
        assert_eq!(ids, ["old", "older"][..keeps]);
    }
    // One that is away holds up no rotation.
    let published = serving(NOW)
        .begun("new".into(), Cause::Ordered, "uid:0", "ca", NOW)
        .keyed("1".into())
        .signed(leaf("new", "ca", NOW))
        .checked(0)
        .published();
    let seen = Seen {
        witnesses: vec![gone(1)],
        ..calm()
    };
    let missing = Vec::new();
    assert_eq!(next(&published, &seen, NOW), Action::Adopt { missing });
}

#[test]
fn what_is_in_force_goes_out_first_after_a_start() {
    let idle = serving(NOW);
    let begun = idle.begun("new".into(), Cause::Ordered, "uid:0", "ca", NOW);
    let restarted = Seen {
        published: 0,
        ..calm()
    };
    for state in [&idle, &begun, &begun.keyed("1".into())] {
        assert_eq!(next(state, &restarted, NOW), Action::Republish);
    }
}

#[test]
fn each_need_has_its_cause_and_orders_come_first() {
    let state = serving(NOW);
    let begins = |seen: Seen, now: u64| match next(&state, &seen, now) {
        Action::Begin(cause) => Some(cause),
        _ => None,
    };
    assert_eq!(begins(calm(), NOW), None);
    assert_eq!(begins(calm(), NOW + DAY - 1), None);
    assert_eq!(begins(calm(), NOW + DAY), Some(Cause::Scheduled));
    assert_eq!(
        begins(
            Seen {
                ordered: true,
                ..calm()
            },
            NOW
        ),
        Some(Cause::Ordered)
    );
    assert_eq!(
        begins(
            Seen {
                issuer: Some(issuer("next")),
                ..calm()
            },
            NOW
        ),
        Some(Cause::IssuerChanged)
    );
    assert_eq!(
        begins(
            Seen {
                fits: false,
                ..calm()
            },
            NOW
        ),
        Some(Cause::NamesChanged)
    );
    assert_eq!(begins(calm(), NOW - 301), Some(Cause::NotYetValid));
    let lost = Seen {
        serving_usable: false,
        ..calm()
    };
    assert_eq!(begins(lost.clone(), NOW), Some(Cause::Missing));
    // Caps and pauses hold back what nobody ordered, and nothing else.
    let capped = Seen {
        capped: true,
        ..calm()
    };
    assert_eq!(begins(capped.clone(), NOW + DAY), None);
    assert_eq!(
        begins(
            Seen {
                ordered: true,
                ..capped.clone()
            },
            NOW
        ),
        Some(Cause::Ordered)
    );
    assert_eq!(
        begins(
            Seen {
                issuer: Some(issuer("next")),
                ..capped
            },
            NOW
        ),
        Some(Cause::IssuerChanged)
    );
    let paced = Seen {
        paced: true,
        ..calm()
    };
    assert_eq!(begins(paced.clone(), NOW + DAY), None);
    assert_eq!(
        begins(
            Seen {
                ordered: true,
                ..paced
            },
            NOW
        ),
        Some(Cause::Ordered)
    );
    // Without a CA that can sign nothing begins.
    assert_eq!(
        begins(
            Seen {
                issuer: None,
                ordered: true,
                ..lost
            },
            NOW
        ),
        None
    );
}

/// F07
#[test]
fn a_renewal_that_gains_nothing_is_none() {
    let state = serving(NOW);
    let ending = |last_second: u64| Seen {
        issuer: Some(Issuer {
            sha256: "ca".to_owned(),
            last_second,
        }),
        ..calm()
    };
    let now = NOW + DAY;
    let gain = NOW + LIFE + LIFE / 8;
    assert_eq!(
        next(&state, &ending(gain), now),
        Action::Begin(Cause::Scheduled)
    );
    assert!(matches!(
        next(&state, &ending(gain - 1), now),
        Action::Wait(_)
    ));
}

#[test]
fn a_proxy_that_is_ahead_makes_the_generation_jump_and_a_lying_one_does_not() {
    let state = serving(NOW);
    let claims = |serves: u64| Seen {
        witnesses: vec![Witness {
            serves,
            ..witness(0)
        }],
        ..calm()
    };
    let Action::Restore { id, cause, above } = next(&state, &claims(50), NOW) else {
        panic!("it is ahead");
    };
    assert_eq!((id.as_str(), cause, above), ("old", Cause::Renumbered, 50));
    let next_state = state.restored(leaf("old", "ca", NOW), cause, "schedule", above, NOW);
    let published = next_state.published();
    assert_eq!(published.generation, 51);
    assert_eq!(published.serving.as_ref().unwrap().generation, 51);
    assert_eq!(
        published.kept,
        [],
        "the same leaf is not kept beside itself"
    );
    assert!(matches!(
        next(&state, &claims(u64::MAX), NOW),
        Action::Wait(_)
    ));
}

/// Every state that a few steps lead to, with everything that can be seen, at many times: what is
/// decided is never dangerous. Total, since nothing panics.
#[test]
fn no_combination_of_state_sight_and_time_decides_something_dangerous() {
    let idle = serving(NOW);
    let begun = idle.begun("new".into(), Cause::Scheduled, "schedule", "ca", NOW);
    let keyed = begun.keyed("1".into());
    let signed = keyed.signed(leaf("new", "ca", NOW));
    let checked = signed.checked(0);
    let published = checked.published();
    let adopted = published.adopted();
    let back = adopted.restored(
        leaf("old", "ca", NOW),
        Cause::NotYetValid,
        "schedule",
        0,
        NOW,
    );
    let states = [
        State::default(),
        State::default().begun("new".into(), Cause::Missing, "schedule", "ca", NOW),
        idle,
        begun,
        keyed,
        signed,
        checked,
        published,
        adopted,
        back.clone(),
        back.published(),
    ];
    let year = 365 * DAY;
    let times = [
        0,
        1,
        NOW - year,
        NOW - 301,
        NOW - 300,
        NOW - 1,
        NOW,
        NOW + 1,
        NOW + HARD_DEADLINE,
        NOW + HARD_DEADLINE + 1,
        NOW + DAY,
        NOW + LIFE,
        NOW + LIFE + 1,
        NOW + year,
    ];
    let mut decided = 0;
    for state in &states {
        for bits in 0..1_u32 << 12 {
            for issuer in [None, Some(issuer("ca")), Some(issuer("next"))] {
                let bit = |place: u32| bits >> place & 1 == 1;
                let mut witnesses = vec![witness(if bit(10) { 2 } else { 1 })];
                if bit(11) {
                    witnesses[0].refused = Some((2, Reason::Expired));
                }
                let seen = Seen {
                    issuer,
                    lifetime: LIFE,
                    serving_usable: bit(0),
                    fits: bit(1),
                    restorable: vec!["old".to_owned()],
                    key_usable: bit(2),
                    certificate_usable: bit(3),
                    serial_fresh: bit(4),
                    published: if bit(5) { u64::MAX } else { 0 },
                    witnesses,
                    overdue: bit(6),
                    ordered: bit(7),
                    paced: bit(8),
                    capped: bit(9),
                    suspect: bit(1) ^ bit(9),
                };
                for now in times {
                    assert_harmless(state, &seen, now);
                    decided += 1;
                }
            }
        }
    }
    assert_eq!(decided, states.len() * 4096 * 3 * times.len());
}

fn assert_harmless(state: &State, seen: &Seen, now: u64) {
    let action = next(state, seen, now);
    let phase = state.rotation.as_ref().map(|rotation| rotation.phase);
    let here = || format!("{} {action:?} {now} {seen:?}", state.phase());
    match &action {
        // I6: only with nothing in flight, and a clock that can be believed.
        Action::Retire(keep) => {
            assert!(phase.is_none() && !seen.suspect, "{}", here());
            let serving = state.serving.as_ref().map_or(0, |leaf| leaf.generation);
            let all = seen
                .witnesses
                .iter()
                .all(|witness| witness.acked >= serving);
            assert!(
                all && (*keep > 0 || !seen.witnesses.is_empty()),
                "{}",
                here()
            );
        }
        // I7: nothing goes out unchecked.
        Action::Publish => assert_eq!(phase, Some(Phase::Checked), "{}", here()),
        Action::Check => assert!(seen.certificate_usable && seen.key_usable, "{}", here()),
        // F45: never with a number that may be used.
        Action::Sign => assert!(seen.serial_fresh && seen.key_usable, "{}", here()),
        // I9, I12
        Action::Begin(cause) => {
            assert!(phase.is_none() && seen.issuer.is_some(), "{}", here());
            let free = matches!(cause, Cause::Ordered | Cause::IssuerChanged);
            assert!(free || !seen.capped, "{}", here());
            assert!(*cause == Cause::Ordered || !seen.paced, "{}", here());
        }
        // What comes back is good now, or is in force already.
        Action::Restore { id, .. } => {
            let kept = state.kept.iter().find(|leaf| leaf.id == *id);
            let serving = state.serving.as_ref().filter(|leaf| leaf.id == *id);
            let good = kept.is_some_and(|leaf| leaf.is_valid_at(now));
            assert!(good || serving.is_some(), "{}", here());
        }
        Action::Republish => assert!(seen.serving_usable && state.serving.is_some(), "{}", here()),
        // What may be out is finished, never given up.
        Action::Abandon(_) => assert!(phase < Some(Phase::Checked), "{}", here()),
        Action::Adopt { .. } => assert_eq!(phase, Some(Phase::Published), "{}", here()),
        _ => {}
    }
}

/// What survives a crash, what does not, and what must hold.
#[derive(Default)]
struct World {
    /// Durable.
    journal: State,
    keys: BTreeSet<String>,
    certificates: BTreeMap<String, String>,
    /// Of the process.
    published: u64,
    serial_fresh: bool,
    /// Of the proxy.
    served: Option<Leaf>,
    acked: u64,
    /// Of the test.
    serials: BTreeSet<String>,
    generations: BTreeMap<u64, String>,
    drawn: u32,
    issues: u32,
    /// Steps until the crash.
    left: u32,
}

/// The process is gone.
struct Crashed;

impl World {
    /// Something durable is about to happen.
    fn step(&mut self) -> Result<(), Crashed> {
        self.left = self.left.checked_sub(1).ok_or(Crashed)?;
        Ok(())
    }

    fn record(&mut self, state: State) -> Result<(), Crashed> {
        self.step()?;
        assert!(state.generation >= self.journal.generation);
        self.journal = state;
        Ok(())
    }

    fn seen(&self, ordered: bool) -> Seen {
        let id = self.journal.rotation.as_ref().map(|rotation| &rotation.id);
        let serial = self
            .journal
            .rotation
            .as_ref()
            .and_then(|rotation| rotation.serial.clone());
        let has = |leaf: &Leaf| self.keys.contains(&leaf.id);
        Seen {
            serving_usable: self.journal.serving.as_ref().is_some_and(has),
            restorable: self
                .journal
                .kept
                .iter()
                .filter(|leaf| has(leaf))
                .map(|leaf| leaf.id.clone())
                .collect(),
            key_usable: id.is_some_and(|id| self.keys.contains(id)),
            certificate_usable: id
                .is_some_and(|id| self.certificates.get(id) == serial.as_ref() && serial.is_some()),
            serial_fresh: self.serial_fresh,
            published: self.published,
            witnesses: vec![witness(self.acked)],
            ordered,
            ..calm()
        }
    }

    fn draw(&mut self) -> Result<(), Crashed> {
        self.drawn += 1;
        self.record(self.journal.keyed(self.drawn.to_string()))?;
        self.serial_fresh = true;
        Ok(())
    }

    fn publish(&mut self, leaf: &Leaf) -> Result<(), Crashed> {
        assert!(
            self.keys.contains(&leaf.id) && self.certificates.contains_key(&leaf.id),
            "I7"
        );
        self.step()?;
        let before = self.generations.insert(leaf.generation, leaf.id.clone());
        assert!(
            before.is_none_or(|id| id == leaf.id),
            "a generation was used for two leaves"
        );
        self.published = leaf.generation;
        let newer = self
            .served
            .as_ref()
            .is_none_or(|served| served.generation < leaf.generation);
        if newer {
            self.served = Some(leaf.clone());
        }
        self.acked = self.acked.max(leaf.generation);
        Ok(())
    }

    fn perform(&mut self, action: &Action) -> Result<(), Crashed> {
        let state = self.journal.clone();
        let rotation = state.rotation.as_ref();
        match action {
            Action::Wait(_) => {}
            Action::Republish => self.publish(state.serving.as_ref().unwrap())?,
            Action::Begin(cause) => {
                self.drawn += 1;
                let id = format!("r{}", self.drawn);
                self.record(state.begun(id, *cause, "test", "ca", NOW))?;
                self.issues += 1;
            }
            Action::MakeKey => {
                self.step()?;
                self.keys.insert(rotation.unwrap().id.clone());
                self.draw()?;
            }
            Action::DrawSerial => self.draw()?,
            Action::Sign => {
                let rotation = rotation.unwrap();
                let serial = rotation.serial.clone().unwrap();
                self.serial_fresh = false;
                assert!(
                    self.serials.insert(serial.clone()),
                    "{serial} was signed twice"
                );
                self.step()?;
                self.certificates.insert(rotation.id.clone(), serial);
                self.record(state.signed(leaf(&rotation.id, "ca", NOW)))?;
            }
            Action::TakeCertificate => {
                let id = &rotation.unwrap().id;
                self.record(state.signed(leaf(id, "ca", NOW)))?;
            }
            Action::Check => self.record(state.checked(0))?,
            Action::Publish => {
                self.publish(rotation.unwrap().leaf.as_ref().unwrap())?;
                self.record(state.published())?;
            }
            Action::Adopt { .. } => self.record(state.adopted())?,
            Action::Retire(keep) => {
                for leaf in state.kept.iter().skip(*keep) {
                    self.step()?;
                    self.keys.remove(&leaf.id);
                    self.certificates.remove(&leaf.id);
                }
                self.record(state.retired(*keep))?;
            }
            Action::Restore { .. } | Action::Abandon(_) => panic!("{action:?} without need"),
        }
        Ok(())
    }

    /// I1: what the proxy serves, or may be sent again after its restart, has its key.
    fn assert_sound(&self) {
        if let Some(serving) = &self.journal.serving {
            assert!(
                self.keys.contains(&serving.id),
                "the key in force was destroyed"
            );
        }
        if let Some(served) = &self.served {
            assert!(
                self.journal.blobs().contains(&served.id.as_str()),
                "I5: what is served is in no record"
            );
        }
    }

    /// Until there is nothing to do; whether it got there.
    fn run(&mut self, mut ordered: bool) -> Result<(), Crashed> {
        for _ in 0..100 {
            let action = next(&self.journal, &self.seen(ordered), NOW);
            if matches!(action, Action::Wait(_)) {
                return Ok(());
            }
            ordered &= !matches!(action, Action::Begin(_));
            let outcome = self.perform(&action);
            self.assert_sound();
            outcome?;
        }
        panic!("it never comes to rest: {:?}", self.journal);
    }

    fn crash(&mut self, left: u32) {
        self.published = 0;
        self.serial_fresh = false;
        self.left = left;
    }
}

/// I1, I5, I7, I11, F08, F45: two crashes, each before any step of the first issue and of an ordered
/// rotation, and then rest.
#[test]
fn two_crashes_anywhere_lead_to_the_same_rest() {
    let mut crashes = 0;
    for first in 0..40 {
        for second in 0..40 {
            let mut world = World {
                left: first,
                ..World::default()
            };
            let mut done = world.run(false).is_ok();
            let ordered = done;
            if done {
                done = world.run(true).is_ok();
            }
            if !done {
                crashes += 1;
                world.crash(second);
                if world.run(false).is_err() {
                    crashes += 1;
                    world.crash(u32::MAX);
                    assert!(world.run(false).is_ok());
                }
            }
            let rest = world.journal.clone();
            assert_eq!(
                (rest.rotation.as_ref(), rest.kept.len()),
                (None, 0),
                "{first} {second}"
            );
            let serving = rest.serving.clone().unwrap();
            // I5: journal, board and proxy agree; nothing else is left in custody.
            assert_eq!(world.published, serving.generation);
            assert_eq!(world.served.as_ref(), Some(&serving));
            assert_eq!(
                world.keys.iter().collect::<Vec<_>>(),
                [&serving.id],
                "{first} {second}"
            );
            // One key a need, however often it crashed.
            assert!(
                world.issues <= 1 + u32::from(ordered),
                "{first} {second}: {}",
                world.issues
            );
            // I11: recovering once more changes nothing.
            world.crash(u32::MAX);
            assert!(world.run(false).is_ok());
            assert_eq!(world.journal, rest);
        }
    }
    assert!(crashes > 500, "{crashes}");
}
