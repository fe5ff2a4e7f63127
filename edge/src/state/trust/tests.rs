//! Which issuers and rules mean something.

use super::*;
use crate::tests::issuer::issuer;

fn discovery(base: Option<&str>) -> KeySource {
    KeySource::Discovery {
        discovery_base: base.map(str::to_owned),
    }
}

fn explicit(url: &str) -> KeySource {
    KeySource::ExplicitUrl {
        url: url.to_owned(),
    }
}

fn check(url: &str, keys: KeySource, networks: &[&str]) -> Result<(), String> {
    check_issuer(&Issuer {
        issuer_url: url.to_owned(),
        keys,
        allowed_networks: networks.iter().map(|one| one.parse().unwrap()).collect(),
        ..issuer(Vec::new())
    })
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn an_issuer_that_could_never_be_asked_is_refused_by_the_name_of_its_field() {
    let good = "https://id.example";
    let cases = [
        (
            "http://id.example",
            discovery(None),
            "",
            "issuer_url: must begin with https://",
        ),
        (
            "https://169.254.169.254/",
            discovery(None),
            "",
            "issuer_url: is at an address that is not public",
        ),
        (
            "https://[::1]/",
            discovery(None),
            "",
            "issuer_url: is at an address",
        ),
        (
            "https://id.example:8443",
            discovery(None),
            "",
            "issuer_url: must use port 443",
        ),
        (
            good,
            explicit("https://127.0.0.1/k"),
            "",
            "keys.url: is at an address",
        ),
        (
            good,
            explicit("http://id.example/k"),
            "",
            "keys.url: must begin with https://",
        ),
        (
            good,
            explicit("http://id.example/k"),
            "10.0.0.0/8",
            "keys.url: must begin with https://",
        ),
        (
            good,
            discovery(Some("http://10.0.0.1/x")),
            "",
            "keys.discovery_base: is at an address",
        ),
        (
            good,
            discovery(Some("http://10.0.0.1/x")),
            "10.0.0.0/8",
            "keys.discovery_base: must begin with https://",
        ),
        (
            good,
            discovery(None),
            "0.0.0.0/0",
            "allowed_networks[0]: 0.0.0.0/0 is wider than /8",
        ),
        (
            good,
            discovery(None),
            "::/0",
            "allowed_networks[0]: ::/0 is wider than /7",
        ),
    ];
    for (url, keys, network, wanted) in cases {
        let networks: Vec<&str> = [network]
            .into_iter()
            .filter(|one| !one.is_empty())
            .collect();
        let told = check(url, keys, &networks).unwrap_err();
        assert!(told.starts_with(wanted), "{told:?} for {wanted:?}");
    }
}

#[test]
fn an_issuer_inside_of_a_network_that_is_allowed_may_be_asked_there() {
    let good = "https://id.example";
    for (url, keys, networks) in [
        (good, discovery(None), &[][..]),
        ("https://id.example:8443", discovery(None), &["10.0.0.0/8"]),
        ("https://10.0.0.1:6443", discovery(None), &["10.0.0.0/8"]),
        ("http://127.0.0.1:8080", discovery(None), &["127.0.0.0/8"]),
        (
            "http://id.example",
            explicit("https://id.example/keys"),
            &[],
        ),
    ] {
        assert_eq!(check(url, keys, networks), Ok(()), "{url}");
    }
}
