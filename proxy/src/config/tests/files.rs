//! Refusals of the files that a configuration names.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pki::{
    Algorithm, Authority, AuthorityProfile, CertifiedKey, PrivateKey, Serial, ServerProfile,
};

use control::{Credential, Leaf, Secret};
use process::{Clock, Exit, Failure, SystemClock, Tasks};

use crate::config::Config;
use crate::credential::{Credentials, Source};

/// Some day of 2027.
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

/// What to do about a bundle that nobody can be verified with.
const BUNDLE: &str = "  next: write the certificates of the authorities to trust there, as PEM";
/// PEM, and no certificate in it.
const UNUSABLE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn now() -> SystemTime {
    NOW + Duration::from_secs(1_800_000_000)
}

fn pair() -> CertifiedKey {
    let authority = Authority::generate(&AuthorityProfile::server("a CA"), now()).unwrap();
    let key = PrivateKey::generate(Algorithm::default()).unwrap();
    authority
        .issue(
            &ServerProfile::new("t.example"),
            key,
            Serial::random(),
            now(),
        )
        .unwrap()
}

/// A directory with a good pair and a configuration that names it.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let pair = pair();
        files.write("tls.crt", &pair.chain_pem());
        files.write("tls.key", &pair.key_pem());
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// What is said to a configuration of these files and `more`, where `DIR` stands for the
    /// directory; the directory is written `/data`.
    fn verdict(&self, more: &str, now: SystemTime) -> String {
        let text = "listen_addr: ':0'\ntls: {cert_file: DIR/tls.crt, key_file: DIR/tls.key}\n";
        let routes = if more.contains("routes:") {
            ""
        } else {
            "routes: {a.b: 'http://a:80'}\n"
        };
        let here = self.0.path().to_str().unwrap();
        self.write(
            "config.yaml",
            &format!("{text}{routes}{more}").replace("DIR", here),
        );
        let config = self.path("config.yaml");
        match Config::read(Path::new(&config), None, now) {
            Ok(_) => "good".to_owned(),
            Err(error) => {
                let failure = Failure::from(error);
                assert_eq!(failure.exit(), Exit::Config);
                failure.to_string().replace(here, "/data")
            }
        }
    }
}

#[test]
fn a_good_pair_is_taken() {
    assert_eq!(Files::new().verdict("", now()), "good");
}

#[test]
fn a_self_signed_ca_certificate_as_openssl_makes_it_is_served_as_the_stock_proxy_does() {
    let files = Files::new();
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        ])
        .args([
            "-subj",
            "/CN=t.example",
            "-addext",
            "subjectAltName=DNS:*.t.example",
        ])
        .args(["-addext", "basicConstraints=critical,CA:TRUE"])
        .args([
            "-keyout",
            &files.path("tls.key"),
            "-out",
            &files.path("tls.crt"),
        ]);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(files.verdict("", SystemClock.wall()), "good");
    let read = |name| fs::read_to_string(files.path(name)).unwrap();
    let credential = Credential {
        tunnel: "default".to_owned(),
        generation: 0,
        tunnel_domain: "t.example".to_owned(),
        leaf: Leaf {
            chain: read("tls.crt"),
            key: Secret::new(read("tls.key")),
            not_after: 0,
        },
        fallback: None,
        canary_share: None,
        ca_certificates: Vec::new(),
        client_ca_certificates: Vec::new(),
        lowest: 0,
    };
    let credentials = Credentials::new(Arc::new(SystemClock), Tasks::new(), Duration::ZERO);
    credentials.offer(&credential, Source::Files).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let missing = Config::load(Path::new("/nonexistent/config.yaml"), None).unwrap_err();
    assert_eq!(missing.exit(), Exit::Config);
    assert_eq!(
        missing.to_string(),
        "open /nonexistent/config.yaml: no such file or directory\n  \
         next: create /nonexistent/config.yaml, or correct the path"
    );
    let files = Files::new();
    fs::remove_file(files.path("tls.crt")).unwrap();
    assert_eq!(
        files.verdict("", now()),
        "open /data/tls.crt: no such file or directory\n  next: create /data/tls.crt, or correct the path"
    );
}

