//! What `pki` makes, read by other people's programs: OpenSSL with its strictest checks, and rustls;
//! and what those make, read by `pki`.

mod openssl;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pki::{
    Algorithm, Authority, AuthorityKind, AuthorityProfile, Certificate, CertifiedKey,
    ClientProfile, Expectation, IssueError, LoadError, Origin, PrivateKey, RequestError, Serial,
    ServerProfile,
};
use process::{Clock, SystemClock};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore};

use openssl::OpenSsl;

const DOMAIN: &str = "tunnel.example";
const ROUTE: &str = "route.tunnel.example";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    SystemClock.wall()
}

fn key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::generate(algorithm).expect("a key")
}

fn authority(profile: &AuthorityProfile) -> Authority {
    Authority::generate(profile, now()).expect("an authority")
}

fn server(authority: &Authority, key: PrivateKey) -> CertifiedKey {
    let profile = ServerProfile::new(DOMAIN);
    let pair = authority.issue(&profile, key, Serial::random(), now());
    pair.expect("a server certificate")
}

fn unix(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
}

/// `openssl verify` with everything strict; `more` is its purpose and the like.
fn openssl_accepts(
    ca: &Certificate,
    leaf: &Certificate,
    at: SystemTime,
    more: &str,
) -> Result<(), String> {
    let openssl = OpenSsl::new();
    openssl.file("ca.crt", &ca.to_pem());
    openssl.file("leaf.crt", &leaf.to_pem());
    let output = openssl.attempt(&format!(
        "verify -x509_strict -check_ss_sig -policy_check -CAfile ca.crt -no-CApath -no-CAstore \
         -attime {} {more} leaf.crt",
        unix(at).as_secs()
    ));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(text)
    }
}

fn for_servers(name: &str) -> String {
    format!("-purpose sslserver -verify_hostname {name}")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(ca: &Certificate) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).expect("rustls takes our CA");
    Arc::new(roots)
}

fn rustls_accepts(
    ca: &Certificate,
    leaf: &Certificate,
    at: SystemTime,
    name: &str,
) -> Result<(), rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider());
    let verifier = verifier.build().expect("a verifier");
    let name = ServerName::try_from(name).expect("a name");
    let at = UnixTime::since_unix_epoch(unix(at));
    verifier
        .verify_server_cert(leaf.der(), &[], &name, &[], at)
        .map(|_| ())
}

fn rustls_accepts_client(
    ca: &Certificate,
    leaf: &Certificate,
    at: SystemTime,
) -> Result<(), rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider());
    let verifier = verifier.build().expect("a verifier");
    let at = UnixTime::since_unix_epoch(unix(at));
    verifier.verify_client_cert(leaf.der(), &[], at).map(|_| ())
}

#[test]
fn openssl_and_rustls_accept_every_profile_with_every_algorithm() {
    let keys: Vec<PrivateKey> = Algorithm::ALL.into_iter().map(key).collect();
    for algorithm in Algorithm::ALL {
        let mut expectation = Expectation::new(DOMAIN);
        let servers = authority(&AuthorityProfile {
            algorithm,
            ..AuthorityProfile::server("server CA")
        });
        let clients = authority(&AuthorityProfile {
            algorithm,
            ..AuthorityProfile::client("client CA")
        });
        for ca in [servers.certificate(), clients.certificate()] {
            openssl_accepts(ca, ca, now(), "").expect("OpenSSL takes the CA");
            pki::lint_authority(&ca.to_pem(), now()).expect("the CA can be uploaded");
        }
        for key in &keys {
            let pair = server(&servers, key.clone());
            let (ca, leaf) = (servers.certificate(), pair.certificate());
            for name in [ROUTE, DOMAIN] {
                openssl_accepts(ca, leaf, now(), &for_servers(name)).expect("OpenSSL");
                rustls_accepts(ca, leaf, now(), name).expect("rustls");
            }
            expectation.algorithm = key.algorithm();
            let linted = pki::lint(&pair, ca, &expectation, now(), Origin::Ours);
            assert!(linted.expect("the lint").advice().is_empty());
            let der = PrivateKeyDer::from_pem_slice(pair.key_pem().as_bytes()).expect("PKCS #8");
            let chain = vec![leaf.der().clone()];
            let usable = rustls::sign::CertifiedKey::from_der(chain, der, &provider());
            usable
                .expect("rustls takes the pair")
                .keys_match()
                .expect("one pair");
            let profile = ClientProfile {
                name: "alice.example".to_owned(),
                lifetime: DAY,
            };
            let request = pki::request(key, "alice").expect("a request");
            let client = clients.issue_client(&profile, &request, Serial::random(), now());
            let (ca, client) = (clients.certificate(), client.expect("a client certificate"));
            openssl_accepts(ca, &client, now(), "-purpose sslclient").expect("OpenSSL");
            rustls_accepts_client(ca, &client, now()).expect("rustls");
            openssl_accepts(ca, &client, now(), &for_servers("alice.example"))
                .expect_err("no server");
            rustls_accepts(ca, &client, now(), "alice.example").expect_err("no server");
        }
    }
}

