//! An edge with a state: what the relay needs of it, and what keeps that true.
//!
//! Joins the state to the two places where the relay asks: the directory, and the answers on
//! `api.EDGE`. Without it an edge serves tunnels from a file, and no Tunnels API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use process::{Clock, Failure, Tasks};

use crate::assertion::system_resolver;
use crate::command::StateOptions;
use crate::config::Config;
use crate::directory::Directory;
use crate::fill::Filler;
use crate::plane::{Apply, Plane, PlaneSettings, Rates};
use crate::relay::Answer;
use crate::state::{By, Identifier, State, random_identifier};

/// Between two deletions of what has expired.
const SWEEP: Duration = Duration::from_secs(60);

/// The control plane of one edge.
pub struct Backed {
    /// Filled, and kept so by [`keep`](Self::keep).
    pub directory: Directory,
    /// The Tunnels API and the token exchange.
    pub answer: Answer,
    state: State,
    filler: Filler,
    clock: Arc<dyn Clock>,
}

impl Backed {
    /// Opens the state, made at the first start, and fills the directory of the edge `instance` once.
    /// `config` says its name, whether it has a table of autonomous systems, and how long without the
    /// database until new work is refused. What goes on beside an answer goes on
    /// `tasks`.
    ///
    /// # Errors
    ///
    /// 78 for a state of another edge, or one that cannot be used; 69 if the database does not answer.
    pub async fn open(
        options: &StateOptions,
        config: &Config,
        instance: String,
        edge_ca_certificates: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Self, Failure> {
        let (stale_limit, has_asns) = (config.stale_limit, config.asns.is_some());
        let state = options.open_as(&config.name, &by(&*clock)).await?;
        let organization = state.identity().await;
        let organization = organization.map_err(|error| unanswered(&error))?;
        let load = Filler::load(state.clone(), clock.clone());
        let directory =
            Directory::with_stale_limit(instance, clock.clone(), Some(load), stale_limit);
        let filler = Filler::new(state.clone(), directory.clone(), clock.clone(), has_asns);
        filler.refresh().await.map_err(|error| unanswered(&error))?;
        let plane = Plane::new(PlaneSettings {
            state: state.clone(),
            clock: clock.clone(),
            resolver: system_resolver(),
            apply: apply(&filler),
            edge_ca_certificates,
            organization: organization.map(|identity| identity.organization_id),
            rates: Rates::default(),
            tasks: tasks.clone(),
        });
        let answer: Answer = Arc::new(move |request: Request<Incoming>, peer: SocketAddr| {
            let plane = plane.clone();
            async move { plane.answer(request, peer).await.map(BodyExt::boxed) }.boxed()
        });
        Ok(Self {
            directory,
            answer,
            state,
            filler,
            clock,
        })
    }

    /// Keeps the directory as the database has it, and deletes what has expired, until the stop.
    pub fn keep(self, tasks: &Tasks) {
        let (state, clock) = (self.state, self.clock);
        tasks.essential("directory", self.filler.run(tasks.clone()));
        let stopping = tasks.clone();
        tasks.essential("sweep", async move {
            loop {
                if let Err(error) = state.sweep(by(&*clock).now).await {
                    tracing::warn!(%error, "what has expired could not be deleted");
                }
                tokio::select! {
                    () = tokio::time::sleep(SWEEP) => {}
                    () = stopping.stopping() => return Ok(()),
                }
            }
        });
    }
}

fn apply(filler: &Filler) -> Apply {
    let filler = filler.clone();
    Arc::new(move || {
        let filler = filler.clone();
        Box::pin(async move {
            if let Err(error) = filler.refresh().await {
                tracing::warn!(%error, "a change could not be acted on yet");
            }
        })
    })
}

fn by(clock: &dyn Clock) -> By {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    By {
        actor: "edge".to_owned(),
        request_id: random_identifier(Identifier::Request),
        now: since.as_secs(),
    }
}

fn unanswered(error: &crate::state::DatabaseError) -> Failure {
    Failure::new(process::Exit::Unavailable, "the state does not answer").caused_by(error)
}
