use std::path::PathBuf;

use control::{Reason, Report, Resource, Role};
use pki::{Certificate, CertifiedKey};
use tokio::sync::{oneshot, watch};

use super::*;
use crate::board::{Fault, Order, Publications, Refusal, Replica, Replicas};
use crate::remote::{Answer, Lane};
use crate::status::{Operation, OperationState, Status, TunnelStatus};

mod client_ca;
mod crash;
mod orders;
mod remote;
mod report;
mod schedule;
mod secret;
mod slots;
mod store;
mod switch;
mod times;
mod token;

const START: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const HOUR: u64 = 3600;

/// A daemon's directories and clocks, and the board that it shares with its proxies.
struct World {
    directory: tempfile::TempDir,
    provider: &'static str,
    settings: String,
    board: Board,
    _requests: mpsc::Receiver<Request>,
    /// Seconds.
    wall: u64,
    boot: u64,
    disk: Disk,
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    /// `settings` is written under the tunnel.
    fn with(settings: &str) -> Self {
        Self::of("static", settings)
    }

    /// A tunnel whose other side can be asked.
    fn remote(settings: &str) -> Self {
        Self::of("tunnels_api\n    tunnel_id: tnl_1", settings)
    }

    fn of(provider: &'static str, settings: &str) -> Self {
        let (requests, received) = mpsc::channel(8);
        Self {
            directory: tempfile::tempdir().unwrap(),
            provider,
            settings: settings.to_owned(),
            board: Board {
                publications: watch::Sender::new(Publications::new()),
                replicas: watch::Sender::new(Replicas::new()),
                status: watch::Sender::new(Arc::new(Status::default())),
                requests,
            },
            _requests: received,
            wall: START,
            boot: 1000,
            disk: Disk::simulated(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> Config {
        let root = self.directory.path().display();
        let (provider, settings) = (self.provider, &self.settings);
        let text = format!(
            "state: {root}/state\ntunnels:\n  main:\n    provider: {provider}\n    domain: t.example.com\n    \
             store: dir:{root}/store\n    serve_dir: {root}/served\n{settings}"
        );
        Config::parse(&text, "test").unwrap()
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(self.wall),
            boot: Duration::from_secs(self.boot),
            suspect: false,
        }
    }

    fn try_open(&self) -> Result<Engine, Failure> {
        Engine::open(&self.config(), &self.disk, self.moment())
    }

    /// A daemon that has just started: nothing is on the board.
    fn start(&self) -> Engine {
        self.board.publications.send_replace(Publications::new());
        let mut engine = self.try_open().unwrap();
        self.turn(&mut engine);
        engine
    }

    fn turn(&self, engine: &mut Engine) -> Duration {
        self.turn_with(engine, Vec::new())
    }

    fn turn_with(&self, engine: &mut Engine, requests: Vec<Request>) -> Duration {
        self.turn_on(
            engine,
            News {
                requests,
                ..News::default()
            },
        )
    }

    /// Takes a turn in which it is heard what came of calls.
    fn tell(&self, engine: &mut Engine, told: Vec<Told>) -> Duration {
        self.turn_on(
            engine,
            News {
                told,
                ..News::default()
            },
        )
    }

    fn turn_on(&self, engine: &mut Engine, news: News) -> Duration {
        let Moment { wall, boot, .. } = self.moment();
        engine.turn(&self.board, news, wall, boot)
    }

    /// The calls that are wanted, but for a look at the tunnel, which is there and ours.
    fn asks(&self, engine: &mut Engine) -> Vec<Ask> {
        let mut wanted = Vec::new();
        loop {
            let (looks, others): (Vec<_>, Vec<_>) = engine
                .take_asks()
                .into_iter()
                .partition(|ask| ask.lane == Lane::Tunnel);
            wanted.extend(others);
            if looks.is_empty() {
                return wanted;
            }
            let told = looks.into_iter().map(|ask| Told {
                ask,
                result: Ok(Answer::Tunnel(remote::tunnel("t.example.com", false))),
            });
            self.tell(engine, told.collect());
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.wall += seconds;
        self.boot += seconds;
    }

    /// Orders, and takes a turn.
    fn order(&self, engine: &mut Engine, order: Order) -> Result<Operation, Refusal> {
        let (answer, mut answered) = oneshot::channel();
        let actor = "uid:1000".to_owned();
        let request = Request {
            order,
            actor,
            answer,
        };
        self.turn_with(engine, vec![request]);
        answered.try_recv().unwrap()
    }

    fn rotate(&self, engine: &mut Engine) -> Operation {
        let tunnel = "main".to_owned();
        let order = Order::RotateServerCertificate { tunnel };
        let operation = self.order(engine, order).unwrap();
        self.operation(&operation.id)
    }

    fn rotate_ca(&self, engine: &mut Engine) -> Operation {
        let operation = self.order(engine, switch(true)).unwrap();
        self.operation(&operation.id)
    }

    fn operation(&self, id: &str) -> Operation {
        let status = self.board.status.borrow();
        let found = status
            .operations
            .iter()
            .find(|operation| operation.id == id);
        found.unwrap().clone()
    }

    fn status(&self) -> TunnelStatus {
        self.board.status.borrow().tunnels["main"].clone()
    }

    fn credential(&self) -> Arc<control::Credential> {
        let publications = self.board.publications.borrow();
        let credential = publications["main"].credential.as_ref().unwrap();
        credential.message().clone().into()
    }

    /// Connects a proxy that has acknowledged `generation`.
    fn connect(&self, name: &str, generation: u64) {
        let replica = Replica {
            role: Role::Proxy,
            uid: 1,
            build: "test".to_owned(),
            tunnels: vec!["main".to_owned()],
            dials: Vec::new(),
            connected: true,
            left: false,
            last_heard: self.moment().wall,
            acks: [(("main".to_owned(), Resource::Credential), generation)].into(),
            nacks: BTreeMap::new(),
            report: Report::default(),
        };
        self.board.replicas.send_modify(|replicas| {
            replicas.insert(name.to_owned(), replica);
        });
    }

    /// A proxy acknowledges what is published, after the checks that a proxy makes.
    fn ack(&self, name: &str) {
        let credential = self.credential();
        verify(&credential, self.wall);
        self.connect(name, credential.generation);
    }

    fn nack(&self, name: &str, reason: Reason) {
        let generation = self.credential().generation;
        let key = ("main".to_owned(), Resource::Credential);
        self.board.replicas.send_modify(|replicas| {
            let replica = replicas.get_mut(name).unwrap();
            replica.nacks.insert(key, (generation, reason));
        });
    }

    fn stored(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("store").join(name)).unwrap()
    }

    /// Names of the private keys in custody.
    fn keys(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("state/custody/main"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".key"))
            .collect();
        names.sort();
        names
    }

    /// The same, of CAs alone.
    fn ca_keys(&self) -> Vec<String> {
        let mut names = self.keys();
        names.retain(|name| name.starts_with("ca-"));
        names
    }
}

fn switch(trusted: bool) -> Order {
    Order::RotateCa {
        tunnel: "main".to_owned(),
        trusted,
        standby: None,
        accept_unproven: false,
    }
}

/// What a proxy checks: key, dates, one of the CAs signed it.
fn verify(credential: &control::Credential, now: u64) {
    let leaf = leaf(credential);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
    assert_eq!(leaf.certificate().public_key(), leaf.key().public_key());
    assert!(leaf.certificate().validity().contains(now));
    let issuer = credential.ca_certificates.iter().find(|pem| {
        let ca = Certificate::from_pem(pem).unwrap();
        ca.subject_key_id() == leaf.certificate().authority_key_id()
    });
    assert!(
        issuer.is_some(),
        "the leaf chains to no CA that is sent along"
    );
}

fn leaf(credential: &control::Credential) -> CertifiedKey {
    CertifiedKey::from_pem(&credential.leaf.chain, credential.leaf.key.expose()).unwrap()
}

#[test]
fn the_first_turn_makes_a_ca_a_standby_and_a_certificate_and_publishes_it() {
    let world = World::with("    client_ca: {}\n    routes: { docs: 'http://127.0.0.1:1' }\n");
    let mut engine = world.start();
    let credential = world.credential();
    verify(&credential, world.wall);
    assert_eq!((credential.generation, credential.lowest), (1, 0));
    assert_eq!(credential.ca_certificates.len(), 1);
    assert_eq!(credential.client_ca_certificates.len(), 1);
    let status = world.status();
    assert_eq!(status.phase, "serving");
    assert_eq!(status.alarms, Vec::<String>::new());
    let (ca, standby) = (status.ca.unwrap(), status.standby_ca.unwrap());
    assert_eq!(credential.ca_certificates[0], ca.pem);
    assert_ne!(ca.sha256, standby.sha256);
    assert_eq!(world.stored("ca.crt"), ca.pem);
    assert_eq!(world.stored("ca-next.crt"), standby.pem);
    assert_eq!(world.stored("client-ca.crt"), status.client_ca.unwrap().pem);
    assert_eq!(world.stored("tls.crt"), credential.leaf.chain);
    assert_eq!(world.stored("tls.key"), credential.leaf.key.expose());
    assert_eq!(world.stored("tunnel-domain"), "t.example.com");
    let policy = world.board.publications.borrow()["main"]
        .policy
        .clone()
        .unwrap();
    assert_eq!(
        policy.routes.as_ref().unwrap()["docs"].upstream,
        "http://127.0.0.1:1"
    );
    // Nothing happens without need.
    world.turn(&mut engine);
    assert_eq!(world.credential(), credential);
}

#[test]
fn an_order_without_proxies_is_done_at_once_and_says_that_there_are_none() {
    let world = World::new();
    let mut engine = world.start();
    let before = world.credential();
    let operation = world.rotate(&mut engine);
    let said = (operation.state, operation.detail.as_str());
    let expected = "generation 2 is published, but no proxy is connected";
    assert_eq!(said, (OperationState::Done, expected));
    let after = world.credential();
    assert_eq!(after.generation, before.generation + 1);
    assert_ne!(
        leaf(&after).key().public_key(),
        leaf(&before).key().public_key()
    );
    assert_eq!(world.status().rotations.server_certificate, 2);
}

#[test]
fn an_order_is_done_when_every_connected_proxy_has_acknowledged() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.ack("b");
    world.turn(&mut engine);
    let operation = world.rotate(&mut engine);
    assert_eq!(operation.state, OperationState::Running);
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Running
    );
    world.ack("b");
    world.turn(&mut engine);
    let operation = world.operation(&operation.id);
    let said = (operation.state, operation.detail.as_str());
    let expected = "generation 2 is in force at every connected proxy";
    assert_eq!(said, (OperationState::Done, expected));
}

