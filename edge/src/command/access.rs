//! `keyward-edge access`.

use std::path::PathBuf;

use clap::Subcommand;
use process::{Exit, Failure};
use serde_json::json;

use super::open::Session;
use super::output::{failed, print, read};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show who may call, and the version of that
    Show {
        /// `tnl_…`
        tunnel: String,
    },
    /// Replace who may call
    Set {
        /// `tnl_…`
        tunnel: String,
        /// The JSON object, as `show` prints it under `access`; `-`: standard input
        file: PathBuf,
        /// The version that it was made from; without it, whatever is there is replaced
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let state = &session.state;
    match command {
        Command::Show { tunnel } => {
            let found = state.access(&tunnel).await;
            let found = found.map_err(|error| failed(&error.into()))?;
            print(&json!({ "version": found.version, "access": found.access }))
        }
        Command::Set {
            tunnel,
            file,
            if_version,
        } => {
            let text = read(&file)?;
            let access: api::Access = serde_json::from_str(&text).map_err(|error| {
                Failure::new(Exit::Usage, "the access list cannot be read").caused_by(&error)
            })?;
            let put = state
                .put_access(&session.by, &tunnel, &access, if_version)
                .await;
            let (now, number) = put.map_err(|error| failed(&error))?;
            let object = json!({ "version": now.version, "access": now.access });
            session.changed(number, &object).await
        }
    }
}