/// One that may not be read has its test where the program runs as a user of its own.
#[test]
fn a_key_that_is_no_file_is_refused_as_the_stock_proxy_does() {
    let files = Files::new();
    fs::remove_file(files.path("tls.key")).unwrap();
    fs::create_dir(files.path("tls.key")).unwrap();
    assert_eq!(
        files.verdict("", now()),
        "open /data/tls.key: is a directory\n  next: make /data/tls.key a readable file"
    );
}

#[test]
fn a_pair_that_is_none_is_refused() {
    let files = Files::new();
    files.write("tls.key", &pair().key_pem());
    assert_eq!(
        files.verdict("", now()),
        "/data/tls.key is not the key of the certificate in /data/tls.crt\n  next: put certificate and \
         key of the same issuance there, or let keyward renew-cert write both"
    );
    files.write("tls.key", "");
    let unencrypted = "write the private key there as unencrypted PEM";
    assert_eq!(
        files.verdict("", now()),
        format!("/data/tls.key holds no private key\n  next: {unencrypted}")
    );
    files.write(
        "tls.key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    assert_eq!(
        files.verdict("", now()),
        format!("/data/tls.key is no usable private key\n  next: {unencrypted}")
    );
    files.write("tls.crt", "no pem");
    assert_eq!(
        files.verdict("", now()),
        "/data/tls.crt holds no certificate\n  \
         next: write the PEM certificate chain there, the server certificate first"
    );
}

#[test]
fn a_certificate_out_of_its_dates_is_refused() {
    let files = Files::new();
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(
        files.verdict("", now() + 30 * day),
        "the certificate in /data/tls.crt has expired\n  next: renew it: keyward renew-cert"
    );
    assert_eq!(
        files.verdict("", now() - 30 * day),
        "the certificate in /data/tls.crt is not yet valid\n  \
         next: compare the clocks of this machine and of the issuer"
    );
}

#[test]
fn bad_files_are_no_reason_to_refuse_where_the_daemon_brings_the_certificate() {
    let files = Files::new();
    fs::remove_file(files.path("tls.key")).unwrap();
    assert_eq!(files.verdict("control: {socket: /s}\n", now()), "good");
}

#[test]
fn an_https_route_needs_authorities_that_can_be_read() {
    let files = Files::new();
    let routes = "routes: {a.b: 'https://a:443'}\nupstream: {tls: {ca_file: DIR/ca.pem}}\n";
    assert!(
        files
            .verdict(routes, now())
            .starts_with("open /data/ca.pem: no such file or directory\n")
    );
    files.write("ca.pem", "");
    assert_eq!(
        files.verdict(routes, now()),
        format!("/data/ca.pem holds no certificate\n{BUNDLE}")
    );
    files.write("ca.pem", UNUSABLE);
    let refused = files.verdict(routes, now());
    let what = "/data/ca.pem holds no certificate authority that can be used: ";
    assert!(refused.starts_with(what), "{refused}");
    assert!(refused.ends_with(BUNDLE), "{refused}");
    files.write("ca.pem", &pair().chain_pem());
    assert_eq!(files.verdict(routes, now()), "good");
    // Without an https route nobody needs it yet.
    files.write("ca.pem", "");
    assert_eq!(
        files.verdict("upstream: {tls: {ca_file: DIR/ca.pem}}\n", now()),
        "good"
    );
}

#[test]
fn client_authorities_must_be_there_when_they_are_named() {
    let files = Files::new();
    let tls = "tls: {cert_file: DIR/tls.crt, key_file: DIR/tls.key, client_ca: DIR/ca.pem}";
    let here = files.0.path().to_str().unwrap();
    let text = format!("listen_addr: ':0'\n{tls}\nroutes: {{}}\n").replace("DIR", here);
    files.write("config.yaml", &text);
    for (bundle, what) in [
        ("", "ca.pem holds no certificate\n"),
        (
            UNUSABLE,
            "ca.pem holds no certificate authority that can be used: ",
        ),
    ] {
        files.write("ca.pem", bundle);
        let config = files.path("config.yaml");
        let refused = Config::read(Path::new(&config), None, now()).unwrap_err();
        let text = Failure::from(refused).to_string();
        assert!(text.contains(what) && text.ends_with(BUNDLE), "{text}");
    }
}
