//! Starting is recovery: from the journal, the custody and the store to a tunnel that can take its
//! first turn. Doing it twice is the same as doing it once.

use std::collections::BTreeMap;
use std::path::Path;

use pki::{Authority, Certificate, CertifiedKey};
use process::Failure;
use serde::de::DeserializeOwned;

use super::ca::{load, reference};
use super::issue::{describe, lint_leaf};
use super::pending::Orders;
use super::tunnel::{Facts, Pace, Tunnel};
use super::{Moment, ca, leaf, unix};
use crate::board::Publication;
use crate::config::TunnelConfig;
use crate::custody::{Blob, Custody};
use crate::disk::{Disk, DiskError};
use crate::journal::{Journal, Kind};
use crate::rotation::server_certificate::Cause;
use crate::rotation::{Leaf, authority, server_certificate};
use crate::served::Served;
use crate::store::{Contents, Store, StoredCa};

/// Where a tunnel is on this host.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) state: &'a Path,
    pub(super) group: Option<u32>,
    pub(super) disk: &'a Disk,
}

pub(super) fn open(
    place: &Place<'_>,
    config: &TunnelConfig,
    journal: &mut Journal,
    moment: Moment,
) -> Result<Tunnel, Failure> {
    let disk_failure = |error: DiskError| {
        Failure::config(format!("cannot open tunnel {}", place.name))
            .caused_by(&error)
            .next("make the directory writable for the daemon's uid")
    };
    let custody =
        Custody::open(place.state, place.name, place.disk.clone()).map_err(disk_failure)?;
    let store = Store::open(&config.store, place.disk)?;
    let served = config.serve_dir.as_deref();
    let served = served
        .map(|path| Served::open(path, place.group, place.disk))
        .transpose()
        .map_err(disk_failure)?;
    let contents = store.read()?;
    refuse_domain(config, &contents)?;
    let floor = served.as_ref().map_or(0, Served::generation);
    let mut tunnel = Tunnel {
        name: place.name.to_owned(),
        config: config.clone(),
        leaf: state(journal, place.name, Kind::ServerCertificate)?,
        ca: state(journal, place.name, Kind::Ca)?,
        client_ca: state(journal, place.name, Kind::ClientCa)?,
        custody,
        store,
        served,
        certificates: BTreeMap::new(),
        signer: None,
        client_signer: None,
        pairs: BTreeMap::new(),
        publication: Publication::default(),
        facts: Facts {
            floor,
            watching_since: moment.boot,
            files_stale: true,
            ..Facts::default()
        },
        leaf_pace: Pace::default(),
        ca_pace: Pace::default(),
        leaf_order: None,
        ca_order: None,
        orders_noted: Orders::default(),
    };
    count_issued(&mut tunnel.facts, journal, place.name, moment);
    let Contents {
        ca,
        leaf,
        client_ca,
        ..
    } = contents;
    if let Some(stored) = ca {
        take_ca(&mut tunnel, journal, stored, moment)?;
    }
    discard_lost_standby(&mut tunnel, journal, moment).map_err(disk_failure)?;
    load_certificates(&mut tunnel).map_err(disk_failure)?;
    note_lost_client_ca(&mut tunnel, client_ca.as_ref());
    if let Some(pair) = leaf {
        take_leaf(&mut tunnel, journal, &pair, moment).map_err(disk_failure)?;
    }
    tunnel
        .custody
        .clear(&tunnel.leaf.blobs())
        .map_err(disk_failure)?;
    Ok(tunnel)
}

/// The state that the last record holds.
fn state<S: DeserializeOwned + Default>(
    journal: &Journal,
    tunnel: &str,
    kind: Kind,
) -> Result<S, Failure> {
    let Some(record) = journal.last(tunnel, kind) else {
        return Ok(S::default());
    };
    serde_json::from_value(record.entry.state.clone()).map_err(|_| {
        Failure::config(format!(
            "record {} of the journal cannot be read",
            record.seq
        ))
        .cause("its state is of another form than this build knows")
        .next("start the build that wrote it")
    })
}

