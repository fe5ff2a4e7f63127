//! An edge that means harm to the proxies that dial it: whatever it sends, it loses its connection or does no
//! harm; memory stays bounded, and what comes in through another edge is served as ever.

use super::flood::{Flood, connect, continued, empty, grown, pings, send, settings, unread};
use super::frames::{HEADERS, PREFACE, WHOLE, frame};
use super::hostile::Hostile;
use super::stand::{OPEN, Program, Stand, Tunnel};
use crate::rig::{HOST, until, within};

/// A proxy that dials a good edge and a hostile one.
struct Between {
    stand: Stand,
    hostile: Hostile,
    proxy: Program,
}

impl Between {
    async fn start() -> Self {
        let stand = Stand::start(0, OPEN).await;
        stand.tell(&Tunnel {
            instances: 2,
            ..Tunnel::open_to(OPEN)
        });
        let read = |name: &str| std::fs::read_to_string(stand.file(name)).unwrap();
        let mut hostile = Hostile::bind(&read("front.crt"), &read("front.key")).await;
        hostile.instances = 2;
        let both = format!(
            "    addresses: ['{}', '{}']\n",
            stand.address, hostile.address
        );
        let proxy = stand.proxy_at("between", &both).await;
        stand.links(2).await;
        Self {
            stand,
            hostile,
            proxy,
        }
    }

    /// A call through the good edge is answered.
    async fn serves(&self, after: &str) {
        let mut line = self.stand.line().await.unwrap();
        assert_eq!(
            line.get("/well").await.unwrap().status,
            200,
            "after {after}"
        );
    }
}

/// CONNECT for a name that is none of the tunnel's, and nothing behind it.
fn strange(number: u32, _: &str) -> Vec<u8> {
    let authority = format!("n{number}.other.example:443");
    let mut block = vec![2, 7];
    block.extend(b"CONNECT");
    block.extend([1, u8::try_from(authority.len()).unwrap()]);
    block.extend(authority.as_bytes());
    frame(HEADERS, WHOLE, 2 * number + 1, &block)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_floods_a_proxy_loses_its_connection_or_does_no_harm_and_another_edge_serves_on()
 {
    let between = Between::start().await;
    let before = between.proxy.peak();
    let floods: [(&str, Flood, u32); 7] = [
        ("connects", connect, 30_000),
        ("strange names", strange, 30_000),
        ("a head without end", continued, 30_000),
        ("a head of nothing", empty, 200_000),
        ("pings", pings, 30_000),
        ("settings", settings, 30_000),
        ("requests", unread, 30_000),
    ];
    for (what, flood, count) in floods {
        let stream = within("the proxy", between.hostile.accept()).await;
        let outcome = send(stream, PREFACE, flood, count, HOST).await;
        if what.starts_with("a head") {
            assert!(outcome.ended.is_some(), "{what}: {outcome:?}");
        }
        assert!(
            outcome.ended.is_some() || outcome.sent == count,
            "{what}: {outcome:?}"
        );
        between.serves(what).await;
        grown(&between.proxy, before, what);
    }
    until("the end of all that came with the floods", async || {
        (between.proxy.metric("keyward_connections").await == 0).then_some(())
    })
    .await;
    between.stand.links(2).await;
    assert!(!between.proxy.log().contains("panicked"));
}
