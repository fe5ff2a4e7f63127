//! The machine and a world of its own that ends twice, at any two steps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

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
            Action::Restore { .. } | Action::IssueFallback | Action::Abandon(_) => {
                panic!("{action:?} without need")
            }
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