#[test]
fn a_server_certificate_is_none_for_clients_and_none_under_another_ca() {
    let (mine, other) = (
        AuthorityProfile::server("CA"),
        AuthorityProfile::server("CA"),
    );
    let (mine, other) = (authority(&mine), authority(&other));
    let pair = server(&mine, key(Algorithm::EcdsaP256));
    let leaf = pair.certificate();
    openssl_accepts(mine.certificate(), leaf, now(), "-purpose sslclient").expect_err("no client");
    rustls_accepts_client(mine.certificate(), leaf, now()).expect_err("no client");
    openssl_accepts(other.certificate(), leaf, now(), &for_servers(ROUTE)).expect_err("other CA");
    rustls_accepts(other.certificate(), leaf, now(), ROUTE).expect_err("other CA");
    rustls_accepts(mine.certificate(), leaf, now(), "a.b.tunnel.example").expect_err("two labels");
    let expectation = Expectation::new(DOMAIN);
    let refused = pki::lint(
        &pair,
        other.certificate(),
        &expectation,
        now(),
        Origin::Foreign,
    );
    let refused = refused.expect_err("the lint sees it before a peer does");
    let ids: Vec<_> = refused.iter().map(|finding| finding.id).collect();
    assert_eq!(ids, ["signature", "authority-key-id"]);
}

#[test]
fn a_long_tunnel_domain_and_more_names_are_accepted() {
    let authority = authority(&AuthorityProfile::server("CA"));
    let domain = format!("{}.example", "long-".repeat(12) + "x");
    let profile = ServerProfile {
        extra_names: vec![
            "localhost".into(),
            "127.0.0.1".into(),
            "::1".into(),
            "*.other.example".into(),
        ],
        ..ServerProfile::new(&domain)
    };
    let pair = authority.issue(&profile, key(Algorithm::EcdsaP256), Serial::random(), now());
    let (pair, ca) = (pair.expect("a certificate"), authority.certificate());
    let leaf = pair.certificate();
    for name in [&domain, "route.other.example", "localhost"] {
        openssl_accepts(ca, leaf, now(), &for_servers(name)).expect("OpenSSL");
        rustls_accepts(ca, leaf, now(), name).expect("rustls");
    }
    for address in ["127.0.0.1", "::1"] {
        openssl_accepts(ca, leaf, now(), &format!("-verify_ip {address}")).expect("OpenSSL");
        rustls_accepts(ca, leaf, now(), address).expect("rustls");
    }
}

