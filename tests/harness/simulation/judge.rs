//! What must never be, and whether it is: the invariants of the rotation, looked at after every event from outside of the
//! daemon, which does not know half of this.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use daemon::rotation::Leaf;
use daemon::rotation::authority::Ca;

use super::disk::{self, Disk};
use super::far::{Call, Far, STRANGER, VERIFIERS};
use super::process::{Credential, Process};
use super::replica::Replica;
use super::time::HOUR;

/// Certificates that may be signed in an hour: those that count, and those that follow a CA.
const MOST_ISSUES: usize = 12;
/// Why a rotation may be rolled back.
const REASONS: [&str; 3] = [
    "the key of the standby CA is lost",
    "somebody archived the standby CA",
    "the standby CA was not registered within a day",
];
/// What was decided follows from a list, and the remote may change after it.
const RACE: u64 = 60;

/// What a turn did that is of interest.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Made(Ca),
    Issued,
    Published(Box<Credential>),
    Switched,
    Concluded { accepted: bool },
    RolledBack(&'static str),
    CaKeyDestroyed(String),
    LeafKeyDestroyed,
    TokenOut { durable: bool },
    SecretOut { sha256: String, durable: bool },
    SecretDestroyed(String),
}

/// What is judged.
pub(super) struct Scene<'a> {
    pub(super) now: u64,
    /// By the clock of the daemon's host.
    pub(super) wall: u64,
    pub(super) far: &'a Far,
    pub(super) replicas: &'a [Replica],
    pub(super) disk: &'a Disk,
    pub(super) builtin: bool,
    /// A clock on the daemon's host has been wrong within the last minutes, and proxies go by it.
    pub(super) misled: bool,
}

/// Who looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Judge {
    /// What is known to be broken counts as well.
    known: bool,
    /// What was broken first.
    pub(super) broken: Option<String>,
    /// Verifiers take what is served, for the first time.
    began: bool,
    /// When the wall clock last moved.
    pub(super) jumped: Option<u64>,
    /// CAs that somebody archived by hand.
    pub(super) sabotaged: BTreeSet<String>,
    names: BTreeMap<String, String>,
    generations: BTreeMap<u64, (String, Option<String>)>,
    issues: VecDeque<u64>,
    secrets: BTreeSet<String>,
}

impl Judge {
    pub(super) fn new(known: bool) -> Self {
        Self {
            known,
            ..Self::default()
        }
    }

