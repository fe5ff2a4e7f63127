//! From when until when: clocks that are off, and CAs that are out of their dates.

use std::time::Duration;

use pki::{
    Algorithm, Authority, AuthorityProfile, CertifiedKey, Expectation, IssueError, LoadError,
    Origin, Serial, ServerProfile,
};

use super::openssl::OpenSsl;
use super::{
    DAY, DOMAIN, MINUTE, ROUTE, authority, for_servers, key, now, openssl_accepts, rustls_accepts,
    server,
};

/// F33: a fresh certificate was "not yet valid" for peers whose clocks are behind.
#[test]
fn peers_whose_clocks_are_five_minutes_off_accept_what_was_just_issued() {
    let authority = authority(&AuthorityProfile::server("CA"));
    let issued = now();
    let pair = server(&authority, key(Algorithm::EcdsaP256));
    let (ca, leaf) = (authority.certificate(), pair.certificate());
    for at in [
        issued - 5 * MINUTE + Duration::from_secs(2),
        issued,
        issued + 5 * MINUTE,
    ] {
        openssl_accepts(ca, leaf, at, &for_servers(ROUTE)).expect("OpenSSL");
        rustls_accepts(ca, leaf, at, ROUTE).expect("rustls");
    }
    let too_early = issued - 6 * MINUTE;
    openssl_accepts(ca, leaf, too_early, &for_servers(ROUTE)).expect_err("not yet valid");
    rustls_accepts(ca, leaf, too_early, ROUTE).expect_err("not yet valid");
}

/// F33: a CA from the future was taken, and nothing under it was.
#[test]
fn a_ca_that_begins_in_the_future_or_has_ended_signs_nothing() {
    for (made, expected) in [(now() + DAY, true), (now() - 3 * DAY, false)] {
        let profile = AuthorityProfile {
            lifetime: 2 * DAY,
            ..AuthorityProfile::server("CA")
        };
        let authority = Authority::generate(&profile, made).expect("an authority");
        let (ca, key_of_ca) = (authority.certificate(), authority.private_key());
        let loaded = Authority::load(ca.clone(), key_of_ca.clone(), now());
        match loaded.expect_err("out of date") {
            LoadError::NotYetValid(_) => assert!(expected),
            LoadError::Expired(_) => assert!(!expected),
            other => panic!("{other}"),
        }
        let profile = ServerProfile::new(DOMAIN);
        let refused = authority.issue(&profile, key(Algorithm::EcdsaP256), Serial::random(), now());
        assert_eq!(
            refused.expect_err("out of date"),
            IssueError::OutOfDate(ca.validity())
        );
    }
}

/// rustls does not look at the dates of a trust anchor, so that the lint has to.
#[test]
fn the_lint_refuses_what_rustls_accepts_under_a_ca_that_expired() {
    let profile = AuthorityProfile {
        lifetime: DAY,
        ..AuthorityProfile::server("CA")
    };
    let authority = Authority::generate(&profile, now()).expect("an authority");
    let pair = server(&authority, key(Algorithm::EcdsaP256));
    let openssl = OpenSsl::new();
    openssl.file("ca.key", &authority.private_key().to_pem());
    openssl.file("ca.crt", &authority.certificate().to_pem());
    openssl.file("leaf.key", &pair.key_pem());
    let extensions = vec![
        ("subjectAltName", format!("DNS:*.{DOMAIN}")),
        ("authorityKeyIdentifier", "keyid".to_owned()),
    ];
    openssl.certificate("leaf", "ca", "0x77", "sha256", &extensions);
    let (ca, leaf) = (authority.certificate(), openssl.read_certificate("leaf"));
    let later = now() + 2 * DAY;
    rustls_accepts(ca, &leaf, later, ROUTE).expect("rustls does not see it");
    openssl_accepts(ca, &leaf, later, &for_servers(ROUTE)).expect_err("OpenSSL does");
    let pair = CertifiedKey::new(leaf, pair.key().clone());
    let refused = pki::lint(&pair, ca, &Expectation::new(DOMAIN), later, Origin::Foreign);
    let refused = refused.expect_err("and so does the lint");
    assert_eq!(refused[0].id, "ca-expired");
}
