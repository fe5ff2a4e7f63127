//! A CA that may certify one domain alone and no other CA: what OpenSSL, rustls and the lint make of it.

use pki::{Algorithm, AuthorityProfile, CertifiedKey, Expectation, Origin};

use super::openssl::OpenSsl;
use super::{
    DOMAIN, ROUTE, authority, for_servers, key, now, openssl_accepts, rustls_accepts, server,
};

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
