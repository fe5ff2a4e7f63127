//! The tunnel's token: read, or rotated exactly once for each new `--token-version`.
//!
//! | The note says | The remote says | Done |
//! |---|---|---|
//! | this version, or none was ever asked for | – | the token in force is taken |
//! | another version | – | the id in force is noted, then the token is rotated |
//! | a rotation whose end was not seen | another id | its value is taken: the rotation took place |
//! | the same | the same id | not before a minute has passed, since the call may still be on its way; then it is made again |

use std::time::Duration;

use process::{Clock, Failure};

use super::note::{Note, Rotating};
use super::{Order, TokenOutcome, patiently, refused, unwritable};
use crate::disk::Disk;
use crate::rotator::unix;
use crate::store::Store;
use crate::tunnels::{CallError, Rotation, TunnelToken, Tunnels};

/// Twice as long as a call may take.
const LATE: Duration = Duration::from_secs(60);

/// What the step works with.
pub(super) struct Step<'a> {
    pub(super) order: &'a Order,
    pub(super) api: &'a Tunnels,
    pub(super) clock: &'a dyn Clock,
    pub(super) disk: &'a Disk,
    pub(super) store: &'a Store,
}

impl Step<'_> {
    /// Puts the token in force into the store.
    pub(super) async fn bring(&self, note: &mut Note) -> Result<TokenOutcome, Failure> {
        let mut token = self.reveal().await?;
        let mut rotated = false;
        if let Some(open) = note.rotating.clone() {
            if token.id == open.before {
                self.wait_for(&open).await;
                token = self.reveal().await?;
            }
            if token.id == open.before {
                token = self.rotate(note, &open.token_version, &token).await?;
            }
            rotated = true;
            note.token_version = Some(open.token_version);
        }
        // In a store without a version the token is as new as it has to be.
        if let (Some(asked), Some(had)) = (&self.order.token_version, &note.token_version)
            && asked != had
        {
            token = self.rotate(note, asked, &token).await?;
            rotated = true;
        }
        self.store
            .write_token(token.value.expose())
            .map_err(|error| unwritable(&self.order.store, &error))?;
        note.rotating = None;
        if let Some(asked) = &self.order.token_version {
            note.token_version = Some(asked.clone());
        }
        self.write(note)?;
        Ok(TokenOutcome {
            id: token.id,
            rotated,
        })
    }

    async fn reveal(&self) -> Result<TunnelToken, Failure> {
        let (api, tunnel) = (self.api, &self.order.tunnel);
        let revealed = patiently(api, || api.reveal_token(tunnel, "keyward init")).await;
        revealed.map_err(|error| refused("reveal the tunnel's token", &error))
    }

    /// Called once. If nobody knows what came of it, the note says so to the next run.
    async fn rotate(
        &self,
        note: &mut Note,
        token_version: &str,
        in_force: &TunnelToken,
    ) -> Result<TunnelToken, Failure> {
        note.rotating = Some(Rotating {
            token_version: token_version.to_owned(),
            before: in_force.id.clone(),
            since: unix(self.clock.wall()),
        });
        self.write(note)?;
        let rotation = Rotation {
            reason: "keyward init: --token-version changed".to_owned(),
            edge: None,
        };
        let error = match self.api.rotate_token(&self.order.tunnel, &rotation).await {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        let failure = refused("rotate the tunnel's token", &error);
        if let CallError::Unknown(_) = error {
            return Err(failure.next("run this again: it finds out whether the token was rotated"));
        }
        note.rotating = None;
        self.write(note)?;
        Err(failure)
    }

    async fn wait_for(&self, open: &Rotating) {
        let passed = unix(self.clock.wall()).saturating_sub(open.since);
        let left = LATE.saturating_sub(Duration::from_secs(passed));
        if !left.is_zero() {
            let seconds = left.as_secs();
            tracing::info!(seconds, "waiting for a rotation that may be on its way");
            tokio::time::sleep(left).await;
        }
    }

    fn write(&self, note: &Note) -> Result<(), Failure> {
        note.write(&self.order.store, self.disk)
            .map_err(|error| unwritable(&self.order.store, &error))
    }
}
