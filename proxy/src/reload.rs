//! Routes follow the configuration file without a restart. Everything else in it waits for one.

use std::time::Duration;

use process::Tasks;

use crate::Options;
use crate::config::{Config, ConfigError, RouteSource};
use crate::forward::Forwarder;

/// The file is read this often. Its content is compared, not its dates: those can miss a change.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches the configuration file until the stop, and puts its routes in force when they change. A
/// file that cannot be used is logged once, and the last good routes stay.
pub fn watch(options: Options, forwarder: Forwarder, tasks: &Tasks) {
    let stop = tasks.clone();
    tasks.essential("reload", async move {
        let mut watch = Watch {
            options,
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
    options: Options,
    forwarder: Forwarder,
    /// What the file said when it was last looked at; `Err`: why it could not be read.
    last: Option<Result<String, String>>,
    /// Everything but the routes, as it was at the start.
    settings: Option<String>,
}

impl Watch {
    async fn look(&mut self) {
        let read = tokio::fs::read_to_string(&self.options.config).await;
        let now = read.map_err(|error| error.to_string());
        if self.last.as_ref() == Some(&now) {
            return;
        }
        match &now {
            Ok(text) => match self.take(text) {
                Ok(true) => {
                    tracing::warn!("configuration changed beyond its routes, restart to apply");
                }
                Ok(false) => {}
                Err(error) => {
                    let (error, next) = (error.to_string(), error.next());
                    tracing::error!(
                        error,
                        next,
                        "configuration not taken, last good routes kept"
                    );
                }
            },
            Err(error) => {
                tracing::error!(error, "configuration cannot be read, last good routes kept");
            }
        }
        self.last = Some(now);
    }

    /// Puts the routes in force; `true`: more than they differs from the start.
    fn take(&mut self, text: &str) -> Result<bool, ConfigError> {
        // The command line's domain as at the start; the one in force would hide a change of the file's.
        let domain = self.options.tunnel_domain.as_deref();
        let mut config = Config::from_text(text, domain)?;
        if let RouteSource::File(routes) = &mut config.routes {
            self.forwarder.set_routes(None, std::mem::take(routes))?;
        }
        let settings = config.effective();
        let known = self.settings.get_or_insert_with(|| settings.clone());
        Ok(*known != settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beyond(tunnel_domain: Option<&str>) -> bool {
        let text = |domain| {
            format!(
                "listen_addr: ':0'\ncontrol: {{socket: none}}\nroutes: {{}}\ntunnel_domain: {domain}\n"
            )
        };
        let config = Config::from_text(&text("a.example"), tunnel_domain).unwrap();
        let mut watch = Watch {
            options: Options {
                tunnel_domain: tunnel_domain.map(str::to_owned),
                ..Options::default()
            },
            forwarder: Forwarder::new(&config, &Tasks::new()).unwrap(),
            last: None,
            settings: None,
        };
        assert!(!watch.take(&text("a.example")).unwrap());
        watch.take(&text("b.example")).unwrap()
    }

    #[tokio::test]
    async fn a_changed_tunnel_domain_waits_for_a_restart_unless_the_command_line_says_it() {
        assert!(beyond(None));
        assert!(!beyond(Some("c.example")));
    }
}
