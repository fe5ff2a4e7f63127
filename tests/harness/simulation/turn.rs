//! A turn of the rotator: the order of its affairs, what it waits for, and the points at which a crash may end it.

use daemon::rotation::slots::What;
use daemon::rotation::tunnel_token;

use super::dice::Dice;
use super::disk::{Disk, Ordered, Orders, Records, Written};
use super::far::Call;
use super::guards::{self, Guard};
use super::judge::Deed;
use super::process::{Ask, Lane, Process};
use super::time::{DAY, HOUR, Moment};
use super::traits::Traits;

/// Steps in one turn.
const STEPS: usize = 100;
/// What waits for news is looked at once more after this, in seconds: ticks between events change nothing, but that time
/// passes.
const IDLE: u64 = 1800;
/// The same while something may happen within a minute.
const BUSY: u64 = 30;

/// A weekly run lies no further off, a clock change included.
const FARTHEST: u64 = 7 * DAY + HOUR;

/// Why a step was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The process ended.
    Crash,
    /// It is tried again.
    Failed,
}

pub(super) type Step = Result<(), Halt>;

/// What a turn works with.
pub(super) struct Turn<'a> {
    pub(super) p: &'a mut Process,
    pub(super) disk: &'a mut Disk,
    pub(super) moment: Moment,
    /// The disk takes no new file: nothing can be issued, and the journal goes on.
    pub(super) jammed: bool,
    pub(super) traits: &'a Traits,
    pub(super) guard: Option<Guard>,
    pub(super) dice: &'a mut Dice,
    /// Names for rotations.
    pub(super) serial: &'a mut u64,
    /// Points that are passed before the process ends.
    pub(super) fuse: &'a mut Option<u32>,
    /// The first may be made although the turn did not come to its end.
    pub(super) asks: Vec<Ask>,
    pub(super) deeds: Vec<Deed>,
    /// When something is due, by the wall clock.
    pub(super) due: u64,
    /// The same of the slots.
    pub(super) slots_due: u64,
}

