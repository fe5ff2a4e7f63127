//! The targets, each with what has to hold whatever it is given.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use control::{
    Ack, Credential, FromDaemon, FromSubscriber, Hello, Policy, Reader, Reason, Refusal, Refused,
    Report, Resource, Role, Route, Secret, Serving, Tunnel, TunnelReport, Version, Welcome, Writer,
};
use futures_util::FutureExt;
use pki::{
    Authority, AuthorityProfile, Certificate, CertifiedKey, Expectation, Origin, PrivateKey,
};
use process::{SystemClock, Tasks};
use proxy::credential::{Credentials, Source};
use serde::de::DeserializeOwned;

use super::drive;
use crate::rig::{DOMAIN, Issuer, TUNNEL, credentials};

/// In the place of a secret; no error may have it in its text.
const CANARY: &str = "canary-of-a-secret";

fn silent(text: &str) {
    assert!(!text.contains(CANARY), "{text}");
    assert!(text.len() < 1024, "{} bytes of error", text.len());
}

/// Reads all messages in `bytes`; each has to come back the same when it is written.
fn messages<M>(bytes: &[u8])
where
    M: DeserializeOwned + serde::Serialize + PartialEq + Debug,
{
    let mut reader = Reader::new(bytes);
    loop {
        match reader.next::<M>().now_or_never().expect("it is all there") {
            Ok(None) => return,
            Ok(Some(message)) => {
                let mut written = Vec::new();
                let sent = Writer::new(&mut written).send(&message).now_or_never();
                sent.expect("a vector takes all").unwrap();
                let mut again = Reader::new(written.as_slice());
                let again = again.next::<M>().now_or_never().expect("it is all there");
                assert_eq!(again.unwrap().as_ref(), Some(&message));
            }
            Err(control::FrameError::Malformed { column }) => {
                silent(&control::FrameError::Malformed { column }.to_string());
            }
            Err(error) => return silent(&error.to_string()),
        }
    }
}

fn line(message: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap();
    line.push(b'\n');
    line
}

#[test]
fn control_messages_of_subscribers() {
    let hello = FromSubscriber::Hello(Hello {
        protocol: Version::CURRENT,
        role: Role::Proxy,
        tunnels: vec![CANARY.to_owned()],
        replica: "r".to_owned(),
        build: "b".to_owned(),
        serving: vec![Serving {
            tunnel: TUNNEL.to_owned(),
            generation: u64::MAX,
            leaf_sha256: "00".repeat(32),
        }],
        dials: vec![CANARY.to_owned()],
    });
    let report = FromSubscriber::Report(Report {
        tunnels: vec![TunnelReport {
            tunnel: TUNNEL.to_owned(),
            generation: 3,
            handshakes: BTreeMap::from([("00".repeat(32), 9)]),
            failures: BTreeMap::from([("unknown_ca".to_owned(), 1)]),
            connections: BTreeMap::from([(2, 1), (3, 7)]),
            uncovered_routes: vec![CANARY.to_owned()],
            ..TunnelReport::default()
        }],
        carriers: vec!["tls".to_owned()],
    });
    let ack = FromSubscriber::Ack(Ack {
        resource: Resource::Credential,
        tunnel: TUNNEL.to_owned(),
        generation: 1,
        leaf_sha256: None,
    });
    let nack =
        br#"{"kind":"nack","resource":"policy","tunnel":"t","generation":2,"reason":"stale"}"#;
    let newer = b"{\"kind\":\"csr\",\"x\":[1,{\"y\":null}]}\n{\"kind\":\"bye\"}\n";
    let seeds = [
        line(&hello),
        line(&report),
        [line(&ack), nack.to_vec(), b"\n".to_vec()].concat(),
        newer.to_vec(),
    ];
    drive("subscriber", &seeds, messages::<FromSubscriber>);
}

fn credential(issuer: &Issuer) -> Credential {
    let mut credential = issuer.credential(1);
    credential.fallback = Some(credentials::leaf(&issuer.pair()));
    credential.canary_share = Some(50);
    credential.client_ca_certificates = vec![issuer.client_ca_pem()];
    credential
}

