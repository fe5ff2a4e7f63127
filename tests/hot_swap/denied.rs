//! A client certificate that is denied is out, whatever it had before.

use control::Policy;

use crate::rig::{Answer, Carrier, HOST, Hello, Line, Rig, TUNNEL, until};

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn a_denied_client_loses_its_stream_and_does_not_come_back_on_a_resumed_session() {
    let mut rig = Rig::start(|setup| setup).await;
    let mut mutual = rig.issuer.credential(2);
    mutual.client_ca_certificates = vec![rig.issuer.client_ca_pem()];
    assert_eq!(rig.session.offer(&mutual).await, Answer::Ack);
    let (thief, honest) = (rig.issuer.client("thief"), rig.issuer.client("honest"));
    let open = async |hello: &Hello| Line::open(&rig.proxy, Carrier::Tls, hello).await;

    // Nobody comes in without a certificate: TLS 1.3 says so with the first answer.
    let mut nobody = open(&Hello::new(&rig.issuer)).await.unwrap();
    assert!(nobody.get("/nobody").await.is_err());

    // What the thief can make of it without the CA's key: it verifies as well and has another fingerprint.
    let certificate = pki::Certificate::from_pem(&thief.0).unwrap();
    let other_form = process::twin(certificate.der()).unwrap();
    let mut twin = thief.clone();
    twin.0 = pki::Certificate::from_der(other_form).unwrap().to_pem();
    let mut line = open(&Hello::with_client(&rig.issuer, &twin)).await.unwrap();
    assert_eq!(line.get("/").await.unwrap().status, 200);

    let thief_hello = Hello::with_client(&rig.issuer, &thief).resuming();
    let honest_hello = Hello::with_client(&rig.issuer, &honest).resuming();
    for (resumed, hello) in [
        (false, &thief_hello),
        (true, &thief_hello),
        (false, &honest_hello),
    ] {
        let mut line = open(hello).await.unwrap();
        assert_eq!(line.get("/").await.unwrap().status, 200);
        assert_eq!(line.is_resumed(), resumed);
    }
    let request = format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut streams = Vec::new();
    for hello in [&thief_hello, &honest_hello] {
        let mut line = open(hello).await.unwrap();
        line.send(request.as_bytes()).await.unwrap();
        line.read_to("\r\n\r\n").await.unwrap();
        streams.push(line);
    }
    until("both streams", async || {
        (rig.upstream.streams() == 2).then_some(())
    })
    .await;

    let policy = Policy {
        tunnel: TUNNEL.to_owned(),
        generation: 1,
        routes: None,
        denied: vec![certificate.fingerprint().to_string()],
    };
    assert_eq!(rig.session.policy(&policy).await, Answer::Ack);
    streams[0].rest().await;
    until("its end upstream", async || {
        (rig.upstream.streams() == 1).then_some(())
    })
    .await;

    // The session may be resumed; the call is not served.
    let mut line = open(&thief_hello).await.unwrap();
    assert!(line.is_resumed(), "the test has to come in that way");
    assert!(line.get("/stolen").await.is_err());
    for form in [&thief, &twin] {
        let mut line = open(&Hello::with_client(&rig.issuer, form)).await.unwrap();
        assert!(line.get("/stolen").await.is_err());
    }
    assert!(
        rig.upstream
            .seen(|seen| seen.ends_with("/stolen"))
            .is_empty()
    );

    // The other one notices nothing.
    rig.upstream.say(7);
    streams[1].read_to("data: 7\n\n").await.unwrap();
    let mut line = open(&honest_hello).await.unwrap();
    assert_eq!(line.get("/").await.unwrap().status, 200);
    // Two connections that were open, and three that came later.
    rig.proxy.logs("client certificate denied", 5).await;
}
