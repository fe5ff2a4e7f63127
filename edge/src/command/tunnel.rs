//! `keyward-edge tunnel`.

use clap::Subcommand;
use process::Failure;
use serde_json::json;

use super::open::Session;
use super::output::{failed, print};
use crate::state::{ChangeError, Page};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a tunnel
    Create {
        /// For people, 1 to 255 characters
        #[arg(long)]
        name: Option<String>,
    },
    /// List tunnels, newest first
    List {
        /// Archived ones too
        #[arg(long)]
        archived: bool,
    },
    /// Show one tunnel
    Show {
        /// `tnl_…`
        tunnel: String,
    },
    /// Archive a tunnel for good, with everything of it
    Archive(Change),
    /// Let a tunnel carry nothing until it is resumed
    Suspend(Change),
    /// Let a suspended tunnel carry again
    Resume(Change),
}

#[derive(Debug, clap::Args)]
pub(super) struct Change {
    /// `tnl_…`
    tunnel: String,
    /// For the audit log
    #[arg(long)]
    reason: Option<String>,
}

pub(super) async fn run(command: Command, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    let changed = match command {
        Command::Create { name } => state.create_tunnel(by, name.as_deref()).await,
        Command::Archive(of) => {
            let reason = of.reason.as_deref();
            state.archive_tunnel(by, &of.tunnel, reason).await
        }
        Command::Suspend(of) => {
            let reason = of.reason.as_deref();
            state.suspend_tunnel(by, &of.tunnel, reason).await
        }
        Command::Resume(of) => {
            let reason = of.reason.as_deref();
            state.resume_tunnel(by, &of.tunnel, reason).await
        }
        Command::Show { tunnel } => {
            let found = state.tunnel(&tunnel).await;
            let found = found.map_err(|error| failed(&error.into()))?;
            let found = found.ok_or_else(|| failed(&ChangeError::NotFound("tunnel")))?;
            return print(&found);
        }
        Command::List { archived } => return list(session, archived).await,
    };
    let (tunnel, number) = changed.map_err(|error| failed(&error))?;
    session.changed(number, &tunnel).await
}

async fn list(session: &Session, include_archived: bool) -> Result<(), Failure> {
    let mut data = Vec::new();
    let mut page = Page {
        before: None,
        limit: api::MAX_LIMIT,
        include_archived,
    };
    loop {
        let listed = session.state.tunnels(page, None).await;
        let (tunnels, next) = listed.map_err(|error| failed(&error.into()))?;
        data.extend(tunnels);
        if next.is_none() {
            return print(&json!({ "data": data }));
        }
        page.before = next;
    }
}