#[test]
fn openssl_reads_the_same_numbers_and_dates() {
    let authority = authority(&AuthorityProfile::server("CA"));
    let pair = server(&authority, key(Algorithm::EcdsaP256));
    let leaf = pair.certificate();
    let openssl = OpenSsl::new();
    openssl.file("leaf.crt", &leaf.to_pem());
    let show = |what: &str| openssl.run(&format!("x509 -in leaf.crt -noout {what}"));
    assert_eq!(
        show("-serial").trim(),
        format!("serial={}", leaf.serial().to_string().to_uppercase())
    );
    let fingerprint = show("-fingerprint -sha256").replace(':', "").to_lowercase();
    assert!(
        fingerprint
            .trim()
            .ends_with(&leaf.fingerprint().to_string()),
        "{fingerprint}"
    );
    let dates = show("-dates -dateopt iso_8601").replace(' ', "T");
    let dates: Vec<_> = dates
        .lines()
        .filter_map(|line| line.split('=').nth(1))
        .collect();
    assert_eq!(
        dates.join(" to "),
        leaf.validity()
            .to_string()
            .replace(' ', "")
            .replace("to", " to ")
    );
    let public = openssl.run("x509 -in leaf.crt -noout -pubkey");
    openssl.file("leaf.key", &pair.key_pem());
    assert_eq!(openssl.run("pkey -in leaf.key -pubout"), public);
}

/// F45: the default of the library repeats issuer and serial when a key is certified again.
#[test]
fn ten_thousand_certificates_of_one_key_have_ten_thousand_serials() {
    let authority = authority(&AuthorityProfile::server("CA"));
    let key = key(Algorithm::EcdsaP256);
    let serials: HashSet<Serial> = (0..10_000)
        .map(|_| {
            server(&authority, key.clone())
                .certificate()
                .serial()
                .clone()
        })
        .collect();
    assert_eq!(serials.len(), 10_000);
    assert!(
        serials
            .iter()
            .all(|serial| serial.bits() >= 64 && serial.octets().len() <= 20)
    );
}

/// F46: every certificate names the key of its CA, whoever made the CA.
#[test]
fn the_authority_key_identifier_is_the_ca_s_also_if_openssl_chose_it() {
    let openssl = OpenSsl::new();
    openssl.key("ca", "EC:P-256");
    for key_id in [
        "hash",
        "01:02:03:04",
        "00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01",
    ] {
        let extensions = vec![
            ("basicConstraints", "critical,CA:TRUE".to_owned()),
            ("subjectKeyIdentifier", key_id.to_owned()),
            ("keyUsage", "critical,keyCertSign".to_owned()),
        ];
        openssl.authority("ca", "/C=SE/O=Example/CN=CA", "sha256", &extensions);
        let loaded = Authority::load(
            openssl.read_certificate("ca"),
            openssl.read_key("ca"),
            now(),
        );
        let loaded = loaded.expect("an authority");
        let pair = server(&loaded, key(Algorithm::EcdsaP256));
        let (ca, leaf) = (loaded.certificate(), pair.certificate());
        assert!(ca.subject_key_id().is_some());
        assert_eq!(leaf.authority_key_id(), ca.subject_key_id());
        openssl_accepts(ca, leaf, now(), &for_servers(ROUTE)).expect("OpenSSL");
        rustls_accepts(ca, leaf, now(), ROUTE).expect("rustls");
    }
}

/// F20: a retry gave the first request's certificate with the second's key.
#[test]
fn a_certificate_with_the_key_of_another_is_never_published() {
    let authority = authority(&AuthorityProfile::server("CA"));
    let first = server(&authority, key(Algorithm::EcdsaP256));
    let second = server(&authority, key(Algorithm::EcdsaP256));
    let crossed = CertifiedKey::new(first.certificate().clone(), second.key().clone());
    let crossed_again = CertifiedKey::from_pem(&first.chain_pem(), &second.key_pem());
    for pair in [crossed, crossed_again.expect("both halves are sound")] {
        let expectation = Expectation::new(DOMAIN);
        let refused = pki::lint(
            &pair,
            authority.certificate(),
            &expectation,
            now(),
            Origin::Foreign,
        );
        let refused = refused.expect_err("the halves do not belong together");
        assert_eq!(refused[0].id, "key-mismatch");
    }
    let stolen = Authority::load(authority.certificate().clone(), second.key().clone(), now());
    assert_eq!(stolen.err(), Some(LoadError::KeyMismatch));
}

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

