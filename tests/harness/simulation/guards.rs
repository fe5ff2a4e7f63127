//! The rules that keep the promises, each of which can be taken away: then something must be seen to break.
//!
//! The shipped functions stay as they are. A rule is taken away by what they are shown, or by what is made of their
//! answer; those of the driver, by the order of its steps.

use std::borrow::Cow;

use daemon::rotation::authority::State as CaState;
use daemon::rotation::server_certificate::{self, State as LeafState};
use daemon::rotation::shared_secret::{self, State as SecretState};
use daemon::rotation::slots::{self, Grade, Phase, Registration};
use daemon::rotation::tunnel_token::{self, LATE, State as TokenState};

use super::far::STRANGER;
use super::time::DAY;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is its own sentence; see `Guard::rule`")]
pub enum Guard {
    Proof,
    Fresh,
    Settle,
    Listed,
    Followed,
    Stranger,
    Silence,
    RegisterOnce,
    SlotsInDoubt,
    KeyFirst,
    Rekey,
    Fallback,
    KeysInDoubt,
    NumberFirst,
    Late,
    IntentFirst,
    Connectors,
    Follows,
    TokenInDoubt,
    StoreFirst,
    Verifiers,
    Acknowledged,
    Roster,
    Absent,
    ForeignSecret,
    SecretsInDoubt,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::Proof,
        Self::Fresh,
        Self::Settle,
        Self::Listed,
        Self::Followed,
        Self::Stranger,
        Self::Silence,
        Self::RegisterOnce,
        Self::SlotsInDoubt,
        Self::KeyFirst,
        Self::Rekey,
        Self::Fallback,
        Self::KeysInDoubt,
        Self::NumberFirst,
        Self::Late,
        Self::IntentFirst,
        Self::Connectors,
        Self::Follows,
        Self::TokenInDoubt,
        Self::StoreFirst,
        Self::Verifiers,
        Self::Acknowledged,
        Self::Roster,
        Self::Absent,
        Self::ForeignSecret,
        Self::SecretsInDoubt,
    ];

    /// Where it is missed: with shared secrets, with a token that connectors use; `None`: with either.
    pub(super) fn is_of_secrets(self) -> Option<bool> {
        match self {
            Self::Verifiers
            | Self::Acknowledged
            | Self::Roster
            | Self::ForeignSecret
            | Self::SecretsInDoubt => Some(true),
            Self::Late
            | Self::IntentFirst
            | Self::Connectors
            | Self::Follows
            | Self::TokenInDoubt
            | Self::StoreFirst => Some(false),
            _ => None,
        }
    }

    /// What it says.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Proof => "a CA is archived when its successor was used at every replica",
            Self::Fresh => {
                "what is asked of the remote follows from a list of the last half minute"
            }
            Self::Settle => "a CA signs when every verifier has had time to learn of it",
            Self::Listed => "a CA signs when the remote lists it",
            Self::Followed => "a CA is archived when every replica has the leaf of its successor",
            Self::Stranger => "what is not ours is not archived",
            Self::Silence => "silence rolls nothing back",
            Self::RegisterOnce => {
                "a registration is repeated when the last one cannot arrive any more"
            }
            Self::SlotsInDoubt => "nothing is archived by a clock that is in doubt",
            Self::KeyFirst => "a CA is recorded when its key is in custody",
            Self::Rekey => "a server certificate is replaced long before it ends",
            Self::Fallback => {
                "a leaf of the CA before is served beside the new one until that is proven"
            }
            Self::KeysInDoubt => "no key of a leaf is destroyed by a clock that is in doubt",
            Self::NumberFirst => "a generation is recorded before it goes out",
            Self::Late => "the token is rotated again when the last call cannot arrive any more",
            Self::IntentFirst => "the rotation of a token is recorded before it is called",
            Self::Connectors => "the token is rotated while every connector has the one in force",
            Self::Follows => "the token is rotated while the leaf is of the CA in force",
            Self::TokenInDoubt => "the token is not rotated by a clock that is in doubt",
            Self::StoreFirst => "a token is in store and journal before it goes out",
            Self::Verifiers => "a secret goes out when the remote lists it",
            Self::Acknowledged => "a secret is archived when every proxy stands on its successor",
            Self::Roster => "a secret waits for a proxy that has not come back to a new process",
            Self::Absent => "a CA waits for a replica that has not come back to a new process",
            Self::ForeignSecret => "a secret that is not ours is not archived",
            Self::SecretsInDoubt => "no secret is archived by a clock that is in doubt",
        }
    }
}

