//! A credential that a peer would refuse is refused before it is served.

use std::time::{Duration, SystemTime};

use control::{Credential, Leaf, Reason};
use process::{Clock, SystemClock};

use super::world::{Ca, Caller, DOMAIN, Pipes, leaf_sha256, shown};
use crate::credential::Source;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemClock.wall()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn each_fault_is_refused_for_its_own_reason_and_the_last_good_one_stays() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let good = ca.credential(1);
    pipes.offer(&good).settled().await;
    let with = |leaf: Leaf| Credential {
        leaf,
        ..ca.credential(2)
    };
    let faults = [
        (
            Reason::Malformed,
            with(Leaf {
                chain: "no PEM".to_owned(),
                ..ca.leaf()
            }),
        ),
        (
            Reason::Malformed,
            with(Leaf {
                key: control::Secret::new("no PEM".to_owned()),
                ..ca.leaf()
            }),
        ),
        (
            Reason::KeyMismatch,
            with(Leaf {
                key: ca.leaf().key,
                ..ca.leaf()
            }),
        ),
        (Reason::UnknownCa, with(Ca::new().leaf())),
        (
            Reason::Expired,
            with(ca.leaf_for(
                DOMAIN,
                now() + Duration::from_secs(1),
                Duration::from_secs(1),
            )),
        ),
        (
            Reason::NotYetValid,
            with(ca.leaf_for(DOMAIN, now() + 2 * HOUR, HOUR)),
        ),
        (
            Reason::WrongNames,
            with(ca.leaf_for("other.example", now(), HOUR)),
        ),
        (
            Reason::Malformed,
            Credential {
                client_ca_certificates: vec!["no PEM".to_owned()],
                ..ca.credential(2)
            },
        ),
    ];
    // The leaf of one second is over now, and all others are where they were.
    pipes.clock.advance(Duration::from_secs(60));
    for (reason, credential) in faults {
        let refused = pipes
            .credentials
            .offer(&credential, Source::Channel)
            .unwrap_err();
        assert_eq!(refused.reason, reason, "{refused}");
        assert!(!refused.to_string().contains("PRIVATE"), "{refused}");
    }
    let (stream, accepted) = pipes.handshake(&Caller::new(&[&ca]).connector()).await;
    assert_eq!(accepted.unwrap().1.serving.generation, 1);
    assert_eq!(shown(&stream.unwrap()), leaf_sha256(&good.leaf));
}

/// Made by openssl, since `pki` lets no leaf outlive its CA: a CA of one day, a leaf of thirty.
fn leaf_that_outlives_its_ca() -> Credential {
    const SCRIPT: &str = "set -e
        key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        openssl req -x509 $key -keyout ca.key -out ca.crt -days 1 -subj /CN=short \\
            -addext keyUsage=critical,keyCertSign
        openssl req $key -keyout tls.key -out tls.csr -subj /CN=t.example
        printf 'subjectAltName=DNS:*.t.example\nextendedKeyUsage=serverAuth\n' > ext
        openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \\
            -extfile ext -out tls.crt";
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    let output = command
        .args(["-c", SCRIPT])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    Credential {
        leaf: Leaf {
            chain: read("tls.crt"),
            key: control::Secret::new(read("tls.key")),
            not_after: 0,
        },
        ca_certificates: vec![read("ca.crt")],
        ..Ca::new().credential(1)
    }
}

#[tokio::test]
async fn a_ca_that_is_over_is_refused_although_its_leaf_is_not() {
    let pipes = Pipes::new();
    let mut credential = leaf_that_outlives_its_ca();
    pipes.offer(&credential);
    pipes.clock.advance(48 * HOUR);
    credential.generation = 2;
    let refused = pipes
        .credentials
        .offer(&credential, Source::Channel)
        .unwrap_err();
    assert_eq!(refused.reason, Reason::Expired);
    assert!(refused.detail.contains("CA certificate"), "{refused}");
}

#[tokio::test]
async fn a_leaf_that_is_not_for_servers_is_refused() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    // A CA certificate is for signing: nobody accepts it as a server's.
    let client = super::world::Client::new();
    let credential = Credential {
        ca_certificates: vec![client.ca.clone()],
        leaf: client.as_leaf(),
        ..ca.credential(1)
    };
    let refused = pipes
        .credentials
        .offer(&credential, Source::Channel)
        .unwrap_err();
    assert_eq!(refused.reason, Reason::UnknownCa, "{refused}");
}

#[tokio::test]
async fn without_a_credential_no_handshake_ends() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let (stream, accepted) = pipes.handshake(&Caller::new(&[&ca]).connector()).await;
    assert!(stream.is_err() && accepted.is_err());
    assert_eq!(pipes.credentials.reasons(), ["no credential yet"]);
}

#[tokio::test]
async fn routes_that_the_leaf_does_not_cover_are_reported() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1));
    let routes = ["echo", "a.b", "echo.t.example", "other.example"].map(str::to_owned);
    let report = &pipes.credentials.report(&routes)[0];
    assert_eq!(report.uncovered_routes, ["a.b", "other.example"]);
}

#[tokio::test]
async fn callers_that_refuse_the_certificate_count_against_readiness_only_in_the_end() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1));
    assert_eq!(pipes.credentials.reasons(), [""; 0], "never tried is ready");
    let stranger = Caller::new(&[&Ca::new()]).connector();
    for _ in 0..3 {
        assert_eq!(pipes.credentials.reasons(), [""; 0], "not three over 30 s");
        pipes.clock.advance(Duration::from_secs(16));
        assert!(pipes.handshake(&stranger).await.1.is_err());
    }
    assert_eq!(
        pipes.credentials.reasons(),
        ["tunnel main: callers refuse the certificate"]
    );
    let (_, accepted) = pipes.handshake(&Caller::new(&[&ca]).connector()).await;
    accepted.unwrap();
    assert_eq!(pipes.credentials.reasons(), [""; 0], "one success ends it");
    let failures = &pipes.credentials.report(&[])[0].failures;
    assert_eq!(failures.get("unknown_ca"), Some(&3));
}

#[tokio::test]
async fn an_expired_certificate_is_a_reason_not_to_be_ready() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1));
    pipes.clock.advance(48 * HOUR);
    assert_eq!(
        pipes.credentials.reasons(),
        ["tunnel main: the certificate has expired"]
    );
}
