//! What came of calls.

use super::super::remote::chain;
use super::super::tunnel::{Desk, Tunnel};
use super::TOPIC;
use crate::remote::{Answer, Call, Told};
use crate::rotation::shared_secret::{Holder, Listed, Remote};
use crate::tunnels::{CallError, Refusal};

impl Tunnel {
    /// Takes what came of a call about the secrets. Whatever it is, the machine decides anew.
    pub(in super::super) fn told_secret(&mut self, desk: &Desk<'_>, told: Told) {
        let boot = desk.moment.boot;
        match (told.ask.call, told.result) {
            (Call::Secrets, Ok(Answer::Secrets(secrets))) => {
                self.fine();
                let shared = &mut self.shared;
                let is_listed = |sha256: &String| secrets.iter().any(|one| one.sha256 == *sha256);
                shared.refused.retain(|sha256| !is_listed(sha256));
                // One that was asked before something changed says nothing.
                let secrets: Vec<Listed> = secrets.into_iter().map(listed).collect();
                let asked_at = shared.looking.take();
                shared.shown = Some(Remote {
                    asked_at: desk.moment.unix(),
                    secrets: secrets.clone(),
                });
                shared.list = asked_at.map(|asked_at| Remote { asked_at, secrets });
            }
            (Call::AddSecret { sha256 }, Ok(_)) => self.secrets_changed(sha256, boot),
            (Call::ArchiveSecret { id, .. }, Ok(_)) => self.secrets_changed(id, boot),
            (Call::AddSecret { sha256 }, Err(CallError::Refused(refusal)))
                if is_about_the_secret(&refusal) =>
            {
                tracing::warn!(
                    tunnel = self.name,
                    sha256,
                    refusal = %refusal,
                    "the remote does not take a shared secret"
                );
                self.fine();
                self.shared.forget();
                self.shared.refused.insert(sha256);
            }
            (_, Ok(_)) => {}
            (call, Err(error)) => {
                if call != Call::Secrets {
                    self.shared.forget();
                }
                self.shared.looking = None;
                if self.shared.calls.after(boot, &error) {
                    self.trouble(TOPIC, format!("{TOPIC}: {}", chain(&error)));
                }
            }
        }
    }

    fn secrets_changed(&mut self, what: String, boot: std::time::Duration) {
        self.fine();
        self.shared.forget();
        self.shared.called.insert(what, boot);
    }

    fn fine(&mut self) {
        self.shared.calls.reset();
        self.well(TOPIC);
    }
}

/// Whether another value might be taken where this one was refused: it was archived once, or is not in a form
/// that the remote knows.
fn is_about_the_secret(refusal: &Refusal) -> bool {
    matches!(refusal.status, 400 | 409 | 422)
}

fn listed(secret: api::Secret) -> Listed {
    Listed {
        used: secret.last_used_at.is_some() || !secret.live.is_empty(),
        id: secret.id,
        sha256: secret.sha256,
        live: secret
            .live
            .into_iter()
            .map(|live| Holder {
                replica: live.replica,
                address: live.address,
                instance: live.instance,
            })
            .collect(),
    }
}
