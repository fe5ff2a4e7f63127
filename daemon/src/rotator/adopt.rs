//! What another tool left in a store, taken up: its CA, if we have none, and its server certificate, if that is
//! good and newer than ours.

use pki::{Authority, CertifiedKey, Linted};
use process::Failure;

use super::ca::reference;
use super::issue::{describe, lint_leaf};
use super::tunnel::Tunnel;
use super::{Moment, ca, leaf};
use crate::custody::Blob;
use crate::disk::DiskError;
use crate::journal::{Journal, Kind};
use crate::rotation::server_certificate::{Cause, Phase};
use crate::rotation::{Leaf, authority};
use crate::store::StoredCa;

/// Takes up the CA of another tool, if we have none, and notices one that is not ours if we have.
pub(super) fn take_ca(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    stored: StoredCa,
    moment: Moment,
) -> Result<(), Failure> {
    if tunnel.ca.active.is_some() || tunnel.ca.making.is_some() {
        note_foreign_ca(tunnel, &stored);
        return Ok(());
    }
    let path = tunnel.config.store.display().to_string();
    let authority = signing(stored, &path, moment)?;
    keep_ca(tunnel, journal, &authority, moment).map_err(|error| {
        Failure::config(format!("cannot take up the CA in {path}"))
            .caused_by(&error)
            .next(error.next())
    })
}

/// Until somebody decides which of the two counts, the store is not written.
fn note_foreign_ca(tunnel: &mut Tunnel, stored: &StoredCa) {
    let sha256 = stored.certificate.fingerprint().to_string();
    let state = &tunnel.ca;
    let ours = [&state.active, &state.standby, &state.old, &state.retired];
    let known = ours.into_iter().flatten().any(|ca| ca.sha256 == sha256);
    if known || tunnel.ca.active.is_none() {
        return;
    }
    let path = tunnel.config.store.display();
    let text = format!(
        "the store {path} holds a CA that this daemon did not make (sha256 {sha256}); it is not written until ca.crt is moved away"
    );
    tracing::error!(tunnel = tunnel.name, sha256, "foreign CA in the store");
    tunnel.facts.conflict = Some(text);
}

fn signing(stored: StoredCa, path: &str, moment: Moment) -> Result<Authority, Failure> {
    let Some(key) = stored.key else {
        return Err(Failure::config(format!("{path} has ca.crt and no ca.key"))
            .cause("the CA was made elsewhere and its key is kept there")
            .next("put ca.key beside it, or move ca.crt away to have a new CA made"));
    };
    Authority::load(stored.certificate, key, moment.wall).map_err(|error| {
        Failure::config(format!("the CA in {path} cannot sign"))
            .caused_by(&error)
            .next("put the right pair there, or move ca.crt and ca.key away to have a new CA made")
    })
}

fn keep_ca(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    authority: &Authority,
    moment: Moment,
) -> Result<(), DiskError> {
    let certificate = authority.certificate();
    let sha256 = certificate.fingerprint().to_string();
    let id = adopted_id(&sha256);
    let custody = &tunnel.custody;
    let (key, public) = (Blob::CaKey(&id), Blob::CaCertificate(&id));
    custody.put(key, &authority.private_key().to_pem())?;
    custody.put(public, &certificate.to_pem())?;
    custody.settle(&[key, public])?;
    let next = authority::State {
        active: Some(reference(&id, certificate)),
        ..tunnel.ca.clone()
    };
    let mut entry = ca::entry(&next, &tunnel.ca);
    entry.rotation_id = id;
    "adopted".clone_into(&mut entry.reason);
    let times = (moment.wall, moment.boot);
    journal.append(&tunnel.name, Kind::Ca, entry, times, true)?;
    tracing::info!(tunnel = tunnel.name, sha256, "CA of the store taken up");
    tunnel.ca = next;
    Ok(())
}

/// Takes up the server certificate of another tool, if it is good and newer than ours.
pub(super) fn take_leaf(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    pair: &CertifiedKey,
    moment: Moment,
) -> Result<(), DiskError> {
    if !is_news(tunnel, pair) {
        return Ok(());
    }
    let Some(active) = &tunnel.ca.active else {
        return Ok(());
    };
    let Some(issuer) = tunnel.certificates.get(&active.id) else {
        return Ok(());
    };
    let leaf = foreign(tunnel, pair, &active.sha256, moment);
    match lint_leaf(&tunnel.config, pair, issuer, &leaf, moment.wall) {
        Ok(linted) => keep_leaf(tunnel, journal, leaf, linted, moment),
        Err(error) => {
            let reason = error.chain();
            tracing::warn!(
                tunnel = tunnel.name,
                reason,
                "server certificate of the store is not used"
            );
            Ok(())
        }
    }
}

/// Neither one of ours, nor older than the one that is served.
fn is_news(tunnel: &Tunnel, pair: &CertifiedKey) -> bool {
    let state = &tunnel.leaf;
    let rotation = state.rotation.as_ref();
    // One in flight that may be out already has a generation; it is finished first.
    if rotation.is_some_and(|rotation| rotation.phase >= Phase::Checked) {
        return false;
    }
    let sha256 = pair.certificate().fingerprint().to_string();
    let ours = state.serving.iter().chain(&state.kept);
    let mut ours = ours.chain(rotation.and_then(|rotation| rotation.leaf.as_ref()));
    let not_before = pair.certificate().validity().not_before_unix();
    let older = |leaf: &Leaf| not_before <= leaf.not_before;
    !ours.any(|leaf| leaf.sha256 == sha256) && !state.serving.as_ref().is_some_and(older)
}

/// The daily renewal is for ours. This one has its own life, and is replaced when two thirds of it are over.
fn foreign(tunnel: &Tunnel, pair: &CertifiedKey, issuer: &str, moment: Moment) -> Leaf {
    let id = adopted_id(&pair.certificate().fingerprint().to_string());
    let leaf = describe(&id, pair, issuer, moment);
    let life = leaf.not_after.saturating_sub(leaf.not_before);
    Leaf {
        foreign: true,
        client_ca: tunnel.wanted_client_ca(),
        page_at: leaf.not_before + life * 17 / 20,
        rekey_at: leaf.not_before + life * 2 / 3,
        ..leaf
    }
}

fn keep_leaf(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    leaf: Leaf,
    linted: Linted,
    moment: Moment,
) -> Result<(), DiskError> {
    let (id, sha256) = (leaf.id.clone(), leaf.sha256.clone());
    let (key, certificate) = (Blob::LeafKey(&id), Blob::LeafCertificate(&id));
    tunnel.custody.put(key, &linted.pair().key_pem())?;
    tunnel
        .custody
        .put(certificate, &linted.pair().chain_pem())?;
    tunnel.custody.settle(&[key, certificate])?;
    let floor = tunnel.facts.floor;
    let next = tunnel
        .leaf
        .restored(leaf, Cause::Adopted, "store", floor, moment.unix());
    let entry = leaf::entry(&next, &tunnel.leaf);
    let times = (moment.wall, moment.boot);
    journal.append(&tunnel.name, Kind::ServerCertificate, entry, times, true)?;
    tracing::info!(
        tunnel = tunnel.name,
        sha256,
        "server certificate of the store taken up"
    );
    tunnel.leaf = next;
    tunnel.pairs.insert(id, linted);
    Ok(())
}

/// Named by its content, so that crashes here do not add up. As long as a ULID, and never equal to one.
fn adopted_id(sha256: &str) -> String {
    format!("adopted-{}", sha256.get(..18).unwrap_or(sha256))
}
