//! A control channel that says what no daemon would say.

use tokio::io::AsyncReadExt;

use crate::rig::{Canary, Carrier, Daemon, Hello, Proxy, Rig, Setup, Upstream, within};

/// In the place of a key: must not come back in any message.
const SECRET: &str = "kT9wQx-canary-of-a-key";

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_control_message_is_logged_once_and_changes_nothing() {
    let mut rig = Rig::start(|setup| setup).await;
    let (proxy, hello) = (rig.proxy, Hello::new(&rig.issuer));
    let canary = Canary::start(&proxy, &hello, &[Carrier::Tls]);
    let deep = "[".repeat(200_000);
    let bad = [
        format!("{SECRET}\n"),
        format!("{{\"kind\":\"credential\",\"tunnel\":\"{SECRET}\"}}\n"),
        format!("{{\"kind\":{deep}\n"),
    ];
    for text in &bad {
        rig.session.send_raw(text.as_bytes()).await.unwrap();
        rig.session.left().await;
        // It comes back, and says what it still serves.
        rig.session = rig.daemon.accept().await;
        assert_eq!(rig.session.hello.serving[0].generation, 1);
    }
    // The same once more, again and again.
    let before = proxy.logged("control channel ended");
    for _ in 0..2 {
        rig.session.send_raw(bad[0].as_bytes()).await.unwrap();
        rig.session.left().await;
        rig.session = rig.daemon.accept().await;
    }
    let again = proxy.logged("control channel ended") - before;
    assert!(again <= 1, "{again} times: {}", proxy.log());
    assert!(!proxy.log().contains(SECRET), "{}", proxy.log());
    // The next good one is taken up.
    let next = rig.issuer.credential(2);
    rig.session.offer(&next).await;
    let line = crate::rig::Line::open(&proxy, Carrier::Tls, &hello)
        .await
        .unwrap();
    assert!(line.is_on(&next));
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_control_message_costs_no_memory() {
    let mut rig = Rig::start(|setup| setup).await;
    let proxy = rig.proxy;
    let canary = Canary::start(&proxy, &Hello::new(&rig.issuer), &[Carrier::Tls]);
    canary.more(2).await;
    let before = proxy.memory();
    let part = vec![b'x'; 64 << 10];
    let mut written = 0_usize;
    while rig.session.send_raw(&part).await.is_ok() {
        written += part.len();
        assert!(written < 64 << 20, "it reads on and on");
    }
    rig.session = rig.daemon.accept().await;
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB");
    proxy.logs("longer than 1048576 bytes", 1).await;
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_another_uid_is_told_nothing() {
    let upstream = Upstream::start().await;
    let daemon = Daemon::bind();
    // Here it is served by us, who are not this uid.
    let setup = Setup::new(&upstream)
        .subscribed(daemon.socket())
        .expecting_uid(4242);
    let proxy = Proxy::start(&setup).await;
    for _ in 0..3 {
        let mut stranger = daemon.connection().await;
        let mut said = Vec::new();
        // Left with our bytes unread it may be reset, which is as well.
        let _ = within("leaving", stranger.read_to_end(&mut said)).await;
        assert!(said.is_empty(), "it said hello to a stranger");
    }
    proxy.logs("which is not the daemon's", 1).await;
    assert_eq!(
        proxy.page("/readyz").await.as_deref(),
        Some("not ready\nno credential yet\n")
    );
}
