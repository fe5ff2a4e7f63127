//! The rules for a CA certificate that is registered with a provider.

use std::time::Duration;

use pki::{Algorithm, PrivateKey};
use process::{Clock, SystemClock};

use super::super::openssl::OpenSsl;
use super::{authority_extensions, ids};

/// How to break a rule of CA certificates: key, digest, extensions; then the text and the time.
pub(super) struct Upload {
    kind: &'static str,
    digest: &'static str,
    changes: &'static [(&'static str, &'static str)],
    text: fn(&str) -> String,
    later: Duration,
    earlier: Duration,
}

const SOUND: Upload = Upload {
    kind: "EC:P-256",
    digest: "sha256",
    changes: &[],
    text: str::to_owned,
    later: Duration::ZERO,
    earlier: Duration::ZERO,
};

pub(super) const UPLOADS: &[(&[&str], Upload)] = &[
    (&[], SOUND),
    (
        &[],
        Upload {
            kind: "EC:P-384",
            digest: "sha384",
            ..SOUND
        },
    ),
    (
        &[],
        Upload {
            kind: "EC:P-521",
            digest: "sha512",
            ..SOUND
        },
    ),
    (
        &[],
        Upload {
            kind: "RSA:2048",
            ..SOUND
        },
    ),
    (
        &[],
        Upload {
            kind: "RSA:4096",
            digest: "sha512",
            ..SOUND
        },
    ),
    (
        &["ca-key-material"],
        Upload {
            text: |text| text.to_owned() + &some_key(),
            ..SOUND
        },
    ),
    (
        &["ca-size"],
        Upload {
            text: |text| "# why\n".repeat(1400) + text,
            ..SOUND
        },
    ),
    (
        &["ca-malformed"],
        Upload {
            text: |text| text.replacen("MII", "MIJ", 1),
            ..SOUND
        },
    ),
    (
        &["ca-malformed"],
        Upload {
            text: |text| text.replace("-----END", "----END"),
            ..SOUND
        },
    ),
    (
        &["ca-exactly-one"],
        Upload {
            text: |text| text.repeat(2),
            ..SOUND
        },
    ),
    (
        &["ca-exactly-one"],
        Upload {
            text: |_| String::new(),
            ..SOUND
        },
    ),
    (
        &["ca-basic-constraints"],
        Upload {
            changes: &[("basicConstraints", "")],
            ..SOUND
        },
    ),
    (
        &["ca-basic-constraints"],
        Upload {
            changes: &[("basicConstraints", "CA:TRUE")],
            ..SOUND
        },
    ),
    (
        &["ca-basic-constraints"],
        Upload {
            changes: &[("basicConstraints", "critical,CA:FALSE")],
            ..SOUND
        },
    ),
    (
        &["ca-subject-key-id"],
        Upload {
            changes: &[("subjectKeyIdentifier", "none")],
            ..SOUND
        },
    ),
    (
        &["ca-key-usage"],
        Upload {
            changes: &[("keyUsage", "")],
            ..SOUND
        },
    ),
    (
        &["ca-key-usage"],
        Upload {
            changes: &[("keyUsage", "critical,cRLSign")],
            ..SOUND
        },
    ),
    (
        &["ca-not-yet-valid"],
        Upload {
            earlier: Duration::from_secs(3600),
            ..SOUND
        },
    ),
    (
        &["ca-expired"],
        Upload {
            later: Duration::from_secs(3651 * 86_400),
            ..SOUND
        },
    ),
    (
        &["ca-key-strength"],
        Upload {
            kind: "RSA:1024",
            ..SOUND
        },
    ),
    (
        &["ca-key-strength"],
        Upload {
            kind: "EC:P-224",
            ..SOUND
        },
    ),
    (
        &["ca-signature-algorithm"],
        Upload {
            digest: "sha1",
            ..SOUND
        },
    ),
    (
        &["ca-signature-algorithm"],
        Upload {
            digest: "sha224",
            ..SOUND
        },
    ),
    (
        &["ca-signature"],
        Upload {
            text: with_another_signature,
            ..SOUND
        },
    ),
];

fn some_key() -> String {
    let key = PrivateKey::generate(Algorithm::EcdsaP256).expect("a key");
    key.to_pem().to_string()
}

/// Turns a bit in the last octet, which belongs to the second number of the signature.
fn with_another_signature(text: &str) -> String {
    let openssl = OpenSsl::new();
    openssl.file("ca.crt", text);
    openssl.run("x509 -in ca.crt -outform DER -out ca.der");
    let path = openssl.path("ca.der");
    let mut der = std::fs::read(&path).expect("openssl wrote it");
    *der.last_mut().expect("a certificate has octets") ^= 1;
    std::fs::write(path, der).expect("it can be written");
    openssl.run("x509 -in ca.der -inform DER")
}

#[test]
fn a_ca_certificate_breaks_exactly_the_rules_that_it_was_made_to_break() {
    for (index, (expected, upload)) in UPLOADS.iter().enumerate() {
        let openssl = OpenSsl::new();
        openssl.key("ca", upload.kind);
        let extensions = authority_extensions(upload.changes);
        openssl.authority("ca", "/CN=mcp-tunnel-ca", upload.digest, &extensions);
        let text = (upload.text)(&openssl.read("ca.crt"));
        let now = SystemClock.wall() + upload.later - upload.earlier;
        let found =
            pki::lint_authority(&text, now).map_or_else(|findings| ids(&findings), |_| vec![]);
        assert_eq!(found, *expected, "case {index}");
    }
}
