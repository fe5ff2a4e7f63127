use std::collections::HashSet;

use x509_parser::extensions::ParsedExtension;

use super::*;
use crate::key::Algorithm;
use crate::lint::{Expectation, Origin, lint, lint_authority};
use crate::request::request;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const DOMAIN: &str = "tunnel.example";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_700)
}

fn key() -> PrivateKey {
    PrivateKey::generate(Algorithm::EcdsaP256).unwrap()
}

fn authority(lifetime: Duration) -> Authority {
    let profile = AuthorityProfile {
        lifetime,
        ..AuthorityProfile::server("tunnel CA")
    };
    Authority::generate(&profile, now()).unwrap()
}

fn issue(authority: &Authority, at: SystemTime) -> Result<CertifiedKey, IssueError> {
    authority.issue(&ServerProfile::new(DOMAIN), key(), Serial::random(), at)
}

/// `extension critical? contents` in order, as an independent look at the encoding.
fn shown(certificate: &Certificate) -> Vec<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
    let one = |extension: &x509_parser::extensions::X509Extension<'_>| {
        let critical = if extension.critical { "critical " } else { "" };
        let contents = match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(_) => "AKI".to_owned(),
            ParsedExtension::SubjectKeyIdentifier(key) => format!("SKI of {}", key.0.len()),
            ParsedExtension::KeyUsage(usage) => usage.to_string(),
            ParsedExtension::BasicConstraints(constraints) => {
                format!(
                    "CA {} {:?}",
                    constraints.ca, constraints.path_len_constraint
                )
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let names: Vec<_> = names
                    .general_names
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                names.join(" ")
            }
            ParsedExtension::NameConstraints(names) => {
                let subtrees = names.permitted_subtrees.iter().flatten();
                let names: Vec<_> = subtrees.map(|tree| tree.base.to_string()).collect();
                names.join(" ")
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                format!("server {} client {}", usage.server_auth, usage.client_auth)
            }
            other => format!("{other:?}"),
        };
        format!("{critical}{contents}")
    };
    parsed.extensions().iter().map(one).collect()
}

#[test]
fn a_server_certificate_has_every_field_of_its_profile_and_no_other() {
    let authority = authority(365 * DAY);
    let mut profile = ServerProfile::new(DOMAIN);
    profile.extra_names = vec!["localhost".into(), "127.0.0.1".into(), DOMAIN.into()];
    let serial = Serial::random();
    let pair = authority
        .issue(&profile, key(), serial.clone(), now())
        .unwrap();
    let leaf = pair.certificate();
    let expected = [
        "AKI",
        "DNSName(*.tunnel.example) DNSName(tunnel.example) DNSName(localhost) IPAddress(7f:00:00:01)",
        "critical Digital Signature",
        "server true client false",
        "SKI of 20",
        "critical CA false None",
    ];
    assert_eq!(shown(leaf), expected);
    assert_eq!(leaf.subject(), "CN=tunnel.example");
    assert_eq!(leaf.serial(), &serial);
    assert_eq!(
        leaf.authority_key_id(),
        authority.certificate().subject_key_id()
    );
    assert_eq!(leaf.issuer_der(), authority.certificate().subject_der());
    assert_eq!(
        leaf.validity(),
        Validity::new(now() - 5 * MINUTE, now() + 7 * DAY)
    );
    assert_eq!(leaf.public_key(), pair.key().public_key());
}

#[test]
fn a_ca_certificate_has_every_field_of_its_profile_and_no_other() {
    let bare = authority(365 * DAY);
    let usage = "critical Key Cert Sign, CRL Sign";
    let expected = [usage, "SKI of 20", "critical CA true None"];
    assert_eq!(shown(bare.certificate()), expected);
    assert_eq!(bare.kind(), AuthorityKind::Server);
    let profile = AuthorityProfile {
        constrained_to: Some(DOMAIN.to_owned()),
        ..AuthorityProfile::client("client CA")
    };
    let constrained = Authority::generate(&profile, now()).unwrap();
    let expected = [
        usage,
        "server false client true",
        "critical DNSName(tunnel.example)",
        "SKI of 20",
        "critical CA true Some(0)",
    ];
    assert_eq!(shown(constrained.certificate()), expected);
    assert_eq!(constrained.kind(), AuthorityKind::Client);
    for made in [bare, constrained] {
        let linted = lint_authority(&made.certificate().to_pem(), now());
        assert_eq!(linted.as_ref(), Ok(made.certificate()));
    }
}

