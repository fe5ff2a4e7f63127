//! A state to test with.

use std::sync::Arc;

use tempfile::TempDir;

use super::clock::StandingClock;
use super::postgres;
use crate::state::{By, Seal, Settings, State};

pub(crate) struct Stage {
    pub(crate) state: State,
    pub(crate) clock: Arc<StandingClock>,
    pub(crate) url: String,
    _directory: TempDir,
}

impl Stage {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = State::file_url(&directory.path().join("edge.db"));
        Self::open(url, directory).await
    }

    pub(crate) async fn postgres() -> Self {
        let url = postgres::database().await;
        Self::open(url, tempfile::tempdir().unwrap()).await
    }

    async fn open(url: String, directory: TempDir) -> Self {
        Self {
            state: state(&url, true).await,
            clock: Arc::new(StandingClock::new()),
            url,
            _directory: directory,
        }
    }

    /// Another edge on the same database, with the same key file.
    pub(crate) async fn another(&self) -> State {
        state(&self.url, true).await
    }

    /// The same, where tokens are not kept.
    pub(crate) async fn unrevealing(&self) -> State {
        state(&self.url, false).await
    }

    pub(crate) fn by(&self) -> By {
        By {
            actor: "operator:0".to_owned(),
            request_id: "req_test".to_owned(),
            now: self.clock.seconds(),
        }
    }

    /// What the newest `count` audit rows say, oldest first: action, tunnel, target, outcome.
    pub(crate) async fn actions(&self, count: u32) -> Vec<String> {
        let rows = self.state.audit(u64::MAX, count).await.unwrap();
        rows.iter().rev().map(|row| row.action.clone()).collect()
    }
}

async fn state(url: &str, reveal: bool) -> State {
    let settings = Settings {
        edge: "edge.test".to_owned(),
        reveal,
    };
    State::open(url, Seal::new(&[7; 32]).unwrap(), settings)
        .await
        .unwrap()
}
