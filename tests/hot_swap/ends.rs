//! No connection outlives the certificate that it was opened with (F15).

use std::time::{Duration, SystemTime};

use control::Credential;
use tokio_websockets::CloseCode;

use crate::rig::{Answer, Carrier, Hello, Line, Rig, credentials};

/// Long enough for all connections to be made on a slow machine.
const LIFE: Duration = Duration::from_secs(5);
/// The proxy looks once a second, and the certificate's last second belongs to it.
const LATE: Duration = Duration::from_secs(10);

const GOAWAY: u8 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn kept_alive_connections_are_told_to_close_when_their_leaf_ends() {
    // The first one is superseded before it ends, the second one is in force when it does.
    for superseded in [true, false] {
        let mut rig = Rig::start(|setup| setup.limit("drain", "100ms")).await;
        let short = rig.issuer.of(2, &rig.issuer.pair_for(LIFE));
        assert_eq!(rig.session.offer(&short).await, Answer::Ack);
        let mut one = Line::open(&rig.proxy, Carrier::Tls, &Hello::new(&rig.issuer))
            .await
            .unwrap();
        assert_eq!(one.get("/").await.unwrap().status, 200);
        let mut web = Line::open(&rig.proxy, Carrier::WebSocket, &Hello::new(&rig.issuer))
            .await
            .unwrap();
        assert_eq!(web.get("/").await.unwrap().status, 200);
        let hello = Hello::new(&rig.issuer).alpn(b"h2");
        let mut two = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
        // It answers no ping, so it is told and, when `drain` is over, cut.
        two.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        assert!(one.is_on(&short) && web.is_on(&short) && two.is_on(&short));
        if superseded {
            let next = rig.issuer.credential(3);
            assert_eq!(rig.session.offer(&next).await, Answer::Ack);
        }
        let (one_rest, web_rest, two_rest) = tokio::join!(one.rest(), web.rest(), two.rest());
        check_time(&short);
        assert!(one_rest.is_empty() && web_rest.is_empty());
        assert_eq!(web.closed, Some(CloseCode::GOING_AWAY));
        let kinds: Vec<u8> = kinds(&two_rest);
        assert!(kinds.contains(&GOAWAY), "{kinds:?}");
        let what = "certificate expired, ending its connections";
        rig.proxy.logs(what, 1).await;
    }
}

/// That it is now after the end of `credential`, and not long.
fn check_time(credential: &Credential) {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(credential.leaf.not_after);
    let now = credentials::now();
    assert!(now >= end, "too early");
    assert!(now < end + LATE, "too late");
}

/// The kinds of the HTTP/2 frames in `bytes`.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        kinds.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        bytes = rest.get(length..).unwrap_or_default();
    }
    kinds
}