fn policy() -> Policy {
    let route = Route {
        upstream: "http://10.0.0.1:80".to_owned(),
        preserve_host: true,
    };
    Policy {
        tunnel: TUNNEL.to_owned(),
        generation: 4,
        routes: Some(BTreeMap::from([(CANARY.to_owned(), route)])),
        denied: vec!["ab".repeat(32)],
    }
}

#[test]
fn control_messages_of_the_daemon() {
    let mut secret = credential(&Issuer::new());
    secret.leaf.key = Secret::new(CANARY.to_owned());
    let tunnel = Tunnel {
        tunnel: TUNNEL.to_owned(),
        generation: 1,
        token: Secret::new(CANARY.to_owned()),
    };
    let welcome = Welcome {
        protocol: Version::CURRENT,
        tunnels: vec![TUNNEL.to_owned()],
    };
    let refused = Refused {
        reason: Refusal::Permission,
        detail: CANARY.to_owned(),
    };
    let seeds = [
        line(&FromDaemon::Credential(secret)),
        line(&FromDaemon::Policy(policy())),
        line(&FromDaemon::Tunnel(tunnel)),
        [
            line(&FromDaemon::Welcome(welcome)),
            line(&FromDaemon::Refused(refused)),
        ]
        .concat(),
    ];
    drive("daemon", &seeds, messages::<FromDaemon>);
}

/// What a proxy makes of a credential whose PEM is anything.
#[test]
fn credentials_that_are_offered() {
    let issuer = Issuer::new();
    let good = credential(&issuer);
    let seeds = [
        good.leaf.chain.clone().into_bytes(),
        good.leaf.key.expose().as_bytes().to_vec(),
        issuer.ca_pem().into_bytes(),
    ];
    let offered = Credentials::new(Arc::new(SystemClock), Tasks::new(), Duration::ZERO);
    let mut generation = 0;
    drive("offer", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        for place in 0..4 {
            let mut bad = good.clone();
            generation += 1;
            bad.generation = generation;
            match place {
                0 => bad.leaf.chain.clone_from(&text),
                1 => bad.leaf.key = Secret::new(text.clone()),
                2 => bad.ca_certificates = vec![text.clone()],
                _ => bad.client_ca_certificates = vec![text.clone()],
            }
            match offered.offer(&bad, Source::Channel) {
                // It was not changed where it matters.
                Ok(published) => assert_eq!(published.generation(), generation),
                Err(refused) => {
                    assert_ne!(refused.reason, Reason::Stale, "{refused}");
                    assert!(refused.detail.len() < 1024);
                    assert!(!text.contains(&refused.detail) || text.is_empty());
                }
            }
        }
    });
}

#[test]
fn configurations_of_the_proxy() {
    let everything = "listen_addr: \":8080\"\nlog_level: debug\nshutdown_timeout: 1m30s\n\
        tunnel_domain: t.example\ntls:\n  cert_file: /a\n  key_file: /b\n  client_ca: /c\n\
        routes:\n  docs: http://docs:8000\n  \"x.y\": {upstream: \"https://[::1]:443\", preserve_host: true}\n\
        upstream:\n  allowed_ips: [10.0.0.0/8, \"::1\"]\n  tls: {ca_file: /d, include_system_cas: true}\n\
        carriers:\n  tls: {listen_addr: \"0.0.0.0:443\", proxy_protocol: true}\n\
        control: {socket: /s, daemon_uid: 1, tunnels: [main], replica: r}\n\
        health: {listen_addr: \"127.0.0.1:1\"}\n\
        limits: {handshake_timeout: 1s, pending_handshakes: 3, connections: 5, swap_grace: 2s, drain: 1h,\n  \
        idle_comment: 0s, idle_timeout: 5s, connect_timeout: 1s, concurrent_streams: 9}\n";
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\nroutes: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
    let seeds = [
        everything,
        include_str!("../../deploy/config/proxy.yaml"),
        "routes: daemon\nlisten_addr: 127.0.0.1:1\ncontrol: {socket: /s}\n",
        bomb,
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    drive("proxy configuration", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match proxy::config::Config::from_text(&text, None) {
            Ok(config) => {
                let effective = config.effective();
                let again = proxy::config::Config::from_text(&effective, None);
                let again = again.unwrap_or_else(|error| panic!("{error}: {effective}"));
                assert_eq!(again.effective(), effective);
            }
            // It may name a key or a value, each of which is in the text, and nothing beside it.
            Err(error) => assert!(error.to_string().len() < 1024 + 8 * bytes.len()),
        }
    });
}

