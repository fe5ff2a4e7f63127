//! Routes follow the configuration file without a restart. Everything else in it waits for one.

use std::path::PathBuf;
use std::time::Duration;

use process::Tasks;

use crate::config::{Config, ConfigError, RouteSource};
use crate::forward::Forwarder;

/// The file is read this often. Its content is compared, not its dates: those can miss a change.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches the file at `path` until the stop, and puts its routes in force when they change. A file
/// that cannot be used is logged once, and the last good routes stay.
pub fn watch(path: PathBuf, forwarder: Forwarder, tasks: &Tasks) {
    let stop = tasks.clone();
    tasks.essential("reload", async move {
        let mut watch = Watch {
            path,
            forwarder,
            last: None,
            settings: None,
        };
        loop {
            watch.look().await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.stopping() => return Ok(()),
            }
        }
    });
}

struct Watch {
    path: PathBuf,
    forwarder: Forwarder,
    /// What the file said when it was last looked at; `Err`: why it could not be read.
    last: Option<Result<String, String>>,
    /// Everything but the routes, as it was at the start.
    settings: Option<String>,
}

impl Watch {
    async fn look(&mut self) {
        let read = tokio::fs::read_to_string(&self.path).await;
        let now = read.map_err(|error| error.to_string());
        if self.last.as_ref() == Some(&now) {
            return;
        }
        match &now {
            Ok(text) => {
                if let Err(error) = self.take(text) {
                    let (error, next) = (error.to_string(), error.next());
                    tracing::error!(
                        error,
                        next,
                        "configuration not taken, last good routes kept"
                    );
                }
            }
            Err(error) => {
                tracing::error!(error, "configuration cannot be read, last good routes kept");
            }
        }
        self.last = Some(now);
    }

    fn take(&mut self, text: &str) -> Result<(), ConfigError> {
        let mut config = Config::from_text(text, self.forwarder.tunnel_domain())?;
        if let RouteSource::File(routes) = &mut config.routes {
            self.forwarder.set_routes(None, std::mem::take(routes))?;
        }
        let settings = config.effective();
        match &self.settings {
            None => self.settings = Some(settings),
            Some(known) if *known != settings => {
                tracing::warn!("configuration changed beyond its routes, restart to apply");
            }
            Some(_) => {}
        }
        Ok(())
    }
}
