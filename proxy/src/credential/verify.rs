//! Looks at an offered credential as a peer would, and makes a TLS configuration of it.
//!
//! Whatever passes here can be served; nothing else reaches a listener. No clock is read: `now` is an
//! argument. Whether a generation may still be served is not decided here.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::tickets::Tickets;
use aws_lc_rs::digest;
use control::Reason;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::rustls;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

/// A credential that is not taken up; the last good one stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct Refused {
    /// For the other side, and as the label of a metric.
    pub reason: Reason,
    /// For a person; holds no secret.
    pub detail: String,
}

impl Refused {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// One certificate with its key, ready to be served.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) certificate: CertificateDer<'static>,
    /// Lower-case hexadecimal.
    pub(super) sha256: String,
    /// The last second of the certificate.
    pub(super) not_after: SystemTime,
    /// SHA-256 of the CA certificate that it is under; empty: none of those that are known.
    pub(super) ca: Arc<str>,
}

/// Against what a pair is checked.
pub(super) struct Against<'a> {
    /// PEM; empty: the chain is not checked, since nobody said what verifiers trust.
    pub(super) ca_certificates: &'a [String],
    /// PEM; among these the pair's own is looked for, to name it.
    pub(super) known: &'a [String],
    /// The name that the leaf must be valid for.
    pub(super) name: Option<&'a str>,
    pub(super) now: SystemTime,
}

/// Checks a chain and its key: that they are what they should be, belong together, are in date, are
/// for servers, and lead to one of the CA certificates, which is in date itself.
pub(super) fn pair(
    provider: &CryptoProvider,
    chain: &str,
    key: &str,
    against: &Against<'_>,
) -> Result<Pair, Refused> {
    let chain = certificates(chain, "the chain")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| Refused::new(Reason::Malformed, "the private key is not PEM"))?;
    let certified = CertifiedKey::from_der(chain.clone(), key, provider).map_err(|error| {
        let reason = match error {
            rustls::Error::InconsistentKeys(_) => Reason::KeyMismatch,
            _ => Reason::Malformed,
        };
        Refused::new(reason, error.to_string())
    })?;
    let (leaf, intermediates) = chain
        .split_first()
        .ok_or_else(|| Refused::new(Reason::Malformed, "the chain is empty"))?;
    chain_of(leaf, intermediates, against)?;
    if let Some(name) = against.name {
        covers(leaf, name)?;
    }
    Ok(Pair {
        ca: authority_of(leaf, intermediates, against).unwrap_or_default(),
        key: Arc::new(certified),
        certificate: leaf.clone(),
        sha256: fingerprint(leaf),
        not_after: validity(leaf)?.1,
    })
}

/// A whole new configuration: nothing in it is shared with an earlier one, so that no session that
/// was made under an earlier one can be resumed (`crates.md` 4.1).
pub(super) fn server_config(
    provider: &Arc<CryptoProvider>,
    key: &Arc<CertifiedKey>,
    client_ca_certificates: &[String],
    tickets: Arc<Tickets>,
) -> Result<Arc<ServerConfig>, Refused> {
    let unusable = |error: rustls::Error| Refused::new(Reason::Malformed, error.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(unusable)?;
    let builder = if client_ca_certificates.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for text in client_ca_certificates {
            for certificate in certificates(text, "a client CA certificate")? {
                roots.add(certificate).map_err(unusable)?;
            }
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| Refused::new(Reason::Malformed, error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(key)));
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions live in tickets under a key of this generation alone: nothing grows with the number
    // of callers, and they all die with the configuration.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    Ok(Arc::new(config))
}

/// Whether `certificate` is valid for the host `name`. A wildcard covers exactly one label.
pub(super) fn covers(certificate: &CertificateDer<'_>, name: &str) -> Result<(), Refused> {
    let wrong = |error: String| Refused::new(Reason::WrongNames, format!("{name}: {error}"));
    let host = ServerName::try_from(name).map_err(|error| wrong(error.to_string()))?;
    parse(certificate)?
        .verify_is_valid_for_subject_name(&host)
        .map_err(|error| wrong(error.to_string()))
}

/// The fingerprint of the first certificate of a PEM chain.
pub(crate) fn leaf_fingerprint(chain: &str) -> Option<String> {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    Some(fingerprint(&leaf))
}

/// Lower-case hexadecimal SHA-256.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest::digest(&digest::SHA256, der).as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn certificates(text: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Refused::new(
            Reason::Malformed,
            format!("{what} is not PEM"),
        )),
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'a>) -> Result<EndEntityCert<'a>, Refused> {
    EndEntityCert::try_from(certificate)
        .map_err(|error| Refused::new(Reason::Malformed, error.to_string()))
}

