//! Every interleaving of what can happen to the CA's machine, over the shipped functions: steps and crashes of the
//! daemon, calls that are lost before or after their effect or arrive late, verifiers that lag behind, two replicas that
//! follow when they like, callers who come or do not, strangers, doubtful clocks. Time is what has passed: ages are
//! rounded down to what the decisions distinguish.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::tests::{NOW, ca};
use super::*;

mod cases;

/// What an age may be.
const AGES: [u64; 3] = [0, LATE, DEADLINE];
const STRANGER: &str = "stranger";
/// More states than any world here has.
const MOST: usize = 400_000;

/// What may happen.
#[derive(Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing that may happen or not, apart from the others"
)]
struct Nature {
    /// Rotations that are ordered.
    orders: u8,
    /// Somebody else takes a slot, once.
    stranger: bool,
    /// The clock is doubtful at times.
    doubt: bool,
    /// Nobody calls the second replica.
    silent: bool,
    /// An operator does without proof.
    acceptance: bool,
    /// It takes the same certificate twice, as a remote may.
    doubles: bool,
    /// A day may pass at any time.
    days: bool,
    /// Somebody archives the standby that was registered.
    sabotage: bool,
    /// After a crash replicas take their time to come back.
    absence: bool,
    /// A rule that the decisions break.
    mutant: Option<Mutant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    SwitchesWithoutSettling,
    ArchivesAfterTheFirstAck,
    RollsBackAfterTheFirstAck,
    PostsWithoutListing,
    PostsBeforeTheKeyIsDurable,
    ArchivesWithoutProof,
    DestroysBeforeTheListConfirms,
    BelievesAnyClock,
    ArchivesStrangers,
    ForgetsWhoIsAway,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Replica {
    /// CAs of leaf and fallback.
    leaf: String,
    fallback: Option<String>,
    generation: u8,
    /// A handshake was completed under that CA.
    completed: bool,
}

#[derive(Clone, Debug)]
struct World {
    // What lasts.
    state: State,
    keys: BTreeSet<String>,
    // What a crash takes.
    listing: Option<Listing>,
    // The remote: id to fingerprint, what its verifiers know, and a request that arrives later.
    api: BTreeMap<String, String>,
    trusted: BTreeSet<String>,
    late: Option<Call>,
    // The data plane.
    published: Replica,
    replicas: [Replica; 2],
    /// Not here since the daemon started.
    away: [bool; 2],
    // Everything else.
    orders: u8,
    ordered: bool,
    stranger: u8,
    sabotaged: bool,
    suspect: bool,
    serial: u8,
    /// What was done that must never be.
    broken: Option<&'static str>,
}

impl World {
    fn stable(nature: Nature) -> Self {
        let state = State {
            active: Some(ca("0")),
            standby: Some(ca("1")),
            ..State::default()
        };
        let serves = Replica {
            leaf: "sha-0".to_owned(),
            completed: true,
            ..Replica::default()
        };
        Self {
            state: state
                .listed("sha-0", "id-0", NOW)
                .noted(["0".to_owned(), "1".to_owned()].into()),
            keys: ["0", "1"].map(str::to_owned).into(),
            listing: None,
            api: [("id-0".to_owned(), "sha-0".to_owned())].into(),
            trusted: ["sha-0".to_owned()].into(),
            late: None,
            published: serves.clone(),
            replicas: [serves.clone(), serves],
            away: [false; 2],
            orders: nature.orders,
            ordered: false,
            stranger: 0,
            sabotaged: false,
            suspect: false,
            serial: 2,
            broken: None,
        }
    }

    /// Before anything was made.
    fn empty(nature: Nature) -> Self {
        Self {
            state: State::default(),
            keys: BTreeSet::new(),
            api: BTreeMap::new(),
            trusted: BTreeSet::new(),
            published: Replica::default(),
            replicas: [Replica::default(), Replica::default()],
            serial: 0,
            ..Self::stable(nature)
        }
    }

    /// Two worlds in which the same can happen have the same.
    fn key(&self) -> String {
        let mut same = self.clone();
        let rest = same.published.generation;
        for replica in &mut same.replicas {
            replica.generation = u8::from(replica.generation == rest);
        }
        same.published.generation = 1;
        format!("{same:?}")
    }

