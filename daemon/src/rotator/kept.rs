//! Server certificates beside the one in force: those before it, and the fallback for callers who do not know its CA yet.

use pki::{Linted, PrivateKey, Serial};

use super::issue::{describe, lint_leaf};
use super::tunnel::{Desk, StepError, Tunnel, fresh_id};
use crate::custody::Blob;
use crate::rotation::Leaf;
use crate::rotation::server_certificate::{Cause, State};
use crate::status::OperationState;

/// Topic of a fallback that is not there.
const FALLBACK: &str = "fallback";

impl Tunnel {
    /// Keys first: see [`Tunnel::perform_ca`]'s retirement.
    pub(super) fn retire_kept(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
        keep: usize,
    ) -> Result<(), StepError> {
        let fallback = state.fallback.as_ref().map(|leaf| &leaf.id);
        let kept = || state.kept.iter().skip(keep);
        let retired = || kept().filter(|leaf| Some(&leaf.id) != fallback);
        let blobs: Vec<Blob<'_>> = retired()
            .flat_map(|leaf| [Blob::LeafKey(&leaf.id), Blob::LeafCertificate(&leaf.id)])
            .collect();
        self.custody.remove(&blobs)?;
        for leaf in retired() {
            self.pairs.remove(&leaf.id);
        }
        Ok(self.note_advance(desk, state.retired(keep))?)
    }

    pub(super) fn restore(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
        id: &str,
        cause: Cause,
        above: u64,
    ) -> Result<(), StepError> {
        let mut leaves = state.kept.iter().chain(&state.serving);
        let leaf = leaves.find(|leaf| leaf.id == id).cloned();
        let leaf = Leaf {
            client_ca: self.wanted_client_ca(),
            ..leaf.ok_or(StepError::Lost("the earlier server certificate"))?
        };
        if cause == Cause::FallbackChanged {
            tracing::info!(
                tunnel = self.name,
                "server certificate gets another fallback"
            );
        } else {
            tracing::warn!(
                tunnel = self.name,
                ?cause,
                leaf_sha256 = leaf.sha256,
                "earlier server certificate restored"
            );
        }
        let above = above.max(self.facts.floor);
        let now = desk.moment.unix();
        let next = state.restored(leaf, cause, "schedule", above, now);
        self.advance_beside(desk, &next)?;
        if cause == Cause::Refused {
            self.leaf_pace.fail(desk.moment.boot);
            let why = "every proxy refused the new certificate; the earlier one is back".to_owned();
            self.trouble("refusal", why.clone());
            if let Some(rotation) = &state.rotation {
                self.end_leaf_order(desk, &rotation.id, OperationState::Failed, why);
            }
        }
        Ok(())
    }

    /// Another leaf under the CA before, and a new generation that has it.
    pub(super) fn issue_fallback(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
    ) -> Result<(), StepError> {
        let moment = desk.moment;
        let old = self.ca.fallback().cloned();
        let (Some(old), Some(serving)) = (old, &state.serving) else {
            return Ok(());
        };
        let authority = self.load_authority(&old, moment)?;
        let id = fresh_id(moment);
        let key = PrivateKey::generate(self.config.server_certificate.algorithm)?;
        self.custody.put(Blob::LeafKey(&id), &key.to_pem())?;
        // Nothing has seen it if a crash comes before the record, so that its number is not used twice.
        let pair = authority.issue(&self.server_profile(), key, Serial::random(), moment.wall)?;
        let certificate = Blob::LeafCertificate(&id);
        self.custody.put(certificate, &pair.chain_pem())?;
        self.custody.settle(&[Blob::LeafKey(&id), certificate])?;
        let leaf = Leaf {
            client_ca: self.wanted_client_ca(),
            ..describe(&id, &pair, &old.sha256, moment)
        };
        let ca = authority.certificate();
        let linted = lint_leaf(&self.config, &pair, ca, &leaf, moment.wall)?;
        self.pairs.insert(id, linted);
        self.facts.issued.push_back(moment.boot);
        let with = state.with_fallback(leaf);
        let above = state.generation;
        self.restore(desk, &with, &serving.id, Cause::FallbackChanged, above)
    }

    /// The fallback that goes out, if one is wanted and can be used.
    pub(super) fn load_fallback(&mut self) -> Option<Linted> {
        let wanted = self.ca.fallback().is_some();
        let leaf = self.leaf.fallback.clone().filter(|_| wanted)?;
        match self.check_form(&leaf) {
            Ok(linted) => {
                self.well(FALLBACK);
                Some(linted)
            }
            Err(error) => {
                let text = format!("the fallback of the server certificate: {}", error.chain());
                self.trouble(FALLBACK, text);
                None
            }
        }
    }

    /// Whether the CA before can sign.
    pub(super) fn fallback_signs(&self) -> bool {
        let old = self.ca.fallback();
        old.is_some_and(|old| matches!(self.ca_key(old), Ok(Some(_))))
    }

    /// Records a state with the fallback that its next publication is to have; the one before goes.
    pub(super) fn advance_beside(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
    ) -> Result<(), StepError> {
        let issuer = self.ca.fallback().map(|ca| ca.sha256.as_str());
        let next = state.beside(issuer, desk.moment.unix());
        let before = self.leaf.fallback.clone();
        self.advance(desk, next)?;
        if let Some(gone) = before.filter(|leaf| !self.leaf.blobs().contains(&leaf.id.as_str())) {
            let id = &gone.id;
            self.custody
                .remove(&[Blob::LeafKey(id), Blob::LeafCertificate(id)])?;
            self.pairs.remove(id);
        }
        Ok(())
    }
}