#[test]
fn a_client_certificate_takes_only_the_public_key_from_the_request() {
    let authority = Authority::generate(&AuthorityProfile::client("client CA"), now()).unwrap();
    let profile = ClientProfile {
        name: "alice.example".to_owned(),
        lifetime: DAY,
    };
    let key = key();
    let request = request(&key, "mallory.example").unwrap();
    let certificate = authority
        .issue_client(&profile, &request, Serial::random(), now())
        .unwrap();
    let expected = [
        "AKI",
        "DNSName(alice.example)",
        "critical Digital Signature",
        "server false client true",
        "SKI of 20",
        "critical CA false None",
    ];
    assert_eq!(shown(&certificate), expected);
    assert_eq!(certificate.subject(), "CN=alice.example");
    assert_eq!(certificate.public_key(), key.public_key());
}

#[test]
fn an_authority_signs_only_certificates_of_its_kind() {
    let servers = authority(365 * DAY);
    let clients = Authority::generate(&AuthorityProfile::client("client CA"), now()).unwrap();
    let profile = ClientProfile {
        name: "alice".to_owned(),
        lifetime: DAY,
    };
    let request = request(&key(), "alice").unwrap();
    assert_eq!(
        servers.issue_client(&profile, &request, Serial::random(), now()),
        Err(IssueError::Kind(AuthorityKind::Server))
    );
    let refused = issue(&clients, now()).unwrap_err();
    assert_eq!(refused, IssueError::Kind(AuthorityKind::Client));
}

#[test]
fn a_certificate_ends_a_day_before_its_ca_or_with_a_ca_that_is_short() {
    let ends = |life: Duration| {
        let pair = issue(&authority(life), now()).unwrap();
        pair.certificate().validity().remaining(now())
    };
    let whole = |duration: Duration| duration.saturating_sub(Duration::from_millis(700));
    assert_eq!(ends(365 * DAY), whole(7 * DAY));
    assert_eq!(ends(5 * DAY), whole(4 * DAY));
    assert_eq!(ends(DAY), whole(DAY));
    assert_eq!(ends(2 * MINUTE), whole(2 * MINUTE));
}