    fn seen(&self) -> Seen {
        let active = self.state.active.as_ref().map(|ca| ca.sha256.clone());
        Seen {
            listing: self.listing.clone(),
            settle: LATE,
            leaf: 7 * DAY,
            settled_issuer: Some(self.published.leaf.clone()),
            fallback: self.published.fallback.is_some(),
            served: self
                .replicas
                .iter()
                .enumerate()
                .filter(|(number, _)| !self.away[*number])
                .map(|(number, replica)| Served {
                    name: number.to_string(),
                    acknowledged: replica.generation == self.published.generation,
                    grade: (replica.completed && Some(&replica.leaf) == active.as_ref())
                        .then_some(Grade::Observed),
                    ..Served::default()
                })
                .collect(),
            ordered: self.ordered,
            suspect: self.suspect,
            ..Seen::default()
        }
    }

    /// What the daemon does next: the shipped function, or one that breaks a rule.
    fn decide(&self, mutant: Option<Mutant>) -> Action {
        let (state, mut seen) = (&self.state, self.seen());
        match mutant {
            Some(Mutant::SwitchesWithoutSettling) => seen.settle = 0,
            Some(Mutant::BelievesAnyClock) => seen.suspect = false,
            Some(Mutant::ForgetsWhoIsAway) => seen.watched = true,
            Some(Mutant::ArchivesAfterTheFirstAck) if state.is_in(Phase::Switched) => {
                seen.watched = true;
                seen.served
                    .retain(|served| served.acknowledged && served.grade.is_some());
            }
            Some(Mutant::RollsBackAfterTheFirstAck) if state.is_in(Phase::Switched) => {
                if seen.served.iter().any(|served| served.acknowledged)
                    && let Some(active) = &state.active
                    && let Some((id, _)) = self.api.iter().find(|(_, sha)| **sha == active.sha256)
                {
                    return Action::Archive(Registration {
                        id: id.clone(),
                        sha256: active.sha256.clone(),
                    });
                }
            }
            Some(Mutant::ArchivesWithoutProof) if state.is_in(Phase::Switched) => {
                for served in &mut seen.served {
                    served.grade = Some(Grade::Observed);
                }
            }
            _ => {}
        }
        let action = next(state, &seen, NOW);
        match (mutant, &action) {
            (Some(Mutant::PostsWithoutListing), Action::List | Action::Wait(_))
                if state.active.is_some() && self.api.len() < SLOTS =>
            {
                Action::Register(state.active.clone().unwrap())
            }
            (Some(Mutant::PostsBeforeTheKeyIsDurable), Action::Make) => {
                let id = state.making.as_ref().map_or("", |making| &making.id);
                if self.api.len() >= SLOTS {
                    action
                } else {
                    Action::Register(ca(id))
                }
            }
            (Some(Mutant::DestroysBeforeTheListConfirms), Action::Archive(_))
                if state.is_in(Phase::Archiving) =>
            {
                Action::Retire
            }
            (Some(Mutant::ArchivesStrangers), Action::Wait(_)) => {
                let theirs = self.api.iter().find(|(_, sha)| *sha == STRANGER);
                theirs.map_or(action.clone(), |(id, sha)| {
                    Action::Archive(Registration {
                        id: id.clone(),
                        sha256: sha.clone(),
                    })
                })
            }
            _ => action,
        }
    }

