//! What may become of the proxies, the edge and the process, whatever the daemon does.

use super::*;

impl World {
    /// One proxy.
    #[expect(
        clippy::too_many_lines,
        reason = "one after another, whatever a proxy does"
    )]
    pub(super) fn proxy(&self, number: usize, config: &Config, nexts: &mut Vec<Next>) {
        let mut push = |label, change: fn(&mut Self, usize), news: bool| {
            if config.steady && ENDS.contains(&label) {
                return;
            }
            let mut world = self.clone();
            change(&mut world, number);
            if news {
                world.list = None;
            }
            nexts.push((label, Ok(world)));
        };
        let proxy = &self.proxies[number];
        if !proxy.up {
            return push(
                "a proxy starts",
                |world, number| {
                    world.proxies[number].up = true;
                },
                false,
            );
        }
        if proxy.subscribed {
            let presented = self.state.presented();
            let out =
                presented.filter(|one| one.generation == self.published && self.published > 0);
            let told = out.map(|one| (one.generation, one.sha256.clone()));
            // It is written down who is there before anybody has made use of what he is told: milliseconds
            // against a dial.
            let noted = self.state.roster.contains(&name(number));
            if noted && told.is_some() && told != proxy.told {
                push(
                    "a proxy is told",
                    |world, number| {
                        let presented = world.state.presented();
                        world.proxies[number].told =
                            presented.map(|one| (one.generation, one.sha256.clone()));
                    },
                    false,
                );
            }
            let stands = |(generation, sha256): &(u64, String)| {
                proxy.bound.as_ref() == Some(sha256) && proxy.acked < *generation
            };
            if told.is_some() && told == proxy.told && proxy.told.as_ref().is_some_and(stands) {
                push(
                    "a proxy acks",
                    |world, number| {
                        let proxy = &mut world.proxies[number];
                        proxy.acked = proxy.told.as_ref().map_or(0, |told| told.0);
                    },
                    true,
                );
            }
            push(
                "a proxy loses the daemon",
                |world, number| {
                    world.proxies[number].subscribed = false;
                },
                false,
            );
            push(
                "a proxy leaves",
                |world, number| {
                    world.proxies[number] = Proxy {
                        gone: true,
                        ..Proxy::default()
                    };
                },
                true,
            );
        } else {
            push(
                "a proxy subscribes",
                |world, number| {
                    let proxy = &mut world.proxies[number];
                    (proxy.subscribed, proxy.known, proxy.gone) = (true, true, false);
                    proxy.acked = 0;
                },
                true,
            );
        }
        if let Some((_, sha256)) = &proxy.told
            && self.accepts.contains(sha256)
            && proxy.bound.as_ref() != Some(sha256)
        {
            push(
                "a proxy binds",
                |world, number| {
                    let sha256 = world.proxies[number].told.clone().map(|told| told.1);
                    let row = world
                        .remote
                        .iter_mut()
                        .find(|row| Some(&row.sha256) == sha256.as_ref());
                    if let Some(row) = row {
                        row.used = true;
                    }
                    world.proxies[number].bound = sha256;
                },
                false,
            );
        }
        push(
            "a proxy is killed",
            |world, number| {
                let proxy = &mut world.proxies[number];
                (proxy.up, proxy.subscribed) = (false, false);
                (proxy.told, proxy.bound) = (None, None);
            },
            false,
        );
    }

    /// The remote, by itself and by the hand of others.
    #[expect(
        clippy::too_many_lines,
        reason = "one after another, whatever the remote does"
    )]
    pub(super) fn edge(&self, config: &Config, nexts: &mut Vec<Next>) {
        let listed: BTreeSet<String> = self.active().map(|row| row.sha256.clone()).collect();
        if listed != self.accepts {
            let mut world = self.clone();
            world.propagate();
            nexts.push(("the remote does as it lists", Ok(world)));
        }
        if let Some(call) = &self.delayed {
            let mut world = self.clone();
            world.delayed = None;
            let outcome = world.apply(config, call, false).map(|_| world);
            nexts.push(("a late call has its effect", outcome));
        }
        if config.thief.is_some() && self.accepts.contains("1") && self.thief.is_none() {
            let mut world = self.clone();
            world.thief = Some("1".to_owned());
            nexts.push(("the thief connects", Ok(world)));
        }
        // A stranger's secret goes when its owner wants it.
        for row in self.active().filter(|row| is_foreign(&row.sha256)) {
            nexts.push((
                "a stranger leaves",
                Ok(self.meddle(0, |world| {
                    world.remote.retain(|other| other != row);
                })),
            ));
        }
        if self.outsiders == 0 {
            return;
        }
        if self.active().count() < SLOTS {
            let sha256 = format!("f{}", self.outsiders);
            nexts.push((
                "a stranger comes",
                Ok(self.meddle(1, |world| {
                    world.remote.push(Row {
                        sha256,
                        active: true,
                        used: true,
                    });
                })),
            ));
        }
        for (at, row) in self.remote.iter().enumerate().filter(|(_, row)| row.active) {
            if is_foreign(&row.sha256) {
                continue;
            }
            nexts.push((
                "somebody archives",
                Ok(self.meddle(1, |world| {
                    world.remote[at].active = false;
                })),
            ));
            nexts.push((
                "the remote forgets",
                Ok(self.meddle(1, |world| {
                    world.remote.remove(at);
                })),
            ));
        }
        for (at, row) in self.remote.iter().enumerate() {
            if !row.active && self.active().count() < SLOTS {
                nexts.push((
                    "the remote comes back from a copy",
                    Ok(self.meddle(1, |world| {
                        world.remote[at].active = true;
                    })),
                ));
            }
        }
        // Both of two at once is for a copy of the disk to mend.
        for id in self.custody.iter().filter(|_| !self.lost) {
            nexts.push((
                "the disk loses a value",
                Ok(self.meddle(1, |world| {
                    world.custody.remove(id);
                    world.lost = true;
                })),
            ));
        }
    }

    pub(super) fn meddle(&self, cost: u8, change: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        change(&mut world);
        world.outsiders -= cost;
        world.meddled |= cost > 0;
        world.list = None;
        world.propagate();
        world
    }

    /// Orders, time, and the end of the process.
    pub(super) fn fate(&self, config: &Config, nexts: &mut Vec<Next>) {
        if self.orders > 0 && !self.order && self.state.active.is_some() {
            let mut world = self.clone();
            (world.orders, world.order) = (self.orders - 1, true);
            nexts.push(("order", Ok(world)));
        }
        let quiet = self.state.rotation.as_ref();
        if !self.late && quiet.is_some_and(|rotation| rotation.phase == Phase::Quiet) {
            let mut world = self.clone();
            (world.late, world.list) = (true, None);
            nexts.push(("time passes", Ok(world)));
        }
        if config.jumps && !self.suspect {
            let mut world = self.clone();
            world.suspect = true;
            world.late |= quiet.is_some_and(|rotation| rotation.phase == Phase::Quiet);
            world.list = None;
            nexts.push(("the clock jumps", Ok(world)));
        }
        if self.suspect {
            let mut world = self.clone();
            world.suspect = false;
            nexts.push(("the clock is believed", Ok(world)));
        }
        // Nobody who lives is away for so long.
        let away = |proxy: &Proxy| proxy.up && !proxy.subscribed;
        if !self.proxies.iter().any(away) {
            let mut world = self.clone();
            world.watched = true;
            for proxy in world.proxies.iter_mut().filter(|proxy| !proxy.up) {
                proxy.gone |= proxy.known;
                proxy.known = false;
            }
            if world != *self {
                world.list = None;
                nexts.push(("an hour passes", Ok(world)));
            }
        }
        if self.called.len() + self.refused.len() > 0 {
            let mut world = self.clone();
            world.called.clear();
            world.refused.clear();
            nexts.push(("the daemon forgets", Ok(world)));
        }
        nexts.push(("crash", Ok(self.crashed())));
    }

    pub(super) fn crashed(&self) -> Self {
        let mut world = self.clone();
        world.published = 0;
        world.list = None;
        world.called.clear();
        world.refused.clear();
        world.watched = false;
        for proxy in &mut world.proxies {
            (proxy.subscribed, proxy.known, proxy.gone) = (false, false, false);
            proxy.acked = 0;
        }
        world
    }
}