impl Turn<'_> {
    /// All affairs once; gives when the next turn is due, since boot.
    pub(super) fn run(&mut self) -> Result<u64, Halt> {
        let wall = self.moment.wall;
        self.due = wall + DAY;
        self.slots_due = wall + DAY;
        self.schedule()?;
        let (witnesses, _) = self.p.witnesses(wall);
        for _ in 0..STEPS {
            if self.step_slots(&witnesses)? {
                continue;
            }
            if let Some(until) = self.step_leaf(&witnesses)? {
                self.wait(until);
                break;
            }
        }
        self.wait(self.slots_due);
        self.step_tunnel();
        self.step_token()?;
        if self.traits.builtin {
            self.step_secret()?;
        }
        self.note_orders()?;
        Ok(self.wake())
    }

    /// Reads the tunnel, until it was.
    fn step_tunnel(&mut self) {
        if !self.p.is_ours && !self.p.tunnel_pace.is_on(self.moment.boot) {
            self.ask(Lane::Tunnel, Call::Tunnel);
        }
    }

    /// Takes what came of that.
    pub(super) fn told_tunnel(&mut self, read: bool) {
        self.p.is_ours |= read;
        if !read {
            self.p.tunnel_pace.fail(self.moment.boot);
        }
    }

    /// Before and after everything that outlives the process.
    pub(super) fn point(&mut self) -> Step {
        let Some(left) = self.fuse.as_mut() else {
            return Ok(());
        };
        if *left == 0 {
            *self.fuse = None;
            return Err(Halt::Crash);
        }
        *left -= 1;
        Ok(())
    }

    /// Appends to the journal; durable.
    pub(super) fn record(&mut self, change: impl FnOnce(&mut Records)) -> Step {
        self.point()?;
        let newest = self.written();
        self.disk.record(|records| {
            change(records);
            records.newest = Some(newest);
        });
        self.point()
    }

    /// Appends what a power loss may take back.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Records)) -> Step {
        self.point()?;
        let newest = self.written();
        self.disk.note(|records| {
            change(records);
            records.newest = Some(newest);
        });
        self.point()
    }

    pub(super) fn ask(&mut self, lane: Lane, call: Call) {
        if self.p.under_way.insert(lane) {
            self.asks.push(Ask { lane, call });
        }
    }

    pub(super) fn is_under_way(&self, lane: Lane) -> bool {
        self.p.under_way.contains(&lane)
    }

    /// A name that no other has.
    pub(super) fn fresh(&mut self) -> String {
        *self.serial += 1;
        format!("r{}", self.serial)
    }

    /// Nothing before this second of the wall clock; what waits for news is looked at now and then.
    pub(super) fn wait(&mut self, until: u64) {
        let wall = self.moment.wall;
        let until = if until > wall + 1 {
            until
        } else {
            wall + self.patience()
        };
        self.due = self.due.min(until);
    }

    pub(super) fn note_orders(&mut self) -> Step {
        let orders = &self.p.orders;
        let same = |one: &Option<Ordered>, other: &Option<Ordered>| {
            let plain = |order: &Option<Ordered>| {
                order
                    .as_ref()
                    .map(|order| (order.taken, order.rotation.clone()))
            };
            plain(one) == plain(other)
        };
        let noted = &self.disk.journal.orders;
        if same(&orders.ca, &noted.ca)
            && same(&orders.token, &noted.token)
            && same(&orders.secret, &noted.secret)
            && orders.token_due == noted.token_due
            && orders.secret_due == noted.secret_due
        {
            return Ok(());
        }
        let orders = orders.clone();
        self.record(|records| records.orders = orders)
    }

    /// Orders what is due by a clock, if something may begin now.
    fn schedule(&mut self) -> Step {
        if self.moment.suspect {
            return Ok(());
        }
        let wall = self.moment.wall;
        // What was planned by a clock that was ahead is planned anew.
        let far = |due: &mut u64| *due > wall + FARTHEST;
        self.p.orders.token_due.take_if(far);
        self.p.orders.secret_due.take_if(far);
        let calendar = &self.traits.calendar;
        let closed = !calendar.is_open(wall);
        let Orders {
            token_due,
            secret_due,
            ..
        } = self.p.orders;
        if let Some(due) = token_due {
            if wall >= due && !closed {
                self.p.orders.token_due = self.traits.token.next(calendar, wall);
                if self.p.orders.token.is_none() && !self.order_token(true)? {
                    self.p.orders.token_due = Some(due);
                }
            }
        } else {
            self.p.orders.token_due = self.traits.token.next(calendar, wall);
        }
        if !self.traits.builtin {
            return Ok(());
        }
        if let Some(due) = secret_due {
            if wall >= due && !closed {
                self.p.orders.secret_due = self.traits.secret.next(calendar, wall);
                if self.p.orders.secret.is_none() {
                    self.p.orders.secret = Some(Ordered {
                        scheduled: true,
                        ..ordered(wall)
                    });
                    self.note_orders()?;
                    self.p.shared.calls.reset();
                    self.p.shared.spoilt.reset();
                }
            }
        } else {
            self.p.orders.secret_due = self.traits.secret.next(calendar, wall);
        }
        Ok(())
    }

    /// Whether the order was taken.
    pub(super) fn order_token(&mut self, scheduled: bool) -> Result<bool, Halt> {
        let mut seen = self.seen_of_token();
        let obstacle = {
            let state = guards::token(self.guard, &self.p.token, &mut seen);
            tunnel_token::obstacle(&state, &seen)
        };
        if self.p.token.rotation.is_some() || obstacle.is_some() {
            return Ok(false);
        }
        self.p.orders.token = Some(Ordered {
            scheduled,
            ..ordered(self.moment.wall)
        });
        self.note_orders()?;
        self.p.token_pace.reset();
        Ok(true)
    }

    /// An order came to nothing; one that a clock gave is due again in an hour.
    pub(super) fn fail_token(&mut self) {
        let order = self.p.orders.token.take();
        let again = self.moment.wall + HOUR;
        if let (Some(true), Some(due)) = (
            order.map(|order| order.scheduled),
            &mut self.p.orders.token_due,
        ) {
            *due = again.min(*due);
        }
    }

    /// The same of the secret.
    pub(super) fn fail_secret(&mut self) {
        let order = self.p.orders.secret.take();
        let again = self.moment.wall + HOUR;
        if let (Some(true), Some(due)) = (
            order.map(|order| order.scheduled),
            &mut self.p.orders.secret_due,
        ) {
            *due = again.min(*due);
        }
    }

    /// How long news are waited for.
    fn patience(&self) -> u64 {
        let p = &self.p;
        let token = p.token.rotation.is_some();
        let secret = p.secret.rotation.is_some();
        let registering = p.ca.slots.call.as_ref();
        let registering = registering.is_some_and(|call| call.what == What::Register);
        if p.leaf.rotation.is_some() || token || secret || registering {
            BUSY
        } else {
            IDLE
        }
    }

    /// When a turn is due, since boot.
    fn wake(&self) -> u64 {
        let Moment { wall, boot, .. } = self.moment;
        let p = &self.p;
        let mut wake = boot + self.due.saturating_sub(wall).max(1);
        let paces = [&p.tunnel_pace, &p.leaf_pace, &p.ca_pace, &p.list_pace];
        let paces = paces.into_iter().chain([
            &p.call_pace,
            &p.token_pace,
            &p.shared.calls,
            &p.shared.spoilt,
        ]);
        for until in paces.filter_map(|pace| pace.until(boot)) {
            wake = wake.min(until);
        }
        if let Some(published) = p.published_at
            && published + 2 > boot
        {
            wake = wake.min(published + 2);
        }
        for due in [p.orders.token_due, p.orders.secret_due]
            .into_iter()
            .flatten()
        {
            let left = due.saturating_sub(wall);
            // One that is refused waits for news.
            let left = if left == 0 { IDLE } else { left };
            wake = wake.min(boot + left);
        }
        if let Some(ends) = p.doubt.ends() {
            wake = wake.min(ends);
        }
        wake.max(boot + 1)
    }

    fn written(&self) -> Written {
        Written {
            wall: self.moment.wall,
            boot: self.moment.boot,
            boot_id: self.p.boot_id,
        }
    }
}

pub(super) fn ordered(wall: u64) -> Ordered {
    Ordered {
        taken: wall,
        scheduled: false,
        rotation: None,
    }
}
