//! `keyward doctor`: why something does not work, and what to do about it.

mod advice;
mod handshake;
mod identity;
mod layers;
mod proxies;
mod traps;
mod walk;

use process::Tasks;

pub(super) use self::identity::given;

use super::output::Ended;

/// What can be examined.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Doctor {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    walk: walk::Arguments,
}

/// A part that is examined by itself.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Fetch the identity token, decode it here, and compare it with what its rule wants
    Identity(identity::Arguments),
}

impl Doctor {
    /// Whether a script asks.
    pub(super) fn wants_json(&self) -> bool {
        match &self.part {
            Some(Part::Identity(arguments)) => arguments.json,
            None => self.walk.json,
        }
    }
}

pub(super) async fn doctor(what: &Doctor, tasks: &Tasks) -> Result<(), Ended> {
    match &what.part {
        Some(Part::Identity(arguments)) => identity::identity(arguments).await,
        None => walk::walk(&what.walk, tasks).await,
    }
}
