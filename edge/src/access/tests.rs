//! Who is let in.

use std::time::Duration;

use pki::{Algorithm, Authority, AuthorityProfile, ClientProfile, PrivateKey, Serial};
use process::{Clock, SystemClock};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

struct Ca(Authority);

impl Ca {
    fn new() -> Self {
        let profile = AuthorityProfile::client("client CA");
        Self(Authority::generate(&profile, SystemClock.wall()).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.certificate().der().clone()
    }

    fn client(&self, name: &str) -> CertificateDer<'static> {
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        let request = pki::request(&key, name).unwrap();
        let profile = ClientProfile {
            name: name.to_owned(),
            lifetime: HOUR,
        };
        let now = SystemClock.wall();
        let issued = self
            .0
            .issue_client(&profile, &request, Serial::random(), now);
        issued.unwrap().der().clone()
    }
}

fn ask(
    settings: AccessSettings,
    address: &str,
    certificates: &[CertificateDer<'static>],
) -> Result<(), Denial> {
    let caller = Caller {
        address: address.parse().unwrap(),
        asn: (address == "192.0.2.7").then_some(64500),
        certificates,
    };
    Access::new(settings)
        .unwrap()
        .admit(&caller, SystemClock.wall())
}

fn networks(cidrs: &[&str]) -> AccessSettings {
    AccessSettings {
        cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        ..AccessSettings::default()
    }
}

#[test]
fn nobody_may_call_until_somebody_is_let_in() {
    assert_eq!(
        ask(AccessSettings::default(), "127.0.0.1", &[]),
        Err(Denial::Closed)
    );
    let asns = AccessSettings {
        asns: [64500].into(),
        ..AccessSettings::default()
    };
    assert_eq!(ask(asns, "192.0.2.7", &[]), Err(Denial::Closed));
}

#[test]
fn a_network_lets_its_addresses_in_and_no_others() {
    let settings = || networks(&["192.0.2.0/24", "2001:db8::/32"]);
    for good in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        assert_eq!(ask(settings(), good, &[]), Ok(()), "{good}");
    }
    for bad in ["192.0.3.1", "2001:db9::1", "::1"] {
        assert_eq!(ask(settings(), bad, &[]), Err(Denial::Address), "{bad}");
    }
    let asns = || AccessSettings {
        asns: [64500].into(),
        ..settings()
    };
    assert_eq!(ask(asns(), "192.0.2.7", &[]), Ok(()));
    assert_eq!(
        ask(asns(), "192.0.2.8", &[]),
        Err(Denial::Network),
        "of nobody known"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_certificate_counts_by_chain_denial_name_and_dates_and_network_besides() {
    let (ca, other) = (Ca::new(), Ca::new());
    let agent = ca.client("agent-1.example");
    let settings = || AccessSettings {
        client_ca_certificates: vec![ca.der()],
        ..AccessSettings::default()
    };
    let one = std::slice::from_ref(&agent);
    assert_eq!(ask(settings(), "::1", one), Ok(()));
    assert_eq!(
        ask(settings(), "::1", &[]),
        Err(Denial::CertificateRequired)
    );
    let foreign = [other.client("agent-1.example")];
    assert_eq!(ask(settings(), "::1", &foreign), Err(Denial::UnknownCa));
    let garbage = [CertificateDer::from(vec![1, 2, 3])];
    assert_eq!(
        ask(settings(), "::1", &garbage),
        Err(Denial::BadCertificate)
    );

    let two = AccessSettings {
        client_ca_certificates: vec![other.der(), ca.der()],
        ..settings()
    };
    assert_eq!(ask(two, "::1", one), Ok(()), "two slots");
    let denied = AccessSettings {
        denied: [fingerprint(&agent)].into(),
        ..settings()
    };
    assert_eq!(ask(denied.clone(), "::1", one), Err(Denial::Denied));
    let twin = [CertificateDer::from(process::twin(&agent).unwrap())];
    assert_ne!(twin, one, "another fingerprint");
    assert_eq!(
        ask(settings(), "::1", &twin),
        Ok(()),
        "as good as the first"
    );
    assert_eq!(ask(denied, "::1", &twin), Err(Denial::Denied));
    let named = |rule: &str| AccessSettings {
        clients: vec!["x.example".to_owned(), rule.to_owned()],
        ..settings()
    };
    for good in ["agent-1.example", "AGENT-1.example", "agent-*", "*"] {
        assert_eq!(ask(named(good), "::1", one), Ok(()), "{good}");
    }
    for bad in ["agent-1", "agent-2*", "gent-1.example"] {
        assert_eq!(ask(named(bad), "::1", one), Err(Denial::NotListed), "{bad}");
    }
    assert!(matches_uri(
        "spiffe://example.org/agent/*",
        "spiffe://example.org/agent/7"
    ));
    assert!(matches_uri(
        "spiffe://example.org/a",
        "spiffe://example.org/a"
    ));
    assert!(matches_uri("*", "spiffe://example.org/a"));
    for rule in [
        "spiffe://example.org/A",
        "spiffe://example.org/",
        "s*",
        "spiffe*",
    ] {
        assert!(!matches_uri(rule, "spiffe://example.org/a"), "{rule}");
    }
    let both = AccessSettings {
        client_ca_certificates: vec![ca.der()],
        ..networks(&["192.0.2.0/24"])
    };
    assert_eq!(ask(both, "::1", one), Err(Denial::Address));

    let caller = Caller {
        address: "::1".parse().unwrap(),
        asn: None,
        certificates: one,
    };
    let access = Access::new(settings()).unwrap();
    let now = SystemClock.wall();
    assert_eq!(access.admit(&caller, now + 2 * HOUR), Err(Denial::Expired));
    assert_eq!(
        access.admit(&caller, now - 24 * HOUR),
        Err(Denial::NotYetValid)
    );
}
