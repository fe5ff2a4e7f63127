//! Swaps without end cost nothing that stays (F32, F50), nor do calls. `tests/bench swap` makes 10,000 in a release build.

use std::time::Duration;

use bytes::Bytes;
use demo::client::{Connection, Http, HttpVersion, Target};
use demo::trust::Trust;
use http::Request;
use http_body_util::{BodyExt, Full};
use process::Tasks;
use tokio::time::Instant;

use crate::rig::{Answer, Canary, Carrier, HOST, Hello, Rig, credentials};

/// So many, ...
const SWAPS: u64 = 10_000;
/// ... unless the machine is so slow that fewer have to do, of which there are at least this many.
const LEAST: u64 = 2000;
const TIME: Duration = Duration::from_secs(20);
/// Memory is compared after these: allocator and runtime have found their size by then.
const WARM: u64 = 500;
/// In KiB. A leaked configuration is some 10 KiB, so that of the fewest swaps one in eight may not leak.
const GROWTH: u64 = 2 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn swaps_leave_memory_threads_and_descriptors_as_they_were() {
    let mut rig = Rig::start(|setup| setup).await;
    let canary = Canary::start(
        &rig.proxy,
        &Hello::new(&rig.issuer),
        &[Carrier::Tls, Carrier::WebSocket],
    );
    let mut offer = rig.issuer.credential(2);
    let leaves = [(); 4].map(|()| credentials::leaf(&rig.issuer.pair()));
    let begun = Instant::now();
    let mut warm = (0, 0, 0);
    let mut swaps = 0;
    while swaps < SWAPS && (swaps < LEAST || begun.elapsed() < TIME) {
        offer.generation += 1;
        offer.leaf = leaves[usize::try_from(swaps % 4).unwrap()].clone();
        assert_eq!(rig.session.offer(&offer).await, Answer::Ack);
        swaps += 1;
        if swaps == WARM {
            canary.more(10).await;
            warm = (
                rig.proxy.memory(),
                rig.proxy.threads(),
                rig.proxy.descriptors(),
            );
        }
    }
    canary.finish().await;
    let grown = rig.proxy.memory().saturating_sub(warm.0);
    assert!(grown < GROWTH, "{grown} KiB after {swaps} swaps");
    // Threads that read files come and go.
    assert!(rig.proxy.threads() <= warm.1 + 4);
    assert!(rig.proxy.descriptors() <= warm.2 + 16);
}

/// HTTP/2 remembers fields of some sixty answers for as long as the connection lives: the fields, not what they came in.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_remembers_of_its_answers_no_more_than_their_fields() {
    let rig = Rig::start(|setup| setup).await;
    let trust = Trust::new();
    trust.hold(&[rig.issuer.ca_pem()]).unwrap();
    let target = Target {
        address: rig.proxy.tls,
        host: HOST.to_owned(),
    };
    let tasks = Tasks::new();
    let http = Http::new(target, HttpVersion::Two, &trust, &tasks).unwrap();
    let mut warm = 0;
    for number in 0..200 {
        let request = Request::get(format!("/large/{number:020}"));
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = http.send(request, Connection::Kept).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes().len(), 256 << 10);
        if number == 10 {
            warm = rig.proxy.memory();
        }
    }
    assert_eq!(http.opened(), 1);
    let grown = rig.proxy.memory().saturating_sub(warm);
    tasks.stop();
    assert!(grown < GROWTH, "{grown} KiB");
}
