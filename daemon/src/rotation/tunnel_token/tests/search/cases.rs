//! The searches, what counts as the end of one, and what each missing guard leads to.

use super::*;

impl World {
    /// From here on nothing bad happens.
    fn calmed(&self) -> Self {
        Self {
            left: Budget { orders: 0, ..NONE },
            obstructed: false,
            believed: self.in_force,
            ..self.clone()
        }
    }

    /// It comes to rest with what is in force everywhere, by evidence or, at last, by the calendar.
    fn settles(mut self, mutant: Option<Mutant>) -> Result<(), &'static str> {
        for pause in [0, HOUR, WEEK + DAY] {
            self.now += pause;
            let (mut quiet, mut steps) = (0, 0);
            while quiet <= 5 {
                steps += 1;
                if steps > 200 {
                    return Err("it never comes to rest");
                }
                self.arrive();
                self.believed = self.in_force;
                let value = self.in_force;
                if let Some(Asked::Reveal { answer, .. }) = &mut self.asked {
                    answer.get_or_insert(value);
                }
                self.tell();
                self.dial();
                let action = self.decide(mutant);
                if let Some(next) = self.perform(&action, mutant).pop() {
                    (self, quiet) = (next, 0);
                } else {
                    quiet += 1;
                    self.tick();
                }
                if let Some(broken) = self.broken {
                    return Err(broken);
                }
            }
            if self.connector.is_some() && !self.is_odd() {
                break;
            }
        }
        self.is_at_rest()
    }

    /// The remote gave something that makes it worth waiting.
    fn is_odd(&self) -> bool {
        matches!(self.journal.trouble, Some(Trouble::Malformed))
    }

    pub(super) fn is_at_rest(&self) -> Result<(), &'static str> {
        let value = self.in_force;
        if self.journal.rotation.is_some() || self.ordered {
            return Err("a rotation never ends");
        }
        if self.journal.id != Some(id(value)) || self.store != Some(value) {
            return Err("I5: journal, store and remote disagree at rest");
        }
        if self.given != Some(value) {
            return Err("what is published is not in force");
        }
        if let Some(connector) = &self.connector
            && connector.value != value
        {
            return Err("a connector was left behind");
        }
        if self.must_alarm && self.journal.foreign_count == 0 {
            return Err("somebody else rotated, and nobody is told");
        }
        Ok(())
    }
}

/// Everything that can become of `first`: how many worlds, or the shortest way to one that is broken.
fn explore(
    first: World,
    mutant: Option<Mutant>,
) -> Result<usize, (&'static str, Vec<&'static str>)> {
    let mut from: HashMap<World, Option<(usize, &'static str)>> = HashMap::new();
    let mut order: Vec<World> = vec![first.clone()];
    from.insert(first, None);
    let mut queue = VecDeque::from([0]);
    let mut settled = HashSet::new();
    while let Some(place) = queue.pop_front() {
        let world = order[place].clone();
        let calm = world.calmed();
        let mut broken = world.broken;
        if broken.is_none() && !settled.contains(&calm) {
            broken = calm.clone().settles(mutant).err();
            settled.insert(calm);
        }
        if let Some(broken) = broken {
            let mut trace = Vec::new();
            let mut at = &world;
            while let Some(Some((before, name))) = from.get(at) {
                trace.push(*name);
                at = &order[*before];
            }
            trace.reverse();
            return Err((broken, trace));
        }
        for (name, to) in world.successors(mutant) {
            if !from.contains_key(&to) {
                from.insert(to.clone(), Some((place, name)));
                queue.push_back(order.len());
                order.push(to);
            }
        }
        assert!(order.len() < MOST, "the search does not end");
    }
    Ok(order.len())
}

/// What may happen in each search, and whether there is a connector.
fn searches() -> [(Budget, bool); 7] {
    let late = Budget {
        ticks: 4,
        crashes: 1,
        losses: 2,
        ..NONE
    };
    let twice = Budget {
        orders: 2,
        ticks: 3,
        crashes: 1,
        losses: 1,
        ..NONE
    };
    let foreign = Budget {
        ticks: 3,
        losses: 1,
        foreign: 1,
        ..NONE
    };
    let unattended = Budget {
        crashes: 1,
        ..foreign
    };
    let connectors = Budget {
        ticks: 1,
        crashes: 2,
        leaves: 1,
        lags: 1,
        ..NONE
    };
    let odd = Budget {
        ticks: 2,
        oddities: 1,
        ..twice
    };
    let obstacles = Budget {
        ticks: 2,
        crashes: 1,
        losses: 1,
        obstacles: 1,
        ..NONE
    };
    [
        (late, false),
        (twice, false),
        (unattended, false),
        (odd, false),
        (obstacles, false),
        (foreign, true),
        (connectors, true),
    ]
}

/// I1, I4, I5, I7, I11, F24, F54: and from everywhere it comes to rest by itself.
#[test]
fn no_order_of_losses_crashes_and_foreign_rotations_breaks_it() {
    for (budget, connector) in searches() {
        match explore(World::new(budget, connector), None) {
            Ok(worlds) => assert!(worlds > 10_000, "{budget:?}: {worlds}"),
            Err((broken, trace)) => panic!("{budget:?}: {broken}\n{}", trace.join("\n")),
        }
    }
}

#[test]
fn each_guard_that_is_taken_away_is_missed() {
    use Mutant as M;
    let all = searches();
    // With the search that finds it, and what it says.
    for (mutant, search, says) in [
        (M::RetriesOnUnknown, 0, "I4"),
        (M::DoesNotWait, 0, "I4"),
        (M::CountsTheAnswersTime, 0, "alarms as somebody else's"),
        (M::CallsBeforeTheRecord, 0, "I4"),
        (M::DoesNotSettle, 2, "on its way"),
        (M::DoesNotWaitForAcks, 5, "has the value before"),
        (M::ForgetsTheAbsent, 6, "has the value before"),
        (M::IgnoresObstacles, 4, "while a CA rotation is switching"),
        (M::RecordsBeforeTheStore, 0, "not in the store"),
        (M::KeepsTheNumber, 0, "what is published is not in force"),
        (M::HidesTheForeign, 2, "nobody is told"),
        (M::IgnoresRefusals, 5, "I5"),
        (M::IgnoresTheStore, 0, "I7"),
    ] {
        let (budget, connector) = all[search];
        let (broken, trace) = explore(World::new(budget, connector), Some(mutant))
            .expect_err(&format!("{mutant:?} is not caught"));
        assert!(broken.contains(says), "{mutant:?}: {broken} {trace:?}");
    }
}
