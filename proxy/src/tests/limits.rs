//! Whoever says nothing, or says it slowly, harms nobody.

use std::sync::Arc;
use std::time::Duration;

use control::Credential;
use process::Clock;
use process::metrics::Exposition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConnection;

use super::world::{Ca, Caller, NAME, Pipes, Proxy, read_rest, until, within};

#[tokio::test]
async fn of_too_many_silent_connections_the_oldest_go_and_a_call_gets_through() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  pending_handshakes: 8\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut silent = Vec::new();
    for port in [proxy.tls, proxy.web] {
        for _ in 0..50 {
            silent.push(TcpStream::connect(port).await.unwrap());
        }
    }
    until("most have been ended", || {
        proxy.telemetry.evicted.get() >= 92
    })
    .await;
    assert_eq!(read_rest(&mut silent[0]).await, "", "the oldest was closed");
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut stream).await;
    // The newest are still waited for.
    let mut byte = [0];
    let newest = tokio::time::timeout(Duration::from_millis(50), silent[99].read(&mut byte));
    assert!(newest.await.is_err());
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  handshake_timeout: 200ms\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut silent = TcpStream::connect(proxy.tls).await.unwrap();
    let mut half = TcpStream::connect(proxy.tls).await.unwrap();
    // Half of a TLS record, and half of a request.
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut web = TcpStream::connect(proxy.web).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: ")
        .await
        .unwrap();
    for stream in [&mut silent, &mut half, &mut web] {
        assert_eq!(read_rest(stream).await, "");
    }
}

#[tokio::test]
async fn beyond_the_limit_a_connection_is_refused_and_room_is_made_again() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  connections: 2\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let first = proxy.call(&Caller::new(&[&ca])).await;
    let _second = proxy.call(&Caller::new(&[&ca])).await;
    until("two are established", || {
        proxy.telemetry.connections.get() == 2
    })
    .await;
    let mut third = TcpStream::connect(proxy.tls).await.unwrap();
    assert_eq!(read_rest(&mut third).await, "");
    drop(first);
    until("one has gone", || proxy.telemetry.connections.get() == 1).await;
    let mut fourth = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut fourth).await;
}

#[tokio::test]
async fn handshakes_that_race_for_the_last_place_do_not_share_it() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  connections: 1\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let (first, second) = (
        TcpStream::connect(proxy.tls).await.unwrap(),
        TcpStream::connect(proxy.tls).await.unwrap(),
    );
    // Both are let in while nobody is established.
    until("both are accepted", || proxy.telemetry.accepted.get() == 2).await;
    let caller = Caller::new(&[&ca]);
    let mut first = within("a handshake", caller.connect(first)).await.unwrap();
    until("it is established", || {
        proxy.telemetry.connections.get() == 1
    })
    .await;
    let mut second = within("a handshake", caller.connect(second)).await.unwrap();
    assert_eq!(read_rest(&mut second).await, "");
    assert_eq!(proxy.telemetry.refused.get(), 1);
    proxy.ask(&mut first).await;
}

#[tokio::test]
async fn a_handshake_that_had_to_make_room_is_counted_as_that() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  pending_handshakes: 1\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut half = TcpStream::connect(proxy.tls).await.unwrap();
    half.write_all(&client_hello(&ca)).await.unwrap();
    // Its answer says that the handshake has begun.
    let mut byte = [0];
    within("the server's hello", half.read_exact(&mut byte))
        .await
        .unwrap();
    let mut later = TcpStream::connect(proxy.tls).await.unwrap();
    later.write_all(&client_hello(&ca)).await.unwrap();
    until("the older one is ended", || {
        proxy.credentials.report(&[])[0]
            .failures
            .contains_key("evicted")
    })
    .await;
    let failures = &proxy.credentials.report(&[])[0].failures;
    assert_eq!(
        failures.iter().collect::<Vec<_>>(),
        [(&"evicted".to_owned(), &1)]
    );
    let page = metrics(&proxy);
    // The CA of the certificate that it was shown, as openssl and keyward name it.
    let ca = pki::Certificate::from_pem(&ca.pem()).unwrap().fingerprint();
    let line = format!("keyward_handshake_alerts_total{{alert=\"evicted\",ca=\"{ca}\"}} 1\n");
    assert!(page.contains(&line), "{page}");
}

#[tokio::test]
async fn a_refusal_is_counted_under_the_ca_of_the_certificate_that_was_refused() {
    let (first, second, proxy) = (Ca::new(), Ca::new(), Proxy::start().await);
    let sha256 = |ca: &Ca| {
        let ca = pki::Certificate::from_pem(&ca.pem()).unwrap();
        ca.fingerprint().to_string()
    };
    let refuse = async |refusals: usize| {
        for _ in 0..refusals {
            let stream = TcpStream::connect(proxy.tls).await.unwrap();
            let refused = Caller::new(&[&Ca::new()]).connect(stream).await;
            assert!(refused.is_err());
        }
    };
    proxy.offer(&first.credential(1)).settled().await;
    refuse(2).await;
    // The standby CA is known already, and its certificate is not yet the one that is shown.
    let next = Credential {
        ca_certificates: vec![second.pem(), first.pem()],
        ..first.credential(2)
    };
    proxy.offer(&next).settled().await;
    refuse(1).await;
    proxy.offer(&second.credential(3)).settled().await;
    refuse(1).await;
    let nothing = TcpStream::connect(proxy.tls).await.unwrap();
    drop(nothing);
    let counted = |label: &str, ca: &str, count: u32| {
        let name = "keyward_handshake_alerts_total";
        format!("{name}{{alert=\"{label}\",ca=\"{ca}\"}} {count}\n")
    };
    let wanted = [
        counted("unknown_ca", &sha256(&first), 3),
        counted("unknown_ca", &sha256(&second), 1),
        counted("io", "", 1),
    ];
    until("all are counted", || {
        let page = metrics(&proxy);
        wanted.iter().all(|line| page.contains(line))
    })
    .await;
}

/// The first flight of a caller.
fn client_hello(ca: &Ca) -> Vec<u8> {
    let config = Arc::new(Caller::new(&[ca]).config);
    let mut caller = ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    caller.write_tls(&mut bytes).unwrap();
    bytes
}

fn metrics(proxy: &Proxy) -> String {
    let mut page = Exposition::default();
    let clock: &dyn Clock = &*proxy.clock;
    proxy.telemetry.page(&mut page, &proxy.credentials, clock);
    page.finish()
}

#[tokio::test]
async fn metrics_say_which_build_this_is() {
    let page = metrics(&Proxy::start().await);
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("keyward_build_info{{version=\"{version}\",commit=\"");
    assert!(page.contains(&line), "{page}");
}

#[tokio::test]
async fn a_failed_handshake_frees_its_place() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1)).settled().await;
    for _ in 0..3 {
        let stranger = Caller::new(&[&Ca::new()]).connector();
        let (_, accepted) = pipes.handshake(&stranger).await;
        let text = accepted.map(drop).unwrap_err().to_string();
        assert_eq!(text, "remote error: tls: unknown certificate authority");
    }
    within(
        "no handshake is left",
        pipes.offer(&ca.credential(2)).settled(),
    )
    .await;
}
