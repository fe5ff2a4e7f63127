//! What came of the calls.

use api::ErrorKind;

use super::{Held, failed};
use crate::disk::DiskError;
use crate::remote::{Answer, Call, Told};
use crate::rotation::tunnel_token::{Observed, Phase};
use crate::rotator::remote::chain;
use crate::rotator::tunnel::{Desk, Tunnel};
use crate::status::OperationState;
use crate::tunnels::{CallError, Refusal, TunnelToken};

/// A rotation that is turned away for a while is called so often at most.
const CALLS: u32 = 3;
/// Topic of what goes wrong at the other side.
const REMOTE: &str = "remote tunnel token";

impl Tunnel {
    /// Takes what came of a call.
    pub(in crate::rotator) fn told_token(&mut self, desk: &mut Desk<'_>, told: Told) {
        let rotated = matches!(told.ask.call, Call::RotateToken(_));
        let outcome = match told.result {
            Ok(Answer::Token(token)) => self.hold(desk, token, rotated),
            Ok(_) => Ok(()),
            Err(error) => self.token_failed(desk, &error, rotated),
        };
        if let Err(error) = outcome {
            // Without the record it is as if nobody had answered, and the id in force says what happened.
            self.token_now.pace.fail(desk.moment.boot);
            self.token_trouble(error);
        }
    }

    /// Takes a value into memory. It leaves it only for the store.
    fn hold(
        &mut self,
        desk: &mut Desk<'_>,
        token: TunnelToken,
        rotated: bool,
    ) -> Result<(), DiskError> {
        self.token_now.pace.reset();
        self.well(REMOTE);
        let asked = self.token_now.asked;
        if self.is_token(token.value.expose()) {
            self.token_now.held = Some(if rotated {
                Held::Rotated(token)
            } else {
                Held::Revealed(token, asked)
            });
            return Ok(());
        }
        let now = desk.moment.unix();
        let observed = Observed {
            id: &token.id,
            sha256: "",
            at: if rotated { now } else { asked.at },
            late: rotated || asked.late,
            doubted: false,
        };
        let rotation = self.token_rotation();
        let malformed = self.token.malformed(&observed);
        self.advance_token(desk, malformed, failed("malformed"))?;
        tracing::error!(
            tunnel = self.name,
            id = token.id,
            "the remote gave a token that is none"
        );
        if self.token.rotation.is_none() {
            let detail =
                "the remote gave what is no token of the documented form; it was not stored";
            self.end_token_order(desk, &rotation, OperationState::Failed, detail.to_owned());
        }
        Ok(())
    }

    /// What a call that did not go well means.
    fn token_failed(
        &mut self,
        desk: &mut Desk<'_>,
        error: &CallError,
        rotated: bool,
    ) -> Result<(), DiskError> {
        let call = if rotated { "rotated" } else { "revealed" };
        let text = format!("the tunnel token was not {call}: {}", chain(error));
        let calls = self
            .token
            .rotation
            .as_ref()
            .map_or(0, |rotation| rotation.calls);
        let rotation = self.token_rotation();
        match error {
            CallError::Refused(refused) if is_archived(refused) => {
                let archived = self.token.archived(desk.moment.unix());
                self.advance_token(desk, archived, failed("archived"))?;
                self.well(REMOTE);
                self.end_token_order(desk, &rotation, OperationState::Failed, text);
            }
            CallError::Refused(refused) if rotated && !(may_pass(refused) && calls < CALLS) => {
                let refused = self.token.refused(refused.status);
                self.advance_token(desk, refused, failed("refused"))?;
                tracing::error!(
                    tunnel = self.name,
                    error = chain(error),
                    "token rotation refused"
                );
                self.end_token_order(desk, &rotation, OperationState::Failed, text);
            }
            // Nothing was called yet, and somebody has to change something first.
            CallError::Refused(refused) if !may_pass(refused) && self.is_intent() => {
                self.advance_token(desk, self.token.abandoned(), failed("refused"))?;
                self.end_token_order(desk, &rotation, OperationState::Failed, text.clone());
                self.hinder(desk, error, text);
            }
            CallError::Unknown(_) if rotated => {
                let unanswered = self.token.unanswered(desk.moment.unix());
                self.advance_token(desk, unanswered, failed("unknown"))?;
                self.hinder(desk, error, text);
            }
            _ => {
                if rotated {
                    self.advance_token(desk, self.token.unsent(), failed("not_made"))?;
                }
                self.hinder(desk, error, text);
            }
        }
        Ok(())
    }

    fn is_intent(&self) -> bool {
        let rotation = self.token.rotation.as_ref();
        rotation.is_some_and(|rotation| rotation.phase == Phase::Intent)
    }

    /// Later again; whoever waits is told why.
    fn hinder(&mut self, desk: &mut Desk<'_>, error: &CallError, text: String) {
        let is_trouble = self.token_now.pace.after(desk.moment.boot, error);
        if let Some(ordered) = &self.token_order {
            desk.operations.say(&ordered.operation, &text);
        }
        if is_trouble {
            self.trouble(REMOTE, text);
        }
    }
}

/// The tunnel is gone, for good.
fn is_archived(refused: &Refusal) -> bool {
    let says = |word: &str| {
        let message = refused.message.as_deref().unwrap_or_default();
        message.to_lowercase().contains(word)
    };
    // One that says so itself: whoever stands in between knows nothing of tunnels.
    refused.status == 404 && refused.kind == ErrorKind::NotFoundError
        || (400..=410).contains(&refused.status) && says("archived")
}

/// Nothing was done, and it may be let in later: another access token, or a quieter minute.
fn may_pass(refused: &Refusal) -> bool {
    matches!(refused.status, 401 | 429)
}