#[test]
fn a_constrained_ca_cannot_certify_elsewhere_for_openssl_rustls_and_lint() {
    let profile = AuthorityProfile {
        constrained_to: Some(DOMAIN.to_owned()),
        ..AuthorityProfile::server("constrained CA")
    };
    let authority = authority(&profile);
    let (ca, pair) = (
        authority.certificate(),
        server(&authority, key(Algorithm::EcdsaP256)),
    );
    openssl_accepts(ca, pair.certificate(), now(), &for_servers(ROUTE)).expect("OpenSSL");
    rustls_accepts(ca, pair.certificate(), now(), ROUTE).expect("rustls");
    // Whoever has the key signs what he likes: with openssl.
    let openssl = OpenSsl::new();
    openssl.file("ca.crt", &ca.to_pem());
    openssl.file("ca.key", &authority.private_key().to_pem());
    openssl.file("leaf.key", &pair.key_pem());
    for names in [
        "DNS:bank.example",
        "DNS:*.tunnel.example,DNS:bank.example",
        "DNS:*.bank.example",
    ] {
        let extensions = vec![
            ("subjectAltName", names.to_owned()),
            ("authorityKeyIdentifier", "keyid".to_owned()),
            ("extendedKeyUsage", "serverAuth".to_owned()),
        ];
        openssl.certificate("leaf", "ca", "0x77", "sha256", &extensions);
        let leaf = openssl.read_certificate("leaf");
        let name = names
            .rsplit(':')
            .next()
            .expect("a name")
            .replace('*', "www");
        let refused = openssl_accepts(ca, &leaf, now(), &for_servers(&name));
        assert!(
            refused
                .expect_err("OpenSSL")
                .contains("permitted subtree violation"),
            "{names}"
        );
        rustls_accepts(ca, &leaf, now(), &name).expect_err("rustls");
        let stolen = CertifiedKey::new(leaf, pair.key().clone());
        let expectation = Expectation::new("bank.example");
        let refused = pki::lint(&stolen, ca, &expectation, now(), Origin::Foreign);
        let refused = refused.expect_err("the lint");
        assert!(
            refused
                .iter()
                .any(|finding| finding.id == "name-constraints")
        );
    }
}

#[test]
fn a_constrained_ca_cannot_make_another_ca_and_an_unconstrained_one_can() {
    for (constrained_to, allowed) in [(Some(DOMAIN.to_owned()), false), (None, true)] {
        let profile = AuthorityProfile {
            constrained_to,
            ..AuthorityProfile::server("CA")
        };
        let authority = authority(&profile);
        let openssl = OpenSsl::new();
        openssl.file("ca.crt", &authority.certificate().to_pem());
        openssl.file("ca.key", &authority.private_key().to_pem());
        let middle = vec![
            ("basicConstraints", "critical,CA:TRUE".to_owned()),
            ("keyUsage", "critical,keyCertSign".to_owned()),
            ("subjectKeyIdentifier", "hash".to_owned()),
            ("authorityKeyIdentifier", "keyid".to_owned()),
        ];
        let leaf = vec![
            ("subjectAltName", format!("DNS:{ROUTE}")),
            ("subjectKeyIdentifier", "hash".to_owned()),
            ("authorityKeyIdentifier", "keyid".to_owned()),
        ];
        openssl.key("middle", "EC:P-256");
        openssl.certificate("middle", "ca", "0x77", "sha256", &middle);
        openssl.key("leaf", "EC:P-256");
        openssl.certificate("leaf", "middle", "0x78", "sha256", &leaf);
        let output = openssl.attempt("verify -CAfile ca.crt -untrusted middle.crt leaf.crt");
        assert_eq!(output.status.success(), allowed);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            text.contains("path length constraint exceeded"),
            !allowed,
            "{text}"
        );
        // rustls keeps no pathlen of a trust anchor. It need not: what the lint lets out was signed by
        // the CA itself.
        let pair = CertifiedKey::new(openssl.read_certificate("leaf"), openssl.read_key("leaf"));
        let ca = authority.certificate();
        let refused = pki::lint(&pair, ca, &Expectation::new(DOMAIN), now(), Origin::Foreign);
        let refused = refused.expect_err("not signed by the CA directly");
        assert!(refused.iter().any(|finding| finding.id == "signature"));
    }
}

