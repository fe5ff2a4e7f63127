//! What goes wrong by itself, and who looks after it.

use super::event::{Event, Fault};
use super::far::{Call, STRANGER};
use super::guards::Guard;
use super::time::{DAY, HOUR};
use super::turn::ordered;
use super::world::{TOLERATED, World};

/// An operator answers for a CA that nobody was seen to use, after so many days.
const ACCEPTED_AFTER: u64 = 15 * DAY;

impl World {
    /// Until a fault comes again.
    pub(super) fn pause(&mut self, fault: Fault) -> u64 {
        let (ordinary, rough) = fault.hours();
        let hours = if self.traits.rough { rough } else { ordinary };
        let often = match self.focus {
            Some(Guard::Followed) => matches!(fault, Fault::Order | Fault::Restart),
            focus => {
                let elsewhere = focus.and_then(Guard::is_of_secrets).is_none();
                !elsewhere && matches!(fault, Fault::Order | Fault::Crash | Fault::Jam)
            }
        };
        let hours = if often { (hours / 4).max(1) } else { hours };
        self.dice.between(60, 2 * hours * HOUR)
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if self.now >= self.calm {
            return;
        }
        let again = self.now + self.pause(fault);
        self.queue.push(again, Event::Fault(fault));
        match fault {
            Fault::Crash => {
                let points = u32::try_from(self.dice.below(40)).unwrap_or_default();
                self.light(points);
            }
            Fault::Reboot => self.reboot(),
            Fault::Outage => self.outage(),
            Fault::Suspend => {
                if self.is_straight() {
                    let longest = self.traits.longest_outage();
                    self.frozen = self.now + self.dice.between(60, longest);
                    self.outages_apart();
                }
            }
            Fault::Partition => {
                let longest = if self.traits.rough {
                    12 * HOUR
                } else {
                    2 * DAY
                };
                self.parted = self.now + self.dice.between(60, longest);
            }
            Fault::Jam => {
                if self.offset.unsigned_abs() <= TOLERATED {
                    self.jammed = self.now + self.dice.between(60, 2 * HOUR);
                }
            }
            Fault::Jump => self.jump(),
            Fault::Unlink => self.lose_link(),
            Fault::Restart => self.restart(false),
            Fault::Replace => self.restart(true),
            Fault::Stranger => self.intrude(),
            Fault::ForeignSecret => self.intrude_secretly(),
            Fault::ForeignRotation => self.far.rotate(self.now),
            Fault::Sabotage => self.sabotage(),
            Fault::Order => self.order(),
            Fault::Drop => self.drop_connection(),
            Fault::Thief => {
                let secret = self
                    .process
                    .as_ref()
                    .and_then(|one| one.secret.active.as_ref());
                self.thief = secret.map(|secret| secret.sha256.clone());
            }
        }
    }

    /// A replica does not reach the daemon for a while.
    fn lose_link(&mut self) {
        let drawn = self.somebody();
        let linked = |place: &usize| self.replicas.get(*place).is_some_and(|one| one.linked);
        if let Some(place) = drawn.filter(linked) {
            self.unlink(place, false);
            let back = self.now + self.dice.between(5, 50 * 60);
            if let Some(replica) = self.replicas.get_mut(place) {
                replica.away = back;
            }
            self.queue.push(back, Event::Link(place));
        }
    }

    /// Somebody takes a slot for a CA, for a while.
    fn intrude(&mut self) {
        self.far.intrude(self.now, &mut self.dice);
        let pause = self.dice.between(HOUR, 3 * DAY);
        self.queue.push(self.now + pause, Event::StrangerGoes);
    }

    /// The same with a secret.
    fn intrude_secretly(&mut self) {
        let call = Call::AddSecret(format!("{STRANGER}-{}", self.now));
        self.far.carry_out(&call, &[], self.now, &mut self.dice);
        let pause = self.dice.between(HOUR, 3 * DAY);
        self.queue.push(self.now + pause, Event::ForeignSecretGoes);
    }

    /// An operator who reads the alarms.
    pub(super) fn operator(&mut self) {
        self.queue.push(self.now + DAY, Event::Operator);
        let wall = self.wall();
        let Some(process) = &self.process else {
            return;
        };
        let since = process
            .ca
            .slots
            .rotation
            .as_ref()
            .map(|rotation| rotation.since);
        let accepts = process.is_proving()
            && since.is_some_and(|since| wall.saturating_sub(since) > ACCEPTED_AFTER);
        let active = process.ca.active.as_ref().map(|ca| ca.sha256.clone());
        let lost = active.filter(|sha256| self.judge.sabotaged.contains(sha256));
        if let Some(sha256) = lost.clone().filter(|_| process.is_proving()) {
            // As the alarm says: register it there again.
            let call = Call::AddCertificate(sha256);
            self.far.carry_out(&call, &[], self.now, &mut self.dice);
        }
        let lost = lost.is_some();
        self.turn(|turn| {
            if accepts {
                turn.accept()?;
            }
            if lost && turn.may_order_ca() {
                turn.p.orders.ca = Some(ordered(turn.moment.wall));
                turn.note_orders()?;
            }
            Ok(())
        });
    }

