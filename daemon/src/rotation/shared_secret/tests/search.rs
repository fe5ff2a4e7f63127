//! Every interleaving of the machine with a world that loses requests and answers, ends the process at any
//! step, and holds proxies that come and go, a thief and a stranger: breadth first over the shipped decisions.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

mod world;

use world::{Config, Decide, World};

/// What a search found.
struct Found {
    states: usize,
    /// The shortest way to something that must not be.
    violation: Option<(String, Vec<String>)>,
    /// A way to a state from which no rest can be reached.
    stuck: Option<Vec<String>>,
}

impl Found {
    fn assert_sound(&self) {
        assert_eq!(self.violation, None);
        assert_eq!(self.stuck, None);
    }

    fn is_caught(&self) -> bool {
        self.violation.is_some() || self.stuck.is_some()
    }
}

#[expect(clippy::too_many_lines, reason = "one loop, and back again")]
fn search(config: &Config, decide: Decide) -> Found {
    let mut index: HashMap<World, usize> = HashMap::new();
    let mut worlds = vec![World::new(config)];
    let mut from: Vec<Option<(usize, &'static str)>> = vec![None];
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    index.insert(worlds[0].clone(), 0);
    let way = |from: &[Option<(usize, &'static str)>], mut at: usize| {
        let mut way = VecDeque::new();
        while let Some((earlier, label)) = from[at] {
            way.push_front(label.to_owned());
            at = earlier;
        }
        Vec::from(way)
    };
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].clone();
        for (label, next) in world.successors(config, decide) {
            let next = match next {
                Ok(next) => next,
                Err(violation) => {
                    let mut way = way(&from, at);
                    way.push(label.to_owned());
                    return Found {
                        states: worlds.len(),
                        violation: Some((violation, way)),
                        stuck: None,
                    };
                }
            };
            let number = *index.entry(next.clone()).or_insert_with(|| {
                worlds.push(next);
                from.push(Some((at, label)));
                before.push(Vec::new());
                worlds.len() - 1
            });
            before[number].push(at);
        }
        at += 1;
        assert!(worlds.len() < 400_000, "the world is too large");
    }
    let mut good: HashSet<usize> = (0..worlds.len())
        .filter(|at| worlds[*at].is_at_rest())
        .collect();
    let mut queue: VecDeque<usize> = good.iter().copied().collect();
    while let Some(at) = queue.pop_front() {
        for earlier in &before[at] {
            if good.insert(*earlier) {
                queue.push_back(*earlier);
            }
        }
    }
    let stuck = (0..worlds.len()).find(|at| !good.contains(at));
    Found {
        states: worlds.len(),
        violation: None,
        stuck: stuck.map(|at| {
            let mut way = way(&from, at);
            way.push(format!("{:?}", worlds[at]));
            way
        }),
    }
}

/// Proxies come, go and fall silent.
const PROXIES: Config = Config {
    proxies: 2,
    ..Config::CALM
};
/// A thief holds the first secret.
const THIEF: Config = Config {
    thief: Some("thief"),
    ..Config::CALM
};
/// He calls himself as one of ours does.
const IMPOSTOR: Config = Config {
    thief: Some("p0"),
    ..Config::CALM
};
/// What the remote lists is not yet what it does, and a call may have its effect after its answer is given up.
const SLOW: Config = Config {
    lags: true,
    delays: true,
    ..Config::CALM
};
/// Somebody else archives, adds and restores at the remote; the disk loses values.
const MEDDLED: Config = Config {
    outsiders: 1,
    ..Config::CALM
};
/// Twice, though nobody orders anything.
const TWICE: Config = Config {
    outsiders: 2,
    orders: 0,
    steady: true,
    ..Config::CALM
};
/// The clock jumps.
const JUMPY: Config = Config {
    jumps: true,
    ..Config::CALM
};

const ALL: [(&str, Config); 7] = [
    ("twice", TWICE),
    ("thief", THIEF),
    ("proxies", PROXIES),
    ("impostor", IMPOSTOR),
    ("slow", SLOW),
    ("meddled", MEDDLED),
    ("jumpy", JUMPY),
];

/// I1, I3, I6, I11, F23, F25, F53.
#[test]
fn nothing_that_can_happen_leads_to_a_lost_proxy_a_third_secret_or_a_rotation_that_never_ends() {
    for (name, config) in ALL {
        let found = search(&config, next);
        found.assert_sound();
        assert!(found.states > 500, "{name}: {}", found.states);
    }
}

