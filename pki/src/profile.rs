//! What each certificate must contain: data, no code that decides at run time.
//!
//! | Field (RFC 5280) | Authority | Server | Client |
//! |---|---|---|---|
//! | serial (4.1.2.2) | random | random, journalled by the caller | the same |
//! | subject (4.1.2.6) | common name | tunnel domain, if it fits into 64 characters | name |
//! | AKI (4.2.1.1) | – | the CA's SKI | the CA's SKI |
//! | SKI (4.2.1.2) | yes | yes | yes |
//! | key usage (4.2.1.3), critical | keyCertSign, cRLSign | digitalSignature | digitalSignature |
//! | names (4.2.1.6) | – | `*.domain`, `domain`, more | name |
//! | basic constraints (4.2.1.9), critical | CA; pathlen 0 if constrained | not a CA | not a CA |
//! | name constraints (4.2.1.10), critical | one domain, if constrained | – | – |
//! | extended key usage (4.2.1.12) | Client: clientAuth | serverAuth | clientAuth |
//!
//! RSA leaves carry no keyEncipherment: it is for suites in which the client encrypts to the key, which
//! TLS 1.3 has not and we do not offer in TLS 1.2, and without the bit nobody else can misuse the key
//! for them either.

use std::fmt;
use std::time::Duration;

use crate::key::Algorithm;
use crate::signature::KeyKind;
use crate::validity::Validity;
use crate::{identifier::Serial, name};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How far validity begins before now: what the clocks of two honest machines may differ.
pub(crate) const BACKDATE: Duration = Duration::from_secs(300);
/// A certificate ends at least this long before its CA, so that no path fails on the CA alone.
pub(crate) const MARGIN: Duration = DAY;
/// RFC 5280 appendix A.1, `ub-common-name`.
pub(crate) const LONGEST_COMMON_NAME: usize = 64;

/// What an authority signs. `Display` says for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// Server certificates of a tunnel.
    Server,
    /// Client certificates for mutual inner TLS.
    Client,
}

impl fmt::Display for AuthorityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "servers",
            Self::Client => "clients",
        })
    }
}

/// A CA certificate to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityProfile {
    /// Subject and issuer; at most 64 characters, distinct from that of other authorities.
    pub common_name: String,
    /// From now to the last second. One year unless told otherwise.
    pub lifetime: Duration,
    /// Kind of its key.
    pub algorithm: Algorithm,
    /// What it signs.
    pub kind: AuthorityKind,
    /// The one domain that it may certify names in, itself included; brings pathlen 0 along. Shrinks
    /// what a stolen key can sign. Off against a provider that is not known to accept both.
    pub constrained_to: Option<String>,
}

impl AuthorityProfile {
    /// For server certificates: one year, P-256, unconstrained.
    pub fn server(common_name: &str) -> Self {
        Self {
            common_name: common_name.to_owned(),
            lifetime: 365 * DAY,
            algorithm: Algorithm::default(),
            kind: AuthorityKind::Server,
            constrained_to: None,
        }
    }

    /// For client certificates: one year, P-256, unconstrained.
    pub fn client(common_name: &str) -> Self {
        Self {
            kind: AuthorityKind::Client,
            ..Self::server(common_name)
        }
    }
}

/// A server certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProfile {
    /// `<tunnel-domain>`: certified are it and `*.` before it.
    pub tunnel_domain: String,
    /// More DNS names, `*.` allowed, or IP addresses.
    pub extra_names: Vec<String>,
    /// From now to the last second. Seven days unless told otherwise.
    pub lifetime: Duration,
}

impl ServerProfile {
    /// What a server certificate lives unless told otherwise.
    pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

    /// Seven days, no more names.
    pub fn new(tunnel_domain: &str) -> Self {
        Self {
            tunnel_domain: tunnel_domain.to_owned(),
            extra_names: Vec::new(),
            lifetime: Self::LIFETIME,
        }
    }
}

/// A client certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProfile {
    /// Common name and DNS name of the client; a host name of at most 64 characters.
    pub name: String,
    /// From now to the last second.
    pub lifetime: Duration,
}

/// A certificate in all its parts but the signature; `sign` writes it down as it stands.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) serial: Serial,
    pub(crate) validity: Validity,
    pub(crate) common_name: Option<String>,
    pub(crate) names: Vec<String>,
    pub(crate) usage: Usage,
}

/// The three columns of the table above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Authority {
        kind: AuthorityKind,
        constrained_to: Option<String>,
    },
    Server,
    Client,
}

/// A public key to certify: the BIT STRING of its `SubjectPublicKeyInfo` and its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicHalf<'a> {
    pub(crate) kind: &'a KeyKind,
    pub(crate) bits: &'a [u8],
}

/// A name that no certificate can carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadName(pub(crate) String);

impl ServerProfile {
    pub(crate) fn template(&self, serial: Serial, validity: Validity) -> Result<Template, BadName> {
        let domain = &self.tunnel_domain;
        let wildcard = format!("*.{domain}");
        if !name::is_host(domain) || !name::is_host_or_wildcard(&wildcard) {
            return Err(BadName(domain.clone()));
        }
        let mut names = vec![wildcard, domain.clone()];
        for extra in &self.extra_names {
            let is_address = extra.parse::<std::net::IpAddr>().is_ok();
            if !is_address && !name::is_host_or_wildcard(extra) {
                return Err(BadName(extra.clone()));
            }
            if !names.iter().any(|name| name.eq_ignore_ascii_case(extra)) {
                names.push(extra.clone());
            }
        }
        Ok(Template {
            serial,
            validity,
            common_name: (domain.len() <= LONGEST_COMMON_NAME).then(|| domain.clone()),
            names,
            usage: Usage::Server,
        })
    }
}

impl ClientProfile {
    /// Whether a client can have this name: a host name of at most 64 characters (RFC 5280 appendix
    /// A.1), without a wildcard.
    pub fn can_be_called(name: &str) -> bool {
        name.len() <= LONGEST_COMMON_NAME && name::is_host(name)
    }

    pub(crate) fn template(&self, serial: Serial, validity: Validity) -> Result<Template, BadName> {
        if !Self::can_be_called(&self.name) {
            return Err(BadName(self.name.clone()));
        }
        Ok(Template {
            serial,
            validity,
            common_name: Some(self.name.clone()),
            names: vec![self.name.clone()],
            usage: Usage::Client,
        })
    }
}

impl AuthorityProfile {
    pub(crate) fn template(&self, serial: Serial, validity: Validity) -> Result<Template, BadName> {
        let characters = self.common_name.chars().count();
        if !(1..=LONGEST_COMMON_NAME).contains(&characters) {
            return Err(BadName(self.common_name.clone()));
        }
        if let Some(domain) = self
            .constrained_to
            .as_ref()
            .filter(|name| !name::is_host(name))
        {
            return Err(BadName(domain.clone()));
        }
        Ok(Template {
            serial,
            validity,
            common_name: Some(self.common_name.clone()),
            names: Vec::new(),
            usage: Usage::Authority {
                kind: self.kind,
                constrained_to: self.constrained_to.clone(),
            },
        })
    }
}