#[test]
fn keys_that_openssl_writes_in_any_form_are_read_and_ours_are_read_by_it() {
    let openssl = OpenSsl::new();
    let kinds = [
        ("EC:P-256", Algorithm::EcdsaP256),
        ("EC:P-384", Algorithm::EcdsaP384),
        ("RSA:2048", Algorithm::Rsa2048),
        ("RSA:3072", Algorithm::Rsa3072),
    ];
    for (kind, algorithm) in kinds {
        openssl.key("new", kind);
        // The form before PKCS #8: SEC 1 or PKCS #1.
        openssl.run("pkey -in new.key -traditional -out old.key");
        let (new, old) = (openssl.read_key("new"), openssl.read_key("old"));
        assert!(!openssl.read("old.key").contains("BEGIN PRIVATE KEY"));
        assert_eq!((new.algorithm(), old.algorithm()), (algorithm, algorithm));
        assert_eq!(new.public_key(), old.public_key());
        openssl.file("ours.key", &new.to_pem());
        openssl.run("pkey -in ours.key -check -noout");
        assert_eq!(
            openssl.run("pkey -in ours.key -pubout"),
            openssl.run("pkey -in new.key -pubout")
        );
    }
    openssl.run("ecparam -name prime256v1 -genkey -out parameters.key");
    assert!(
        openssl
            .read("parameters.key")
            .contains("BEGIN EC PARAMETERS")
    );
    assert_eq!(
        openssl.read_key("parameters").algorithm(),
        Algorithm::EcdsaP256
    );
    openssl.run("pkey -in new.key -aes256 -passout pass:secret -out locked.key");
    openssl.run("pkey -in new.key -aes256 -passout pass:secret -traditional -out locked-old.key");
    for name in ["locked.key", "locked-old.key"] {
        let refused = PrivateKey::from_pem(&openssl.read(name));
        assert_eq!(refused.expect_err("locked"), pki::KeyError::Encrypted);
    }
    for kind in ["EC:P-224", "EC:P-521", "RSA:1024", "RSA:2056"] {
        openssl.key("odd", kind);
        let refused = PrivateKey::from_pem(&openssl.read("odd.key"));
        assert_eq!(refused.expect_err("odd"), pki::KeyError::Unsupported);
    }
}

#[test]
fn requests_of_openssl_are_taken_and_what_they_ask_for_is_not() {
    let openssl = OpenSsl::new();
    let clients = authority(&AuthorityProfile::client("client CA"));
    let profile = ClientProfile {
        name: "alice.example".to_owned(),
        lifetime: DAY,
    };
    let issue = |request: &str| clients.issue_client(&profile, request, Serial::random(), now());
    openssl.key("alice", "EC:P-256");
    openssl.run(
        "req -new -key alice.key -subj /CN=root/O=Evil -out alice.csr -addext subjectAltName=DNS:bank.example \
         -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign",
    );
    let certificate = issue(&openssl.read("alice.csr")).expect("a certificate");
    assert_eq!(certificate.dns_names(), ["alice.example"]);
    assert_eq!(certificate.subject(), "CN=alice.example");
    assert!(!certificate.is_authority() && !certificate.may_sign_certificates());
    assert_eq!(
        certificate.public_key(),
        openssl.read_key("alice").public_key()
    );
    openssl.run("req -new -key alice.key -subj /CN=alice -sha1 -out weak.csr");
    let refused = issue(&openssl.read("weak.csr")).expect_err("SHA-1");
    assert_eq!(refused, IssueError::Request(RequestError::Signature));
    for kind in ["RSA:1024", "EC:P-224", "EC:P-521"] {
        openssl.key("odd", kind);
        openssl.run("req -new -key odd.key -subj /CN=alice -out odd.csr");
        let refused = issue(&openssl.read("odd.csr")).expect_err(kind);
        assert!(
            matches!(refused, IssueError::Request(RequestError::Key(_))),
            "{refused:?}"
        );
    }
    let ours = pki::request(&key(Algorithm::EcdsaP384), "alice").expect("a request");
    openssl.file("ours.csr", &ours);
    assert!(
        openssl
            .run("req -in ours.csr -noout -verify -subject")
            .contains("CN = alice")
    );
}