#[test]
fn configurations_of_the_daemon() {
    let everything = "state: /s\nlog_level: warn\ncontrol: {socket: /c, group: keyward, subscribers: [1, 2]}\n\
        operator: {socket: /o, operators: [3]}\nhealth: {listen_addr: \"[::1]:9\"}\ntunnels:\n  main:\n    \
        provider: static\n    domain: t.example\n    store: dir:/d\n    serve_dir: /v\n    \
        server_certificate: {lifetime: 1h, algorithm: rsa-2048, extra_names: [localhost, 127.0.0.1]}\n    \
        ca: {lifetime: 30d, algorithm: ecdsa-p384, constrained: true}\n    client_ca: {}\n    \
        routes: {docs: http://docs:80, x: {upstream: \"https://y:1\", preserve_host: true}}\n";
    let seeds = [
        everything,
        include_str!("../../deploy/config/keyward.yaml"),
        "tunnels: {a: &t {provider: static, domain: a.b, store: dir:/a}, b: *t}\n",
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    drive("keyward.yaml", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match daemon::config::Config::parse(&text, "keyward.yaml") {
            Ok(config) => {
                let effective = config.effective();
                let again = daemon::config::Config::parse(&effective, "effective");
                let again = again.unwrap_or_else(|error| panic!("{error}: {effective}"));
                // What was a default is written out, and then said outright.
                assert_eq!(again.effective(), effective);
            }
            Err(error) => assert!(error.to_string().len() < 1024 + 8 * bytes.len()),
        }
    });
}

#[test]
fn websocket_frames() {
    let frame = |first: u8, length: &[u8], payload: &[u8]| {
        [&[first], length, &[1, 2, 3, 4], payload].concat()
    };
    let seeds = [
        frame(0x82, &[0x85], b"hello"),
        [
            frame(0x02, &[0xfe, 0, 126], &[7; 126]),
            frame(0x89, &[0x84], b"ping"),
            frame(0x80, &[0x81], b"x"),
            frame(0x88, &[0x82], &[3, 0xe8]),
        ]
        .concat(),
        frame(0x82, &[0xff, 0, 0, 0, 0, 0, 1, 0, 0], &[9; 300]),
    ];
    drive("frames", &seeds, |bytes| {
        let whole = proxy::carrier::read_frames(bytes, usize::MAX);
        if let Some(data) = &whole {
            assert!(data.len() <= bytes.len());
        }
        // However the stream was cut, what comes out is the same.
        for cut in [1, 2, 7, 64] {
            assert_eq!(proxy::carrier::read_frames(bytes, cut), whole, "cut {cut}");
        }
    });
}

#[test]
fn proxy_protocol_headers() {
    let signature = b"\r\n\r\n\0\r\nQUIT\n".as_slice();
    let seeds = [
        [
            signature,
            &[0x21, 0x11, 0, 12, 192, 0, 2, 7, 1, 2, 3, 4, 0, 80, 1, 187],
        ]
        .concat(),
        [signature, &[0x21, 0x21, 0, 36], &[1; 36]].concat(),
        [signature, &[0x20, 0, 0, 0]].concat(),
    ];
    drive("PROXY header", &seeds, |bytes| {
        let read = proxy::carrier::read_proxy_header(bytes);
        // What follows a header is none of its business.
        if let Some(peer) = read {
            let longer = [bytes, b"more"].concat();
            assert_eq!(proxy::carrier::read_proxy_header(&longer), Some(peer));
        }
    });
}

#[test]
fn host_names() {
    let seeds = [
        "docs.t.example:443",
        "DOCS.T.EXAMPLE.",
        "[fd00::1]:8080",
        "10.0.0.1",
        "a.b:",
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    drive("host", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Some(host) = proxy::route::normal_host(&text) else {
            return;
        };
        assert!(host.len() <= text.len() && host.is_ascii());
        assert!(
            !host.contains(|letter: char| letter.is_ascii_uppercase() || letter.is_whitespace())
        );
        assert_eq!(proxy::route::normal_host(&host).as_deref(), Some(&*host));
    });
}

