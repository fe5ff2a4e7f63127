//! What a firewall has to let through, for `--check --firewall`.

use process::Firewall;

use super::{Config, RouteSource};
use crate::route;

pub(super) fn write(config: &Config) -> String {
    let mut firewall = Firewall::default();
    if let Some(addr) = config.websocket {
        firewall.listen(addr, "carrier websocket");
    }
    if let Some(tls) = config.tls {
        firewall.listen(tls.addr, "carrier tls");
    }
    firewall.listen(config.health.addr, "health and metrics");
    if let Some(edge) = &config.edge {
        match &edge.forward_proxy {
            Some(forward) => {
                firewall.dial(&forward.host, forward.port, "forward proxy to the edge");
            }
            None if edge.addresses.is_empty() => {
                firewall.dial(&edge.host, edge.port, "carrier edge");
            }
            None => {
                for address in &edge.addresses {
                    firewall.dial(&address.ip().to_string(), address.port(), "carrier edge");
                }
            }
        }
    }
    match &config.routes {
        RouteSource::File(routes) => {
            // They were compiled when the configuration was read.
            for rule in route::compile(routes, true).unwrap_or_default() {
                let why = format!("upstream of route {}", rule.name);
                firewall.dial(&rule.target.host, rule.target.port, &why);
            }
        }
        RouteSource::Daemon => firewall.dial_anything("upstreams, as the daemon's policy says"),
    }
    firewall.to_string()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_proxy_that_only_dials_lets_nobody_in_from_outside() {
        let text = "carriers: {edge: {url: 'https://api.edge.example', tunnel: t, secret_file: /s, \
                    allow_without_client_certificate: true}}\n\
                    tls: {cert_file: /c, key_file: /k}\nroutes: {a.b: 'http://10.0.0.5:8000'}\n";
        let config = Config::from_text(text, None).unwrap();
        assert_eq!(
            config.firewall(),
            "in\ttcp\t127.0.0.1\t9464\thealth and metrics, this machine alone\n\
             out\ttcp\t*\t53\tname resolution, by the system's resolvers\n\
             out\ttcp\t10.0.0.5\t8000\tupstream of route a.b\n\
             out\ttcp\tapi.edge.example\t443\tcarrier edge\n\
             out\tudp\t*\t53\tname resolution, by the system's resolvers\n"
        );
    }
}
