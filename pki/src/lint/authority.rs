//! The rules for a CA certificate that is to be registered at the far end of a tunnel.

use std::time::SystemTime;

use super::{Finding, Grade, Rule, when};
use crate::certificate::{Certificate, certificates};
use crate::pem;

/// Longest text that can be registered, in bytes.
const LONGEST: usize = 8 * 1024;

/// Checks the text that is to be uploaded, and gives the one certificate in it.
///
/// # Errors
///
/// All the rules of the upload that it breaks. Those about the certificate are looked at only if there
/// is exactly one that can be read.
pub fn lint_authority(text: &str, now: SystemTime) -> Result<Certificate, Vec<Finding>> {
    let read = certificates(text).ok();
    let upload = Upload { text, read };
    let mut findings: Vec<Finding> = Upload::RULES
        .iter()
        .filter_map(|rule| rule.finding(&upload))
        .collect();
    let mut read = upload.read.unwrap_or_default().into_iter();
    let (Some(ca), None) = (read.next(), read.next()) else {
        return Err(findings);
    };
    let case = Case { ca: &ca, now };
    findings.extend(Case::RULES.iter().filter_map(|rule| rule.finding(&case)));
    if findings.is_empty() {
        Ok(ca)
    } else {
        Err(findings)
    }
}

/// The rules of both tables.
pub(super) fn ids() -> impl Iterator<Item = (&'static str, Grade)> {
    let upload = Upload::RULES.iter().map(|rule| (rule.id, rule.grade));
    upload.chain(Case::RULES.iter().map(|rule| (rule.id, rule.grade)))
}

struct Upload<'a> {
    text: &'a str,
    /// `None`: damaged.
    read: Option<Vec<Certificate>>,
}

impl<'a> Upload<'a> {
    const RULES: &'a [Rule<Self>] = &[
        Rule {
            id: "ca-key-material",
            grade: Grade::Refused,
            why: "the key of a CA must not leave this machine, and the upload is refused with one",
            next: "upload the certificate alone, and rotate the CA if the key has been sent anywhere",
            broken: |upload| {
                let key = pem::holds_key(upload.text);
                when(key, "there is a private key in the text")
            },
        },
        Rule {
            id: "ca-size",
            grade: Grade::Refused,
            why: "the upload takes at most 8 kB",
            next: "leave out the text around the certificate",
            broken: |upload| {
                let bytes = upload.text.len();
                (bytes > LONGEST).then(|| format!("the text has {bytes} bytes"))
            },
        },
        Rule {
            id: "ca-malformed",
            grade: Grade::Refused,
            why: "neither we nor the far end can read it",
            next: "fetch the certificate again, or make a new CA",
            broken: |upload| when(upload.read.is_none(), "the certificate is damaged"),
        },
        Rule {
            id: "ca-exactly-one",
            grade: Grade::Refused,
            why: "the upload takes exactly one certificate",
            next: "upload the CA certificate alone",
            broken: |upload| {
                let count = upload.read.as_ref()?.len();
                (count != 1).then(|| format!("there are {count} certificates in the text"))
            },
        },
    ];
}

struct Case<'a> {
    ca: &'a Certificate,
    now: SystemTime,
}

const NEW: &str = "make a new CA";

impl<'a> Case<'a> {
    const RULES: &'a [Rule<Self>] = &[
        Rule {
            id: "ca-basic-constraints",
            grade: Grade::Refused,
            why: "the upload wants basic constraints CA:TRUE, critical (RFC 5280 §4.2.1.9)",
            next: NEW,
            broken: |case| match case.ca.extensions.basic_constraints {
                None => when(true, "the certificate has no basic constraints"),
                Some(constraints) if !constraints.authority => {
                    when(true, "the certificate is no CA's")
                }
                Some(constraints) => when(
                    !constraints.critical,
                    "the basic constraints of the certificate are not critical",
                ),
            },
        },
        Rule {
            id: "ca-subject-key-id",
            grade: Grade::Refused,
            why: "server certificates refer to their CA by it (RFC 5280 §4.2.1.2)",
            next: NEW,
            broken: |case| {
                let absent = case.ca.subject_key_id().is_none();
                when(absent, "the CA certificate has no subject key identifier")
            },
        },
        Rule {
            id: "ca-key-usage",
            grade: Grade::Refused,
            why: "the upload wants a key usage with keyCertSign (RFC 5280 §4.2.1.3)",
            next: NEW,
            broken: |case| {
                let unable = !case.ca.may_sign_certificates();
                when(unable, "the CA certificate lacks keyCertSign")
            },
        },
        Rule {
            id: "ca-not-yet-valid",
            grade: Grade::Refused,
            why: "nothing under it is accepted until its first second",
            next: "check the clock of this machine and of the one that made it",
            broken: |case| {
                let dates = case.ca.validity();
                let early = dates.begins_after(case.now);
                early.then(|| format!("the CA certificate is not yet valid ({dates})"))
            },
        },
        Rule {
            id: "ca-expired",
            grade: Grade::Refused,
            why: "nothing under it is accepted",
            next: NEW,
            broken: |case| {
                let dates = case.ca.validity();
                let late = dates.ended_before(case.now);
                late.then(|| format!("the CA certificate has expired ({dates})"))
            },
        },
        Rule {
            id: "ca-key-strength",
            grade: Grade::Refused,
            why: "the upload wants RSA from 2048 bits or ECDSA from P-256",
            next: NEW,
            broken: |case| {
                let kind = case.ca.key_kind();
                let weak = !kind.is_strong_enough();
                weak.then(|| format!("the key of the CA is {kind}"))
            },
        },
        Rule {
            id: "ca-signature-algorithm",
            grade: Grade::Refused,
            why: "the upload wants SHA-256 or better, with RSA or ECDSA",
            next: NEW,
            broken: |case| {
                let kind = &case.ca.signature_kind;
                let weak = !kind.is_strong_enough();
                weak.then(|| format!("the CA certificate is signed with {kind}"))
            },
        },
        Rule {
            id: "ca-signature",
            grade: Grade::Refused,
            why: "a certificate whose own signature is wrong was damaged or tampered with",
            next: "fetch the certificate again, or make a new CA",
            broken: |case| {
                // One that another CA signed cannot be checked here, and the far end takes it as it is.
                let own = case.ca.issuer_der() == case.ca.subject_der()
                    && case.ca.signature_kind.is_strong_enough()
                    && case.ca.key_kind.is_strong_enough();
                let broken = own && !case.ca.is_signed_by(case.ca);
                when(broken, "the CA certificate's own signature does not verify")
            },
        },
    ];
}
