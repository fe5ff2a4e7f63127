//! Starting is recovery: from the journal, the custody and the store to a tunnel that can take its
//! first turn. Doing it twice is the same as doing it once.

use std::collections::BTreeMap;
use std::path::Path;

use pki::Certificate;
use process::Failure;
use serde::de::DeserializeOwned;

use super::ca::load;
use super::pending::Orders;
use super::remote::Remote;
use super::schedule::Due;
use super::secret::Shared;
use super::slots::Slots;
use super::token::Token;
use super::tunnel::{Facts, Pace, Tunnel};
use super::{Moment, adopt, ca, unix};
use crate::board::Publication;
use crate::config::TunnelConfig;
use crate::custody::Custody;
use crate::disk::{Disk, DiskError};
use crate::journal::{Journal, Kind};
use crate::rotation::{authority, tunnel_token};
use crate::served::Served;
use crate::store::{Contents, Store};

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
    let failure = |error| cannot_open(place.name, &error);
    let (mut tunnel, contents) = resume(place, config, journal, moment)?;
    count_issued(&mut tunnel.facts, journal, place.name, moment);
    if let Some(stored) = contents.ca {
        adopt::take_ca(&mut tunnel, journal, stored, moment)?;
    }
    discard_lost_standby(&mut tunnel, journal, moment).map_err(failure)?;
    load_certificates(&mut tunnel).map_err(failure)?;
    note_lost_client_ca(&mut tunnel, contents.client_ca.as_ref());
    if let Some(pair) = contents.leaf {
        adopt::take_leaf(&mut tunnel, journal, &pair, moment).map_err(failure)?;
    }
    let named = tunnel.leaf.blobs();
    tunnel.custody.clear(&named).map_err(failure)?;
    Ok(tunnel)
}

fn cannot_open(name: &str, error: &DiskError) -> Failure {
    Failure::config(format!("cannot open tunnel {name}"))
        .caused_by(error)
        .next(error.next())
}

/// The tunnel as the journal left it, on its open places, and what its store says.
fn resume(
    place: &Place<'_>,
    config: &TunnelConfig,
    journal: &Journal,
    moment: Moment,
) -> Result<(Tunnel, Contents), Failure> {
    let failure = |error| cannot_open(place.name, &error);
    let custody = Custody::open(place.state, place.name, place.disk.clone()).map_err(failure)?;
    let store = Store::open(&config.store, place.disk)?;
    let served = config.serve_dir.as_deref();
    let served = served
        .map(|path| Served::open(path, place.group, place.disk))
        .transpose()
        .map_err(failure)?;
    let contents = store.read()?;
    let shared = state(journal, place.name, Kind::SharedSecret)?;
    let shared = Shared::resume(shared, &custody).map_err(failure)?;
    refuse_domain(config, &contents)?;
    let facts = Facts {
        floor: served.as_ref().map_or(0, Served::generation),
        watching_since: moment.boot,
        files_stale: true,
        ..Facts::default()
    };
    let ca: authority::State = state(journal, place.name, Kind::Ca)?;
    let token: tunnel_token::State = state(journal, place.name, Kind::TunnelToken)?;
    let tunnel = Tunnel {
        name: place.name.to_owned(),
        config: config.clone(),
        leaf: state(journal, place.name, Kind::ServerCertificate)?,
        ca: ca.at_remote(config.remote(), moment.unix()),
        client_ca: state(journal, place.name, Kind::ClientCa)?,
        token: token.at_remote(config.remote()),
        custody,
        store,
        served,
        certificates: BTreeMap::new(),
        signer: None,
        client_signer: None,
        pairs: BTreeMap::new(),
        publication: Publication::default(),
        facts,
        leaf_pace: Pace::default(),
        ca_pace: Pace::default(),
        remote: Remote::default(),
        slots: Slots::default(),
        token_now: Token::default(),
        shared,
        leaf_order: None,
        ca_order: None,
        token_order: None,
        secret_order: None,
        orders_noted: Orders::default(),
        due: Due::default(),
        reviewed: None,
    };
    Ok((tunnel, contents))
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

/// A standby CA without its key can never sign: another is made.
fn discard_lost_standby(
    tunnel: &mut Tunnel,
    journal: &mut Journal,
    moment: Moment,
) -> Result<(), DiskError> {
    let Some(standby) = &tunnel.ca.standby else {
        return Ok(());
    };
    if tunnel.ca_key(standby)?.is_some() {
        return Ok(());
    }
    let lost = standby.sha256.clone();
    let next = tunnel.ca.discarded();
    let entry = ca::entry(&next, &tunnel.ca);
    let times = (moment.wall, moment.boot);
    journal.append(&tunnel.name, Kind::Ca, entry, times, true)?;
    tunnel.ca = next;
    tracing::error!(
        tunnel = tunnel.name,
        sha256 = lost,
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
