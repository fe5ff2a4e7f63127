//! Proxies, connectors and callers, as they go on.

use control::Reason;

use super::event::Event;
use super::far::VERIFIERS;
use super::time::{DAY, HOUR};
use super::world::World;

/// Pause before another try to dial, in seconds.
const AGAIN: u64 = 60;

impl World {
    /// A replica subscribes, and is sent what there is.
    pub(super) fn link(&mut self, place: usize) {
        if self.later(Event::Link(place)) {
            return;
        }
        let wall = self.wall();
        let now = self.now;
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(replica) = self.replicas.get_mut(place) else {
            return;
        };
        if !replica.alive || replica.linked || now < replica.away {
            return;
        }
        replica.linked = true;
        replica.since = now;
        replica.known = true;
        // Nothing is acknowledged yet.
        let subscriber = replica.introduce(wall);
        process.subscribers.insert(replica.name.clone(), subscriber);
        let pause = self.dice.between(1, 20);
        self.queue.push(now + pause, Event::Take(place));
        self.turn(|_| Ok(()));
    }

    /// What comes to a suspended host comes when it is awake; whether that is so.
    fn later(&mut self, event: Event) -> bool {
        let frozen = self.now < self.frozen;
        if frozen {
            self.queue.push(self.frozen, event);
        }
        frozen
    }

    /// A subscription ends.
    pub(super) fn unlink(&mut self, place: usize, farewell: bool) {
        let wall = self.wall();
        let Some(replica) = self.replicas.get_mut(place) else {
            return;
        };
        if !replica.linked {
            return;
        }
        replica.linked = false;
        replica.unlinked = self.now;
        if let Some(process) = &mut self.process
            && let Some(subscriber) = process.subscribers.get_mut(&replica.name)
        {
            subscriber.connected = false;
            subscriber.left = farewell;
            subscriber.last_heard = wall;
        }
        self.queue.push(self.now + HOUR + 1, Event::Nudge);
        self.turn(|_| Ok(()));
    }

    /// A replica takes what is on the board.
    pub(super) fn take(&mut self, place: usize) {
        if self.later(Event::Take(place)) {
            return;
        }
        let clock = if self.traits.apart {
            self.now
        } else {
            self.wall()
        };
        let now = self.now;
        let (Some(process), Some(replica)) = (&mut self.process, self.replicas.get_mut(place))
        else {
            return;
        };
        if !replica.linked {
            return;
        }
        let Some(subscriber) = process.subscribers.get_mut(&replica.name) else {
            return;
        };
        let acked = (subscriber.credential, subscriber.tunnel);
        let refused = subscriber.credential_refused;
        if let Some(sent) = process.board.credential.as_ref()
            && !replica.is_connector
        {
            match replica.take(sent, clock) {
                Ok(()) => {
                    self.judge.taken(sent);
                    subscriber.credential = sent.generation;
                    subscriber.serves = sent.generation;
                }
                Err(refused) => subscriber.credential_refused = Some(refused),
            }
            replica.fresh = true;
        }
        let sent = if replica.is_connector {
            process.board.token.as_ref()
        } else {
            process.board.secret.as_ref()
        };
        if let Some(sent) = sent {
            let told = replica.told.as_ref().map_or(0, |told| told.0);
            if sent.0 < told {
                subscriber.tunnel_refused = Some((sent.0, Reason::Stale));
            } else if sent.0 > told {
                replica.told = Some(sent.clone());
                let pause = self.dice.between(1, 5);
                self.queue.push(now + pause, Event::Dial(place));
            } else if replica.bound.as_ref() == Some(&sent.1) {
                subscriber.tunnel = sent.0;
            }
        }
        if acked != (subscriber.credential, subscriber.tunnel)
            || refused != subscriber.credential_refused
        {
            self.turn(|_| Ok(()));
        }
    }

