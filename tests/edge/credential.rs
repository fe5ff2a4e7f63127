//! The credential of a live connection: renewed in band, cut, refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::stand::{OPEN, Stand, Tunnel};
use crate::rig::{Hello, Line, until};

fn tunnel(secrets: &[(&'static str, &str, &'static str)]) -> Tunnel {
    let secrets = secrets
        .iter()
        .map(|(id, value, more)| (*id, (*value).to_owned(), *more));
    Tunnel {
        instances: 1,
        secrets: secrets.collect(),
        suspended: false,
        access: OPEN.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_in_band_under_load_and_no_call_fails() {
    let stand = Stand::start(2, OPEN).await;
    stand.links(4).await;
    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut load = JoinSet::new();
    for number in 0..8 {
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        let (address, hello) = (stand.address, Hello::new(&stand.issuer));
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let tcp = crate::rig::line::connect(address).await.unwrap();
                let mut line = Line::on(tcp, &hello).unwrap();
                line.handshake().await.unwrap();
                // Some stay on one connection for long, some make a new one for each call.
                for _ in 0..if number % 2 == 0 { 50 } else { 1 } {
                    assert_eq!(line.get("/load").await.unwrap().status, 200);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let more = async |count: u64| {
        let whole = calls.load(Ordering::Relaxed) + count;
        until("calls", async || {
            (calls.load(Ordering::Relaxed) >= whole).then_some(())
        })
        .await;
    };
    let mut line = stand.line().await.unwrap();
    more(100).await;
    let names = ["a", "b", "c", "d"];
    for pair in names.windows(2) {
        let [old, new] = pair else { panic!("pairs") };
        let values = [format!("secret-{old}"), format!("secret-{new}")];
        // Verifiers first, users second, verifiers last.
        stand.tell(&tunnel(&[(old, &values[0], ""), (new, &values[1], "")]));
        stand.replace("secret", &values[1]);
        let bound = format!("\"credential\":\"{new}\"");
        let bound = |line: &&str| line.contains("bound to another") && line.contains(&bound);
        until("every connection bound to the new one", async || {
            (stand.edge.log().lines().filter(bound).count() == 4).then_some(())
        })
        .await;
        stand.tell(&tunnel(&[(new, &values[1], "")]));
        more(100).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    assert_eq!(
        line.get("/same").await.unwrap().status,
        200,
        "on the first connection of all"
    );
    assert_eq!(stand.edge.metric("keyward_edge_links").await, 4);
    assert!(!stand.edge.log().contains("proxy disconnected"));
}

#[tokio::test]
async fn a_credential_that_is_cut_ends_its_connections_within_a_second_and_no_others() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    stand.tell(&tunnel(&[("a", "secret-a", ""), ("b", "secret-b", "")]));
    stand.replace("secret", "secret-b");
    stand.edge.logs("bound to another", 2).await;
    // Another proxy holds on to the old one, as a thief would.
    std::fs::write(stand.file("stolen"), "secret-a").unwrap();
    let config = std::fs::read_to_string(stand.file("replica-0.yaml")).unwrap();
    let thief = stand
        .with_config(
            "thief",
            &config.replace(&stand.file("secret"), &stand.file("stolen")),
        )
        .await;
    thief.ready().await;
    stand.links(4).await;
    let mut line = stand.line().await.unwrap();
    let begun = Instant::now();
    stand.tell(&tunnel(&[("b", "secret-b", "")]));
    stand.links(2).await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    stand
        .edge
        .logs("\"reason\":\"its credential was cut\"", 2)
        .await;
    // It never comes back, and is told why.
    until("the thief's notice", async || {
        let page = thief.page("/readyz").await?;
        page.contains("status 401").then_some(())
    })
    .await;
    let _ = line.get("/maybe").await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/still").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_secret_that_the_edge_does_not_know_yet_changes_nothing_until_it_does() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    stand.replace("secret", "secret-b");
    stand.proxies[0].logs("secret refused", 2).await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/old").await.unwrap().status, 200);
    stand.proxies[0].ready().await;
    stand.tell(&tunnel(&[("a", "secret-a", ""), ("b", "secret-b", "")]));
    stand.edge.logs("bound to another", 2).await;
    stand.tell(&tunnel(&[("b", "secret-b", "")]));
    assert_eq!(line.get("/new").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_that_will_be_cut_is_replaced_before_it_goes() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    // As after `rotate_token`: live connections go on, new ones want the new value, the old ends later.
    let later = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3600;
    let more: &'static str = format!(", accepts: false, cut_at: {later}").leak();
    stand.tell(&tunnel(&[("a", "secret-a", more)]));
    stand.proxies[0]
        .logs("the edge will cut the connection", 2)
        .await;
    stand.proxies[0].logs("status 401", 1).await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(
        line.get("/live").await.unwrap().status,
        200,
        "live ones are left alone"
    );
    stand.tell(&tunnel(&[("a", "secret-a", more), ("b", "secret-b", "")]));
    stand.replace("secret", "secret-b");
    stand.edge.logs("bound to another", 2).await;
    stand.tell(&tunnel(&[("b", "secret-b", "")]));
    assert_eq!(line.get("/live").await.unwrap().status, 200);
}
