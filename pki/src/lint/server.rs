//! The rules for a server certificate.

use std::time::{Duration, SystemTime};

use super::{Expectation, Grade, Rule, when};
use crate::authority::last_second;
use crate::certificate::Certificate;
use crate::pair::CertifiedKey;
use crate::profile::BACKDATE;

/// What CAs owe in unpredictable bits (CA/Browser Forum, Baseline Requirements §7.1).
const SERIAL_BITS: u32 = 64;

/// What the rules look at.
pub(super) struct Case<'a> {
    pub(super) pair: &'a CertifiedKey,
    pub(super) leaf: &'a Certificate,
    pub(super) ca: &'a Certificate,
    pub(super) expectation: &'a Expectation,
    pub(super) now: SystemTime,
}

const ISSUE: &str = "issue a new certificate";
const RENEW_CA: &str = "rotate to a CA that is valid now";
const OTHER_CA: &str = "use the CA that signed it, or sign anew under this one";

impl<'a> Case<'a> {
    pub(super) const RULES: &'a [Rule<Self>] = &[
        Rule {
            id: "key-mismatch",
            grade: Grade::Refused,
            why: "no handshake can be signed with a key that the certificate does not name",
            next: "put certificate and key of the same issuance together",
            broken: |case| {
                let same = case.leaf.public_key() == case.pair.key().public_key();
                when(!same, "the private key is another certificate's")
            },
        },
        Rule {
            id: "not-yet-valid",
            grade: Grade::Refused,
            why: "every peer refuses it until its first second",
            next: "check the clock of this machine and of the one that issued it",
            broken: |case| {
                let dates = case.leaf.validity();
                let early = dates.begins_after(case.now);
                early.then(|| format!("the certificate is not yet valid ({dates})"))
            },
        },
        Rule {
            id: "expired",
            grade: Grade::Refused,
            why: "every peer refuses it",
            next: ISSUE,
            broken: |case| {
                let dates = case.leaf.validity();
                let late = dates.ended_before(case.now);
                late.then(|| format!("the certificate has expired ({dates})"))
            },
        },
        Rule {
            id: "ca-not-yet-valid",
            grade: Grade::Refused,
            why: "some peers check the CA's dates and some do not, so it would fail for a part of them",
            next: RENEW_CA,
            broken: |case| {
                let dates = case.ca.validity();
                let early = dates.begins_after(case.now);
                early.then(|| format!("the CA certificate is not yet valid ({dates})"))
            },
        },
        Rule {
            id: "ca-expired",
            grade: Grade::Refused,
            why: "some peers check the CA's dates and some do not, so it would fail for a part of them",
            next: RENEW_CA,
            broken: |case| {
                let dates = case.ca.validity();
                let late = dates.ended_before(case.now);
                late.then(|| format!("the CA certificate has expired ({dates})"))
            },
        },
        Rule {
            id: "ca-not-authority",
            grade: Grade::Refused,
            why: "peers accept signatures only of a CA that may sign certificates (RFC 5280 §6.1.4)",
            next: "use a certificate with CA:TRUE and keyCertSign",
            broken: |case| {
                let able = case.ca.is_authority() && case.ca.may_sign_certificates();
                when(
                    !able,
                    "the certificate given as CA may not sign certificates",
                )
            },
        },
        Rule {
            id: "issuer",
            grade: Grade::Refused,
            why: "peers find the CA by the name of the issuer (RFC 5280 §6.1.3)",
            next: OTHER_CA,
            broken: |case| {
                let same = case.leaf.issuer_der() == case.ca.subject_der();
                when(!same, "the certificate names another issuer than the CA")
            },
        },
        Rule {
            id: "signature",
            grade: Grade::Refused,
            why: "the far end accepts only what a registered CA signed directly, without intermediates",
            next: OTHER_CA,
            broken: |case| {
                // An algorithm that we never verify has a rule of its own.
                let broken = case.leaf.signature_kind.is_strong_enough()
                    && case.ca.key_kind.is_strong_enough()
                    && !case.leaf.is_signed_by(case.ca);
                when(broken, "the certificate was not signed by the CA")
            },
        },
        Rule {
            id: "signature-algorithm",
            grade: Grade::Refused,
            why: "the far end wants SHA-256 or better, with RSA or ECDSA",
            next: ISSUE,
            broken: |case| {
                let kind = &case.leaf.signature_kind;
                let weak = !kind.is_strong_enough();
                weak.then(|| format!("the certificate is signed with {kind}"))
            },
        },
        Rule {
            id: "key-strength",
            grade: Grade::Refused,
            why: "the far end wants RSA from 2048 bits or ECDSA from P-256",
            next: "issue a new certificate for a key of such a kind",
            broken: |case| {
                let kind = case.leaf.key_kind();
                let weak = !kind.is_strong_enough();
                weak.then(|| format!("the key of the certificate is {kind}"))
            },
        },
        Rule {
            id: "ca-key-strength",
            grade: Grade::Refused,
            why: "the far end wants RSA from 2048 bits or ECDSA from P-256",
            next: "rotate to a CA with a key of such a kind",
            broken: |case| {
                let kind = case.ca.key_kind();
                let weak = !kind.is_strong_enough();
                weak.then(|| format!("the key of the CA is {kind}"))
            },
        },
        Rule {
            id: "authority-key-id",
            grade: Grade::Refused,
            why: "the far end tells its two CAs apart by it (RFC 5280 §4.2.1.1)",
            next: "issue it with the subject key identifier of the CA as authority key identifier",
            broken: |case| match (case.leaf.authority_key_id(), case.ca.subject_key_id()) {
                (Some(authority), Some(subject)) if authority == subject => None,
                (_, None) => when(true, "the CA certificate has no subject key identifier"),
                (None, _) => when(true, "the certificate has no authority key identifier"),
                _ => when(true, "the authority key identifier is not that of the CA"),
            },
        },
        Rule {
            id: "names",
            grade: Grade::Refused,
            why: "routes are hosts below the tunnel domain, and each has to be covered",
            next: "issue it for `*.` before the tunnel domain",
            broken: |case| {
                let wildcard = format!("*.{}", case.expectation.tunnel_domain);
                let mut names = case.leaf.dns_names().iter();
                let covered = names.any(|name| name.eq_ignore_ascii_case(&wildcard));
                (!covered).then(|| format!("the certificate does not cover {wildcard}"))
            },
        },
        Rule {
            id: "name-constraints",
            grade: Grade::Refused,
            why: "peers refuse names outside of the CA's constraint (RFC 5280 §4.2.1.10)",
            next: "leave the name out, or use a CA that may certify it",
            broken: |case| {
                let constraints = case.ca.extensions.name_constraints.as_ref()?;
                let mut names = case.leaf.dns_names().iter();
                let outside = names.find(|name| !constraints.allow(name))?;
                Some(format!("the CA may not certify {outside}"))
            },
        },
        Rule {
            id: "server-auth",
            grade: Grade::Refused,
            why: "where purposes are listed, serverAuth must be among them (RFC 5280 §4.2.1.12)",
            next: "issue it with serverAuth",
            broken: |case| {
                let usage = case.leaf.extensions.extended_key_usage;
                let lacking = usage.is_some_and(|usage| !usage.server);
                when(lacking, "the certificate is not for servers")
            },
        },
        Rule {
            id: "is-authority",
            grade: Grade::Refused,
            why: "peers refuse a CA certificate in a server's place, and its key would be out in a proxy",
            next: "issue a certificate that is not a CA's",
            broken: |case| when(case.leaf.is_authority(), "the certificate is a CA's"),
        },
        Rule {
            id: "critical-extension",
            grade: Grade::Refused,
            why: "whoever does not know a critical extension must refuse (RFC 5280 §4.2)",
            next: "issue it without that extension, or not critical",
            broken: |case| {
                let unknown = case.leaf.extensions.unknown_critical.first()?;
                Some(format!(
                    "the certificate has the critical extension {unknown}"
                ))
            },
        },
        Rule {
            id: "lifetime",
            grade: Grade::Advice,
            why: "a stolen key is good for as long as its certificate, because nobody checks revocation",
            next: "issue it for a shorter time",
            broken: |case| {
                let dates = case.leaf.validity();
                let longest = case.expectation.lifetime + BACKDATE;
                let long = dates.remaining(dates.not_before()) > longest;
                long.then(|| format!("the certificate lives longer than was asked for ({dates})"))
            },
        },
        Rule {
            id: "outlives-ca",
            grade: Grade::Advice,
            why: "the end of the CA would come as a surprise, and cut off a certificate that looks valid",
            next: "let it end a day before its CA",
            broken: |case| {
                let late = case.leaf.validity().not_after() > last_second(&case.ca.validity());
                when(
                    late,
                    "the certificate ends too close to the end of its CA or after it",
                )
            },
        },
        Rule {
            id: "backdate",
            grade: Grade::Advice,
            why: "a peer whose clock is a few minutes behind would find it not yet valid",
            next: "let it begin five minutes before it is issued",
            broken: |case| {
                let begin = case.leaf.validity().not_before();
                let age = case.now.duration_since(begin).unwrap_or(Duration::ZERO);
                let tight =
                    begin <= case.now && age < BACKDATE && begin != case.ca.validity().not_before();
                when(tight, "the certificate began less than five minutes ago")
            },
        },
        Rule {
            id: "serial",
            grade: Grade::Advice,
            why: "a number that can be guessed or comes twice makes records and revocations ambiguous",
            next: "draw the serial number at random, at least 64 bits of it",
            broken: |case| {
                let short = case.leaf.serial().bits() < SERIAL_BITS;
                when(short, "the serial number has less than 64 bits")
            },
        },
        Rule {
            id: "algorithm",
            grade: Grade::Advice,
            why: "another kind of key than was asked for, and slower in each handshake if it is RSA",
            next: "issue it for a key of the kind that was asked for",
            broken: |case| {
                let kind = case.pair.key().algorithm();
                let other = kind != case.expectation.algorithm;
                other.then(|| format!("the key is {kind}"))
            },
        },
        Rule {
            id: "subject-key-id",
            grade: Grade::Advice,
            why: "RFC 5280 §4.2.1.2 wants one in every certificate, to find it by its key",
            next: "issue it with a subject key identifier",
            broken: |case| {
                let absent = case.leaf.subject_key_id().is_none();
                when(absent, "the certificate has no subject key identifier")
            },
        },
        Rule {
            id: "basic-constraints",
            grade: Grade::Advice,
            why: "it keeps careless verifiers from taking the key for a CA's (RFC 5280 §4.2.1.9)",
            next: "issue it with critical basic constraints CA:FALSE",
            broken: |case| {
                let constraints = case.leaf.extensions.basic_constraints;
                let said = constraints.is_some_and(|constraints| constraints.critical);
                when(
                    !said,
                    "the certificate does not say, critically, that it is no CA",
                )
            },
        },
        Rule {
            id: "key-usage",
            grade: Grade::Advice,
            why: "TLS signs handshakes, and a server's key is for nothing else (RFC 8446 §4.4.2.2)",
            next: "issue it with critical key usage digitalSignature, without keyCertSign",
            broken: |case| {
                let usage = case.leaf.extensions.key_usage;
                let narrow = usage.is_some_and(|usage| {
                    usage.critical && usage.digital_signature && !usage.certificate_signing
                });
                when(!narrow, "the key usage is not digitalSignature, critical")
            },
        },
        Rule {
            id: "one-purpose",
            grade: Grade::Advice,
            why: "a key out in a proxy must not also log in as a client",
            next: "issue it with serverAuth and nothing else",
            broken: |case| {
                let usage = case.leaf.extensions.extended_key_usage;
                let only = usage.is_some_and(|usage| usage.server && !usage.client && !usage.more);
                when(!only, "the certificate is not restricted to servers")
            },
        },
        Rule {
            id: "apex",
            grade: Grade::Advice,
            why: "the wildcard does not cover the tunnel domain itself",
            next: "issue it for the tunnel domain as well",
            broken: |case| {
                let domain = &case.expectation.tunnel_domain;
                let mut names = case.leaf.dns_names().iter();
                let covered = names.any(|name| name.eq_ignore_ascii_case(domain));
                (!covered).then(|| format!("the certificate does not cover {domain}"))
            },
        },
        Rule {
            id: "alone",
            grade: Grade::Advice,
            why: "the far end accepts no intermediates, so what is sent besides only costs bytes",
            next: "send the certificate alone",
            broken: |case| {
                let more = !case.pair.others().is_empty();
                when(more, "the chain has more than the certificate")
            },
        },
    ];
}