fn refuse_domain(config: &TunnelConfig, contents: &Contents) -> Result<(), Failure> {
    match &contents.domain {
        Some(domain) if *domain != config.domain => Err(Failure::config(format!(
            "the store {} belongs to the tunnel domain {domain}, not to {}",
            config.store.display(),
            config.domain
        ))
        .next("correct domain: or store: of this tunnel")),
        _ => Ok(()),
    }
}

/// What was issued in the last hour counts after a restart as well (F08).
fn count_issued(facts: &mut Facts, journal: &Journal, tunnel: &str, moment: Moment) {
    let now = unix(moment.wall).saturating_mul(1000);
    let begun = journal
        .recent(tunnel, Kind::ServerCertificate)
        .filter(|record| {
            let free = ["ordered", "issuer_changed", "client_ca_changed"];
            let free = free.contains(&record.entry.reason.as_str());
            record.entry.phase == "begun" && !free
        });
    for record in begun {
        let ago = if record.boot_id == journal.boot_id() {
            let boot = u64::try_from(moment.boot.as_millis()).unwrap_or(u64::MAX);
            boot.saturating_sub(record.mono)
        } else {
            now.abs_diff(record.wall)
        };
        let at = moment
            .boot
            .checked_sub(std::time::Duration::from_millis(ago));
        // Before this boot: so young a machine has the rest of the hour to go.
        facts.issued.push_back(at.unwrap_or_default());
    }
}

/// Takes up the CA of another tool, if we have none, and notices one that is not ours if we have.
fn take_ca(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    stored: StoredCa,
    moment: Moment,
) -> Result<(), Failure> {
    let sha256 = stored.certificate.fingerprint().to_string();
    let path = tunnel.config.store.display().to_string();
    if tunnel.ca.active.is_some() || tunnel.ca.making.is_some() {
        let state = &tunnel.ca;
        let ours = [&state.active, &state.standby, &state.old, &state.retired];
        let known = ours.into_iter().flatten().any(|ca| ca.sha256 == sha256);
        if !known && tunnel.ca.active.is_some() {
            let text = format!(
                "the store {path} holds a CA that this daemon did not make (sha256 {sha256}); it is not written until ca.crt is moved away"
            );
            tracing::error!(tunnel = tunnel.name, sha256, "foreign CA in the store");
            tunnel.facts.conflict = Some(text);
        }
        return Ok(());
    }
    let Some(key) = stored.key else {
        return Err(Failure::config(format!("{path} has ca.crt and no ca.key"))
            .cause("the CA was made elsewhere and its key is kept there")
            .next("put ca.key beside it, or move ca.crt away to have a new CA made"));
    };
    Authority::load(stored.certificate.clone(), key.clone(), moment.wall).map_err(|error| {
        Failure::config(format!("the CA in {path} cannot sign"))
            .caused_by(&error)
            .next("put the right pair there, or move ca.crt and ca.key away to have a new CA made")
    })?;
    let failure = |error: DiskError| {
        Failure::config(format!("cannot take up the CA in {path}")).caused_by(&error)
    };
    // Named by its content, so that crashes here do not add up.
    let id = adopted_id(&sha256);
    let custody = &tunnel.custody;
    let blobs = [Blob::CaKey(&id), Blob::CaCertificate(&id)];
    custody
        .put(Blob::CaKey(&id), &key.to_pem())
        .and_then(|()| custody.put(Blob::CaCertificate(&id), &stored.certificate.to_pem()))
        .and_then(|()| custody.settle(&blobs))
        .map_err(failure)?;
    let next = authority::State {
        active: Some(reference(&id, &stored.certificate)),
        ..tunnel.ca.clone()
    };
    let mut entry = ca::entry(&next, &tunnel.ca);
    entry.rotation_id = id;
    "adopted".clone_into(&mut entry.reason);
    journal
        .append(
            &tunnel.name,
            Kind::Ca,
            entry,
            (moment.wall, moment.boot),
            true,
        )
        .map_err(failure)?;
    tracing::info!(tunnel = tunnel.name, sha256, "CA of the store taken up");
    tunnel.ca = next;
    Ok(())
}