/// The steps that the provider's pages tell people to take by hand (tunnels.md 3.5).
#[test]
fn a_ca_and_a_leaf_made_by_hand_as_documented_can_be_adopted() {
    let openssl = OpenSsl::new();
    openssl.run(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 3650 -subj /CN=mcp-tunnel-ca \
         -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
         -addext subjectKeyIdentifier=hash",
    );
    openssl
        .run("req -newkey rsa:4096 -nodes -keyout leaf.key -out leaf.csr -subj /CN=tunnel.example");
    let extensions = format!(
        "subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}\nauthorityKeyIdentifier=keyid,issuer\n\
         extendedKeyUsage=serverAuth\n"
    );
    openssl.file("leaf.ext", &extensions);
    openssl.run(
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -extfile leaf.ext \
         -out leaf.crt",
    );
    let ca = pki::lint_authority(&openssl.read("ca.crt"), now()).expect("the CA can be uploaded");
    let pair = CertifiedKey::from_pem(&openssl.read("leaf.crt"), &openssl.read("leaf.key"));
    let pair = pair.expect("a pair");
    let expectation = Expectation::new(DOMAIN);
    let adopted = pki::lint(&pair, &ca, &expectation, now(), Origin::Foreign);
    let advice: Vec<_> = adopted
        .expect("it stays publishable")
        .advice()
        .iter()
        .map(|finding| finding.id)
        // Whether there is a key identifier unasked depends on the version of openssl, and a leaf that was made in the
        // same second as its CA begins as early as it may.
        .filter(|id| !["subject-key-id", "backdate"].contains(id))
        .collect();
    let told = ["lifetime", "algorithm", "basic-constraints", "key-usage"];
    assert_eq!(advice, told);
    pki::lint(&pair, &ca, &expectation, now(), Origin::Ours).expect_err("we would not issue it so");
    let authority = Authority::load(ca, openssl.read_key("ca"), now()).expect("an authority");
    assert_eq!(authority.kind(), AuthorityKind::Server);
    let successor = server(&authority, key(Algorithm::EcdsaP256));
    let (ca, leaf) = (authority.certificate(), successor.certificate());
    openssl_accepts(ca, leaf, now(), &for_servers(ROUTE)).expect("OpenSSL");
    rustls_accepts(ca, leaf, now(), ROUTE).expect("rustls");
    pki::lint(&successor, ca, &expectation, now(), Origin::Ours).expect("the lint");
}

#[test]
fn a_foreign_ca_that_could_not_sign_well_is_not_loaded() {
    let openssl = OpenSsl::new();
    openssl.key("ca", "EC:P-256");
    let load = |subject: &str, usage: &str, key_id: &str| {
        let extensions = vec![
            ("basicConstraints", "critical,CA:TRUE".to_owned()),
            ("subjectKeyIdentifier", key_id.to_owned()),
            ("keyUsage", usage.to_owned()),
        ];
        openssl.authority("ca", subject, "sha256", &extensions);
        Authority::load(
            openssl.read_certificate("ca"),
            openssl.read_key("ca"),
            now(),
        )
        .err()
    };
    let sign = "critical,keyCertSign";
    assert_eq!(load("/C=SE/O=Example/OU=Unit/CN=CA", sign, "hash"), None);
    assert_eq!(
        load("/CN=CA", "critical,cRLSign", "hash"),
        Some(LoadError::MayNotSign)
    );
    assert_eq!(
        load("/CN=CA", sign, "none"),
        Some(LoadError::NoKeyIdentifier)
    );
    // rcgen keeps one of each kind; a certificate would name an issuer that does not exist.
    assert_eq!(
        load("/OU=One/OU=Two/CN=CA", sign, "hash"),
        Some(LoadError::Subject)
    );
}
