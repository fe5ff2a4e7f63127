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

#[tokio::test]
async fn a_name_cannot_lead_out_of_the_directory() {
    let desk = Desk::new();
    for name in ["../agent", "a/b", ".hidden", ""] {
        let ended = desk.run(&["issue-client", "--", name]).await;
        assert_eq!(ended.code, Some(64), "{name:?}: {ended:?}");
    }
    assert!(desk.orders.borrow().is_empty());
}