#[test]
fn a_proxy_that_is_silent_for_two_seconds_is_named_and_waited_for_no_longer() {
    let mut world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.connect("mute", 0);
    world.pass(3);
    world.turn(&mut engine);
    let operation = world.rotate(&mut engine);
    world.ack("a");
    world.pass(1);
    world.turn(&mut engine);
    assert_eq!(
        world.operation(&operation.id).state,
        OperationState::Running
    );
    world.pass(1);
    world.turn(&mut engine);
    let operation = world.operation(&operation.id);
    assert_eq!(operation.state, OperationState::Failed);
    assert_eq!(
        operation.detail,
        "done, but these replicas have not acknowledged: mute"
    );
    assert!(world.status().alarms[0].starts_with("mute has not acknowledged generation 2"));
    // The next order is not held up by it.
    assert_eq!(world.rotate(&mut engine).state, OperationState::Running);
}

#[tokio::test]
async fn the_loop_publishes_rotates_and_ends_with_the_stop() {
    let world = World::new();
    let (requests, received) = mpsc::channel(8);
    let tasks = Tasks::new();
    let board = Board {
        requests,
        ..world.board.clone()
    };
    let rotator = Rotator::open(&world.config(), Arc::new(process::SystemClock), None).unwrap();
    let running = rotator.run(board.clone(), received, tasks.clone());
    tasks.essential("rotator", running);
    let mut publications = board.publications.subscribe();
    let published = |generation: u64| {
        move |publications: &Publications| {
            let main = publications.get("main");
            main.and_then(|main| main.credential.as_ref())
                .is_some_and(|credential| credential.message().generation == generation)
        }
    };
    publications.wait_for(published(1)).await.unwrap();
    let (answer, answered) = oneshot::channel();
    let tunnel = "main".to_owned();
    let order = Order::RotateServerCertificate { tunnel };
    let actor = "test".to_owned();
    let request = Request {
        order,
        actor,
        answer,
    };
    board.requests.send(request).await.unwrap();
    let operation = answered.await.unwrap().unwrap();
    publications.wait_for(published(2)).await.unwrap();
    let mut status = board.status.subscribe();
    let done = |status: &Arc<Status>| {
        let mut operations = status.operations.iter();
        operations.any(|one| one.id == operation.id && one.state == OperationState::Done)
    };
    status.wait_for(done).await.unwrap();
    assert_eq!(
        tasks.drain(Duration::from_secs(10)).await,
        process::Drained::Clean
    );
    assert_eq!(tasks.failure(), None);
}