/// A standby CA without its key can never sign: another is made.
fn discard_lost_standby(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    moment: Moment,
) -> Result<(), DiskError> {
    let standby = tunnel.ca.standby.as_ref();
    let Some(lost) = standby.filter(|ca| tunnel.ca_key(ca).is_none()).cloned() else {
        return Ok(());
    };
    let next = tunnel.ca.discarded();
    let entry = ca::entry(&next, &tunnel.ca);
    let times = (moment.wall, moment.boot);
    journal.append(&tunnel.name, Kind::Ca, entry, times, true)?;
    tunnel.ca = next;
    tracing::error!(
        tunnel = tunnel.name,
        sha256 = lost.sha256,
        "the key of the standby CA is not in custody: another standby CA is made, which verifiers need"
    );
    Ok(())
}

/// With the state its key is gone, and nobody who holds a certificate of it will be let in.
fn note_lost_client_ca(tunnel: &mut Tunnel, stored: Option<&Certificate>) {
    let Some(stored) = stored.filter(|_| tunnel.config.client_ca.is_some()) else {
        return;
    };
    if tunnel.client_ca.active.is_none() {
        let text = format!(
            "the client CA of the store, sha256 {}, has no key here and is replaced: restore the state directory, or issue every client certificate anew",
            stored.fingerprint()
        );
        tunnel.trouble("lost client CA", text);
    }
}

fn load_certificates(tunnel: &mut Tunnel) -> Result<(), DiskError> {
    let (ca, client) = (&tunnel.ca, &tunnel.client_ca);
    let ours = [
        &ca.active,
        &ca.standby,
        &ca.old,
        &ca.retired,
        &client.active,
    ];
    for ca in ours.into_iter().flatten() {
        if let Some((certificate, _)) = load(&tunnel.custody, &ca.id)? {
            tunnel.certificates.insert(ca.id.clone(), certificate);
        }
    }
    Ok(())
}

/// Takes up the server certificate of another tool, if it is good and newer than ours.
fn take_leaf(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    pair: &CertifiedKey,
    moment: Moment,
) -> Result<(), DiskError> {
    let sha256 = pair.certificate().fingerprint().to_string();
    let state = &tunnel.leaf;
    let rotation = state.rotation.as_ref();
    let ours = state.serving.iter().chain(&state.kept);
    let mut ours = ours.chain(rotation.and_then(|rotation| rotation.leaf.as_ref()));
    let not_before = pair.certificate().validity().not_before_unix();
    let older = |leaf: &Leaf| not_before <= leaf.not_before;
    if ours.any(|leaf| leaf.sha256 == sha256) || state.serving.as_ref().is_some_and(older) {
        return Ok(());
    }
    // One in flight that may be out already has a generation; it is finished first.
    let out = rotation.is_some_and(|rotation| rotation.phase >= server_certificate::Phase::Checked);
    let Some(active) = tunnel.ca.active.clone().filter(|_| !out) else {
        return Ok(());
    };
    let id = adopted_id(&sha256);
    let mut leaf = describe(&id, pair, &active.sha256, moment);
    leaf.foreign = true;
    leaf.client_ca = tunnel.wanted_client_ca();
    // The daily renewal is for ours. This one has its own life, and is replaced when two thirds of it
    // are over.
    let life = leaf.not_after.saturating_sub(leaf.not_before);
    leaf.page_at = leaf.not_before + life * 17 / 20;
    leaf.rekey_at = leaf.not_before + life * 2 / 3;
    let Some(ca) = tunnel.certificates.get(&active.id) else {
        return Ok(());
    };
    let linted = match lint_leaf(&tunnel.config, pair, ca, &leaf, moment.wall) {
        Ok(linted) => linted,
        Err(error) => {
            let reason = error.chain();
            tracing::warn!(
                tunnel = tunnel.name,
                reason,
                "server certificate of the store is not used"
            );
            return Ok(());
        }
    };
    let (key, certificate) = (Blob::LeafKey(&id), Blob::LeafCertificate(&id));
    tunnel.custody.put(key, &pair.key_pem())?;
    tunnel.custody.put(certificate, &pair.chain_pem())?;
    tunnel.custody.settle(&[key, certificate])?;
    let now = moment.unix();
    let floor = tunnel.facts.floor;
    let next = tunnel
        .leaf
        .restored(leaf, Cause::Adopted, "store", floor, now);
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

/// As long as a ULID, and never equal to one.
fn adopted_id(sha256: &str) -> String {
    format!("adopted-{}", sha256.get(..18).unwrap_or(sha256))
}
