//! `keyward-edge certificate`.

use std::path::PathBuf;

use clap::Subcommand;
use process::Failure;
use serde_json::json;

use super::open::Session;
use super::output::{failed, print, read};
use crate::state::{Page, RegisteredCa};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List a tunnel's CA certificates
    List {
        /// `tnl_…`
        tunnel: String,
        /// Archived ones too
        #[arg(long)]
        archived: bool,
    },
    /// Register a CA certificate
    Add {
        /// `tnl_…`
        tunnel: String,
        /// The PEM file; `-`: standard input
        file: PathBuf,
    },
    /// Archive a CA certificate
    Archive {
        /// `tnl_…`
        tunnel: String,
        /// `tcrt_…`
        certificate: String,
    },
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    let changed = match command {
        Command::Add { tunnel, file } => {
            let ca = RegisteredCa::read(&read(&file)?, by.now);
            let ca = ca.map_err(|error| failed(&error))?;
            state.create_certificate(by, &tunnel, &ca).await
        }
        Command::Archive {
            tunnel,
            certificate,
        } => state.archive_certificate(by, &tunnel, &certificate).await,
        Command::List { tunnel, archived } => {
            let listed = state.certificates(&tunnel, Page::newest(archived)).await;
            let (data, _) = listed.map_err(|error| failed(&error.into()))?;
            return print(&json!({ "data": data }));
        }
    };
    let (certificate, number) = changed.map_err(|error| failed(&error))?;
    session.changed(number, &certificate).await
}
