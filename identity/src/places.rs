//! Where calls go, for whoever runs a firewall.

use crate::http::leads_to;
use crate::{DEFAULT_URL, Environment, Given};

/// One server that is called, always by TCP and always from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What for.
    pub why: &'static str,
}

impl Place {
    /// Where `url` leads, if it is one.
    pub fn of(url: &str, why: &'static str) -> Option<Self> {
        let (host, port) = leads_to(url)?;
        Some(Self { host, port, why })
    }
}

impl Given {
    /// Every server that an exchange with these settings calls: the source's, the proxy, and the one that sells tokens.
    /// A source that is asked through a socket or a program has none here.
    pub fn places(&self, environment: &Environment) -> Vec<Place> {
        let variable = environment.text("ANTHROPIC_BASE_URL");
        let variable = variable.as_ref().map(|url| url.expose().trim());
        let url = self.url.as_deref().or(variable).unwrap_or(DEFAULT_URL);
        let proxy = crate::HttpSettings::from_environment(environment, None).https_proxy;
        let source = self
            .source
            .as_ref()
            .map(|source| source.servers(environment));
        let mut places: Vec<Place> = Place::of(url, "token exchange").into_iter().collect();
        places.extend(
            proxy.and_then(|url| {
                Place::of(url.expose(), "HTTPS_PROXY, for what is called by https")
            }),
        );
        places.extend(
            source
                .into_iter()
                .flatten()
                .filter_map(|(url, why)| Place::of(&url, why)),
        );
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Azure, Gcp, Source};

    fn places(source: Source, variables: &[(&str, &str)]) -> Vec<String> {
        let given = Given {
            source: Some(source),
            ..Given::default()
        };
        let places = given.places(&Environment::of(variables));
        places
            .iter()
            .map(|place| format!("{}:{}", place.host, place.port))
            .collect()
    }

    #[test]
    fn every_server_that_an_exchange_calls_is_named() {
        let azure = Source::Azure(Azure {
            resource: "api://x".to_owned(),
            client_id: None,
        });
        let gcp = Source::Gcp(Gcp {
            audience: "a".to_owned(),
            service_account: None,
        });
        let api = "api.anthropic.com:443";
        assert_eq!(places(gcp, &[]), [api, "169.254.169.254:80"]);
        assert_eq!(places(azure.clone(), &[]), [api, "169.254.169.254:80"]);
        let workload = [
            ("AZURE_FEDERATED_TOKEN_FILE", "/t"),
            ("HTTPS_PROXY", "http://u:p@proxy:3128"),
        ];
        assert_eq!(
            places(azure.clone(), &workload),
            [api, "proxy:3128", "login.microsoftonline.com:443"]
        );
        let service = [("IDENTITY_ENDPOINT", "http://169.254.129.2:8081/msi/token")];
        assert_eq!(places(azure, &service), [api, "169.254.129.2:8081"]);
        let file = Source::File("/t".into());
        assert_eq!(
            places(file, &[("ANTHROPIC_BASE_URL", "https://[::1]:8443")]),
            ["::1:8443"]
        );
    }
}