fn chain_of(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    against: &Against<'_>,
) -> Result<(), Refused> {
    let mut authorities = Vec::new();
    for text in against.ca_certificates {
        authorities.extend(certificates(text, "a CA certificate")?);
    }
    let mut anchors: Vec<TrustAnchor<'_>> = Vec::new();
    let mut out_of_date = None;
    for authority in &authorities {
        // webpki takes an anchor's word for everything, its dates included: F33.
        match in_date(authority, against.now) {
            Ok(()) => anchors.push(anchor(authority)?),
            Err(refused) => out_of_date = Some((anchor(authority)?, refused)),
        }
    }
    let verified = verify(leaf, intermediates, &anchors, against.now);
    match (verified, out_of_date) {
        (Ok(()), _) => Ok(()),
        // Without a CA to compare with, everything else was in order, and a self-signed certificate is
        // the operator's own business.
        (Err(webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity), _)
            if authorities.is_empty() =>
        {
            Ok(())
        }
        (Err(webpki::Error::UnknownIssuer), Some((anchor, refused)))
            if verify(
                leaf,
                intermediates,
                std::slice::from_ref(&anchor),
                against.now,
            )
            .is_ok() =>
        {
            Err(refused)
        }
        (Err(error), _) => Err(Refused::new(reason(&error), error.to_string())),
    }
}

fn authority_of(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    against: &Against<'_>,
) -> Option<Arc<str>> {
    against.known.iter().find_map(|text| {
        let authority = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let anchors = [anchor(&authority).ok()?];
        verify(leaf, intermediates, &anchors, against.now).ok()?;
        Some(fingerprint(&authority).into())
    })
}

fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: SystemTime,
) -> Result<(), webpki::Error> {
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            anchors,
            intermediates,
            UnixTime::since_unix_epoch(since_epoch(now)),
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map(|_| ())
}

fn anchor<'a>(certificate: &'a CertificateDer<'a>) -> Result<TrustAnchor<'a>, Refused> {
    webpki::anchor_from_trusted_cert(certificate)
        .map_err(|error| Refused::new(Reason::Malformed, format!("a CA certificate: {error}")))
}

fn reason(error: &webpki::Error) -> Reason {
    match error {
        webpki::Error::CertExpired { .. } => Reason::Expired,
        webpki::Error::CertNotValidYet { .. } => Reason::NotYetValid,
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            Reason::Malformed
        }
        // A leaf that is not for servers included: to a peer it leads to no CA that it could use.
        _ => Reason::UnknownCa,
    }
}

fn in_date(certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(), Refused> {
    let (not_before, not_after) = validity(certificate)?;
    if now < not_before {
        return Err(Refused::new(
            Reason::NotYetValid,
            "the validity of the CA certificate begins later",
        ));
    }
    // The last second belongs to it: RFC 5280 section 4.1.2.5.
    if since_epoch(now).as_secs() > since_epoch(not_after).as_secs() {
        return Err(Refused::new(
            Reason::Expired,
            "the validity of the CA certificate is over",
        ));
    }
    Ok(())
}

/// First and last second of a certificate, read out of the errors that webpki gives at the two ends
/// of time: it looks at the dates before anything else. Saves the proxy a parser.
fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Refused> {
    let parsed = parse(certificate)?;
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = KeyUsage::server_auth();
        parsed.verify_for_usage(&[], &[], &[], time, usage, None, None)
    };
    let not_before = match at(0) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
        _ => 0,
    };
    let not_after = match at(u64::MAX) {
        Err(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
        Err(error) => return Err(Refused::new(Reason::Malformed, error.to_string())),
        Ok(_) => return Err(Refused::new(Reason::Malformed, "it never expires")),
    };
    let instant = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok((instant(not_before), instant(not_after)))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_in_date_from_its_first_second_to_the_end_of_its_last() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::UNIX_EPOCH + 21_000 * day;
        let profile = pki::AuthorityProfile {
            lifetime: 10 * day,
            ..pki::AuthorityProfile::server("CA")
        };
        let authority = pki::Authority::generate(&profile, now).unwrap();
        let validity = authority.certificate().validity();
        let (first, last) = (validity.not_before(), validity.not_after());
        let der = authority.certificate().der();
        assert_eq!(
            super::validity(der),
            Ok((first, last)),
            "as another reader says"
        );
        let moment = Duration::from_millis(1);
        let at = |time| in_date(der, time).map_err(|refused| refused.reason);
        assert_eq!(at(first - moment), Err(Reason::NotYetValid), "F33");
        assert_eq!(at(first), Ok(()));
        assert_eq!(at(last + 999 * moment), Ok(()));
        assert_eq!(at(last + 1000 * moment), Err(Reason::Expired));
    }
}