/// Each guard taken out in turn.
#[test]
fn each_guard_is_needed() {
    for (name, config, decide) in mutants() {
        let found = search(&config, decide);
        assert!(found.is_caught(), "{name} is not missed");
    }
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn mutants() -> [(&'static str, Config, Decide); 17] {
    [
        ("every proxy has acked", PROXIES, |state, seen, now| {
            let generation = state.generation;
            let mut seen = seen.clone();
            for dialer in &mut seen.dialers {
                dialer.acked = generation;
            }
            next(state, &seen, now)
        }),
        ("more than the first ack", PROXIES, |state, seen, now| {
            let mut seen = seen.clone();
            let highest = seen.dialers.iter().map(|dialer| dialer.acked).max();
            for dialer in &mut seen.dialers {
                dialer.acked = highest.unwrap_or_default();
            }
            next(state, &seen, now)
        }),
        ("nobody is no evidence", PROXIES, |state, seen, now| {
            let mut seen = seen.clone();
            if seen.dialers.is_empty() {
                seen.dialers.push(Dialer {
                    name: "nobody".to_owned(),
                    acked: u64::MAX,
                    refused: None,
                });
                seen.watched = true;
            }
            let state = state.noted(BTreeSet::from(["nobody".to_owned()]));
            next(&state, &seen, now)
        }),
        (
            "who was there before a restart",
            PROXIES,
            |state, seen, now| {
                let mut seen = seen.clone();
                seen.watched = true;
                next(state, &seen, now)
            },
        ),
        ("quiet", SLOW, |state, seen, now| {
            let mut seen = seen.clone();
            seen.quiet = 0;
            next(state, &seen, now)
        }),
        ("strangers hold nothing up", THIEF, |state, seen, now| {
            // Whoever is bound to the old one counts.
            match next(state, seen, now) {
                Action::Decide(holders) if !holders.is_empty() => Action::Wait(now + 1),
                action => action,
            }
        }),
        (
            "names prove nothing",
            IMPOSTOR,
            |state, seen, now| match next(state, seen, now) {
                Action::Decide(holders) if holders.iter().any(|one| is_ours(state, seen, one)) => {
                    Action::Wait(now + 1)
                }
                action => action,
            },
        ),
        (
            "the remote lists it before proxies are told",
            SLOW,
            |state, seen, now| match next(state, seen, now) {
                Action::Add(sha256)
                    if state.active.is_some()
                        && state
                            .new_one()
                            .is_some_and(|new| new.sha256 == sha256 && new.generation == 0) =>
                {
                    Action::Publish
                }
                action => action,
            },
        ),
        ("the new one was used", SLOW, |state, seen, now| {
            // The word of the proxies is not heard either.
            let mut seen = seen.clone();
            if let Some(remote) = &mut seen.remote {
                remote.secrets.iter_mut().for_each(|one| one.used = true);
            }
            for dialer in &mut seen.dialers {
                dialer.acked = u64::MAX;
            }
            next(state, &seen, now)
        }),
        (
            "the old one is gone when its value is",
            SLOW,
            |state, seen, now| match next(state, seen, now) {
                Action::Archive(_) if state.rotation.is_some() => Action::Finish,
                action => action,
            },
        ),
        (
            "a lost answer is followed by a look",
            SLOW,
            |state, seen, now| match next(state, seen, now) {
                Action::List if seen.remote.is_none() && state.rotation.is_some() => {
                    Action::Wait(now + 1)
                }
                action => action,
            },
        ),
        (
            "what is not listed is added again",
            MEDDLED,
            |state, seen, now| match next(state, seen, now) {
                Action::Add(_) if state.rotation.is_none() => Action::Wait(now + 1),
                action => action,
            },
        ),
        (
            "what is refused is given up",
            MEDDLED,
            |state, seen, now| {
                let mut seen = seen.clone();
                seen.refused.clear();
                next(state, &seen, now)
            },
        ),
        (
            "strangers' secrets are left alone",
            MEDDLED,
            |state, seen, now| {
                let remote = seen.remote.as_ref();
                let foreign = remote.filter(|remote| remote.is_full()).and_then(|remote| {
                    let known = |listed: &&Listed| {
                        let mut ours = state.active.iter().chain(state.new_one());
                        !ours.any(|secret| secret.sha256 == listed.sha256)
                            && !state.retired.contains(&listed.sha256)
                    };
                    remote.secrets.iter().find(known)
                });
                match next(state, seen, now) {
                    Action::List if foreign.is_some() => {
                        Action::Archive(foreign.map(|one| one.id.clone()).unwrap_or_default())
                    }
                    action => action,
                }
            },
        ),
        ("a lost value is noticed", MEDDLED, |state, seen, now| {
            let mut seen = seen.clone();
            seen.held
                .extend(state.blobs().into_iter().map(str::to_owned));
            next(state, &seen, now)
        }),
        ("a clock that is believed", JUMPY, |state, seen, now| {
            let mut seen = seen.clone();
            seen.suspect = false;
            next(state, &seen, now)
        }),
        (
            "what was published is published again",
            SLOW,
            |state, seen, now| match next(state, seen, now) {
                Action::Republish if state.generation > 1 => Action::Wait(now + 1),
                action => action,
            },
        ),
    ]
}
