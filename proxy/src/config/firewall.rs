//! What a firewall has to let through, for `--check --firewall`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Config, RouteSource};
use crate::route;

/// Direction, protocol, host, port and purpose, a line each, tabs between; host `*` is any.
pub(super) fn write(config: &Config) -> String {
    let mut lines = BTreeSet::new();
    let mut listen = |addr: SocketAddr, why: &str| {
        let host = match addr.ip() {
            ip if ip.is_unspecified() => "*".to_owned(),
            ip => ip.to_string(),
        };
        let near = if addr.ip().is_loopback() {
            ", this machine alone"
        } else {
            ""
        };
        lines.insert(format!("in\ttcp\t{host}\t{}\t{why}{near}", addr.port()));
    };
    if let Some(addr) = config.websocket {
        listen(addr, "carrier websocket");
    }
    if let Some(tls) = config.tls {
        listen(tls.addr, "carrier tls");
    }
    listen(config.health.addr, "health and metrics");
    let mut named = false;
    let mut dial = |host: &str, port: u16, why: &str| {
        named |= host.parse::<IpAddr>().is_err();
        lines.insert(format!("out\ttcp\t{host}\t{port}\t{why}"));
    };
    if let Some(edge) = &config.edge {
        match &edge.forward_proxy {
            Some(forward) => dial(&forward.host, forward.port, "forward proxy to the edge"),
            None if edge.addresses.is_empty() => dial(&edge.host, edge.port, "carrier edge"),
            None => {
                for address in &edge.addresses {
                    dial(&address.ip().to_string(), address.port(), "carrier edge");
                }
            }
        }
    }
    match &config.routes {
        RouteSource::File(routes) => {
            // They were compiled when the configuration was read.
            for rule in route::compile(routes, true).unwrap_or_default() {
                let why = format!("upstream of route {}", rule.name);
                dial(&rule.target.host, rule.target.port, &why);
            }
        }
        RouteSource::Daemon => {
            lines.insert("out\ttcp\t*\t*\tupstreams, as the daemon's policy says".to_owned());
            named = true;
        }
    }
    if named {
        lines.insert("out\tudp\t*\t53\tname resolution, by the system's resolvers".to_owned());
        lines.insert("out\ttcp\t*\t53\tname resolution, by the system's resolvers".to_owned());
    }
    lines.into_iter().map(|line| line + "\n").collect()
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