    /// Everything that can come of one step of the daemon.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each thing that may happen"
    )]
    fn steps(&self, nature: Nature) -> Vec<(String, Self)> {
        let action = self.decide(nature.mutant);
        let word = format!("{action:?}");
        let state = &self.state;
        let record = |next: State| Self {
            state: next,
            ..self.clone()
        };
        let one = match &action {
            Action::Wait(_) => return Vec::new(),
            Action::List => {
                let registrations = self.api.iter().map(|(id, sha256)| Registration {
                    id: id.clone(),
                    sha256: sha256.clone(),
                });
                let listing = Some(Listing {
                    at: NOW,
                    registrations: registrations.collect(),
                });
                Self {
                    listing,
                    ..self.clone()
                }
            }
            Action::Register(ca) => {
                return self.calls(&word, What::Register, &ca.sha256, None, nature);
            }
            Action::Archive(one) => {
                return self.calls(&word, What::Archive, &one.sha256, Some(&one.id), nature);
            }
            Action::Begin(role) => {
                let mut next = record(state.begun(self.serial.to_string(), *role));
                next.serial += 1;
                next
            }
            Action::Make => {
                let id = state.making.as_ref().unwrap().id.clone();
                let mut next = record(state.made(ca(&id)));
                next.keys.insert(id.clone());
                let mut crashed = self.clone().crashed();
                crashed.keys.insert(id);
                return vec![(word, next), ("crash in make".to_owned(), crashed)];
            }
            Action::Discard => {
                return self.destroys(&word, state.standby.as_ref(), state.discarded());
            }
            Action::RolledBack => {
                return self.destroys(&word, state.standby.as_ref(), state.rolled_back());
            }
            Action::Retire => return self.destroys(&word, state.old.as_ref(), state.let_go()),
            Action::Forget => record(state.forgotten()),
            Action::Listed(one) => record(state.listed(&one.sha256, &one.id, NOW)),
            Action::Gone(sha256) => record(state.gone(sha256, NOW)),
            Action::Rotate(reason) => {
                let mut next = record(state.rotating("r".to_owned(), "uid:0", *reason, NOW));
                next.ordered = false;
                next
            }
            Action::TakeOver => record(state.taken_over("r".to_owned(), NOW)),
            Action::SwitchOver => {
                let mut next = record(state.switched_over(NOW));
                next.forbid(self.suspect, "switched by a clock that is in doubt");
                next
            }
            Action::Note(roster) => record(state.noted(roster.clone())),
            Action::Prove(proofs) => record(state.proven(proofs)),
            Action::Conclude => record(state.concluded(NOW)),
            Action::RollBack(why) => record(state.rolling_back(why, NOW)),
        };
        vec![(word, one)]
    }

    /// The key first, then the record.
    fn destroys(&self, word: &str, gone: Option<&Ca>, after: State) -> Vec<(String, Self)> {
        let mut between = self.clone();
        between.forbid(
            self.suspect,
            "a key was destroyed by a clock that is in doubt",
        );
        if let Some(gone) = gone {
            between.keys.remove(&gone.id);
            let listed = self.api.values().any(|sha| *sha == gone.sha256);
            // What arrives late finds that its CA is spent.
            let explained = after.slots.spent.contains(&gone.sha256) && after.old.is_none();
            between.forbid(
                listed && !explained,
                "the key of a CA that is registered was destroyed",
            );
            between.forbid(
                listed && self.state.old.is_some(),
                "the key of the old CA was destroyed while it is registered",
            );
        }
        let mut done = between.clone();
        done.state = after;
        let mut crashed = between.crashed();
        // Recovery finds a standby without its key.
        if let (Some(gone), Some(standby)) = (gone, &crashed.state.standby)
            && gone.id == standby.id
        {
            crashed.state = crashed.state.discarded();
        }
        vec![
            (word.to_owned(), done),
            ("crash in destroy".to_owned(), crashed),
        ]
    }

    /// Intent, call, and what becomes of it.
    fn calls(
        &self,
        word: &str,
        what: What,
        sha256: &str,
        id: Option<&str>,
        nature: Nature,
    ) -> Vec<(String, Self)> {
        let mut asked = self.clone();
        let known = id.map(str::to_owned);
        asked.state = self.state.asking(what, sha256, known, NOW);
        asked.listing = None;
        asked.check(what, sha256);
        let call = asked.state.slots.call.clone().unwrap();
        let mut refused = asked.clone();
        refused.state = refused.state.forgotten();
        let mut all = vec![
            (format!("{word}: lost, or crash before"), asked.clone()),
            (format!("{word}: refused"), refused),
        ];
        if let Some((effect, answer)) = asked.clone().carried_out(&call, nature) {
            let mut answered = effect.clone();
            answered.state = answered.state.answered(&answer);
            all.push((format!("{word}: done"), answered));
            all.push((format!("{word}: done, answer lost"), effect));
            asked.late = Some(call);
            all.push((format!("{word}: under way"), asked));
        }
        all
    }

    /// What must never be asked for.
    fn check(&mut self, what: What, sha256: &str) {
        let ours = |ca: &Option<Ca>| ca.as_ref().is_some_and(|ca| ca.sha256 == sha256);
        match what {
            What::Register => {
                let id = sha256.strip_prefix("sha-").unwrap();
                let durable = self.keys.contains(id);
                self.forbid(!durable, "a CA is registered whose key is not durable");
            }
            What::Archive => {
                self.forbid(sha256 == STRANGER, "a stranger's CA is archived");
                self.forbid(self.suspect, "archived by a clock that is in doubt");
                self.forbid(ours(&self.state.active), "the CA in force is archived");
                if ours(&self.state.old) {
                    let rotation = self.state.slots.rotation.as_ref();
                    let accepted = rotation.is_some_and(|rotation| rotation.accepted.is_some());
                    let active = self.state.active.as_ref().map(|ca| ca.sha256.clone());
                    let used = |replica: &Replica| {
                        replica.completed && Some(&replica.leaf) == active.as_ref()
                    };
                    let used = self.replicas.iter().all(used);
                    self.forbid(
                        !accepted && !used,
                        "the old CA goes before its successor was used",
                    );
                }
            }
        }
    }

    fn forbid(&mut self, is_so: bool, what: &'static str) {
        if is_so {
            self.broken.get_or_insert(what);
        }
    }

    /// The remote does it; `None`: it refuses.
    fn carried_out(mut self, call: &Call, nature: Nature) -> Option<(Self, String)> {
        match call.what {
            What::Register => {
                let double = self.api.values().any(|sha256| *sha256 == call.sha256);
                if self.api.len() >= SLOTS || double && !nature.doubles {
                    return None;
                }
                let id = format!("id-{}{}", call.sha256, if double { "-again" } else { "" });
                self.api.insert(id.clone(), call.sha256.clone());
                Some((self, id))
            }
            What::Archive => {
                let id = call.id.clone().unwrap();
                self.api.remove(&id);
                Some((self, id))
            }
        }
    }

    fn crashed(mut self) -> Self {
        self.listing = None;
        self
    }

    /// What others do.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each thing that may happen"
    )]
    fn events(&self, nature: Nature) -> Vec<(String, Self)> {
        let mut all = Vec::new();
        let mut add = |word: &str, next: Self| all.push((word.to_owned(), next));
        let listed: BTreeSet<String> = self.api.values().cloned().collect();
        if self.trusted != listed {
            let mut next = self.clone();
            next.trusted = listed;
            add("verifiers follow", next);
        }
        if let Some(call) = &self.late {
            let mut next = self.clone();
            next.late = None;
            add("a late request never arrives", next.clone());
            if let Some((next, _)) = next.carried_out(call, nature) {
                add("a late request arrives", next);
            }
        }
        if self.listing.is_some() {
            let mut next = self.clone().crashed();
            next.away = [nature.absence; 2];
            add("crash", next);
        }
        for number in (0..2).filter(|number| self.away[*number]) {
            let mut next = self.clone();
            next.away[number] = false;
            add(&format!("replica {number} comes back"), next);
        }
        self.data_plane(nature, &mut add);
        if self.orders > 0 && !self.ordered && self.state.slots.rotation.is_none() {
            let mut next = self.clone();
            next.orders -= 1;
            next.ordered = true;
            add("order", next);
        }
        if nature.acceptance && self.state.is_in(Phase::Switched) {
            let mut next = self.clone();
            next.state = next.state.accepted("uid:0");
            add("accept", next);
        }
        if nature.stranger && self.stranger == 0 && self.api.len() < SLOTS {
            let mut next = self.clone();
            next.stranger = 1;
            next.api.insert("id-x".to_owned(), STRANGER.to_owned());
            add("a stranger comes", next);
        }
        if self.stranger == 1 {
            let mut next = self.clone();
            next.stranger = 2;
            next.api.remove("id-x");
            add("the stranger goes", next);
        }
        if nature.sabotage
            && let Some(active) = &self.state.active
            && self.api.len() < SLOTS
            && !self.api.values().any(|sha256| *sha256 == active.sha256)
        {
            let mut next = self.clone();
            next.api
                .insert("id-by-hand".to_owned(), active.sha256.clone());
            add("the CA in force is registered again by hand", next);
        }
        if nature.sabotage
            && !self.sabotaged
            && let Some(standby) = &self.state.standby
        {
            let mut next = self.clone();
            next.api.retain(|_, sha256| *sha256 != standby.sha256);
            next.sabotaged = true;
            add("the standby is archived by hand", next);
        }
        if nature.doubt {
            let mut next = self.clone();
            next.suspect = !next.suspect;
            add("doubt", next);
        }
        // Within a minute requests arrive or do not, and verifiers follow.
        if self.late.is_none()
            && self
                .trusted
                .iter()
                .eq(self.api.values().collect::<BTreeSet<_>>())
        {
            add("a minute", self.aged(LATE));
            if nature.days {
                add("a day", self.aged(DEADLINE));
            }
        }
        all
    }

    fn data_plane(&self, nature: Nature, add: &mut impl FnMut(&str, Self)) {
        let wanted = Replica {
            leaf: self
                .state
                .active
                .as_ref()
                .map(|ca| ca.sha256.clone())
                .unwrap_or_default(),
            fallback: self.state.fallback().map(|ca| ca.sha256.clone()),
            generation: self.published.generation,
            completed: false,
        };
        let stale =
            (&wanted.leaf, &wanted.fallback) != (&self.published.leaf, &self.published.fallback);
        // The first leaf goes out when there is somebody who can take it.
        if stale && (self.trusted.contains(&wanted.leaf) || !self.published.leaf.is_empty()) {
            let mut next = self.clone();
            next.published = wanted;
            next.published.generation += 1;
            add("publish", next);
        }
        for (number, replica) in self.replicas.iter().enumerate() {
            if replica.generation != self.published.generation && !self.away[number] {
                let mut next = self.clone();
                let kept = replica.completed && replica.leaf == self.published.leaf;
                next.replicas[number] = self.published.clone();
                next.replicas[number].completed = kept;
                add(&format!("replica {number} follows"), next);
            }
            if !replica.completed
                && self.trusted.contains(&replica.leaf)
                && !(nature.silent && number == 1)
            {
                let mut next = self.clone();
                next.replicas[number].completed = true;
                add(&format!("somebody calls replica {number}"), next);
            }
        }
    }

    /// Later, as far as anything here can tell.
    fn aged(&self, seconds: u64) -> Self {
        let mut next = self.clone();
        let older = |time: &mut u64| {
            let age = NOW - *time + seconds;
            *time = NOW - AGES.into_iter().rfind(|one| *one <= age).unwrap();
        };
        next.listing
            .iter_mut()
            .for_each(|listing| older(&mut listing.at));
        let slots = &mut next.state.slots;
        slots
            .call
            .iter_mut()
            .for_each(|call| older(&mut call.asked));
        if let Some(rotation) = &mut slots.rotation {
            older(&mut rotation.began);
            older(&mut rotation.since);
        }
        next
    }

    /// What is wrong with this world.
    fn fault(&self, nature: Nature) -> Option<String> {
        if let Some(broken) = self.broken {
            return Some(broken.to_owned());
        }
        let listed: Vec<&String> = self.api.values().filter(|sha| *sha != STRANGER).collect();
        let distinct: BTreeSet<&&String> = listed.iter().collect();
        if distinct.len() != listed.len() {
            return Some("one CA has two slots".to_owned());
        }
        for replica in self
            .replicas
            .iter()
            .filter(|replica| !replica.leaf.is_empty())
        {
            if !self.trusted.contains(&replica.leaf) && !nature.sabotage {
                return Some("a replica serves a leaf that verifiers refuse".to_owned());
            }
        }
        let orphan = listed.iter().find(|sha256| {
            let id = sha256.strip_prefix("sha-").unwrap();
            !self.keys.contains(id) && !is_ours(&self.state, sha256)
        });
        if orphan.is_some() {
            return Some("a CA holds a slot and nobody knows it".to_owned());
        }
        let served = self.replicas.iter().any(|replica| !replica.leaf.is_empty());
        (served && listed.is_empty()).then(|| "no CA is registered".to_owned())
    }

    /// At rest, with journal, remote and replicas of one mind.
    fn is_at_rest(&self) -> bool {
        let Some(active) = &self.state.active else {
            return false;
        };
        let slots = &self.state.slots;
        let calm = slots.rotation.is_none() && slots.call.is_none() && self.late.is_none();
        let ours: Vec<&String> = self.api.values().filter(|sha| *sha != STRANGER).collect();
        calm && !self.ordered
            && self.orders == 0
            && ours == [&active.sha256]
            && self.state.standby.is_some()
            && self.state.old.is_none()
            && self
                .replicas
                .iter()
                .all(|one| one.leaf == active.sha256 && one.fallback.is_none())
    }
}
