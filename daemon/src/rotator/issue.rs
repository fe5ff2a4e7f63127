//! Makes, checks and finds server certificates and their keys.

use std::time::{Duration, SystemTime};

use pki::{
    Algorithm, Authority, Certificate, CertifiedKey, Expectation, Linted, Origin, PrivateKey,
    Serial, ServerProfile, lint,
};

use super::tunnel::{Desk, StepError, Tunnel};
use super::{Moment, unix};
use crate::config::TunnelConfig;
use crate::custody::{Blob, Custody};
use crate::rotation::Leaf;
use crate::rotation::server_certificate::State;

/// Topic of a leaf in force that cannot be published again.
const IN_FORCE: &str = "server certificate in force";

impl Tunnel {
    pub(super) fn make_key(&self, state: &State, algorithm: Algorithm) -> Result<(), StepError> {
        let Some(rotation) = &state.rotation else {
            return Ok(());
        };
        // What a crash left under this id was never certified.
        let key = PrivateKey::generate(algorithm)?;
        Ok(self
            .custody
            .put(Blob::LeafKey(&rotation.id), &key.to_pem())?)
    }

    pub(super) fn draw_serial(&mut self, desk: &mut Desk<'_>) -> Result<(), StepError> {
        let next = self.leaf.keyed(Serial::random().to_string());
        // If the power fails, record and certificate are lost together, and nobody has seen either.
        self.note_advance(desk, next)?;
        self.facts.serial_fresh = true;
        Ok(())
    }

    pub(super) fn sign(&mut self, desk: &mut Desk<'_>, state: &State) -> Result<(), StepError> {
        let lost = || StepError::Lost("the key of the rotation");
        let rotation = state.rotation.as_ref().ok_or_else(lost)?;
        let serial = rotation.serial.as_ref().and_then(|text| text.parse().ok());
        let serial = serial.ok_or(StepError::Lost("the serial number"))?;
        let key = load_key(&self.custody, &rotation.id).ok_or_else(lost)?;
        let Some((_, signer)) = &self.signer else {
            return Err(StepError::Lost("a CA"));
        };
        let profile = self.server_profile();
        // From here on the serial number counts as used.
        self.facts.serial_fresh = false;
        let pair = signer.issue(&profile, key, serial, desk.moment.wall)?;
        let blob = Blob::LeafCertificate(&rotation.id);
        self.custody.put(blob, &pair.chain_pem())?;
        self.signed(desk, state, &pair)
    }

    pub(super) fn server_profile(&self) -> ServerProfile {
        ServerProfile {
            tunnel_domain: self.config.domain.clone(),
            extra_names: self.config.server_certificate.extra_names.clone(),
            lifetime: self.config.server_certificate.lifetime,
        }
    }

    /// Whether `authority` can issue what is configured, and it could be published. Key and serial number are thrown away.
    pub(super) fn rehearse(&self, authority: &Authority, moment: Moment) -> Result<(), StepError> {
        let key = PrivateKey::generate(Algorithm::default())?;
        let profile = self.server_profile();
        let pair = authority.issue(&profile, key, Serial::random(), moment.wall)?;
        let ca = authority.certificate();
        let leaf = describe("rehearsal", &pair, &ca.fingerprint().to_string(), moment);
        lint_leaf(&self.config, &pair, ca, &leaf, moment.wall).map(drop)
    }

    pub(super) fn take_certificate(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
    ) -> Result<(), StepError> {
        let lost = || StepError::Lost("the certificate of the rotation");
        let rotation = state.rotation.as_ref().ok_or_else(lost)?;
        let key = load_key(&self.custody, &rotation.id).ok_or_else(lost)?;
        let pair = load_certificate(&self.custody, &rotation.id, &key).ok_or_else(lost)?;
        self.signed(desk, state, &pair)
    }

    fn signed(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
        pair: &CertifiedKey,
    ) -> Result<(), StepError> {
        let Some(rotation) = &state.rotation else {
            return Ok(());
        };
        let leaf = Leaf {
            client_ca: self.wanted_client_ca(),
            ..describe(&rotation.id, pair, &rotation.issuer, desk.moment)
        };
        Ok(self.note_advance(desk, state.signed(leaf))?)
    }

    /// Checks as a peer would now.
    pub(super) fn check(&mut self, leaf: &Leaf, moment: Moment) -> Result<Linted, StepError> {
        let pair = self.load_pair(leaf)?.pair().clone();
        self.lint(&pair, leaf, moment.wall)
    }

    /// As [`check`](Self::check), on a day on which all dates were good: a certificate that was in
    /// force stays in force when it expires, and whether it is still taken is for the peers to say.
    pub(super) fn check_form(&mut self, leaf: &Leaf) -> Result<Linted, StepError> {
        let pair = self.load_pair(leaf)?.pair().clone();
        self.lint(&pair, leaf, good_day(leaf))
    }

