mod end;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use demo::bridge::{Bridge, BridgeOptions};
use demo::client::{Connection, Http, HttpVersion, Revision, Session, Target, Transport};
use demo::connector::{Connector, ConnectorOptions};
use demo::ledger::Ledger;
use demo::load::{Lane, Load, Plan, Rest, Server};
use demo::sample::{PATH, Sample, TOOLS};
use demo::trust::Trust;
use process::Tasks;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use end::{End, HOST};

const ANY: &str = "127.0.0.1:0";

/// The way a far peer takes, with a plain end in the place of the proxy.
struct Path {
    sample: Tasks,
    end: Tasks,
    connector: (Tasks, Connector),
    traffic: Tasks,
    ends: End,
    bridge: SocketAddr,
    trust: Arc<Trust>,
}

impl Path {
    async fn start() -> Self {
        let (sample, end, far, traffic) = (Tasks::new(), Tasks::new(), Tasks::new(), Tasks::new());
        let server = Sample::start(ANY.parse().unwrap(), &sample).await.unwrap();
        let ends = End::start(server.address, &end).await;
        let connector = ConnectorOptions {
            listen: ANY.parse().unwrap(),
            metrics: ANY.parse().unwrap(),
            origin: ends.websocket,
            grace: Duration::from_secs(20),
        };
        let connector = Connector::start(connector, &far).await.unwrap();
        let bridge = BridgeOptions {
            listen: ANY.parse().unwrap(),
            connector: connector.address,
            host: HOST.into(),
            path: "/any?path=1".into(),
            ping: Duration::from_millis(20),
            varied: true,
        };
        let bridge = Bridge::start(bridge, &traffic).await.unwrap().address;
        let trust = Trust::new();
        trust.hold(&[&ends.ca]).unwrap();
        Self {
            sample,
            end,
            connector: (far, connector),
            traffic,
            ends,
            bridge,
            trust,
        }
    }