    /// The host is there, with the time that it is.
    fn is_straight(&self) -> bool {
        self.process.is_some() && self.now >= self.frozen && self.misled < self.now
    }

    fn reboot(&mut self) {
        if !self.is_straight() {
            return;
        }
        self.boot_id += 1;
        self.disk.lose_power(&mut self.dice);
        let pause = self.dice.between(20, 600);
        self.end_process(pause);
    }

    fn outage(&mut self) {
        if self.is_straight() {
            let longest = self.traits.longest_outage();
            let pause = self.dice.between(60, longest);
            self.outages_apart();
            self.end_process(pause);
        }
    }

    /// What is renewed in between takes a while.
    fn outages_apart(&mut self) {
        self.counts.outages += 1;
    }

    /// The wall clock is wrong for less than an hour, or a little for good.
    fn jump(&mut self) {
        // A reboot hides a jump of less than a day, and nobody can help that.
        let hidden = self.process.is_none() && !self.known;
        if hidden || self.now < self.frozen || self.offset.unsigned_abs() > TOLERATED {
            return;
        }
        let sign = if self.dice.one_in(2) { 1 } else { -1 };
        if self.dice.one_in(4) {
            let little = i64::try_from(self.dice.below(TOLERATED - 30)).unwrap_or_default();
            self.move_clock(sign * little);
            return;
        }
        let far = if self.known {
            self.dice.of(&[3 * DAY, 40 * DAY, 400 * DAY], DAY)
        } else {
            self.dice.of(&[300, HOUR, 2 * HOUR], HOUR)
        };
        let far = i64::try_from(far).unwrap_or_default();
        // One thing at a time: what a wrong clock made can be replaced.
        self.jammed = 0;
        self.move_clock(sign * far);
        let pause = self.dice.between(60, 50 * 60);
        self.queue.push(self.now + pause, Event::ClockRight);
    }

    fn somebody(&mut self) -> Option<usize> {
        let place = self.dice.below(self.replicas.len() as u64);
        let place = usize::try_from(place).unwrap_or_default();
        let alive = self.replicas.get(place).is_some_and(|one| one.alive);
        alive.then_some(place)
    }

    /// A replica ends and starts again, with its files or somewhat older ones; or another one takes its place.
    fn restart(&mut self, replaced: bool) {
        let Some(place) = self.somebody() else {
            return;
        };
        let others = self
            .replicas
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != place);
        let mut others = others.map(|(_, one)| one);
        let connector = self.replicas.get(place).is_some_and(|one| one.is_connector);
        if connector && !others.any(|one| one.is_connector && one.bound.is_some()) {
            return;
        }
        let farewell = replaced || self.dice.one_in(2);
        if let Some(replica) = self.replicas.get_mut(place) {
            replica.alive = false;
        }
        self.unlink(place, farewell);
        let older = self.focus == Some(Guard::Followed) || self.dice.one_in(3);
        let [newest, before] = &self.files;
        let files = if older { before } else { newest }.clone();
        self.serial += 1;
        let name = format!("n{}", self.serial);
        if let Some(replica) = self.replicas.get_mut(place) {
            replica.end(files);
            if replaced {
                replica.name = name;
                replica.used.clear();
            }
        }
        let pause = self.dice.between(1, 900);
        self.queue.push(self.now + pause, Event::Start(place));
    }

    /// Somebody archives the CA that was registered last, or the one in force.
    fn sabotage(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        let standby = process
            .ca
            .slots
            .rotation
            .as_ref()
            .and(process.ca.standby.as_ref());
        let Some(ca) = standby.or(process.ca.active.as_ref()) else {
            return;
        };
        let sha256 = ca.sha256.clone();
        self.far.archive_by_hand(|one| one == sha256, self.now);
        self.judge.sabotaged.insert(sha256);
    }

    /// Somebody orders a rotation.
    fn order(&mut self) {
        let drawn = self.dice.below(3);
        let which = match self.focus.and_then(Guard::is_of_secrets) {
            Some(true) => 1,
            Some(false) if drawn > 0 => 2,
            _ => drawn,
        };
        let builtin = self.traits.builtin;
        self.turn(|turn| {
            let wall = turn.moment.wall;
            match which {
                0 if turn.may_order_ca() => turn.p.orders.ca = Some(ordered(wall)),
                1 if builtin && turn.p.orders.secret.is_none() => {
                    turn.p.orders.secret = Some(ordered(wall));
                }
                2 => {
                    turn.order_token(false)?;
                }
                _ => {}
            }
            turn.note_orders()
        });
    }

    /// A connection ends; it is opened again with what its holder was told.
    fn drop_connection(&mut self) {
        let Some(place) = self.somebody() else {
            return;
        };
        let connector = self.replicas.get(place).is_some_and(|one| one.is_connector);
        let others = self
            .replicas
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != place);
        let mut others = others.map(|(_, one)| one);
        // One failure at a time.
        if connector && !others.any(|one| one.is_connector && one.bound.is_some()) {
            return;
        }
        if let Some(replica) = self.replicas.get_mut(place) {
            replica.bound = None;
            self.queue.push(self.now + 1, Event::Dial(place));
        }
    }
}
