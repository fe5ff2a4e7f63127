//! Ten thousand who come in and say nothing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::rig::{Canary, Carrier, Hello, Rig, until};

const CROWD: usize = 10_000;
/// What the proxy is told to hold, as by default.
const PENDING: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_harm_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let rig = Rig::start(|setup| setup).await;
    let proxy = rig.proxy;
    let canary = Canary::start(
        &proxy,
        &Hello::new(&rig.issuer),
        &[Carrier::Tls, Carrier::WebSocket],
    );
    canary.more(4).await;
    let before = proxy.memory();
    let accepted = proxy.metric("keyward_accepted_total").await;

    let mut crowd = Vec::with_capacity(CROWD);
    let mut coming = JoinSet::new();
    for number in 0..CROWD {
        let address = if number % 2 == 0 {
            proxy.tls
        } else {
            proxy.web
        };
        coming.spawn(TcpStream::connect(address));
        // On a machine that is busy with other tests a caller may need this long from its connection to its
        // first byte, and is safe for as many newcomers as half of the pending handshakes.
        if number % (PENDING / 4) == 0 {
            canary.more(4).await;
        }
        // As many at a time as a backlog takes.
        if coming.len() >= 100 {
            crowd.push(coming.join_next().await.unwrap().unwrap().unwrap());
        }
    }
    while let Some(came) = coming.join_next().await {
        crowd.push(came.unwrap().unwrap());
    }
    let whole = accepted + CROWD as u64;
    until("everybody's arrival", async || {
        (proxy.metric("keyward_accepted_total").await >= whole).then_some(())
    })
    .await;
    canary.more(10).await;

    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB");
    let held = proxy.descriptors();
    assert!(held < PENDING + 200, "{held} descriptors");
    proxy.logs("too many pending handshakes", 1).await;
    drop(crowd);
    canary.finish().await;
}
