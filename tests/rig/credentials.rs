//! Credentials as the daemon would make them.

use std::time::{Duration, SystemTime};

use control::{Credential, Leaf, Secret};
use pki::{
    Algorithm, Authority, AuthorityProfile, CertifiedKey, ClientProfile, PrivateKey, Serial,
    ServerProfile,
};
use process::{Clock, SystemClock};

use super::{DOMAIN, TUNNEL};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn now() -> SystemTime {
    SystemClock.wall()
}

/// A CA of the tunnel and one of its clients.
pub(crate) struct Issuer {
    authority: Authority,
    clients: Authority,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let server = AuthorityProfile::server("test tunnel CA");
        let client = AuthorityProfile::client("test client CA");
        Self {
            authority: Authority::generate(&server, now()).unwrap(),
            clients: Authority::generate(&client, now()).unwrap(),
        }
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.authority.certificate().to_pem()
    }

    pub(crate) fn client_ca_pem(&self) -> String {
        self.clients.certificate().to_pem()
    }

    /// A certificate of the client CA with its key, both in PEM.
    pub(crate) fn client(&self, name: &str) -> (String, String) {
        self.client_for(name, DAY)
    }

    /// The same, until `lifetime` from now.
    pub(crate) fn client_for(&self, name: &str, lifetime: Duration) -> (String, String) {
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        let request = pki::request(&key, name).unwrap();
        let profile = ClientProfile {
            name: name.to_owned(),
            lifetime,
        };
        let certificate = self
            .clients
            .issue_client(&profile, &request, Serial::random(), now())
            .unwrap();
        (certificate.to_pem(), key.to_pem().to_string())
    }

    /// A server certificate of a new key for a day.
    pub(crate) fn pair(&self) -> CertifiedKey {
        self.pair_for(DAY)
    }

    /// The same, until `lifetime` from now.
    pub(crate) fn pair_for(&self, lifetime: Duration) -> CertifiedKey {
        self.pair_of(&server(DOMAIN, lifetime), now())
    }

    pub(crate) fn pair_of(&self, profile: &ServerProfile, now: SystemTime) -> CertifiedKey {
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        self.authority
            .issue(profile, key, Serial::random(), now)
            .unwrap()
    }

    /// A new pair as generation `generation`; earlier ones may go on.
    pub(crate) fn credential(&self, generation: u64) -> Credential {
        self.of(generation, &self.pair())
    }

    /// `pair` as generation `generation`.
    pub(crate) fn of(&self, generation: u64, pair: &CertifiedKey) -> Credential {
        Credential {
            tunnel: TUNNEL.to_owned(),
            generation,
            tunnel_domain: DOMAIN.to_owned(),
            leaf: leaf(pair),
            fallback: None,
            canary_share: None,
            ca_certificates: vec![self.ca_pem()],
            client_ca_certificates: Vec::new(),
            lowest: 0,
        }
    }
}

pub(crate) fn server(domain: &str, lifetime: Duration) -> ServerProfile {
    ServerProfile {
        lifetime,
        ..ServerProfile::new(domain)
    }
}

pub(crate) fn leaf(pair: &CertifiedKey) -> Leaf {
    Leaf {
        chain: pair.chain_pem(),
        key: Secret::new(pair.key_pem().to_string()),
        not_after: pair.certificate().validity().not_after_unix(),
    }
}

/// Lower-case hexadecimal SHA-256 of the leaf of `credential`.
pub(crate) fn fingerprint(credential: &Credential) -> String {
    let leaf = pki::Certificate::from_pem(&credential.leaf.chain).unwrap();
    leaf.fingerprint().to_string()
}
