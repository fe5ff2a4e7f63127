//! What goes out: a server certificate that passed lint, with its key and what travels beside them.
//!
//! Anybody can fill in a [`control::Credential`], which is a message and nothing more. The board, the
//! store and the served directory take a [`LintedCredential`], or the [`Linted`] pair in it, so that
//! what was not checked cannot be published by mistake. What it does not do: it judges nothing itself,
//! and knows no journal.

use control::{Credential, Secret};
use pki::Linted;

/// A credential whose pair passed [`pki::lint()`]. Nothing else makes one:
///
/// ```compile_fail
/// # fn unchecked(linted: pki::Linted, message: control::Credential) {
/// daemon::credential::LintedCredential { linted, message };
/// # }
/// ```
///
/// and nothing else can be published, as this can
///
/// ```
/// # fn published(credential: daemon::credential::LintedCredential) {
/// daemon::board::Publication { credential: Some(credential.into()), ..Default::default() };
/// # }
/// ```
///
/// and its message cannot:
///
/// ```compile_fail
/// # fn published(credential: control::Credential) {
/// daemon::board::Publication { credential: Some(credential.into()), ..Default::default() };
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LintedCredential {
    linted: Linted,
    message: Credential,
}

/// What a credential says beside its pair; fields as in [`control::Credential`].
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The tunnel.
    pub tunnel: String,
    /// Its generation.
    pub generation: u64,
    /// `<tunnel-domain>`.
    pub tunnel_domain: String,
    /// PEM, the CA in force first.
    pub ca_certificates: Vec<String>,
    /// PEM; empty: no client certificate is asked for.
    pub client_ca_certificates: Vec<String>,
    /// For callers who do not know the CA of the pair yet.
    pub fallback: Option<Linted>,
}

impl LintedCredential {
    /// Puts a pair that may be published into a message.
    pub fn new(linted: Linted, terms: Terms) -> Self {
        let message = Credential {
            tunnel: terms.tunnel,
            generation: terms.generation,
            tunnel_domain: terms.tunnel_domain,
            leaf: leaf(&linted),
            fallback: terms.fallback.as_ref().map(leaf),
            canary_share: None,
            ca_certificates: terms.ca_certificates,
            client_ca_certificates: terms.client_ca_certificates,
            lowest: 0,
        };
        Self { linted, message }
    }

    /// As subscribers get it.
    pub fn message(&self) -> &Credential {
        &self.message
    }

    /// The pair, as the store takes it.
    pub fn linted(&self) -> &Linted {
        &self.linted
    }

    /// Lower-case hexadecimal SHA-256 of the server certificate, as subscribers call it.
    pub fn leaf_sha256(&self) -> String {
        self.linted.certificate().fingerprint().to_string()
    }
}

fn leaf(linted: &Linted) -> control::Leaf {
    let pair = linted.pair();
    control::Leaf {
        chain: pair.chain_pem(),
        key: Secret::new(String::clone(&pair.key_pem())),
        not_after: pair.certificate().validity().not_after_unix(),
    }
}

/// The pair is part of the message.
impl PartialEq for LintedCredential {
    fn eq(&self, other: &Self) -> bool {
        self.message == other.message
    }
}

impl Eq for LintedCredential {}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use pki::{
        Algorithm, Authority, AuthorityProfile, Expectation, Origin, PrivateKey, Serial,
        ServerProfile, lint,
    };

    use super::*;

    /// A pair of its own that passed, with this last second.
    pub(crate) fn linted(domain: &str, not_after: u64) -> Linted {
        let lifetime = Duration::from_secs(3600);
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after) - lifetime;
        let authority = Authority::generate(&AuthorityProfile::server("test CA"), then).unwrap();
        let profile = ServerProfile {
            lifetime,
            ..ServerProfile::new(domain)
        };
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        let pair = authority
            .issue(&profile, key, Serial::random(), then)
            .unwrap();
        let expectation = Expectation::new(domain);
        let ca = authority.certificate();
        lint(&pair, ca, &expectation, then, Origin::Ours).unwrap()
    }

    #[test]
    fn the_message_says_what_the_pair_is() {
        let end = 1_800_000_000;
        let terms = Terms {
            tunnel: "main".to_owned(),
            generation: 7,
            ..Terms::default()
        };
        let credential = LintedCredential::new(linted("t.example", end), terms);
        let pair = credential.linted().pair();
        let leaf = &credential.message().leaf;
        assert_eq!(leaf.chain, pair.chain_pem());
        assert_eq!(leaf.key.expose(), pair.key_pem().as_str());
        assert_eq!(leaf.not_after, end);
        let sha256 = pair.certificate().fingerprint().to_string();
        assert_eq!(credential.leaf_sha256(), sha256);
        assert!(!format!("{credential:?}").contains("PRIVATE"));
    }
}
