//! For each lint rule a certificate that breaks it and, unless one cannot be broken alone, no other.
//!
//! All of them are made by `openssl`: what it can make, somebody will upload.

mod uploads;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use pki::{
    Algorithm, Authority, AuthorityProfile, Certificate, CertifiedKey, Expectation, Finding, Grade,
    Origin, PrivateKey,
};
use process::{Clock, SystemClock};

use super::openssl::{Extensions, OpenSsl};
use uploads::UPLOADS;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const DOMAIN: &str = "tunnel.example";
const SERIAL: &str = "0x4123456789abcdef0123456789abcdef";

/// What is linted, as `openssl` made it and a case then changed it.
struct Bench {
    openssl: OpenSsl,
    /// The real time, at which `openssl` signs.
    wall: SystemTime,
    // What goes into the leaf.
    kind: &'static str,
    serial: &'static str,
    digest: &'static str,
    extensions: Extensions,
    signer: &'static str,
    // What the lint is given.
    now: SystemTime,
    expectation: Expectation,
    /// CA to lint against, if it is not the one that signs.
    against: Option<Certificate>,
    /// Key to lint with, if it is not the leaf's.
    key: Option<PrivateKey>,
    /// Send the CA certificate along.
    with_ca: bool,
}

impl Bench {
    /// A leaf without a fault under a CA without a fault.
    fn new() -> Self {
        let (openssl, wall) = (OpenSsl::new(), SystemClock.wall());
        let bench = Self {
            openssl,
            wall,
            kind: "EC:P-256",
            serial: SERIAL,
            digest: "sha256",
            extensions: vec![
                ("subjectAltName", format!("DNS:*.{DOMAIN},DNS:{DOMAIN}")),
                ("authorityKeyIdentifier", "keyid".to_owned()),
                ("subjectKeyIdentifier", "hash".to_owned()),
                ("basicConstraints", "critical,CA:FALSE".to_owned()),
                ("keyUsage", "critical,digitalSignature".to_owned()),
                ("extendedKeyUsage", "serverAuth".to_owned()),
            ],
            signer: "ca",
            now: wall + 10 * MINUTE,
            expectation: Expectation::new(DOMAIN),
            against: None,
            key: None,
            with_ca: false,
        };
        let profile = AuthorityProfile::server("tunnel CA");
        bench.keep("ca", &profile, wall - DAY);
        bench
    }

    /// Makes an authority of ours and leaves it where `openssl` finds it.
    fn keep(&self, name: &str, profile: &AuthorityProfile, at: SystemTime) {
        let authority = Authority::generate(profile, at).expect("an authority");
        let certificate = authority.certificate().to_pem();
        self.openssl.file(&format!("{name}.crt"), &certificate);
        let key = authority.private_key().to_pem();
        self.openssl.file(&format!("{name}.key"), &key);
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.unset(name);
        self.extensions.push((name, value.to_owned()));
    }

    fn unset(&mut self, name: &'static str) {
        self.extensions.retain(|(other, _)| *other != name);
    }

