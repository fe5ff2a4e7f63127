//! Routes follow the configuration file without a restart. Everything else in it waits for one.

use std::collections::{BTreeMap, BTreeSet};
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
                Ok(changed) if changed.is_empty() => {}
                Ok(changed) => {
                    let keys = changed.join(", ");
                    tracing::warn!(
                        keys,
                        "configuration changed beyond its routes, restart to apply"
                    );
                }
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

    /// Puts the routes in force; gives the other keys that differ from the start.
    fn take(&mut self, text: &str) -> Result<Vec<String>, ConfigError> {
        // The command line's domain as at the start; the one in force would hide a change of the file's.
        let domain = self.options.tunnel_domain.as_deref();
        let mut config = Config::from_text(text, domain)?;
        if let RouteSource::File(routes) = &mut config.routes {
            self.forwarder.set_routes(None, std::mem::take(routes))?;
        }
        let settings = config.effective();
        let known = self.settings.get_or_insert_with(|| settings.clone());
        let (before, now) = (keys(known), keys(&settings));
        let all: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let changed = all
            .into_iter()
            .filter(|key| before.get(*key) != now.get(*key));
        Ok(changed.cloned().collect())
    }
}

/// What an effective configuration says, by `section.key`.
fn keys(page: &str) -> BTreeMap<String, &str> {
    let mut path = Vec::new();
    let mut keys = BTreeMap::new();
    for line in page.lines() {
        let text = line.trim_start();
        let Some((key, value)) = text.split_once(':') else {
            continue;
        };
        path.truncate((line.len() - text.len()) / 2);
        path.push(key);
        if !value.is_empty() {
            keys.insert(path.join("."), value);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beyond(tunnel_domain: Option<&str>) -> String {
        let text = |domain, drain| {
            format!(
                "listen_addr: ':0'\ncontrol: {{socket: none}}\nroutes: {{}}\ntunnel_domain: {domain}\n\
                 limits: {{drain: {drain}}}\n"
            )
        };
        let config = Config::from_text(&text("a.example", "1s"), tunnel_domain).unwrap();
        let mut watch = Watch {
            options: Options {
                tunnel_domain: tunnel_domain.map(str::to_owned),
                ..Options::default()
            },
            forwarder: Forwarder::new(&config, &Tasks::new()).unwrap(),
            last: None,
            settings: None,
        };
        assert!(watch.take(&text("a.example", "1s")).unwrap().is_empty());
        watch.take(&text("b.example", "2s")).unwrap().join(", ")
    }

    #[tokio::test]
    async fn a_changed_tunnel_domain_waits_for_a_restart_unless_the_command_line_says_it() {
        assert_eq!(beyond(None), "limits.drain, tunnel_domain");
        assert_eq!(beyond(Some("c.example")), "limits.drain");
    }
}