    pub(super) fn find(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if is_so && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// What everybody has at this moment (I1, I2, I12).
    pub(super) fn look(&mut self, scene: &Scene<'_>) {
        let proxies = scene.replicas.iter().filter(|one| !one.is_connector);
        let serving = proxies.filter(|one| one.alive && one.fresh);
        let mut all = true;
        for replica in serving {
            let Some(credential) = &replica.credential else {
                all = false;
                continue;
            };
            // What a wrong clock made is taken back where the daemon is heard.
            let early = scene.now < credential.leaf.not_before;
            let deaf = !replica.linked || scene.now < replica.since + RACE;
            let fault = self.refused(&credential.leaf, scene);
            all &= fault.is_none();
            let fault = fault.filter(|_| !(early && deaf));
            if self.began
                && let Some(fault) = fault
            {
                let name = replica.name.clone();
                self.find(true, || format!("{name} serves what {fault}"));
            }
        }
        let mut connectors = scene.replicas.iter().filter(|one| one.is_connector);
        all &= connectors.all(|one| one.bound.is_some());
        self.began |= all && scene.replicas.iter().any(|one| one.fresh);
        if !scene.builtin && self.began {
            let mut connectors = scene.replicas.iter().filter(|one| one.is_connector);
            let is_up = |one: &Replica| {
                let told = one.told.as_ref();
                let accepted =
                    told.is_some_and(|(_, value)| scene.far.takes_token(value, scene.now));
                one.alive && (one.bound.is_some() || accepted)
            };
            let any = connectors.any(is_up);
            self.find(!any, || {
                "no connector has a connection, or a token that opens one".to_owned()
            });
        }
    }

    /// Why a verifier would refuse a leaf.
    fn refused(&self, leaf: &Leaf, scene: &Scene<'_>) -> Option<&'static str> {
        if !leaf.is_valid_at(scene.now) && !scene.misled {
            return Some("has expired or is not valid yet");
        }
        let trusted = |number| scene.far.trusts(&leaf.issuer, number, scene.now);
        let by_hand = self.sabotaged.contains(&leaf.issuer);
        (!by_hand && !(0..VERIFIERS).all(trusted)).then_some("a verifier does not know the CA of")
    }

    /// Whether what destroys has to wait.
    fn is_doubtful(&self, now: u64) -> bool {
        self.jumped.is_some_and(|jumped| now < jumped + HOUR - 60)
    }

    /// What a turn did.
    pub(super) fn turn(&mut self, deeds: Vec<Deed>, process: &Process, scene: &Scene<'_>) {
        let doubtful = self.is_doubtful(scene.now);
        for deed in deeds {
            let destroys = matches!(
                deed,
                Deed::Switched
                    | Deed::CaKeyDestroyed(_)
                    | Deed::LeafKeyDestroyed
                    | Deed::SecretDestroyed(_)
            );
            self.find(destroys && doubtful, || {
                format!("{deed:?} by a clock that is in doubt")
            });
            self.deed(deed, process, scene);
        }
    }

    fn deed(&mut self, deed: Deed, process: &Process, scene: &Scene<'_>) {
        match deed {
            Deed::Made(ca) => {
                self.names.insert(ca.sha256, ca.id);
            }
            Deed::Issued => {
                self.issues.push_back(scene.now);
                self.issues.retain(|at| scene.now - at < HOUR);
                let many = self.issues.len() > MOST_ISSUES;
                self.find(many, || "certificates are issued without end".to_owned());
            }
            Deed::Published(credential) => self.published(&credential, scene),
            Deed::Switched | Deed::LeafKeyDestroyed => {}
            Deed::Concluded { accepted } if accepted => {}
            Deed::Concluded { .. } => self.concluded(process, scene),
            Deed::RolledBack(why) => {
                self.find(!REASONS.contains(&why), || format!("rolled back for {why}"));
            }
            Deed::CaKeyDestroyed(sha256) => {
                let has = |one: &Replica| {
                    let credential = one.credential.as_ref().filter(|_| one.fresh);
                    credential.is_some_and(|one| one.leaf.issuer == sha256)
                };
                let mut here = scene
                    .replicas
                    .iter()
                    .filter(|one| one.is_in_service(scene.now));
                let serves = here.any(has);
                self.find(serves, || {
                    "the key of a CA was destroyed whose leaf a replica serves".to_owned()
                });
            }
            Deed::TokenOut { durable } => self.find(!durable, || {
                "a token went out that store and journal do not have".to_owned()
            }),
            Deed::SecretOut { sha256, durable } => {
                self.find(!durable, || {
                    "a secret went out under a number that the journal does not have".to_owned()
                });
                let known = scene.far.takes_secret(&sha256);
                let first = self.secrets.insert(sha256);
                self.find(first && !known, || {
                    "a secret went out that the remote does not list".to_owned()
                });
            }
            Deed::SecretDestroyed(id) => {
                let needed = process.secret.blobs().contains(&id.as_str());
                self.find(needed, || "a secret in use was destroyed".to_owned());
            }
        }
    }

    /// I7: a number is recorded, and means one thing for ever.
    fn published(&mut self, credential: &Credential, scene: &Scene<'_>) {
        let generation = credential.generation;
        let durable = scene.disk.durable().leaf.generation;
        self.find(durable < generation, || {
            format!("generation {generation} went out before it was recorded for good")
        });
    }

    /// The same: what a replica takes.
    pub(super) fn taken(&mut self, credential: &Credential) {
        let generation = credential.generation;
        let content = (
            credential.leaf.sha256.clone(),
            credential.fallback.as_ref().map(|leaf| leaf.sha256.clone()),
        );
        let known = self
            .generations
            .entry(generation)
            .or_insert(content.clone());
        let same = known.0 == content.0 && (known.1 == content.1 || content.1.is_none());
        self.find(!same, || {
            format!("generation {generation} means two things")
        });
        while self.generations.len() > 16 {
            self.generations.pop_first();
        }
    }

    /// I6: at every replica in service the CA in force was used, and is.
    fn concluded(&mut self, process: &Process, scene: &Scene<'_>) {
        let Some(active) = &process.ca.active else {
            return;
        };
        let proxies = scene.replicas.iter().filter(|one| !one.is_connector);
        for replica in proxies.filter(|one| one.is_in_service(scene.now)) {
            let name = replica.name.clone();
            self.find(!replica.used.contains(&active.sha256), || {
                format!("the CA before goes although nobody called {name} under the new one")
            });
            let serves = replica.credential.as_ref().map(|one| &one.leaf.issuer);
            let met = process.subscribers.contains_key(&replica.name);
            let follows = serves.is_none_or(|issuer| *issuer == active.sha256);
            let follows = follows || !met && !self.known;
            let name = replica.name.clone();
            self.find(!follows, || {
                format!("the CA before goes although {name} serves its leaf")
            });
        }
    }

    /// I12: until the CA in force is proven, a leaf of the one before is there for those who do not know it.
    pub(super) fn beside(&mut self, process: &Process, scene: &Scene<'_>) {
        let wall = scene.wall;
        let (Some(active), Some(old)) = (&process.ca.active, &process.ca.old) else {
            return;
        };
        let Some(credential) = &process.board.credential else {
            return;
        };
        let rotation = process.ca.slots.rotation.as_ref();
        let long = rotation.is_some_and(|rotation| rotation.since + HOUR < wall);
        let follows = credential.leaf.issuer == active.sha256;
        let signs = scene.disk.has(&disk::ca(&old.id)) && wall + 24 * HOUR < old.not_after;
        let right = !self.is_doubtful(scene.now) && !scene.misled;
        let fallback = credential.fallback.as_ref();
        let there = fallback.is_some_and(|leaf| leaf.issuer == old.sha256 && wall < leaf.not_after);
        let wanted = process.is_proving() && long && follows && signs && right;
        self.find(wanted && !there, || {
            "no leaf of the CA before is served beside the new one".to_owned()
        });
    }

    /// What is asked of the remote, before it is.
    pub(super) fn asked(&mut self, call: &Call, process: &Process, scene: &Scene<'_>) {
        let doubtful = self.is_doubtful(scene.now);
        match call {
            Call::AddCertificate(sha256) => {
                let id = self.names.get(sha256).map(|id| disk::ca(id));
                let durable = id.is_some_and(|id| scene.disk.has_durable(&id));
                self.find(!durable, || {
                    "a CA is registered whose key is not in custody".to_owned()
                });
            }
            Call::ArchiveCertificate(id) => {
                self.find(doubtful, || {
                    "a CA is archived by a clock in doubt".to_owned()
                });
                let sha256 = scene.far.sha256(id).unwrap_or_default().to_owned();
                self.find(sha256.starts_with(STRANGER), || {
                    "a stranger's CA is archived".to_owned()
                });
                let Some(active) = &process.ca.active else {
                    return;
                };
                let of = scene.far.active().filter(|(_, one)| *one == active.sha256);
                self.find(sha256 == active.sha256 && of.count() < 2, || {
                    "the CA in force is archived".to_owned()
                });
                let gone = scene.far.archived_at(&active.sha256);
                self.find(gone.is_some_and(|at| at + RACE < scene.now), || {
                    "a CA is archived while the one in force is not registered".to_owned()
                });
            }
            Call::ArchiveSecret(id) => {
                let sha256 = scene.far.secret(id).unwrap_or_default().to_owned();
                self.find(doubtful, || {
                    "a secret is archived by a clock in doubt".to_owned()
                });
                self.find(sha256.starts_with(STRANGER), || {
                    "a stranger's secret is archived".to_owned()
                });
            }
            Call::RotateToken(_) => self.rotating(process, doubtful, scene),
            _ => {}
        }
    }

    fn rotating(&mut self, process: &Process, doubtful: bool, scene: &Scene<'_>) {
        self.find(doubtful, || {
            "the token is rotated by a clock in doubt".to_owned()
        });
        let both = process
            .ca
            .active
            .as_ref()
            .zip(process.leaf.serving.as_ref());
        self.find(
            both.is_some_and(|(ca, leaf)| ca.sha256 != leaf.issuer),
            || "the token is rotated while the leaf does not follow its CA".to_owned(),
        );
        let generation = process.token.generation;
        let connectors = scene.replicas.iter().filter(|one| one.is_connector);
        for connector in connectors {
            let met = process.subscribers.contains_key(&connector.name);
            if !connector.is_in_service(scene.now) || !met && !self.known {
                continue;
            }
            let told = connector.told.as_ref().map(|told| told.0);
            let stranded = told != Some(generation) || !connector.linked;
            let name = connector.name.clone();
            self.find(stranded, || {
                format!("the token is rotated while {name} is away or has another one")
            });
        }
    }

    /// What a call did (I3, I4).
    pub(super) fn carried_out(&mut self, call: &Call, scene: &Scene<'_>) {
        match call {
            Call::AddCertificate(sha256) => {
                let of = scene.far.active().filter(|(_, one)| one == sha256);
                self.find(of.count() > 1, || "one CA holds two slots".to_owned());
            }
            Call::RotateToken(rotation) => {
                let times = scene.far.rotated.get(rotation);
                self.find(times.is_some_and(|times| *times > 1), || {
                    "one rotation made two tokens".to_owned()
                });
            }
            Call::ArchiveSecret(id) => {
                let sha256 = scene.far.secret(id);
                let mut ours = scene.replicas.iter().filter(|one| !one.is_connector);
                let cut =
                    ours.find(|one| one.bound.as_deref() == sha256 && one.is_in_service(scene.now));
                if let Some(cut) = cut {
                    let name = cut.name.clone();
                    self.find(true, || format!("{name} was cut off with its secret"));
                }
            }
            _ => {}
        }
    }
}