    /// The pair of a leaf, from custody the first time; what was there is linted like what is new.
    pub(super) fn load_pair(&mut self, leaf: &Leaf) -> Result<&Linted, StepError> {
        let lost = || StepError::Lost("the server certificate");
        if !self.pairs.contains_key(&leaf.id) {
            let key = load_key(&self.custody, &leaf.id).ok_or_else(lost)?;
            let pair = load_certificate(&self.custody, &leaf.id, &key).ok_or_else(lost)?;
            if pair.certificate().fingerprint().to_string() != leaf.sha256 {
                return Err(lost());
            }
            let linted = self.lint(&pair, leaf, good_day(leaf))?;
            self.pairs.insert(leaf.id.clone(), linted);
        }
        self.pairs.get(&leaf.id).ok_or_else(lost)
    }

    /// Whether the leaf in force could be published again; if not, another takes its place.
    pub(super) fn is_usable(&mut self, leaf: &Leaf) -> bool {
        let Some(error) = self.load_pair(leaf).err() else {
            self.well(IN_FORCE);
            return true;
        };
        let text = format!("the server certificate in force: {}", error.chain());
        self.trouble(IN_FORCE, text);
        false
    }

    fn lint(&self, pair: &CertifiedKey, leaf: &Leaf, at: SystemTime) -> Result<Linted, StepError> {
        let ca = self.certificate_of(&leaf.issuer);
        let ca = ca.ok_or(StepError::Lost("the CA of the server certificate"))?;
        lint_leaf(&self.config, pair, ca, leaf, at)
    }
}

/// When the dates of a leaf were good: when it was issued or taken up.
fn good_day(leaf: &Leaf) -> SystemTime {
    let last = leaf.not_after.max(leaf.not_before);
    SystemTime::UNIX_EPOCH + Duration::from_secs(leaf.issued_at.clamp(leaf.not_before, last))
}

/// The rules of the far end, and our own for what we issued.
pub(super) fn lint_leaf(
    config: &TunnelConfig,
    pair: &CertifiedKey,
    ca: &Certificate,
    leaf: &Leaf,
    now: SystemTime,
) -> Result<Linted, StepError> {
    // A change of the configuration does not make a bad one of the certificate in force.
    let life = Duration::from_secs(leaf.not_after.saturating_sub(leaf.issued_at));
    let expectation = Expectation {
        tunnel_domain: config.domain.clone(),
        lifetime: config.server_certificate.lifetime.max(life),
        algorithm: pair.key().algorithm(),
    };
    let origin = if leaf.foreign {
        Origin::Foreign
    } else {
        Origin::Ours
    };
    lint(pair, ca, &expectation, now, origin).map_err(|findings| {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        StepError::Lint(texts.join("; "))
    })
}

/// What a state says of a certificate that was signed or taken up now.
pub(super) fn describe(id: &str, pair: &CertifiedKey, issuer: &str, moment: Moment) -> Leaf {
    let certificate = pair.certificate();
    let validity = certificate.validity();
    Leaf {
        id: id.to_owned(),
        sha256: certificate.fingerprint().to_string(),
        serial: certificate.serial().to_string(),
        issuer: issuer.to_owned(),
        issued_at: moment.unix(),
        not_before: validity.not_before_unix(),
        not_after: validity.not_after_unix(),
        rekey_at: unix(validity.rekey_at(moment.wall, certificate.serial())),
        page_at: unix(validity.hard_zone(moment.wall)),
        generation: 0,
        foreign: false,
        client_ca: None,
    }
}

/// Whether the certificate has every configured name. Its wildcard was checked when it was taken.
pub(super) fn has_names(config: &TunnelConfig, certificate: &Certificate) -> bool {
    let mut names = config.server_certificate.extra_names.iter();
    names.all(|name| {
        let address = name.parse().ok();
        certificate.dns_names().contains(name)
            || address.is_some_and(|address| certificate.addresses().contains(&address))
    })
}

pub(super) fn load_key(custody: &Custody, id: &str) -> Option<PrivateKey> {
    let text = custody.read(Blob::LeafKey(id)).ok()??;
    PrivateKey::from_pem(&text).ok()
}

/// The certificate of `key`; `None` if it is another key's.
pub(super) fn load_certificate(
    custody: &Custody,
    id: &str,
    key: &PrivateKey,
) -> Option<CertifiedKey> {
    let text = custody.read(Blob::LeafCertificate(id)).ok()??;
    let pair = CertifiedKey::from_pem(&text, &key.to_pem()).ok()?;
    (pair.certificate().public_key() == key.public_key()).then_some(pair)
}
