//! CA certificates of a tunnel: how many, and which are refused in which words.

use std::time::{Duration, UNIX_EPOCH};

use pki::{Authority, AuthorityProfile};
use serde_json::json;

use super::http_client::Served;
use super::objects::tunnel;
use crate::tests::clock::START;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    two_ca_certificates_are_active_and_a_third_waits,
    each_rule_for_a_ca_certificate_is_refused_in_its_own_words,
);

pub(super) fn ca(name: &str) -> String {
    ca_from(name, START)
}

fn ca_from(name: &str, seconds: u64) -> String {
    let now = UNIX_EPOCH + Duration::from_secs(seconds);
    let authority = Authority::generate(&AuthorityProfile::server(name), now).unwrap();
    authority.certificate().to_pem()
}

async fn two_ca_certificates_are_active_and_a_third_waits(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}/certificates", tunnel(&served).await);
    let add = async |pem: &str| {
        served
            .post(&path, &json!({"ca_certificate_pem": pem}))
            .await
    };
    let (one, two, three) = (ca("one"), ca("two"), ca("three"));
    let first = add(&one).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(first.body["type"], "tunnel_certificate");
    assert!(first.body["id"].as_str().unwrap().starts_with("tcrt_"));
    let fingerprint = pki::Certificate::from_pem(&one)
        .unwrap()
        .fingerprint()
        .to_string();
    assert_eq!(first.body["fingerprint"], fingerprint);
    assert!(first.body["expires_at"].is_string() && first.body.get("ca_certificate_pem").is_none());
    let same = add(&one).await;
    assert_eq!(same.status, 409);
    assert!(
        same.message().contains(first.body["id"].as_str().unwrap()),
        "{}",
        same.message()
    );
    assert_eq!(add(&two).await.status, 200);
    let third = add(&three).await;
    assert_eq!(third.status, 409);
    assert!(
        third
            .message()
            .starts_with("two certificates are active already"),
        "{}",
        third.message()
    );
    let one_path = format!("{path}/{}", first.body["id"].as_str().unwrap());
    let archived = served
        .post(&format!("{one_path}/archive"), &json!({}))
        .await;
    assert!(archived.body["archived_at"].is_string());
    assert_eq!(
        served.get(&one_path).await.body["archived_at"],
        archived.body["archived_at"]
    );
    assert_eq!(add(&three).await.status, 200);
    let count = async |query: &str| {
        served.get(&format!("{path}{query}")).await.body["data"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("?include_archived=true").await, 3);
    assert_eq!(served.get(&format!("{path}/tcrt_0")).await.status, 404);
}

/// The texts are a contract: operators read them, and the daemon shows them.
async fn each_rule_for_a_ca_certificate_is_refused_in_its_own_words(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}/certificates", tunnel(&served).await);
    let good = ca("good");
    let key = good.replace("CERTIFICATE", "PRIVATE KEY");
    let damaged = good.replacen("MII", "NII", 1);
    for (pem, wanted) in [
        (
            format!("{good}{key}"),
            "there is a private key in the text: the key of a CA must not leave this machine",
        ),
        (
            format!("{}{good}", "x".repeat(8192)),
            "bytes: the upload takes at most 8 kB; leave out the text around the certificate",
        ),
        (
            format!("{good}{}", ca("other")),
            "there are 2 certificates in the text: the upload takes exactly one certificate",
        ),
        (String::new(), "there are 0 certificates in the text"),
        (damaged, "the certificate is damaged"),
        (
            ca_from("early", START + 864_000),
            "the CA certificate is not yet valid",
        ),
    ] {
        let refused = served
            .post(&path, &json!({"ca_certificate_pem": pem}))
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.kind()),
            (400, "invalid_request_error")
        );
        assert!(
            refused.message().starts_with("ca_certificate_pem: "),
            "{}",
            refused.message()
        );
        assert!(refused.message().contains(wanted), "{}", refused.message());
    }
    for (name, pem, wanted) in openssl_cases() {
        let refused = served
            .post(&path, &json!({"ca_certificate_pem": pem}))
            .await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.body);
        assert!(
            refused.message().contains(wanted),
            "{name}: {}",
            refused.message()
        );
    }
    let got = served.get(&path).await;
    assert_eq!(got.body["data"].as_array().unwrap().len(), 0);
}

/// CA certificates that openssl makes and the rules of the upload refuse: name, PEM, words.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn openssl_cases() -> Vec<(&'static str, String, &'static str)> {
    const CA: &str = "basicConstraints=critical,CA:TRUE";
    const SIGN: &str = "keyUsage=critical,keyCertSign,cRLSign";
    const SKI: &str = "subjectKeyIdentifier=hash";
    let p256 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let long = ["-days", "3650", "-sha256"];
    let make = |key: &[&str], dates: &[&str], extensions: &[&str]| openssl(key, dates, extensions);
    vec![
        (
            "no basic constraints",
            make(&p256, &long, &[SIGN, SKI]),
            "the certificate has no basic constraints",
        ),
        (
            "not a CA",
            make(
                &p256,
                &long,
                &["basicConstraints=critical,CA:FALSE", SIGN, SKI],
            ),
            "the certificate is no CA's",
        ),
        (
            "not critical",
            make(&p256, &long, &["basicConstraints=CA:TRUE", SIGN, SKI]),
            "are not critical",
        ),
        (
            "no key identifier",
            make(&p256, &long, &[CA, SIGN, "subjectKeyIdentifier=none"]),
            "has no subject key identifier",
        ),
        (
            "no key usage",
            make(&p256, &long, &[CA, SKI]),
            "lacks keyCertSign",
        ),
        (
            "wrong key usage",
            make(&p256, &long, &[CA, "keyUsage=critical,cRLSign", SKI]),
            "lacks keyCertSign",
        ),
        (
            "weak key",
            make(&["rsa:1024"], &long, &[CA, SIGN, SKI]),
            "the key of the CA is RSA",
        ),
        (
            "weak curve",
            make(
                &["ec", "-pkeyopt", "ec_paramgen_curve:prime192v1"],
                &long,
                &[CA, SIGN, SKI],
            ),
            "the key of the CA is",
        ),
        (
            "SHA-1",
            make(&["rsa:2048"], &["-days", "3650", "-sha1"], &[CA, SIGN, SKI]),
            "is signed with",
        ),
        (
            "expired",
            make(&p256, &["-days", "1", "-sha256"], &[CA, SIGN, SKI]),
            "has expired",
        ),
    ]
}

fn openssl(key: &[&str], dates: &[&str], extensions: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name=dn\n[dn]\n").unwrap();
    let mut command = std::process::Command::new("openssl");
    command
        .args([
            "req", "-x509", "-nodes", "-subj", "/CN=case", "-keyout", "key.pem", "-config",
        ])
        .arg(&config)
        .arg("-newkey")
        .args(key)
        .args(dates)
        .current_dir(directory.path());
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    let made = command.output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout).unwrap()
}
