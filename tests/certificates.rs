//! What `pki` makes, read by other people's programs: OpenSSL with its strictest checks, and rustls;
//! and what those make, read by `pki`.

mod constrained;
mod dates;
mod foreign;
mod openssl;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pki::{
    Algorithm, Authority, AuthorityProfile, Certificate, CertifiedKey, ClientProfile, Expectation,
    LoadError, Origin, PrivateKey, Serial, ServerProfile,
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