#[test]
fn identifiers_of_json_rpc() {
    let seeds = [
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"id":8,"x":[1,{"id":9}]}}"#,
        r#"{"method":"x","\u0069d":"a\"b\\"}"#,
        r#"{"id":-1.5e3,"result":{}}"#,
        r#"[{"id":1},{"id":2}]"#,
        r#"{"params":{"a":[[],{}]},"id":18446744073709551615}"#,
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    drive("id", &seeds, |bytes| {
        let found = proxy::forward::request_id_of(bytes);
        if let Some(id) = &found {
            assert!(id.is_string() || id.is_number());
            if let Ok(whole) = serde_json::from_slice::<serde_json::Value>(bytes) {
                assert_eq!(whole.get("id"), Some(id));
            }
            // Wherever the chunk ends, it is this identifier or none.
            for end in 0..bytes.len().min(300) {
                let cut = proxy::forward::request_id_of(&bytes[..end]);
                assert!(cut.is_none() || cut == found, "{end}: {cut:?}");
            }
        }
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn certificates_and_keys() {
    let issuer = Issuer::new();
    let pair = issuer.pair();
    let (client, client_key) = issuer.client("agent.example");
    let mut seeds = vec![
        pair.chain_pem().into_bytes(),
        pair.key_pem().as_bytes().to_vec(),
        [pair.chain_pem(), issuer.ca_pem()].concat().into_bytes(),
        client.into_bytes(),
        client_key.into_bytes(),
    ];
    let pem = seeds.clone();
    seeds.push(pair.certificate().der().to_vec());
    // Of each key, a line of what is in it.
    let key_text = |pem: &str| pem.lines().nth(1).unwrap().to_owned();
    let secrets = [
        key_text(&pair.key_pem()),
        key_text(std::str::from_utf8(&pem[4]).unwrap()),
    ];
    let quiet = |text: String| {
        silent(&text);
        assert!(secrets.iter().all(|secret| !text.contains(&secret[..24])));
    };
    let ca = Certificate::from_pem(&issuer.ca_pem()).unwrap();
    let (chain_pem, key_pem) = (pair.chain_pem(), pair.key_pem());
    let expectation = Expectation::new(DOMAIN);
    let now = credentials::now();
    drive("pki", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Certificate::from_pem(&text) {
            Ok(certificate) => {
                let again = Certificate::from_pem(&certificate.to_pem()).unwrap();
                assert_eq!(again.fingerprint(), certificate.fingerprint());
            }
            Err(error) => quiet(error.to_string()),
        }
        match PrivateKey::from_pem(&text) {
            Ok(key) => {
                let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
                assert_eq!(again.public_key(), key.public_key());
            }
            Err(error) => quiet(error.to_string()),
        }
        if let Err(findings) = pki::lint_authority(&text, now) {
            for finding in findings {
                quiet(finding.to_string());
            }
        }
        for (chain, key) in [(&*text, key_pem.as_str()), (chain_pem.as_str(), &*text)] {
            match CertifiedKey::from_pem(chain, key) {
                Ok(certified) => {
                    let linted = pki::lint(&certified, &ca, &expectation, now, Origin::Foreign);
                    if let Err(findings) = linted {
                        for finding in findings {
                            quiet(finding.to_string());
                        }
                    }
                }
                Err(error) => quiet(error.to_string()),
            }
        }
        if let Ok(certificate) = Certificate::from_der(bytes.to_vec()) {
            assert_eq!(certificate.der().as_ref(), bytes);
            if let Err(error) = Authority::load(certificate, pair.key().clone(), now) {
                quiet(error.to_string());
            }
        }
    });
}

#[test]
fn requests_for_client_certificates() {
    let key = PrivateKey::generate(pki::Algorithm::default()).unwrap();
    let request = pki::request(&key, "agent.example").unwrap();
    let now = credentials::now();
    let authority = Authority::generate(&AuthorityProfile::client("clients"), now).unwrap();
    let profile = pki::ClientProfile {
        name: "agent.example".to_owned(),
        lifetime: Duration::from_secs(3600),
    };
    drive("request", &[request.into_bytes()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match authority.issue_client(&profile, &text, pki::Serial::random(), now) {
            // Nothing but the key is taken from it, and that is proven.
            Ok(certificate) => assert_eq!(certificate.public_key(), key.public_key()),
            Err(error) => silent(&error.to_string()),
        }
    });
}
