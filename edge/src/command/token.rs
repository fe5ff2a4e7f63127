//! `keyward-edge token`.

use clap::Subcommand;
use process::Failure;

use super::open::Session;
use super::output::{failed, print};
use crate::state::Rotation;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the token in force
    Reveal {
        /// `tnl_…`
        tunnel: String,
        /// For the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// Make a new token and print it
    Rotate {
        /// `tnl_…`
        tunnel: String,
        /// For the audit log
        #[arg(long)]
        reason: Option<String>,
        /// Let the old token go on for so long, then cut what is bound to it; 0: at once. Without it the
        /// old token opens nothing new, and what is connected stays
        #[arg(long, value_name = "SECONDS")]
        cut_old_after_seconds: Option<u64>,
        /// The same key gives the same answer for ten minutes
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    match command {
        Command::Reveal { tunnel, reason } => {
            let token = state.reveal_token(by, &tunnel, reason.as_deref()).await;
            print(&token.map_err(|error| failed(&error))?)
        }
        Command::Rotate {
            tunnel,
            reason,
            cut_old_after_seconds,
            idempotency_key,
        } => {
            let rotation = Rotation {
                reason: reason.as_deref(),
                cut_old_after: cut_old_after_seconds,
                idempotency_key: idempotency_key.as_deref(),
            };
            let rotated = state.rotate_token(by, &tunnel, rotation).await;
            let (token, number) = rotated.map_err(|error| failed(&error))?;
            session.changed(number, &token).await
        }
    }
}
