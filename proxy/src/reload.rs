//! Routes follow the configuration file without a restart. Everything else in it waits for one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use process::Tasks;

use crate::Options;
use crate::config::{Config, ConfigError, RouteSource};
use crate::forward::Forwarder;
use crate::watched::{Watch, Watched};

/// Follows the configuration file until the stop, and puts its routes in force when they change.
pub fn watch(options: Options, forwarder: Forwarder, tasks: &Tasks) {
    let routes = Routes {
        options,
        forwarder,
        settings: None,
    };
    tasks.essential("reload", Watch::new(routes).run(tasks.clone()));
}

struct Routes {
    options: Options,
    forwarder: Forwarder,
    /// Everything but the routes, as it was at the start.
    settings: Option<String>,
}

impl Watched for Routes {
    type Read = String;
    type Error = ConfigError;
    /// Longer than for a certificate and its key, which show whether they belong together: half a list of
    /// routes looks like a whole one.
    const SETTLE: Duration = Duration::from_millis(200);

    async fn read(&self) -> Result<(Digest, String), ConfigError> {
        let path = &self.options.config;
        let read = tokio::fs::read_to_string(path).await;
        let text = read.map_err(|error| ConfigError::Open {
            path: path.clone(),
            error,
        })?;
        Ok((digest(&SHA256, text.as_bytes()), text))
    }

    fn take(&mut self, text: String) -> Result<(), ConfigError> {
        let changed = self.put(&text)?;
        if !changed.is_empty() {
            let keys = changed.join(", ");
            tracing::warn!(
                keys,
                "configuration changed beyond its routes, restart to apply"
            );
        }
        Ok(())
    }

    fn tell(&self, error: &ConfigError) {
        let path = self.options.config.display();
        tracing::error!(
            %path, %error, next = error.next(),
            "configuration not taken, last good routes kept"
        );
    }

    fn recovered(&self) {
        let path = self.options.config.display();
        tracing::info!(%path, "configuration taken again, its routes are in force");
    }
}

impl Routes {
    /// Puts the routes in force; gives the other keys that differ from the start.
    fn put(&mut self, text: &str) -> Result<Vec<String>, ConfigError> {
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

    fn text(domain: &str, drain: &str, routes: &str) -> String {
        format!(
            "listen_addr: ':0'\ncontrol: {{socket: none}}\ntunnel_domain: {domain}\n\
             limits: {{drain: {drain}}}\nroutes:\n{routes}"
        )
    }

    fn routes(options: Options) -> Routes {
        let config =
            Config::from_text(&text("a.example", "1s", "  a: http://a:1\n"), None).unwrap();
        Routes {
            options,
            forwarder: Forwarder::new(&config, &Tasks::new()).unwrap(),
            settings: None,
        }
    }

    fn beyond(tunnel_domain: Option<&str>) -> String {
        let mut routes = routes(Options {
            tunnel_domain: tunnel_domain.map(str::to_owned),
            ..Options::default()
        });
        let text = |domain, drain| text(domain, drain, "  a: http://a:1\n");
        assert!(routes.put(&text("a.example", "1s")).unwrap().is_empty());
        routes.put(&text("b.example", "2s")).unwrap().join(", ")
    }

    #[tokio::test]
    async fn a_changed_tunnel_domain_waits_for_a_restart_unless_the_command_line_says_it() {
        assert_eq!(beyond(None), "limits.drain, tunnel_domain");
        assert_eq!(beyond(Some("c.example")), "limits.drain");
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_written_file_is_not_taken_up_and_a_bad_one_keeps_the_last_good_routes() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yaml");
        let write = |routes: &str| {
            std::fs::write(&config, text("a.example", "1s", routes)).unwrap();
        };
        let mut watch = Watch::new(routes(Options {
            config: config.clone(),
            tunnel_domain: None,
        }));
        let forwarder = watch.watched().forwarder.clone();
        write("  a: http://a:1\n  b: http://b:1\n");
        watch.look().await;
        assert_eq!(forwarder.route_names(), ["a", "b"]);
        // Half of a list of routes is a list of routes.
        write("  c: http://c:1\n");
        let written = async {
            tokio::time::sleep(Routes::SETTLE / 2).await;
            assert_eq!(forwarder.route_names(), ["a", "b"]);
            write("  c: http://c:1\n  d: http://d:1\n");
        };
        tokio::join!(watch.look(), written);
        assert_eq!(forwarder.route_names(), ["a", "b"]);
        watch.look().await;
        assert_eq!(forwarder.route_names(), ["c", "d"]);
        for bad in ["  e: http://e\n", "  - e\n", "  e: http://e:1\nf"] {
            write(bad);
            watch.look().await;
            assert_eq!(forwarder.route_names(), ["c", "d"], "{bad:?}");
        }
        std::fs::remove_file(&config).unwrap();
        watch.look().await;
        assert_eq!(forwarder.route_names(), ["c", "d"]);
    }
}
