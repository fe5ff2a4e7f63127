//! `bench issue`: what a server certificate costs – new key, signed, linted – against the cryptography in it, done raw.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use pki::{
    Algorithm, Authority, AuthorityProfile, Expectation, Origin, PrivateKey, Serial, ServerProfile,
};
use process::{Clock, Failure, SystemClock};
use rustix::time::{ClockId, clock_gettime};

use crate::command::say;
use crate::figure::{Findings, PAIRS};

/// Certificates a measurement: about a quarter of a second.
const ROUNDS: u32 = 2_000;

/// Bytes that the raw side signs: about those of a server certificate before its signature.
const TO_BE_SIGNED: [u8; 400] = [0x5a; 400];

/// Measures it.
pub(crate) fn run(findings: &mut Findings) -> Result<(), Failure> {
    let now = SystemClock.wall();
    let failed = |error: &dyn std::error::Error| Failure::internal("cannot issue").caused_by(error);
    let authority = Authority::generate(&AuthorityProfile::server("benchmark CA"), now)
        .map_err(|error| failed(&error))?;
    let profile = ServerProfile::new("bench.example");
    let expectation = Expectation::new("bench.example");
    let issue = || {
        let key = PrivateKey::generate(Algorithm::default()).map_err(|error| failed(&error))?;
        let issued = authority
            .issue(&profile, key, Serial::random(), now)
            .map_err(|error| failed(&error))?;
        let linted = pki::lint(
            &issued,
            authority.certificate(),
            &expectation,
            now,
            Origin::Ours,
        );
        linted
            .map(drop)
            .map_err(|findings| Failure::internal("not publishable").cause(format!("{findings:?}")))
    };
    let random = SystemRandom::new();
    let raw = || {
        let broken = |_| Failure::internal("the cryptography failed");
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(broken)?;
        let signature = key.sign(&random, &TO_BE_SIGNED).map_err(broken)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key());
        public
            .verify(&TO_BE_SIGNED, signature.as_ref())
            .map_err(broken)
    };
    let mut pairs = Vec::new();
    cost(issue)?;
    cost(raw)?;
    for pair in 0..PAIRS {
        let (ours, raw) = (cost(issue)?, cost(raw)?);
        say(&format!(
            "issue.ratio {pair} ours {ours:.1} us, raw {raw:.1} us, {:.0} certificates a second",
            1e6 / ours
        ));
        pairs.push((ours, raw));
    }
    findings.compared(
        "issue.ratio",
        "aws-lc-rs: key, signature, verification",
        &pairs,
    );
    Ok(())
}

/// CPU microseconds of this thread for one of `ROUNDS`.
fn cost(work: impl Fn() -> Result<(), Failure>) -> Result<f64, Failure> {
    let before = thread_seconds();
    for _ in 0..ROUNDS {
        work()?;
    }
    Ok((thread_seconds() - before) / f64::from(ROUNDS) * 1e6)
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}
