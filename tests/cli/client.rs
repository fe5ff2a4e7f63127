//! `keyward issue-client`: what it writes, and what it never does.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio::process::Command;

use super::stage::{Desk, end};

const FILES: [&str; 3] = [
    "agent.example.key",
    "agent.example.crt",
    "agent.example-ca.crt",
];

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn a_client_gets_key_certificate_and_ca_and_openssl_accepts_them() {
    let desk = Desk::new();
    let out = desk.directory.path();
    let place = out.to_str().unwrap();
    let ended = desk
        .run(&[
            "issue-client",
            "agent.example",
            "--lifetime",
            "1h",
            "--out",
            place,
            "--json",
        ])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let [key, certificate, ca] = FILES.map(|name| out.join(name));
    assert_eq!(
        (mode(&key), mode(&certificate), mode(&ca)),
        (0o600, 0o644, 0o644)
    );
    let secret = std::fs::read_to_string(&key).unwrap();
    assert!(secret.starts_with("-----BEGIN PRIVATE KEY-----"));
    let body = secret.lines().nth(1).unwrap();
    assert!(
        !format!("{ended:?}").contains(body),
        "the key is shown to nobody"
    );
    let json = ended.json();
    assert_eq!(
        json["certificate_pem"],
        std::fs::read_to_string(&certificate).unwrap()
    );
    assert_eq!(json["key"], key.to_str().unwrap());
    let bundle = std::fs::read_to_string(&ca).unwrap();
    assert_eq!(
        bundle, "PEM of present\nPEM of standby\n",
        "both CAs, for the next switch"
    );

    let anchor = out.join("client-ca.pem");
    std::fs::write(&anchor, &desk.client_ca).unwrap();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"])
        .args([&anchor, &certificate]);
    assert_eq!(end(&mut openssl).await.code, Some(0));
    let of = |kind: &str, path: &Path| {
        let mut openssl = Command::new("openssl");
        openssl.args([kind, "-pubout", "-in"]).arg(path);
        if kind == "x509" {
            openssl = Command::new("openssl");
            openssl.args([kind, "-noout", "-pubkey", "-in"]).arg(path);
        }
        openssl.stdout(std::process::Stdio::piped());
        openssl
    };
    let (theirs, ours) = (
        end(&mut of("x509", &certificate)).await,
        end(&mut of("pkey", &key)).await,
    );
    assert!(ours.stdout.contains("PUBLIC KEY") && theirs.stdout == ours.stdout);
}

#[tokio::test]
async fn nothing_is_overwritten_unless_forced() {
    let desk = Desk::new();
    let out = desk.directory.path();
    let place = out.to_str().unwrap();
    for precious in FILES {
        let precious = out.join(precious);
        std::fs::write(&precious, "precious").unwrap();
        let ended = desk
            .run(&["issue-client", "agent.example", "--out", place])
            .await;
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(ended.stderr.contains("--force"), "{}", ended.stderr);
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
        std::fs::remove_file(&precious).unwrap();
    }
    assert!(
        desk.orders.borrow().is_empty(),
        "refused before anything was asked"
    );
    std::fs::write(out.join(FILES[0]), "old").unwrap();
    let ended = desk
        .run(&["issue-client", "agent.example", "--out", place, "--force"])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let key = out.join(FILES[0]);
    assert!(
        std::fs::read_to_string(&key)
            .unwrap()
            .contains("PRIVATE KEY")
    );
    assert_eq!(mode(&key), 0o600);
}

#[tokio::test]
async fn a_refused_client_leaves_no_file_behind() {
    let desk = Desk::new();
    let out = desk.directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let place = out.to_str().unwrap();
    let ended = desk
        .run(&["issue-client", "refused.example", "--out", place])
        .await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert_eq!(
        ended.stderr,
        "error: main has no client CA\n  next: configure client_ca\n"
    );
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

/// One that cannot stand in a certificate, or leads out of the directory.
#[tokio::test]
async fn a_name_that_no_client_can_have_is_wrong_words_whoever_finds_out() {
    let desk = Desk::new();
    let long = "a".repeat(65);
    let names = [
        "../agent",
        "a/b",
        ".hidden",
        "",
        "two words",
        "under_score",
        "*.example",
        "ü.example",
        &long,
    ];
    for name in names {
        let ended = desk.run(&["issue-client", "--", name]).await;
        let expected = format!(
            "error: {name:?} cannot be the name of a client\n  next: write a DNS name of at most 64 characters, such as agent.example\n"
        );
        assert_eq!((ended.code, ended.stderr), (Some(64), expected));
    }
    assert!(desk.orders.borrow().is_empty());
    let out = desk.directory.path().to_str().unwrap();
    let ended = desk
        .run(&["issue-client", "wrong.example", "--out", out])
        .await;
    let expected = "error: no such name\n  next: name another\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(64), expected));
}

#[tokio::test]
async fn a_life_that_the_client_ca_cuts_short_is_said_to_people_and_to_scripts() {
    let desk = Desk::new();
    let out = desk.directory.path().to_str().unwrap();
    let issue = async |lifetime: &str| {
        let words = ["issue-client", "agent.example", "--lifetime", lifetime];
        let rest = ["--out", out, "--force", "--json"];
        desk.run(&[&words[..], &rest[..]].concat()).await
    };
    // Its CA lives for a year, and certificates of it end a day before.
    let whole = issue("364d").await;
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), ""));
    assert_eq!(whole.json()["shortened"], false);
    let cut = issue("365d").await;
    assert_eq!(cut.code, Some(0), "{cut:?}");
    let json = cut.json();
    assert_eq!(json["shortened"], true);
    let pem = json["certificate_pem"].as_str().unwrap();
    let validity = pki::Certificate::from_pem(pem).unwrap().validity();
    assert_eq!(json["not_before"], validity.not_before_unix());
    assert_eq!(json["not_after"], validity.not_after_unix());
    let said = "note: the certificate lives 364 d, less than --lifetime 365d\n  cause: the client CA of main ends";
    assert!(cut.stderr.starts_with(said), "{}", cut.stderr);
    let short = desk
        .run(&["issue-client", "a.example", "--lifetime", "999ms"])
        .await;
    assert_eq!(short.code, Some(64), "{short:?}");
    assert!(short.stderr.contains("write 1s or more"), "{short:?}");
}
