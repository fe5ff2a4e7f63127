//! A proxy without a secret of its own: the daemon sends it what it dials with.

use control::{FromDaemon, Reason, Resource, Secret};
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::program::Program;
use super::stand::{OPEN, Stand, Tunnel};
use crate::cli::process::{KEYWARD, Place};
use crate::rig::{self, Answer, Hello, Line, until};

/// Everything that stands for a secret here, at the edge or nowhere.
const VALUES: [&str; 3] = ["secret-a", "secret-b", "secret-wrong"];

fn knows(values: &[&'static str]) -> Tunnel {
    Tunnel {
        secrets: values
            .iter()
            .map(|value| (&value["secret-".len()..], (*value).to_owned(), ""))
            .collect(),
        ..Tunnel::open_to(OPEN)
    }
}

/// A proxy that dials the edge of `stand` with what comes over `socket`, from a daemon of `uid`.
async fn proxy(stand: &Stand, socket: &str, uid: u32) -> Program {
    let health = "127.0.0.1:1".parse().unwrap();
    let text = stand.config("dials", "", "", health);
    let file = format!("    secret_file: {}\n", stand.file("secret"));
    assert!(text.contains(&file));
    let text = text.replace(&file, "");
    let control = "replica: dials, tunnels: [main]";
    let text = format!("{text}control: {{socket: {socket}, daemon_uid: {uid}, {control}}}\n");
    stand.with_config("dials", &text).await
}

/// A real daemon whose store somebody else puts tokens into.
struct Case {
    stand: Stand,
    place: Place,
    proxy: Program,
}

impl Case {
    async fn new() -> Self {
        let (stand, place) = (Stand::start(0, OPEN).await, Place::new(KEYWARD));
        let config = std::fs::read_to_string(place.path("keyward.yaml")).unwrap();
        // Callers without a certificate are what the stand has.
        let config = config.replace("    client_ca: {}\n", "");
        std::fs::write(place.path("keyward.yaml"), config).unwrap();
        let proxy = proxy(&stand, &place.text("run/control.sock"), KEYWARD).await;
        Self {
            stand,
            place,
            proxy,
        }
    }

    /// Puts a token into the store, as whoever rotates it does.
    fn put(&self, token: &str) {
        let next = self.place.path("next");
        std::fs::write(&next, token).unwrap();
        std::os::unix::fs::chown(&next, Some(KEYWARD), Some(KEYWARD)).unwrap();
        std::fs::rename(next, self.place.path("store/tunnel-token")).unwrap();
    }

    /// The daemon looks at its store at each turn; an order makes one.
    async fn publish(&self, token: &str) {
        self.put(token);
        let words = ["rotate", "server-certificate", "--json"];
        let ended = self.place.keyward(&words).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    async fn status(&self) -> String {
        self.place.keyward(&["status", "--json"]).await.stdout
    }

    async fn alarm(&self, wanted: bool) {
        let alarm = "dials: the tunnel's edge does not accept the token of generation ";
        let reached = async || (self.status().await.contains(alarm) == wanted).then_some(());
        until(&format!("an alarm: {wanted}"), reached).await;
    }

    /// An agent's connection, through the edge to the upstream.
    async fn line(&self) -> Line {
        let ca = std::fs::read_to_string(self.place.path("store/ca.crt")).unwrap();
        let tcp = TcpStream::connect(self.stand.address).await.unwrap();
        let mut line = Line::on(tcp, &Hello::trusting(&ca)).unwrap();
        line.handshake().await.unwrap();
        line
    }

    async fn serves(&self, line: &mut Line) {
        assert_eq!(line.get("/same").await.unwrap().status, 200);
        assert_eq!(self.line().await.get("/new").await.unwrap().status, 200);
        assert_eq!(self.stand.edge.metric("keyward_edge_links").await, 2);
        self.proxy.ready().await;
    }
}

#[tokio::test]
async fn a_token_in_the_daemons_store_is_dialled_with_renewed_in_band_and_refused_with_an_alarm() {
    let case = Case::new().await;
    until("it says what it waits for", async || {
        let page = case.proxy.page("/readyz").await?;
        page.contains("carrier edge: no secret yet").then_some(())
    })
    .await;
    case.put("secret-a");
    let mut daemon = case.place.serve().await;
    case.proxy.ready().await;
    case.stand.links(2).await;
    let mut line = case.line().await;
    case.serves(&mut line).await;

    case.stand.tell(&knows(&VALUES[..2]));
    case.publish("secret-b").await;
    case.stand.edge.logs("bound to another", 2).await;
    case.stand.tell(&knows(&VALUES[1..2]));
    case.serves(&mut line).await;
    case.alarm(false).await;

    case.publish("secret-wrong").await;
    case.alarm(true).await;
    case.serves(&mut line).await;
    // The edge hears of it late.
    case.stand.tell(&knows(&VALUES[1..]));
    case.alarm(false).await;
    case.stand.tell(&knows(&VALUES[2..]));
    case.serves(&mut line).await;
    assert!(!case.stand.edge.log().contains("proxy disconnected"));

    let status = case.status().await;
    let pid = rustix::process::Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    daemon.child.wait().await.unwrap();
    // What it sent last is dialled with all the same.
    let mut case = case;
    case.stand.edge.end(Signal::KILL).await;
    case.stand.restart().await;
    case.stand.links(2).await;
    let mut line = case.line().await;
    case.serves(&mut line).await;

    let pages = [
        case.proxy.page("/readyz").await.unwrap(),
        case.proxy.page("/metrics").await.unwrap(),
    ];
    let logs = [case.proxy.log(), daemon.log(), case.stand.edge.log()];
    for text in logs.iter().chain(&pages).chain([&status]) {
        assert!(!VALUES.iter().any(|value| text.contains(value)), "{text}");
    }
}

#[tokio::test]
async fn a_secret_is_acknowledged_when_the_edge_has_bound_every_connection_to_it() {
    let stand = Stand::start(0, OPEN).await;
    let daemon = rig::Daemon::bind();
    let uid = rustix::process::geteuid().as_raw();
    let proxy = proxy(&stand, daemon.socket().to_str().unwrap(), uid).await;
    let mut session = daemon.accept().await;
    assert_eq!(session.hello.dials, [rig::TUNNEL]);
    let credential = stand.issuer.credential(1);
    assert_eq!(session.offer(&credential).await, Answer::Ack);
    let dialled = |generation, value: &str| {
        FromDaemon::Tunnel(control::Tunnel {
            tunnel: rig::TUNNEL.to_owned(),
            generation,
            token: Secret::new(value.to_owned()),
        })
    };
    session.send(&dialled(1, "secret-a")).await;
    assert_eq!(session.answer(Resource::Tunnel, 1).await, Answer::Ack);
    stand.links(2).await;
    let mut line = stand.line().await.unwrap();

    session.send(&dialled(2, "secret-b")).await;
    let refused = Answer::Nack(Reason::TokenRefused);
    assert_eq!(session.answer(Resource::Tunnel, 2).await, refused);
    session.send(&dialled(3, "no secret")).await;
    let malformed = Answer::Nack(Reason::Malformed);
    assert_eq!(session.answer(Resource::Tunnel, 3).await, malformed);
    assert_eq!(line.get("/old").await.unwrap().status, 200);
    stand.tell(&knows(&VALUES[..2]));
    assert_eq!(session.answer(Resource::Tunnel, 2).await, Answer::Ack);
    let log = stand.edge.log();
    let bound = |line: &&str| line.contains("bound to another");
    assert_eq!(log.lines().filter(bound).count(), 2, "{log}");
    stand.tell(&knows(&VALUES[1..2]));
    assert_eq!(line.get("/new").await.unwrap().status, 200);

    // A new one that nobody takes any more, while what is connected goes on.
    let later = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3600;
    let more: &'static str = format!(", accepts: false, cut_at: {later}").leak();
    stand.tell(&Tunnel {
        secrets: vec![("b", VALUES[1].to_owned(), more)],
        ..Tunnel::open_to(OPEN)
    });
    assert_eq!(session.answer(Resource::Tunnel, 2).await, refused);
    assert_eq!(line.get("/live").await.unwrap().status, 200);
    proxy.ready().await;
}
