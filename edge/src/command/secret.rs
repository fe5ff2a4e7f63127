//! `keyward-edge secret`.

use clap::Subcommand;
use process::Failure;
use serde_json::json;

use super::open::Session;
use super::output::{failed, print};
use crate::state::Page;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List a tunnel's secrets, with what is connected by them
    List {
        /// `tnl_…`
        tunnel: String,
        /// Archived ones too
        #[arg(long)]
        archived: bool,
    },
    /// Add a secret by its digest; the value stays with whoever made it
    Add {
        /// `tnl_…`
        tunnel: String,
        /// SHA-256 of the value, lower-case hexadecimal
        sha256: String,
    },
    /// Archive a secret and cut what is connected by it
    Archive {
        /// `tnl_…`
        tunnel: String,
        /// `tsec_…`
        secret: String,
    },
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    let changed = match command {
        Command::Add { tunnel, sha256 } => state.create_secret(by, &tunnel, &sha256).await,
        Command::Archive { tunnel, secret } => state.archive_secret(by, &tunnel, &secret).await,
        Command::List { tunnel, archived } => {
            let listed = state.secrets(&tunnel, Page::newest(archived)).await;
            let (data, _) = listed.map_err(|error| failed(&error.into()))?;
            return print(&json!({ "data": data }));
        }
    };
    let (secret, number) = changed.map_err(|error| failed(&error))?;
    session.changed(number, &secret).await
}