    /// A CA that `openssl` makes for a key that is there already.
    fn authority(
        &self,
        name: &str,
        subject: &str,
        changes: &[(&'static str, &str)],
    ) -> Certificate {
        let extensions = authority_extensions(changes);
        self.openssl.authority(name, subject, "sha256", &extensions);
        self.openssl.read_certificate(name)
    }

    fn copy_key(&self, from: &str, to: &str) {
        let key = self.openssl.read(&format!("{from}.key"));
        self.openssl.file(&format!("{to}.key"), &key);
    }

    /// Makes the leaf and gives the rules it breaks.
    fn lint(&self, origin: Origin) -> Vec<Finding> {
        let openssl = &self.openssl;
        openssl.key("leaf", self.kind);
        openssl.certificate(
            "leaf",
            self.signer,
            self.serial,
            self.digest,
            &self.extensions,
        );
        let ca = openssl.read_certificate(self.signer);
        let key = self.key.clone().unwrap_or_else(|| openssl.read_key("leaf"));
        let mut chain = openssl.read("leaf.crt");
        if self.with_ca {
            chain += &ca.to_pem();
        }
        let pair = CertifiedKey::from_pem(&chain, &key.to_pem()).expect("a pair");
        let ca = self.against.as_ref().unwrap_or(&ca);
        match pki::lint(&pair, ca, &self.expectation, self.now, origin) {
            Ok(linted) => linted.advice().to_vec(),
            Err(findings) => findings,
        }
    }
}

fn authority_extensions(changes: &[(&'static str, &str)]) -> Extensions {
    let sound = [
        ("basicConstraints", "critical,CA:TRUE"),
        ("subjectKeyIdentifier", "hash"),
        ("keyUsage", "critical,keyCertSign,cRLSign"),
    ];
    let unchanged = sound
        .into_iter()
        .filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    unchanged
        .chain(changes.iter().copied())
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

/// How to break a rule of server certificates, and all the rules that are broken thereby.
type Case = (&'static [&'static str], fn(&mut Bench));

const CASES: &[Case] = &[
    (&[], |_| {}),
    (&["key-mismatch"], |bench| {
        bench.key = PrivateKey::generate(Algorithm::EcdsaP256).ok();
    }),
    (&["not-yet-valid"], |bench| {
        bench.now = bench.wall - 60 * MINUTE;
    }),
    (&["expired"], |bench| bench.now = bench.wall + 7 * DAY),
    (&["ca-not-yet-valid"], |bench| {
        let profile = AuthorityProfile::server("tomorrow's CA");
        bench.keep("tomorrow", &profile, bench.wall + DAY);
        bench.signer = "tomorrow";
    }),
    // What is valid under a CA that is not has outlived it.
    (&["ca-expired", "outlives-ca"], |bench| {
        let profile = AuthorityProfile {
            lifetime: DAY / 2,
            ..AuthorityProfile::server("yesterday's CA")
        };
        bench.keep("yesterday", &profile, bench.wall - DAY);
        bench.signer = "yesterday";
    }),
    (&["ca-not-authority"], |bench| {
        bench.openssl.key("none", "EC:P-256");
        bench.authority(
            "none",
            "/CN=none",
            &[("basicConstraints", "critical,CA:FALSE")],
        );
        bench.signer = "none";
    }),
    (&["ca-not-authority"], |bench| {
        bench.openssl.key("crl", "EC:P-256");
        bench.authority("crl", "/CN=crl", &[("keyUsage", "critical,cRLSign")]);
        bench.signer = "crl";
    }),
    (&["issuer"], |bench| {
        bench.copy_key("ca", "renamed");
        let changes = [("subjectKeyIdentifier", spaced(&own_key_id(bench)))];
        let changes = [(changes[0].0, changes[0].1.as_str())];
        bench.against = Some(bench.authority("renamed", "/CN=renamed", &changes));
    }),
    (&["signature"], |bench| {
        bench.openssl.key("twin", "EC:P-256");
        let key_id = spaced(&own_key_id(bench));
        bench.openssl.authority(
            "twin",
            "/CN=twin",
            "sha256",
            &authority_extensions(&[("subjectKeyIdentifier", &key_id)]),
        );
        bench.openssl.key("other", "EC:P-256");
        let changes = [("subjectKeyIdentifier", key_id.as_str())];
        bench.against = Some(bench.authority("other", "/CN=twin", &changes));
        bench.signer = "twin";
    }),
    (&["signature-algorithm"], |bench| bench.digest = "sha1"),
    // A key so weak cannot even be loaded, so that the certificate never has its key with it.
    (&["key-mismatch", "key-strength"], |bench| {
        bench.kind = "RSA:1024";
        bench.key = PrivateKey::generate(Algorithm::EcdsaP256).ok();
    }),
    (&["key-mismatch", "key-strength"], |bench| {
        bench.kind = "EC:P-224";
        bench.key = PrivateKey::generate(Algorithm::EcdsaP256).ok();
    }),
    (&["ca-key-strength"], |bench| {
        bench.openssl.key("weak", "RSA:1024");
        bench.authority("weak", "/CN=weak", &[]);
        bench.signer = "weak";
    }),
    (&["authority-key-id"], |bench| {
        bench.set("authorityKeyIdentifier", "none");
    }),
    (&["authority-key-id"], |bench| {
        bench.openssl.key("one", "EC:P-256");
        bench.authority("one", "/CN=one", &[]);
        bench.copy_key("one", "same");
        let changes = [("subjectKeyIdentifier", "01:02:03")];
        bench.against = Some(bench.authority("same", "/CN=one", &changes));
        bench.signer = "one";
    }),
    (&["authority-key-id"], |bench| {
        bench.openssl.key("bare", "EC:P-256");
        bench.authority("bare", "/CN=bare", &[("subjectKeyIdentifier", "none")]);
        bench.signer = "bare";
        bench.set("authorityKeyIdentifier", "keyid,issuer:always");
    }),
    (&["names"], |bench| {
        bench.set("subjectAltName", &format!("DNS:one.{DOMAIN},DNS:{DOMAIN}"));
    }),
    (&["name-constraints"], |bench| {
        bench.openssl.key("elsewhere", "EC:P-256");
        let changes = [(
            "nameConstraints",
            "critical,permitted;DNS:elsewhere.example",
        )];
        bench.authority("elsewhere", "/CN=elsewhere", &changes);
        bench.signer = "elsewhere";
    }),
    (&["name-constraints"], |bench| {
        bench.openssl.key("except", "EC:P-256");
        let changes = [(
            "nameConstraints",
            "critical,excluded;DNS:secret.tunnel.example",
        )];
        bench.authority("except", "/CN=except", &changes);
        bench.signer = "except";
    }),
    // For clients alone is not for servers, and not for servers alone.
    (&["server-auth", "one-purpose"], |bench| {
        bench.set("extendedKeyUsage", "clientAuth");
    }),
    (&["is-authority"], |bench| {
        bench.set("basicConstraints", "critical,CA:TRUE");
    }),
    (&["critical-extension"], |bench| {
        bench.set("1.2.3.4", "critical,ASN1:NULL");
    }),
    (&["lifetime"], |bench| bench.expectation.lifetime = 5 * DAY),
    (&["outlives-ca"], |bench| {
        let profile = AuthorityProfile {
            lifetime: 13 * DAY / 2,
            ..AuthorityProfile::server("ending CA")
        };
        bench.keep("ending", &profile, bench.wall);
        bench.signer = "ending";
    }),
    (&["backdate"], |bench| bench.now = bench.wall + MINUTE),
    (&["serial"], |bench| bench.serial = "0x7fffffffffffffff"),
    (&["algorithm"], |bench| bench.kind = "EC:P-384"),
    (&["subject-key-id"], |bench| {
        bench.set("subjectKeyIdentifier", "none");
    }),
    (&["basic-constraints"], |bench| {
        bench.unset("basicConstraints");
    }),
    (&["basic-constraints"], |bench| {
        bench.set("basicConstraints", "CA:FALSE");
    }),
    (&["key-usage"], |bench| bench.unset("keyUsage")),
    (&["key-usage"], |bench| {
        bench.set("keyUsage", "digitalSignature");
    }),
    (&["key-usage"], |bench| {
        bench.set("keyUsage", "critical,keyAgreement");
    }),
    (&["key-usage"], |bench| {
        bench.set("keyUsage", "critical,digitalSignature,keyCertSign");
    }),
    (&["one-purpose"], |bench| bench.unset("extendedKeyUsage")),
    (&["one-purpose"], |bench| {
        bench.set("extendedKeyUsage", "serverAuth,clientAuth");
    }),
    (&["one-purpose"], |bench| {
        bench.set("extendedKeyUsage", "serverAuth,codeSigning");
    }),
    (&["apex"], |bench| {
        bench.set("subjectAltName", &format!("DNS:*.{DOMAIN}"));
    }),
    (&["alone"], |bench| bench.with_ca = true),
];

/// The key identifier of the CA that signs unless a case says otherwise.
fn own_key_id(bench: &Bench) -> Vec<u8> {
    let ca = bench.openssl.read_certificate("ca");
    ca.subject_key_id().expect("our CA has one").to_vec()
}

fn spaced(octets: &[u8]) -> String {
    let pairs: Vec<_> = octets.iter().map(|octet| format!("{octet:02X}")).collect();
    pairs.join(":")
}

fn ids(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.id).collect()
}

#[test]
fn a_certificate_breaks_exactly_the_rules_that_it_was_made_to_break() {
    for (index, (expected, change)) in CASES.iter().enumerate() {
        let mut bench = Bench::new();
        change(&mut bench);
        let ours = bench.lint(Origin::Ours);
        assert_eq!(ids(&ours), *expected, "case {index}");
        for finding in &ours {
            assert!(
                !finding.what.is_empty() && !finding.why.is_empty() && !finding.next.is_empty()
            );
            assert!(
                !finding.to_string().contains(['\n', '\t']) && !finding.to_string().ends_with('.')
            );
        }
    }
}

#[test]
fn advice_refuses_our_certificates_and_is_only_told_of_others() {
    let mut bench = Bench::new();
    bench.unset("keyUsage");
    bench.openssl.key("leaf", bench.kind);
    bench
        .openssl
        .certificate("leaf", "ca", SERIAL, "sha256", &bench.extensions);
    let ca = bench.openssl.read_certificate("ca");
    let pair = CertifiedKey::new(
        bench.openssl.read_certificate("leaf"),
        bench.openssl.read_key("leaf"),
    );
    let lint = |origin| pki::lint(&pair, &ca, &bench.expectation, bench.now, origin);
    let ours = lint(Origin::Ours).expect_err("our own is refused");
    assert_eq!(ids(&ours), ["key-usage"]);
    let foreign = lint(Origin::Foreign).expect("a foreign one is published");
    assert_eq!(ids(foreign.advice()), ["key-usage"]);
    let refused = pki::lint(
        &pair,
        &ca,
        &Expectation::new("other.example"),
        bench.now,
        Origin::Foreign,
    );
    let refused = refused.expect_err("what would not work is refused for everybody");
    assert_eq!(ids(&refused), ["names", "key-usage", "apex"]);
}

#[test]
fn every_rule_is_broken_by_some_certificate() {
    let servers = CASES.iter().flat_map(|(ids, _)| ids.iter());
    let broken: BTreeSet<_> = servers
        .chain(UPLOADS.iter().flat_map(|(ids, _)| ids.iter()))
        .collect();
    let all: Vec<_> = pki::rules().collect();
    let known: BTreeSet<_> = all.iter().map(|(id, _)| id).collect();
    assert_eq!(broken, known);
    assert!(all.iter().any(|(_, grade)| *grade == Grade::Advice));
}
