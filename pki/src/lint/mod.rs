//! Every rule that a certificate must satisfy before it is published.
//!
//! Two grades. *Refused* stands for what would not work, whoever issued the certificate: the rules of
//! the tunnel's far end, and what RFC 5280 has every verifier check. *Advice* is what we hold ourselves
//! to beyond that: it refuses a certificate of ours and is only reported for somebody else's, so that
//! an adopted one with RSA-4096 and 90 days can go on serving.
//!
//! The rules are tables, `server` for server certificates and `authority` for CA certificates. This
//! module only runs them. What it does not do: know which serial numbers were used before (the
//! caller's journal does), or which routes there are (the proxy reports those).

mod authority;
mod server;

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::certificate::Certificate;
use crate::key::Algorithm;
use crate::pair::CertifiedKey;
use crate::profile::ServerProfile;

pub use authority::lint_authority;

/// Checks a pair against `ca`, which is one that the far end trusts *now*, and makes the proof that it
/// can be published.
///
/// # Errors
///
/// All the findings that stand in the way, and with them the advice.
pub fn lint(
    pair: &CertifiedKey,
    ca: &Certificate,
    expectation: &Expectation,
    now: SystemTime,
    origin: Origin,
) -> Result<Linted, Vec<Finding>> {
    let case = server::Case {
        pair,
        leaf: pair.certificate(),
        ca,
        expectation,
        now,
    };
    let findings: Vec<Finding> = server::Case::RULES
        .iter()
        .filter_map(|rule| rule.finding(&case))
        .collect();
    if findings.iter().any(|finding| origin.refuses(finding.grade)) {
        return Err(findings);
    }
    Ok(Linted {
        pair: pair.clone(),
        advice: findings,
    })
}

/// Every rule by name and grade, those for server certificates first: for documents and tests.
pub fn rules() -> impl Iterator<Item = (&'static str, Grade)> {
    let server = server::Case::RULES.iter().map(|rule| (rule.id, rule.grade));
    server.chain(authority::ids())
}

/// What the certificate is for, and what was asked for when it was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// `<tunnel-domain>`; `*.` before it must be certified.
    pub tunnel_domain: String,
    /// Advice: it lives no longer than this.
    pub lifetime: Duration,
    /// Advice: its key is of this kind.
    pub algorithm: Algorithm,
}

impl Expectation {
    /// Seven days and P-256, as [`ServerProfile::new`] and [`Algorithm::default`] have it.
    pub fn new(tunnel_domain: &str) -> Self {
        Self {
            tunnel_domain: tunnel_domain.to_owned(),
            lifetime: ServerProfile::LIFETIME,
            algorithm: Algorithm::default(),
        }
    }
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// We issued it: advice is binding.
    Ours,
    /// Somebody else did: advice is only reported.
    Foreign,
}

impl Origin {
    fn refuses(self, grade: Grade) -> bool {
        grade == Grade::Refused || self == Self::Ours
    }
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// It would not work.
    Refused,
    /// It would work, and we do not issue it so.
    Advice,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Advice => "advice",
        })
    }
}

/// One rule that a certificate breaks. `Display` is one sentence: what, why, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Name of the rule; stays the same over versions.
    pub id: &'static str,
    /// How much it weighs.
    pub grade: Grade,
    /// What is so.
    pub what: String,
    /// Why it must not be.
    pub why: &'static str,
    /// What to do about it.
    pub next: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.next)
    }
}

/// A certified key that passed [`lint`](crate::lint()): nothing else makes one, and nothing else can be
/// published.
///
/// ```compile_fail
/// # fn unchecked(pair: pki::CertifiedKey) -> pki::Linted {
/// pki::Linted { pair, advice: Vec::new() }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Linted {
    pair: CertifiedKey,
    advice: Vec<Finding>,
}

impl Linted {
    /// The chain and the key.
    pub fn pair(&self) -> &CertifiedKey {
        &self.pair
    }

    /// The certificate of the key.
    pub fn certificate(&self) -> &Certificate {
        self.pair.certificate()
    }

    /// What could be better; empty for a certificate of ours.
    pub fn advice(&self) -> &[Finding] {
        &self.advice
    }
}

/// One line of a table.
struct Rule<Case> {
    id: &'static str,
    grade: Grade,
    why: &'static str,
    next: &'static str,
    /// What is so, if the rule is broken.
    broken: fn(&Case) -> Option<String>,
}

impl<Case> Rule<Case> {
    fn finding(&self, case: &Case) -> Option<Finding> {
        (self.broken)(case).map(|what| Finding {
            id: self.id,
            grade: self.grade,
            what,
            why: self.why,
            next: self.next,
        })
    }
}

/// The text, if the condition holds.
fn when(broken: bool, what: &str) -> Option<String> {
    broken.then(|| what.to_owned())
}