    /// A replica opens another connection with what it was told.
    pub(super) fn dial(&mut self, place: usize) {
        let now = self.now;
        let Some(replica) = self.replicas.get_mut(place) else {
            return;
        };
        let Some((generation, value)) = replica.told.clone().filter(|_| replica.alive) else {
            return;
        };
        if replica.bound.as_ref() == Some(&value) {
            return;
        }
        let taken = if replica.is_connector {
            self.far.takes_token(&value, now)
        } else {
            self.far.takes_secret(&value)
        };
        if taken {
            self.far.bind(&value);
            replica.bound = Some(value);
        } else {
            self.queue.push(now + AGAIN, Event::Dial(place));
        }
        let (linked, name) = (replica.linked, replica.name.clone());
        if !taken && !replica.is_connector {
            self.judge.find(true, || {
                format!("{name} is refused with the secret that it was given")
            });
        }
        if !linked {
            return;
        }
        let Some(process) = &mut self.process else {
            return;
        };
        if let Some(subscriber) = process.subscribers.get_mut(&name) {
            if taken {
                subscriber.tunnel = generation;
            } else {
                subscriber.tunnel_refused = Some((generation, Reason::TokenRefused));
            }
        }
        self.turn(|_| Ok(()));
    }

    /// What a replica counted.
    pub(super) fn report(&mut self, place: usize) {
        if self.later(Event::Report(place)) {
            return;
        }
        let (Some(process), Some(replica)) = (&mut self.process, self.replicas.get(place)) else {
            return;
        };
        if !replica.linked {
            return;
        }
        if let Some(subscriber) = process.subscribers.get_mut(&replica.name) {
            subscriber.handshakes.clone_from(&replica.handshakes);
            self.turn(|_| Ok(()));
        }
    }

    /// A replica starts, with what is on its disk.
    pub(super) fn start(&mut self, place: usize) {
        if let Some(replica) = self.replicas.get_mut(place) {
            replica.alive = true;
            let pause = self.dice.between(1, 20);
            self.queue.push(self.now + pause, Event::Link(place));
        }
    }

    /// Somebody calls some proxy.
    pub(super) fn caller(&mut self) {
        let calm = self.now >= self.calm;
        let day = if calm { 24 } else { self.traits.calls_a_day };
        let pause = 2 * DAY / day.max(1);
        let pause = self.dice.between(1, pause);
        self.queue.push(self.now + pause, Event::Caller);
        if day == 0 {
            return;
        }
        let least = u64::from(self.traits.silent && !calm);
        if least >= self.traits.proxies {
            return;
        }
        let place = self.dice.between(least, self.traits.proxies - 1);
        let place = usize::try_from(place).unwrap_or_default();
        let verifier = usize::try_from(self.dice.below(VERIFIERS as u64)).unwrap_or_default();
        let now = self.now;
        let Some(replica) = self.replicas.get_mut(place).filter(|one| one.alive) else {
            return;
        };
        let Some(credential) = &replica.credential else {
            return;
        };
        let leaf = &credential.leaf;
        if leaf.is_valid_at(now) && self.far.trusts(&leaf.issuer, verifier, now) {
            self.counts.handshakes += 1;
            replica.used.insert(leaf.issuer.clone());
            let count = replica.handshakes.entry(leaf.issuer.clone()).or_default();
            *count += 1;
            while replica.handshakes.len() > 8 {
                replica.handshakes.pop_first();
            }
            let pause = self.dice.between(1, 20);
            self.queue.push(now + pause, Event::Report(place));
        }
    }

    /// Connections that are bound to a secret end.
    pub(super) fn cut(&mut self, sha256: Option<&str>) {
        for (place, replica) in self.replicas.iter_mut().enumerate() {
            if !replica.is_connector && replica.bound.as_deref() == sha256 {
                replica.bound = None;
                self.queue.push(self.now + 1, Event::Dial(place));
            }
        }
        self.thief.take_if(|thief| Some(thief.as_str()) == sha256);
    }
}
