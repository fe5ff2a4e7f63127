use super::*;

mod search;

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

fn secret(id: &str, generation: u64) -> Secret {
    Secret {
        generation,
        ..Secret::new(id.to_owned(), format!("sha-{id}"), NOW)
    }
}

fn stable() -> State {
    let first = State::default().begun("a".into(), Cause::First, "schedule", NOW);
    first
        .made(secret("a", 0))
        .published(1, 0)
        .noted(names(&["p"]))
}

fn made() -> State {
    let begun = stable().begun("b".into(), Cause::Ordered, "uid:0", NOW);
    begun.made(secret("b", 0))
}

fn published() -> State {
    made().published(1, 0)
}

fn quiet() -> State {
    published().proven(NOW)
}

fn archiving() -> State {
    quiet().decided(Vec::new(), NOW + HOUR)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn listed(id: &str, live: &[&str]) -> Listed {
    Listed {
        id: format!("tsec_{id}"),
        sha256: format!("sha-{id}"),
        used: true,
        live: live.iter().map(|replica| holder(replica)).collect(),
    }
}

fn holder(replica: &str) -> Holder {
    Holder {
        replica: replica.to_owned(),
        address: "198.51.100.7:4000".to_owned(),
        instance: "edge-1".to_owned(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as it stands in what is seen")]
fn remote(secrets: &[Listed]) -> Option<Remote> {
    Some(Remote {
        asked_at: NOW,
        secrets: secrets.to_vec(),
    })
}

fn dialer(name: &str, acked: u64) -> Dialer {
    Dialer {
        name: name.to_owned(),
        acked,
        refused: None,
    }
}

/// One proxy, on generation `acked`, and a remote that lists `secrets`.
fn seen(published: u64, acked: u64, secrets: &[Listed]) -> Seen {
    Seen {
        remote: remote(secrets),
        looked_at: Some(NOW),
        held: vec!["a".to_owned(), "b".to_owned()],
        published,
        dialers: vec![dialer("p", acked)],
        watched: true,
        quiet: HOUR,
        ..Seen::default()
    }
}

fn later(seen: &Seen, seconds: u64) -> Seen {
    let mut seen = seen.clone();
    if let Some(remote) = &mut seen.remote {
        remote.asked_at += seconds;
    }
    seen
}

#[test]
#[expect(clippy::too_many_lines, reason = "one way, step by step")]
fn the_way_from_nothing_to_the_second_secret_has_one_step_after_another() {
    let nobody = Seen {
        watched: true,
        quiet: HOUR,
        ..Seen::default()
    };
    let mut state = State::default();
    assert_eq!(next(&state, &nobody, NOW), Action::Begin(Cause::First));
    state = state.begun("a".into(), Cause::First, "schedule", NOW);
    assert_eq!(next(&state, &nobody, NOW), Action::Make);
    state = state.made(secret("a", 0));
    let mut world = seen(0, 0, &[]);
    world.dialers.clear();
    world.remote = None;
    assert_eq!(next(&state, &world, NOW), Action::List);
    world.remote = remote(&[]);
    assert_eq!(next(&state, &world, NOW), Action::Add("sha-a".into()));
    world.called.push("sha-a".into());
    assert_eq!(next(&state, &world, NOW), Action::List);
    world.remote = remote(&[listed("a", &[])]);
    assert_eq!(next(&state, &world, NOW), Action::Publish);
    state = state.published(1, 0);
    assert_eq!((state.phase(), state.generation), ("stable", 1));
    assert_eq!(next(&state, &world, NOW), Action::Republish);
    world.published = 1;
    assert_eq!(next(&state, &world, NOW), Action::Wait(NOW + HOUR));
    world.dialers.push(dialer("p", 1));
    assert_eq!(next(&state, &world, NOW), Action::Note(names(&["p"])));
    state = state.noted(names(&["p"]));
    world.wanted = Some(Cause::Scheduled);
    assert_eq!(next(&state, &world, NOW), Action::Begin(Cause::Scheduled));
    state = state.begun("b".into(), Cause::Scheduled, "schedule", NOW);
    world.called.clear();
    assert_eq!(next(&state, &world, NOW), Action::Make);
    state = state.made(secret("b", 0));
    assert_eq!(next(&state, &world, NOW), Action::Add("sha-b".into()));
    world.remote = remote(&[listed("a", &["p"]), listed("b", &[])]);
    assert_eq!(next(&state, &world, NOW), Action::Publish);
    state = state.published(1, 0);
    assert_eq!(state.presented().unwrap().id, "b");
    assert_eq!(next(&state, &world, NOW), Action::Republish);
    world.published = 2;
    assert_eq!(next(&state, &world, NOW), Action::Wait(NOW + 1));
    world.dialers = vec![dialer("p", 2)];
    assert_eq!(next(&state, &world, NOW), Action::Prove);
    state = state.proven(NOW);
    world.remote = remote(&[listed("a", &[]), listed("b", &["p"])]);
    // It looks again meanwhile, and at the end.
    assert_eq!(next(&state, &world, NOW), Action::Wait(NOW + 60));
    assert_eq!(next(&state, &world, NOW + 60), Action::List);
    assert_eq!(next(&state, &world, NOW + HOUR), Action::List);
    let world = later(&world, HOUR);
    assert_eq!(next(&state, &world, NOW + HOUR), Action::Decide(Vec::new()));
    state = state.decided(Vec::new(), NOW + HOUR);
    let archive = Action::Archive("tsec_a".into());
    assert_eq!(next(&state, &world, NOW + HOUR), archive);
    let mut world = later(&seen(2, 2, &[listed("b", &["p"])]), HOUR);
    assert_eq!(next(&state, &world, NOW + HOUR), Action::Finish);
    state = state.finished();
    assert_eq!((state.phase(), state.done), ("stable", 1));
    assert_eq!(next(&state, &world, NOW + HOUR), Action::Destroy);
    assert_eq!(state.doomed, ["a"]);
    state = state.destroyed();
    world.held = vec!["b".to_owned()];
    let rest = Action::Wait(NOW + HOUR + HOUR);
    assert_eq!(next(&state, &world, NOW + HOUR), rest);
    assert_eq!(state.active, Some(secret("b", 2)));
}

#[test]
fn a_proxy_in_service_that_has_not_followed_holds_it_up_and_nobody_proves_nothing() {
    let both = [listed("a", &[]), listed("b", &["p"])];
    let good = later(&seen(2, 2, &both), HOUR);
    let at = NOW + HOUR;
    assert_eq!(next(&quiet(), &good, at), Action::Decide(Vec::new()));
    assert_eq!(
        next(&archiving(), &good, at),
        Action::Archive("tsec_a".into())
    );
    let mut behind = good.clone();
    behind.dialers.push(dialer("q", 1));
    let mut nobody = good.clone();
    nobody.dialers.clear();
    for bad in [behind, nobody] {
        let noted =
            |state: State| state.noted(bad.dialers.iter().map(|one| one.name.clone()).collect());
        for state in [quiet(), archiving()] {
            assert_eq!(
                next(&noted(state), &bad, at),
                Action::Wait(at + 1),
                "{bad:?}"
            );
        }
        assert_eq!(next(&noted(published()), &bad, NOW), Action::Wait(NOW + 1));
    }
    // One that an earlier process knew, until it comes, says farewell, or was away for too long.
    let state = quiet().noted(names(&["p", "q"]));
    let restarted = Seen {
        watched: false,
        ..good.clone()
    };
    assert_eq!(next(&state, &restarted, at), Action::Wait(at + 1));
    let gone = Seen {
        gone: vec!["q".to_owned()],
        ..restarted
    };
    for seen in [gone, good] {
        assert_eq!(next(&state, &seen, at), Action::Note(names(&["p"])));
    }
}

/// F53
#[test]
fn the_old_one_is_archived_for_evidence_and_not_for_a_timer_alone() {
    let both = [listed("a", &[]), listed("b", &["p"])];
    let good = later(&seen(2, 2, &both), HOUR);
    let at = NOW + HOUR;
    assert_eq!(next(&quiet(), &good, at), Action::Decide(Vec::new()));
    // The remote has never seen the new one.
    let mut unused = good.clone();
    unused.remote.as_mut().unwrap().secrets[1].used = false;
    assert_eq!(next(&quiet(), &unused, at), Action::List);
    assert_eq!(next(&archiving(), &unused, at), Action::List);
    // It was asked before the time was over.
    let early = later(&seen(2, 2, &both), HOUR - 1);
    assert_eq!(next(&quiet(), &early, at), Action::List);
    // One of ours was on it until now.
    let mut back = later(&seen(2, 2, &[listed("a", &["q"]), listed("b", &["p"])]), 60);
    back.dialers.push(dialer("q", 1));
    let state = quiet().noted(names(&["p", "q"]));
    assert_eq!(next(&state, &back, NOW + 60), Action::Heard);
    let state = state.proven(NOW + 60);
    back.dialers[1].acked = 2;
    back.remote = remote(&both);
    let back = later(&back, HOUR);
    assert_eq!(
        next(&state, &back, NOW + HOUR),
        Action::Wait(NOW + HOUR + 60)
    );
    // The clock was set back by a day.
    assert_eq!(next(&quiet(), &good, NOW - 24 * HOUR), Action::Prove);
}

#[test]
fn with_no_time_to_be_silent_it_takes_as_long_as_the_remote_shows_ours_on_the_old_one() {
    let hasty = |secrets: &[Listed], seconds| {
        let seen = Seen {
            quiet: 0,
            ..seen(2, 2, secrets)
        };
        let seen = later(&seen, seconds);
        next(&quiet(), &seen, NOW + seconds)
    };
    let lagging = [listed("a", &["p"]), listed("b", &["p"])];
    assert_eq!(hasty(&lagging, 0), Action::List);
    assert_eq!(hasty(&lagging, 59), Action::List);
    // Then it is somebody who takes the name.
    assert_eq!(hasty(&lagging, 60), Action::Decide(vec![holder("p")]));
    let settled = [listed("a", &[]), listed("b", &["p"])];
    assert_eq!(hasty(&settled, 0), Action::Decide(Vec::new()));
}

#[test]
fn a_thief_on_the_old_one_is_told_of_and_cut_and_holds_nothing_up() {
    let stolen = [listed("a", &["thief"]), listed("b", &["p"])];
    let early = seen(2, 2, &stolen);
    let said = alarms(&quiet(), &early, NOW);
    assert_eq!(said.len(), 1);
    let names = ["unknown_holder", "thief", "198.51.100.7:4000", "edge-1"];
    assert!(names.iter().all(|name| said[0].contains(name)), "{said:?}");
    let late = later(&early, HOUR);
    let decided = next(&quiet(), &late, NOW + HOUR);
    // One that no earlier process wrote down may yet come back to this one.
    let young = Seen {
        young: true,
        ..late.clone()
    };
    assert_eq!(next(&quiet(), &young, NOW + HOUR), Action::List);
    assert_eq!(decided, Action::Decide(vec![holder("thief")]));
    let state = quiet().decided(vec![holder("thief")], NOW + HOUR);
    assert_eq!(
        next(&state, &late, NOW + HOUR),
        Action::Archive("tsec_a".into())
    );
    // He is told of for a day after that.
    let over = seen(2, 2, &[listed("b", &["p"])]);
    let said = |now| alarms(&state.finished().destroyed(), &over, now);
    assert!(said(NOW + HOUR)[0].contains("was cut"));
    assert_eq!(said(NOW + 26 * HOUR), Vec::<String>::new());
}

#[test]
fn a_strangers_secret_is_told_of_and_never_archived_and_two_of_them_are_waited_for() {
    let one = seen(1, 1, &[listed("a", &["p"]), listed("x", &[])]);
    let said = alarms(&stable(), &one, NOW);
    assert!(
        said[0].starts_with("CONFLICT") && said[0].contains("tsec_x"),
        "{said:?}"
    );
    assert!(matches!(next(&stable(), &one, NOW), Action::Wait(_)));
    // No room for another one of ours.
    assert_eq!(next(&made(), &one, NOW), Action::List);
    let two = seen(1, 1, &[listed("x", &[]), listed("y", &[])]);
    for state in [stable(), made()] {
        assert_eq!(next(&state, &two, NOW), Action::List);
        assert_eq!(alarms(&state, &two, NOW).len(), 2);
    }
    let told = Seen {
        published: 2,
        ..two
    };
    for state in [published(), quiet(), archiving()] {
        assert_eq!(next(&state, &told, NOW), Action::List);
    }
}

#[test]
fn what_proxies_use_is_added_again_wherever_the_remote_has_lost_it() {
    let none = seen(1, 1, &[]);
    assert_eq!(next(&stable(), &none, NOW), Action::Add("sha-a".into()));
    assert_eq!(next(&made(), &none, NOW), Action::Add("sha-a".into()));
    let told = seen(2, 1, &[listed("a", &["p"])]);
    for state in [published(), quiet(), archiving()] {
        assert_eq!(
            next(&state, &told, NOW),
            Action::Add("sha-b".into()),
            "{}",
            state.phase()
        );
    }
}

/// F23
#[test]
fn what_the_remote_refuses_is_given_up_for_the_one_before_or_for_another_one() {
    let refusing = |digests: &[&str], seen: Seen| Seen {
        refused: digests.iter().map(|one| (*one).to_owned()).collect(),
        ..seen
    };
    let old = [listed("a", &["p"])];
    let none = refusing(&["sha-a"], seen(1, 1, &[]));
    assert_eq!(next(&stable(), &none, NOW), Action::Begin(Cause::Refused));
    let new = refusing(&["sha-b"], seen(1, 1, &old));
    assert_eq!(next(&made(), &new, NOW), Action::Abandon);
    let abandoned = made().abandoned();
    assert_eq!(
        (abandoned.phase(), &*abandoned.doomed),
        ("stable", &["b".to_owned()][..])
    );
    let new = refusing(&["sha-b"], seen(2, 1, &old));
    assert_eq!(next(&published(), &new, NOW), Action::Turn);
    let turned = published().turned(0);
    assert_eq!(turned.presented(), Some(&secret("a", 3)));
    assert_eq!(turned.active, Some(secret("b", 2)));
    // Nobody takes either.
    let both = refusing(&["sha-a", "sha-b"], seen(2, 1, &[]));
    assert_eq!(next(&published(), &both, NOW), Action::Finish);
    let dead = published().finished().destroyed();
    assert_eq!(next(&dead, &both, NOW), Action::Begin(Cause::Refused));
}

#[test]
fn a_value_that_is_lost_is_replaced_and_what_proxies_hold_serves_until_then() {
    let lost = |ids: &[&str], seen: Seen| Seen {
        held: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..seen
    };
    let old = [listed("a", &["p"])];
    let nothing = lost(&[], seen(0, 1, &old));
    assert_eq!(
        next(&stable(), &nothing, NOW),
        Action::Begin(Cause::Missing)
    );
    assert_eq!(
        next(&made(), &lost(&["a"], seen(1, 1, &old)), NOW),
        Action::Abandon
    );
    let both = [listed("a", &["p"]), listed("b", &[])];
    let back = lost(&["a"], seen(0, 1, &both));
    assert_eq!(next(&published(), &back, NOW), Action::Turn);
    assert_eq!(next(&quiet(), &back, NOW), Action::Turn);
    let on = lost(&["a"], seen(0, 1, &[listed("b", &[])]));
    assert_eq!(next(&published(), &on, NOW), Action::Finish);
    // It is too late for that, and the old one goes first.
    let late = later(&lost(&["a"], seen(2, 2, &both)), HOUR);
    let archive = Action::Archive("tsec_a".into());
    assert_eq!(next(&archiving(), &late, NOW + HOUR), archive);
}

/// A restored copy of the remote's database lets in whoever stole an old secret.
#[test]
fn an_old_one_of_ours_that_comes_back_at_the_remote_is_archived_again() {
    let state = archiving().finished().destroyed();
    let again = seen(2, 2, &[listed("a", &[]), listed("b", &["p"])]);
    let archive = Action::Archive("tsec_a".into());
    assert_eq!(next(&state, &again, NOW), archive);
    assert_eq!(alarms(&state, &again, NOW), Vec::<String>::new());
    let suspect = Seen {
        suspect: true,
        ..again
    };
    assert!(matches!(next(&state, &suspect, NOW), Action::Wait(_)));
}

#[test]
fn a_state_that_was_lost_catches_up_with_the_generation_that_proxies_know() {
    let mut ahead = seen(1, 0, &[listed("a", &["p"])]);
    ahead.dialers[0].refused = Some((1, Reason::Stale));
    assert_eq!(next(&stable(), &ahead, NOW), Action::Renumber);
    let state = stable().renumbered(NOW, 0);
    assert_eq!(
        (state.generation, state.presented().unwrap().generation),
        (NOW, NOW)
    );
    // That was about the one before.
    assert_eq!(next(&state, &ahead, NOW), Action::Republish);
    ahead.published = NOW;
    ahead.dialers[0].refused = Some((NOW, Reason::Stale));
    assert!(matches!(
        next(&state, &ahead, NOW + 60),
        Action::List | Action::Wait(_)
    ));
    assert_eq!(
        made().renumbered(NOW, 0).published(1, 0).generation,
        NOW + 1
    );
    let renumbered = published().renumbered(NOW, 0);
    assert_eq!(renumbered.presented(), Some(&secret("b", NOW)));
    // Proxies count the tunnel token and the secret as one.
    assert_eq!(made().published(1, NOW).generation, NOW + 1);
    assert_eq!(published().turned(NOW).generation, NOW + 1);
}

#[test]
fn a_rotation_that_does_not_come_further_is_told_of_with_who_holds_it_up() {
    let mut two = seen(2, 2, &[listed("a", &["q"]), listed("b", &["p"])]);
    two.dialers.push(dialer("q", 1));
    let said = |state: &State, seen: &Seen, seconds| alarms(state, seen, NOW + seconds);
    assert_eq!(said(&published(), &two, 599), Vec::<String>::new());
    assert!(said(&published(), &two, 600)[0].contains("connection of q"));
    assert!(said(&made(), &two, 600)[0].contains("has not taken"));
    two.dialers.clear();
    assert!(said(&published(), &two, 600)[0].contains("no proxy"));
    two.watched = false;
    assert!(said(&published(), &two, 600)[0].contains("connection of p"));
    two.dialers.push(dialer("p", 2));
    two.remote = None;
    assert_eq!(said(&quiet(), &two, 7200), Vec::<String>::new());
}

/// Every state, everything that can be seen.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "every state, and what must not follow"
)]
fn no_combination_of_state_sight_and_time_decides_something_dangerous() {
    let states = [
        State::default(),
        State::default().begun("a".into(), Cause::First, "schedule", NOW),
        stable(),
        made(),
        published(),
        quiet(),
        archiving(),
        archiving().finished(),
        published().turned(0),
        // No record leads to these.
        State {
            active: None,
            ..quiet()
        },
        quiet().begun("c".into(), Cause::Ordered, "uid:0", NOW),
    ];
    let lists = [
        None,
        remote(&[]),
        remote(&[listed("a", &["p"])]),
        remote(&[listed("b", &["p"]), listed("a", &["thief"])]),
        remote(&[listed("x", &[]), listed("b", &["p"])]),
        remote(&[listed("x", &[]), listed("y", &[])]),
    ];
    let mut steps = BTreeSet::new();
    for state in &states {
        for list in &lists {
            for bits in 0..512_u32 {
                for now in [0, NOW - 1, NOW, NOW + 59, NOW + HOUR, NOW * 2] {
                    let bit = |place: u32| bits >> place & 1 == 1;
                    let mut seen = Seen {
                        suspect: bit(0),
                        asking: bit(1),
                        paced: bit(2),
                        watched: bit(3),
                        wanted: bit(4).then_some(Cause::Ordered),
                        quiet: if bit(5) { HOUR } else { 0 },
                        ..seen(u64::from(bit(6)) + 1, u64::from(bit(7)) + 1, &[])
                    };
                    seen.remote.clone_from(list);
                    if let Some(remote) = &mut seen.remote {
                        remote.asked_at = now;
                    }
                    if bit(8) {
                        seen.dialers.clear();
                    }
                    let action = next(state, &seen, now);
                    let acked = |generation| !bit(8) && u64::from(bit(7)) + 1 >= generation;
                    match &action {
                        Action::Archive(id) => {
                            assert!(!seen.suspect && !seen.asking, "{state:?} {seen:?}");
                            assert!(id == "tsec_a" || id == "tsec_b", "{id} is a stranger's");
                            let presented = state.presented().unwrap();
                            assert_ne!(*id, format!("tsec_{}", presented.id));
                            assert!(acked(presented.generation));
                        }
                        Action::Decide(_) => {
                            assert!(now >= NOW + seen.quiet && !seen.suspect);
                        }
                        Action::Destroy => assert!(!seen.suspect),
                        Action::List | Action::Add(_) => assert!(!seen.asking),
                        Action::Prove => assert!(acked(2) || now < NOW, "{state:?}"),
                        Action::Begin(_) => assert!(state.rotation.is_none()),
                        _ => {}
                    }
                    assert!(!seen.paced || matches!(action, Action::Wait(_) | Action::Republish));
                    alarms(state, &seen, now);
                    steps.insert(format!("{action:?}").split('(').next().unwrap().to_owned());
                }
            }
        }
    }
    assert!(steps.len() > 12, "{steps:?}");
}