    fn carriers(&self) -> [(&'static str, Target); 2] {
        let target = |address| Target {
            address,
            host: HOST.into(),
        };
        [
            ("websocket", target(self.bridge)),
            ("tls", target(self.ends.tls)),
        ]
    }

    fn plan(&self) -> Plan {
        Plan {
            lanes: Lane::all(&self.carriers(), &[Revision::Sessions, Revision::Stateless]),
            path: PATH.into(),
            server: Server::Sample,
            callers: 2,
            rest: Rest::Asleep(Duration::from_millis(1)),
            streams: 1,
            steps: 4,
            interval: Duration::from_millis(20),
        }
    }

    async fn session(&self, version: HttpVersion, revision: Revision) -> Session {
        let [(_, target), _] = self.carriers();
        let http = Http::new(target, version, &self.trust, &self.traffic).unwrap();
        let transport = Transport::new(http, PATH, Arc::default());
        Session::begin(transport, revision).await.unwrap()
    }
}

/// Waits for a state, at most 30 s.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 30 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_through_carries_every_shape_of_call() {
    let path = Path::start().await;
    let ledger = Ledger::open();
    let load = Load::start(&path.plan(), &path.trust, &ledger, &path.traffic).await;
    let load = load.map_err(|(lane, error)| format!("{}: {error:?}", lane.name()));
    let load = load.unwrap();
    until("calls and streams", || {
        ledger.made.get() > 400 && ledger.streams.get() > 40 || !ledger.is_clean()
    })
    .await;
    let opened = load.connections();
    load.stop().await;
    assert!(ledger.is_clean(), "{:?}", ledger.first());
    assert!(
        ledger.standing.opened.get() >= 4,
        "sessions have a standing stream"
    );
    // Half of the requests open one, and each session begun makes at least three requests.
    assert!(
        opened * 3 > ledger.made.get(),
        "{opened} of {}",
        ledger.made.get()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_dies_is_told_as_failed_calls_and_broken_streams() {
    let path = Path::start().await;
    let ledger = Ledger::open();
    let load = Load::start(&path.plan(), &path.trust, &ledger, &path.traffic).await;
    let load = load.unwrap_or_else(|(lane, error)| panic!("{}: {error}", lane.name()));
    until("streams", || ledger.streams.get() > 8).await;
    assert!(ledger.is_clean(), "{:?}", ledger.first());
    path.connector.0.stop();
    path.connector.1.cut();
    until("failed calls", || ledger.failed.get() > 4).await;
    until("broken streams", || {
        ledger.broken.get() > 0 && ledger.standing.broken.get() > 0
    })
    .await;
    load.stop().await;
    let first = ledger.first().unwrap();
    assert!(
        ["tcp", "inner TLS", "http", "mcp"].contains(&first.layer),
        "{first:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_is_a_failure() {
    let path = Path::start().await;
    let session = path.session(HttpVersion::One, Revision::Stateless).await;
    let error = session.call("add", json!({ "a": "x", "b": 1 })).await;
    assert_eq!(error.unwrap_err().layer(), "mcp");
    assert_eq!(session.tools().await.unwrap(), TOOLS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_not_held_is_not_trusted() {
    let path = Path::start().await;
    let other = End::start(path.ends.tls, &path.end).await;
    path.trust.hold(&[&other.ca]).unwrap();
    let [_, (_, target)] = path.carriers();
    let http = Http::new(target, HttpVersion::Two, &path.trust, &path.traffic).unwrap();
    let request = http::Request::get(PATH).body(http_body_util::Full::default());
    let refused = http.send(request.unwrap(), Connection::Kept).await;
    assert_eq!(refused.err().map(|error| error.layer()), Some("inner TLS"));
    path.trust.hold(&[&other.ca, &path.ends.ca]).unwrap();
    let request = http::Request::get(PATH).body(http_body_util::Full::default());
    assert!(http.send(request.unwrap(), Connection::Kept).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_sees_what_the_stock_connector_sends() {
    let path = Path::start().await;
    let session = path.session(HttpVersion::One, Revision::Sessions).await;
    session.call("echo", json!({ "text": "x" })).await.unwrap();
    let head = path.ends.upgrades.lock().unwrap()[0].clone();
    assert!(
        head.starts_with(&format!("GET /any?path=1 HTTP/1.1\r\nHost: {HOST}\r\n")),
        "{head}"
    );
    for line in [
        "\r\nCf-Connecting-Ip: 127.0.0.1\r\n",
        "\r\nCf-Ray: ",
        "\r\nCf-Warp-Tag-Id: ",
        "\r\nConnection: Upgrade\r\n",
        "\r\nSec-Websocket-Key: ",
        "\r\nSec-Websocket-Version: 13\r\n",
        "\r\nUpgrade: websocket\r\n",
    ] {
        assert!(head.contains(line), "{line:?} is missing in {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_connector_refuses_newcomers_and_finishes_what_it_has() {
    let path = Path::start().await;
    let session = path.session(HttpVersion::Two, Revision::Stateless).await;
    let (tasks, connector) = &path.connector;
    let ready = async || {
        let mut stream = TcpStream::connect(connector.metrics).await.unwrap();
        let request = b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = ready().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"readyConnections\":1"), "{answer}");
    let counting = session.count(10, Duration::from_millis(50));
    let stopping = async {
        // The kept connection of `discover` and the new one of `count`.
        until("two streams", || connector.streams() == 2).await;
        tasks.stop();
        let answer = ready().await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        // The listener goes at once; a connection may be refused or closed, but not be carried.
        let newcomer = TcpStream::connect(connector.address).await;
        if let Ok(mut newcomer) = newcomer {
            let mut byte = [0];
            assert!(!matches!(newcomer.read(&mut byte).await, Ok(1..)));
        }
    };
    let (counted, ()) = tokio::join!(counting, stopping);
    counted.unwrap();
    drop(session);
    tasks.drain(Duration::from_secs(30)).await;
    path.sample.stop();
}
