//! The searches, and what each broken rule leads to.

use super::*;

/// What a search found.
#[derive(Debug, Default)]
struct Found {
    states: usize,
    /// The first fault, with the shortest way there.
    fault: Option<(String, Vec<String>)>,
    /// How to get to a state from which nothing leads to rest.
    stuck: Option<Vec<String>>,
    /// Phases that were reached.
    phases: BTreeSet<&'static str>,
}

fn search(first: World, nature: Nature) -> Found {
    let mut found = Found::default();
    let mut number: HashMap<String, usize> = [(first.key(), 0)].into();
    let mut worlds = vec![first];
    let mut from: Vec<Option<(usize, String)>> = vec![None];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let mut queue = VecDeque::from([0]);
    let way = |from: &[Option<(usize, String)>], mut at: usize| {
        let mut way = Vec::new();
        while let Some((earlier, word)) = &from[at] {
            way.push(word.clone());
            at = *earlier;
        }
        way.reverse();
        way
    };
    while let Some(at) = queue.pop_front() {
        let world = worlds[at].clone();
        found.phases.insert(world.state.phase());
        if let Some(fault) = world.fault(nature) {
            found.fault = Some((fault, way(&from, at)));
            break;
        }
        for (word, next) in world.steps(nature).into_iter().chain(world.events(nature)) {
            let key = next.key();
            let to = *number.entry(key).or_insert_with(|| {
                worlds.push(next);
                from.push(Some((at, word)));
                before.push(Vec::new());
                queue.push_back(worlds.len() - 1);
                worlds.len() - 1
            });
            before[to].push(at);
        }
        assert!(worlds.len() < MOST, "too many states: {:?}", worlds.last());
    }
    found.states = worlds.len();
    let mut leads: Vec<bool> = worlds.iter().map(World::is_at_rest).collect();
    let mut queue: VecDeque<usize> = (0..worlds.len()).filter(|at| leads[*at]).collect();
    while let Some(at) = queue.pop_front() {
        for earlier in &before[at] {
            if !std::mem::replace(&mut leads[*earlier], true) {
                queue.push_back(*earlier);
            }
        }
    }
    if found.fault.is_none() {
        found.stuck = leads
            .iter()
            .position(|leads| !leads)
            .map(|at| way(&from, at));
    }
    found
}

fn holds(name: &str, first: World, nature: Nature) -> Found {
    let found = search(first, nature);
    assert!(found.fault.is_none(), "{name}: {:#?}", found.fault);
    assert!(
        found.stuck.is_none(),
        "{name}: stuck after {:#?}",
        found.stuck
    );
    found
}

/// F39, F44, and I1 to I6 as far as they are about the CA.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn nothing_that_can_happen_breaks_a_rule_or_leads_nowhere() {
    let calm = Nature::default();
    let natures = [
        ("two rotations", Nature { orders: 2, ..calm }),
        (
            "a day at any time",
            Nature {
                orders: 1,
                days: true,
                ..calm
            },
        ),
        (
            "doubles",
            Nature {
                orders: 1,
                doubles: true,
                ..calm
            },
        ),
        (
            "a stranger",
            Nature {
                orders: 1,
                stranger: true,
                days: true,
                ..calm
            },
        ),
        (
            "doubt",
            Nature {
                orders: 1,
                doubt: true,
                days: true,
                ..calm
            },
        ),
        (
            "acceptance",
            Nature {
                orders: 1,
                silent: true,
                acceptance: true,
                ..calm
            },
        ),
        (
            "absence",
            Nature {
                orders: 1,
                absence: true,
                ..calm
            },
        ),
        (
            "sabotage",
            Nature {
                orders: 1,
                sabotage: true,
                days: true,
                ..calm
            },
        ),
    ];
    for (name, nature) in natures {
        let found = holds(name, World::stable(nature), nature);
        assert!(found.states > 300, "{name}: {}", found.states);
        for phase in [
            "stable",
            "registering",
            "settling",
            "switched",
            "archiving",
            "archived",
        ] {
            assert!(found.phases.contains(phase), "{name} never came to {phase}");
        }
    }
    let found = holds("from nothing", World::empty(calm), calm);
    assert!(found.phases.contains("preparing"));
}

#[test]
fn a_replica_that_nobody_calls_holds_the_old_ca_for_ever_and_breaks_nothing() {
    let nature = Nature {
        orders: 1,
        silent: true,
        days: true,
        ..Nature::default()
    };
    let found = search(World::stable(nature), nature);
    assert!(found.fault.is_none(), "{:#?}", found.fault);
    assert!(found.stuck.is_some(), "it is archived without proof");
    assert!(found.phases.contains("switched"));
    assert!(!found.phases.contains("archiving"), "silence is no proof");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_rule_that_is_broken_is_noticed() {
    let calm = Nature {
        orders: 1,
        ..Nature::default()
    };
    let refused = "a replica serves a leaf that verifiers refuse";
    let doubt = Nature {
        doubt: true,
        ..calm
    };
    for (mutant, nature, expected) in [
        (Mutant::SwitchesWithoutSettling, calm, vec![refused]),
        (
            Mutant::ArchivesAfterTheFirstAck,
            calm,
            vec![refused, "the old CA goes before its successor was used"],
        ),
        (
            Mutant::RollsBackAfterTheFirstAck,
            calm,
            vec![refused, "the CA in force is archived"],
        ),
        (
            Mutant::PostsWithoutListing,
            Nature {
                doubles: true,
                ..calm
            },
            vec!["one CA has two slots"],
        ),
        (
            Mutant::PostsBeforeTheKeyIsDurable,
            calm,
            vec!["a CA is registered whose key is not durable"],
        ),
        (
            Mutant::ArchivesWithoutProof,
            calm,
            vec!["the old CA goes before its successor was used"],
        ),
        (
            Mutant::ForgetsWhoIsAway,
            Nature {
                absence: true,
                ..calm
            },
            vec!["the old CA goes before its successor was used"],
        ),
        (
            Mutant::DestroysBeforeTheListConfirms,
            calm,
            vec!["the key of the old CA was destroyed while it is registered"],
        ),
        (
            Mutant::BelievesAnyClock,
            doubt,
            vec![
                "switched by a clock that is in doubt",
                "archived by a clock that is in doubt",
                "a key was destroyed by a clock that is in doubt",
            ],
        ),
        (
            Mutant::ArchivesStrangers,
            Nature {
                stranger: true,
                ..calm
            },
            vec!["a stranger's CA is archived"],
        ),
    ] {
        let nature = Nature {
            mutant: Some(mutant),
            ..nature
        };
        let first = match mutant {
            Mutant::PostsWithoutListing | Mutant::PostsBeforeTheKeyIsDurable => {
                World::empty(nature)
            }
            _ => World::stable(nature),
        };
        let found = search(first, nature);
        let (fault, way) = found
            .fault
            .unwrap_or_else(|| panic!("{mutant:?} is not noticed"));
        assert!(
            expected.contains(&fault.as_str()),
            "{mutant:?}: {fault} after {way:#?}"
        );
    }
}
