//! The extensions of a certificate, as far as somebody decides by them (RFC 5280 §4.2.1).

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension, X509Extension};

/// The extensions that somebody decides by (RFC 5280 §4.2.1).
#[derive(Clone, Default)]
pub(crate) struct Extensions {
    pub(crate) authority_key_id: Option<Vec<u8>>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) uris: Vec<String>,
    pub(crate) basic_constraints: Option<BasicConstraints>,
    pub(crate) name_constraints: Option<NameConstraints>,
    pub(crate) extended_key_usage: Option<ExtendedKeyUsage>,
    /// Critical extensions that are none of these, by object identifier.
    pub(crate) unknown_critical: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    pub(crate) critical: bool,
    pub(crate) digital_signature: bool,
    pub(crate) certificate_signing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub(crate) critical: bool,
    pub(crate) authority: bool,
    pub(crate) path_length: Option<u32>,
}

/// Only names of hosts: we issue no others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameConstraints {
    /// Empty: every name, unless excluded.
    pub(crate) permitted: Vec<String>,
    pub(crate) excluded: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedKeyUsage {
    pub(crate) server: bool,
    pub(crate) client: bool,
    /// Something besides the two.
    pub(crate) more: bool,
}

impl Extensions {
    /// `None` if one is broken or there twice (RFC 5280 §4.2).
    pub(crate) fn read(certificate: &X509Certificate<'_>) -> Option<Self> {
        let all = certificate.extensions();
        let mut read = Self::default();
        for (index, extension) in all.iter().enumerate() {
            let mut earlier = all.iter().take(index);
            if earlier.any(|other| other.oid == extension.oid) {
                return None;
            }
            read.take(extension)?;
        }
        Some(read)
    }

    fn take(&mut self, extension: &X509Extension<'_>) -> Option<()> {
        let critical = extension.critical;
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return None,
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                let key = authority.key_identifier.as_ref();
                self.authority_key_id = key.map(|key| key.0.to_vec());
            }
            ParsedExtension::SubjectKeyIdentifier(key) => {
                self.subject_key_id = Some(key.0.to_vec());
            }
            ParsedExtension::KeyUsage(usage) => {
                self.key_usage = Some(KeyUsage {
                    critical,
                    digital_signature: usage.digital_signature(),
                    certificate_signing: usage.key_cert_sign(),
                });
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.dns_names = dns_names(names.general_names.iter())?;
                self.addresses = addresses(names.general_names.iter());
                self.uris = uris(names.general_names.iter());
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.basic_constraints = Some(BasicConstraints {
                    critical,
                    authority: constraints.ca,
                    path_length: constraints.path_len_constraint,
                });
            }
            ParsedExtension::NameConstraints(constraints) => {
                let bases = |subtrees: &Option<Vec<_>>| {
                    let subtrees = subtrees.iter().flatten();
                    dns_names(subtrees.map(|subtree: &GeneralSubtree<'_>| &subtree.base))
                };
                self.name_constraints = Some(NameConstraints {
                    permitted: bases(&constraints.permitted_subtrees)?,
                    excluded: bases(&constraints.excluded_subtrees)?,
                });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.extended_key_usage = Some(ExtendedKeyUsage {
                    server: usage.server_auth,
                    client: usage.client_auth,
                    more: usage.any
                        || usage.code_signing
                        || usage.email_protection
                        || usage.time_stamping
                        || usage.ocsp_signing
                        || !usage.other.is_empty(),
                });
            }
            _ if critical => self.unknown_critical.push(extension.oid.to_id_string()),
            _ => {}
        }
        Some(())
    }
}

/// `None` if a name is not readable.
fn dns_names<'a>(names: impl Iterator<Item = &'a GeneralName<'a>>) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for name in names {
        match name {
            GeneralName::DNSName(name) => found.push((*name).to_owned()),
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
    }
    Some(found)
}

fn uris<'a>(names: impl Iterator<Item = &'a GeneralName<'a>>) -> Vec<String> {
    names
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect()
}

fn addresses<'a>(names: impl Iterator<Item = &'a GeneralName<'a>>) -> Vec<IpAddr> {
    names
        .filter_map(|name| match name {
            GeneralName::IPAddress(octets) => <[u8; 4]>::try_from(*octets)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from))
                .ok(),
            _ => None,
        })
        .collect()
}