#[test]
fn renewals_under_a_ca_that_ends_are_few_and_then_refused() {
    let authority = authority(30 * DAY);
    let mut at = now() + 20 * DAY;
    let mut issued = 0;
    let end = loop {
        match issue(&authority, at) {
            Ok(pair) => {
                let leaf = pair.certificate();
                let next = leaf.validity().rekey_at(at, leaf.serial());
                assert!(next > at, "due at once");
                issued += 1;
                at = next;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(end, IssueError::Ending(authority.certificate().validity()));
    assert!(
        (9..40).contains(&issued),
        "{issued} certificates in nine days"
    );
}

#[test]
fn a_ca_out_of_date_signs_nothing_and_is_not_loaded() {
    let authority = authority(DAY);
    let dates = authority.certificate().validity();
    let load = |at| {
        let key = authority.private_key().clone();
        Authority::load(authority.certificate().clone(), key, at).err()
    };
    let (early, late) = (now() - 6 * MINUTE, now() + DAY + MINUTE);
    assert_eq!(load(now()), None);
    assert_eq!(load(early), Some(LoadError::NotYetValid(dates)));
    assert_eq!(load(late), Some(LoadError::Expired(dates)));
    for at in [early, late] {
        assert_eq!(
            issue(&authority, at).unwrap_err(),
            IssueError::OutOfDate(dates)
        );
    }
}

#[test]
fn a_key_of_another_certificate_and_a_certificate_that_is_no_ca_are_not_loaded() {
    let authority = authority(DAY);
    let load = |certificate: &Certificate, key| {
        Authority::load(certificate.clone(), key, now()).unwrap_err()
    };
    let mismatch = load(authority.certificate(), key());
    assert_eq!(mismatch, LoadError::KeyMismatch);
    let pair = issue(&authority, now()).unwrap();
    let leaf = load(pair.certificate(), pair.key().clone());
    assert_eq!(leaf, LoadError::NotAuthority);
}

#[test]
fn a_loaded_authority_signs_like_the_one_that_was_stored() {
    for algorithm in [
        Algorithm::EcdsaP256,
        Algorithm::EcdsaP384,
        Algorithm::Rsa2048,
    ] {
        let profile = AuthorityProfile {
            algorithm,
            ..AuthorityProfile::server("tunnel CA")
        };
        let made = Authority::generate(&profile, now()).unwrap();
        let certificate = Certificate::from_pem(&made.certificate().to_pem()).unwrap();
        let key = PrivateKey::from_pem(&made.private_key().to_pem()).unwrap();
        let loaded = Authority::load(certificate, key, now()).unwrap();
        let pair = issue(&loaded, now()).unwrap();
        let ca = made.certificate();
        let expectation = Expectation::new(DOMAIN);
        let linted = lint(&pair, ca, &expectation, now(), Origin::Ours).unwrap();
        assert!(linted.advice().is_empty());
    }
}

#[test]
fn a_key_that_is_certified_again_gets_another_serial() {
    let authority = authority(365 * DAY);
    let (profile, key) = (ServerProfile::new(DOMAIN), key());
    let issue = || authority.issue(&profile, key.clone(), Serial::random(), now());
    let serials: HashSet<_> = (0..100)
        .map(|_| issue().unwrap().certificate().serial().clone())
        .collect();
    assert_eq!(serials.len(), 100);
}

#[test]
fn names_that_cannot_stand_in_a_certificate_or_under_the_ca_are_refused() {
    let profile = AuthorityProfile {
        constrained_to: Some(DOMAIN.to_owned()),
        ..AuthorityProfile::server("tunnel CA")
    };
    let constrained = Authority::generate(&profile, now()).unwrap();
    let issue = |domain: &str, extra: &[&str]| {
        let mut profile = ServerProfile::new(domain);
        profile.extra_names = extra.iter().map(ToString::to_string).collect();
        constrained
            .issue(&profile, key(), Serial::random(), now())
            .err()
    };
    let refused = |name: &str| Some(IssueError::NotPermitted(name.to_owned()));
    assert_eq!(issue(DOMAIN, &["a.tunnel.example", "::1"]), None);
    assert_eq!(issue("other.example", &[]), refused("*.other.example"));
    assert_eq!(issue(DOMAIN, &["localhost"]), refused("localhost"));
    let bad = |name: &str| Some(IssueError::Name(name.to_owned()));
    assert_eq!(issue("tunnel example", &[]), bad("tunnel example"));
    assert_eq!(issue("", &[]), bad(""));
    assert_eq!(issue(DOMAIN, &["a_b"]), bad("a_b"));
    let nameless = Authority::generate(&AuthorityProfile::server(""), now());
    assert_eq!(nameless.err(), bad(""));
}

#[test]
fn a_tunnel_domain_too_long_for_a_common_name_leaves_the_subject_empty() {
    let domain = format!("{}.example", "a".repeat(60));
    let profile = ServerProfile::new(&domain);
    let pair = authority(DAY).issue(&profile, key(), Serial::random(), now());
    let pair = pair.unwrap();
    assert_eq!(pair.certificate().subject(), "");
    // RFC 5280 §4.1.2.6: then the names are critical.
    let names = format!("critical DNSName(*.{domain}) DNSName({domain})");
    assert!(shown(pair.certificate()).contains(&names));
}

#[test]
fn a_lifetime_of_nothing_or_of_ages_is_refused() {
    let authority = authority(365 * DAY);
    for lifetime in [Duration::ZERO, Duration::MAX] {
        let profile = ServerProfile {
            lifetime,
            ..ServerProfile::new(DOMAIN)
        };
        let refused = authority.issue(&profile, key(), Serial::random(), now());
        assert_eq!(refused.unwrap_err(), IssueError::Lifetime);
        let profile = AuthorityProfile {
            lifetime,
            ..AuthorityProfile::server("tunnel CA")
        };
        let refused = Authority::generate(&profile, now());
        assert_eq!(refused.unwrap_err(), IssueError::Lifetime);
    }
    let profile = AuthorityProfile {
        lifetime: 10_000 * 365 * DAY,
        ..AuthorityProfile::server("tunnel CA")
    };
    let refused = Authority::generate(&profile, now());
    assert!(matches!(refused, Err(IssueError::Sign(_))));
}