/// What the slots' machine decides.
pub(super) fn slots(
    guard: Option<Guard>,
    state: &CaState,
    mut seen: slots::Seen,
    now: u64,
) -> slots::Action {
    let mut state = Cow::Borrowed(state);
    match guard {
        Some(Guard::Proof) => {
            for served in &mut seen.served {
                served.grade = Some(Grade::Observed);
            }
        }
        Some(Guard::Fresh) => {
            let young = |list: &&mut slots::Listing| now.abs_diff(list.at) < 3600;
            let listing = seen.listing.iter_mut().filter(young);
            listing.for_each(|list| list.at = now);
        }
        Some(Guard::Settle) => seen.settle = 0,
        Some(Guard::Listed) => {
            let early = state.is_in(Phase::Registering) || state.is_in(Phase::Settling);
            if let (Some(listing), Some(standby), true) = (&mut seen.listing, &state.standby, early)
            {
                let registrations = &mut listing.registrations;
                registrations.retain(|one| one.sha256 != standby.sha256);
                registrations.push(Registration {
                    id: "believed".to_owned(),
                    sha256: standby.sha256.clone(),
                });
            }
        }
        Some(Guard::Followed) => {
            seen.settled_issuer = state.active.as_ref().map(|ca| ca.sha256.clone());
            for served in &mut seen.served {
                served.acknowledged = true;
            }
        }
        Some(Guard::Stranger) => {
            let listed = seen.listing.iter().flat_map(|list| &list.registrations);
            let theirs = listed.filter(|one| one.sha256.starts_with(STRANGER));
            let theirs: Vec<String> = theirs.map(|one| one.sha256.clone()).collect();
            state.to_mut().slots.spent.extend(theirs);
        }
        Some(Guard::RegisterOnce) => {
            if let Some(call) = &mut state.to_mut().slots.call {
                call.asked = call.asked.saturating_sub(LATE);
                call.done = false;
            }
            seen.young = false;
        }
        Some(Guard::Absent) => seen.watched = true,
        Some(Guard::SlotsInDoubt) => seen.suspect = false,
        _ => {}
    }
    let action = slots::next(&state, &seen, now);
    let since = state.slots.rotation.as_ref().map(|rotation| rotation.since);
    if guard == Some(Guard::Silence)
        && state.is_in(Phase::Switched)
        && since.is_some_and(|since| now.saturating_sub(since) > DAY)
    {
        return slots::Action::RollBack("silence");
    }
    action
}

/// What the server certificate's machine decides.
pub(super) fn leaf(
    guard: Option<Guard>,
    state: &LeafState,
    mut seen: server_certificate::Seen,
    now: u64,
) -> server_certificate::Action {
    let mut state = Cow::Borrowed(state);
    match guard {
        Some(Guard::Rekey) => {
            if let Some(serving) = &mut state.to_mut().serving {
                serving.rekey_at = serving.not_after + DAY;
            }
        }
        Some(Guard::KeysInDoubt) => seen.suspect = false,
        _ => {}
    }
    server_certificate::next(&state, &seen, now)
}

/// What the token's machine is shown.
pub(super) fn token<'a>(
    guard: Option<Guard>,
    state: &'a TokenState,
    seen: &mut tunnel_token::Seen,
) -> Cow<'a, TokenState> {
    let mut state = Cow::Borrowed(state);
    match guard {
        Some(Guard::Late) => {
            if let Some(rotation) = &mut state.to_mut().rotation {
                rotation.called = rotation.called.map(|called| called.saturating_sub(LATE));
            }
            seen.young = false;
        }
        Some(Guard::Connectors) => {
            for connector in &mut seen.connectors {
                connector.connected = true;
                connector.acked = state.generation;
            }
        }
        Some(Guard::Follows) => seen.switching = false,
        Some(Guard::TokenInDoubt) => seen.suspect = false,
        _ => {}
    }
    state
}

/// What the shared secret's machine decides.
pub(super) fn secret(
    guard: Option<Guard>,
    state: &SecretState,
    mut seen: shared_secret::Seen,
    now: u64,
) -> shared_secret::Action {
    let mut state = Cow::Borrowed(state);
    match guard {
        Some(Guard::Verifiers) => {
            if let (Some(remote), Some(new)) = (&mut seen.remote, state.new_one())
                && !remote.secrets.iter().any(|one| one.sha256 == new.sha256)
            {
                remote.secrets.push(shared_secret::Listed {
                    id: "believed".to_owned(),
                    sha256: new.sha256.clone(),
                    ..shared_secret::Listed::default()
                });
            }
        }
        Some(Guard::Acknowledged) => {
            for dialer in &mut seen.dialers {
                dialer.acked = seen.published;
            }
        }
        Some(Guard::Roster) => {
            seen.watched = true;
            seen.young = false;
        }
        Some(Guard::ForeignSecret) => {
            let listed = seen.remote.iter().flat_map(|remote| &remote.secrets);
            let theirs = listed.filter(|one| one.sha256.starts_with(STRANGER));
            let theirs: Vec<String> = theirs.map(|one| one.sha256.clone()).collect();
            state.to_mut().retired.extend(theirs);
        }
        Some(Guard::SecretsInDoubt) => seen.suspect = false,
        _ => {}
    }
    shared_secret::next(&state, &seen, now)
}
