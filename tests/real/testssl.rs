//! testssl.sh against the carrier `tls`: no complaint of any grade, from `LOW` on, that is not explained here.

use serde_json::Value;
use tokio::process::Command;

use super::{Front, run, said, text};

/// What testssl.sh complains about, and why it is so.
const EXPLAINED: [(&str, &str); 4] = [
    (
        "cipher_order",
        "every suite offered is forward secret and authenticated: the client knows which is fast for it",
    ),
    ("cert_expirationStatus", "a short life is the purpose"),
    ("cert_notAfter", "the same"),
    (
        "cert_revocation",
        "a certificate of a tunnel is replaced, not revoked: verifiers fetch no lists",
    ),
];

/// Its grades from good to bad, as far as they are a complaint.
const COMPLAINTS: [&str; 4] = ["LOW", "MEDIUM", "HIGH", "CRITICAL"];

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn testssl_finds_nothing_that_is_not_explained() {
    let front = Front::start(None, |_| {}).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (report, trust) = (
        folder.path().join("report.json"),
        text(front.trust()).to_owned(),
    );
    let target = format!(
        "{}:{}",
        front.stack.host(),
        front.stack.listeners.tls.port()
    );
    let output = run(Command::new("testssl")
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "batch",
            "--nodns",
            "none",
            "--ip",
            "127.0.0.1",
            "--add-ca",
            &trust,
        ])
        .args([
            "--protocols",
            "--std",
            "--server-preference",
            "--server-defaults",
            "--fs",
            "--vulnerable",
        ])
        .args(["--jsonfile", text(&report), &target]))
    .await;
    let said = said(&output);
    let findings: Vec<Value> = std::fs::read_to_string(&report)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_else(|| panic!("no report:\n{said}"));
    let of = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let offered = |id: &str| {
        findings
            .iter()
            .find(|finding| of(finding, "id") == id)
            .map(|finding| of(finding, "finding"))
    };
    // That it looked at all, and at us.
    assert_eq!(
        offered("TLS1_3").as_deref(),
        Some("offered with final"),
        "{said}"
    );
    assert_eq!(offered("TLS1_2").as_deref(), Some("offered"), "{said}");
    for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1"] {
        assert_eq!(offered(old).as_deref(), Some("not offered"), "{old}");
    }
    let complaints: Vec<String> = findings
        .iter()
        .filter(|finding| COMPLAINTS.contains(&of(finding, "severity").as_str()))
        .filter(|finding| !EXPLAINED.iter().any(|(id, _)| of(finding, "id") == *id))
        .map(|finding| {
            format!(
                "{} {}: {}",
                of(finding, "severity"),
                of(finding, "id"),
                of(finding, "finding")
            )
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    front.stop().await;
}
