//! What others make, read by `pki`: keys, requests, and CAs made by hand.

use pki::{
    Algorithm, Authority, AuthorityKind, AuthorityProfile, CertifiedKey, ClientProfile,
    Expectation, IssueError, LoadError, Origin, PrivateKey, RequestError, Serial,
};

use super::openssl::OpenSsl;
use super::{
    DAY, DOMAIN, ROUTE, authority, for_servers, key, now, openssl_accepts, rustls_accepts, server,
};

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
