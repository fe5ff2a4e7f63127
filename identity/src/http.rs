//! Outgoing HTTP, and the only file that names reqwest (the budget test sees to that).
//!
//! Traps of it that are closed here: its errors carry the URL, whose query may hold a secret; it follows redirects with
//! the body; it repeats requests on connections that went stale; it takes proxies from the environment for plain HTTP,
//! too. TLS is rustls over aws-lc-rs, given as a whole configuration, so that no provider has to be chosen by features.

mod address;

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, NoProxy, Proxy, Url, redirect, retry};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::{Environment, Secret};

use address::{parse, parse_near, place};

pub use address::check_url;
pub(crate) use address::{host_header, leads_to};

/// From the first packet to the last byte of an answer.
const LIMIT: Duration = Duration::from_secs(30);
/// For look-up, TCP and TLS, of the above.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The same for what stands beside this machine, or is not there at all.
const NEAR_LIMIT: Duration = Duration::from_secs(10);
const NEAR_CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest answer that is read, bytes.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// `Content-Type` of a form.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// How calls leave this machine.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// PEM certificates that vouch for servers, besides the system's: those of a network that inspects TLS, or of a
    /// server of one's own.
    pub ca_file: Option<PathBuf>,
    /// `HTTPS_PROXY`, with user and password perhaps. Plain HTTP, which goes to this machine only, is never proxied.
    pub https_proxy: Option<Secret>,
    /// `NO_PROXY`: hosts and networks that are reached without it.
    pub no_proxy: Option<String>,
    /// Where a host is, whatever DNS says; a proxy is told the name.
    pub addresses: Option<(String, Vec<IpAddr>)>,
}

/// Makes calls. Each is tried once, on a connection of its own; redirects are not followed.
#[derive(Clone)]
pub struct Http {
    proxied: Client,
    direct: Client,
    near: Client,
    settings: HttpSettings,
}

/// What became of a call that brought no answer. No variant holds a URL, a header or a body.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// It cannot be called at all.
    #[error("{what} cannot be used: {why}")]
    Settings {
        /// Which setting.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing of the request left, so that it can be repeated.
    #[error("{host} was not reached")]
    NotSent {
        /// Host and port.
        host: String,
        /// What failed.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// It may have arrived and may have had its effect.
    #[error("{host} did not answer, and the request may have arrived")]
    Unknown {
        /// Host and port.
        host: String,
        /// What failed.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// More than 1 MiB.
    #[error("the answer of {host} is longer than {LONGEST_ANSWER} bytes")]
    TooLong {
        /// Host and port.
        host: String,
    },
}

/// One request. It may hold secrets, and has no `Debug`.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// By `https`, or by `http` to this machine.
    pub url: &'a str,
    /// Appended to what the URL has, encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Names in lower case; values are kept out of every log.
    pub headers: &'a [(&'static str, &'a str)],
    /// What is done there.
    pub verb: Verb<'a>,
}

/// What is done, and with which body.
#[derive(Clone, Copy)]
pub enum Verb<'a> {
    /// `GET`.
    Get,
    /// `PUT` without a body.
    Put,
    /// `POST` of JSON.
    Json(&'a [u8]),
    /// `POST` of an encoded form.
    Form(&'a str),
}

/// An answer, whatever its status. It may hold secrets, and has no `Debug`.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Request-Id`, if it is a text that can be printed.
    pub request_id: Option<String>,
    /// Seconds of `Retry-After`.
    pub retry_after: Option<u64>,
    /// `Metadata-Flavor`, by which Google's metadata server is known.
    pub(crate) flavor: Option<String>,
    /// At most 1 MiB; erased when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

impl HttpSettings {
    /// What the variables `HTTPS_PROXY` and `NO_PROXY` say, in capitals or not; an empty one says nothing.
    #[must_use]
    pub fn from_environment(environment: &Environment, ca_file: Option<PathBuf>) -> Self {
        let first = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(|name| environment.text(name));
            values.find(|value| !value.expose().is_empty())
        };
        Self {
            ca_file,
            https_proxy: first(["HTTPS_PROXY", "https_proxy"]),
            no_proxy: first(["NO_PROXY", "no_proxy"]).map(|value| value.expose().to_owned()),
            addresses: None,
        }
    }
}

impl Http {
    /// Reads the certificates that vouch for servers.
    ///
    /// # Errors
    ///
    /// The file or the proxy of `settings` cannot be used, or there is no certificate at all.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = &settings.ca_file {
            add(&mut roots, file)?;
        }
        Self::with(roots, settings)
    }

    /// The same calls to servers for which `ca_file` alone vouches; it is read now.
    pub(crate) fn trusting_only(&self, ca_file: &Path) -> Result<Self, HttpError> {
        let mut roots = RootCertStore::empty();
        add(&mut roots, ca_file)?;
        Self::with(roots, self.settings.clone())
    }

    fn with(roots: RootCertStore, settings: HttpSettings) -> Result<Self, HttpError> {
        if roots.is_empty() {
            return Err(refused(
                "the system's certificates",
                "there is none, so nobody vouches for a server; name a ca_file",
            ));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider serves both versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let at = settings.addresses.as_ref();
        let direct = client(&config, None, at, (LIMIT, CONNECT_LIMIT))?;
        let near = client(&config, None, None, (NEAR_LIMIT, NEAR_CONNECT_LIMIT))?;
        let proxied = match &settings.https_proxy {
            None => direct.clone(),
            Some(url) => {
                let wrong = |_| refused("HTTPS_PROXY", "it is no URL such as http://proxy:3128");
                let proxy = Proxy::https(url.expose()).map_err(wrong)?;
                let except = settings.no_proxy.as_deref().and_then(NoProxy::from_string);
                let proxy = Some(proxy.no_proxy(except));
                client(&config, proxy, at, (LIMIT, CONNECT_LIMIT))?
            }
        };
        Ok(Self {
            proxied,
            direct,
            near,
            settings,
        })
    }

    /// Makes one call. Dropped, it ends at once; whether the request arrived is not known then.
    ///
    /// # Errors
    ///
    /// [`HttpError`]; an answer of any status is none.
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, HttpError> {
        let url = parse(call.url).map_err(|why| refused("the address", why))?;
        let client = if url.scheme() == "https" {
            &self.proxied
        } else {
            &self.direct
        };
        send(client, url, call).await
    }

    /// The same to what a cloud has put beside this machine, by plain HTTP and never through a proxy: the proxy would
    /// get the answer that is meant for this machine.
    pub(crate) async fn call_near(&self, call: Call<'_>) -> Result<Answer, HttpError> {
        let url = parse_near(call.url).map_err(|why| refused("the address", why))?;
        send(&self.near, url, call).await
    }
}

async fn send(client: &Client, mut url: Url, call: Call<'_>) -> Result<Answer, HttpError> {
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(call.query);
    }
    let host = place(&url);
    let request = match call.verb {
        Verb::Get => client.get(url),
        Verb::Put => client.put(url).header("content-length", "0"),
        Verb::Json(body) => client
            .post(url)
            .header("content-type", "application/json")
            .body(body.to_vec()),
        Verb::Form(body) => client
            .post(url)
            .header("content-type", FORM)
            .body(body.to_owned()),
    };
    let request = request.headers(headers(call.headers)?);
    let failed = |error: reqwest::Error| failed(&host, error);
    let mut response = request.send().await.map_err(failed)?;
    let text = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        (value.len() <= 128).then(|| value.to_owned())
    };
    let (request_id, retry_after) = (text("request-id"), text("retry-after"));
    let flavor = text("metadata-flavor");
    let status = response.status().as_u16();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err(HttpError::TooLong { host });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status,
        request_id,
        retry_after: retry_after.and_then(|value| value.parse().ok()),
        flavor,
        body,
    })
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn client(
    config: &ClientConfig,
    proxy: Option<Proxy>,
    addresses: Option<&(String, Vec<IpAddr>)>,
    (limit, connect_limit): (Duration, Duration),
) -> Result<Client, HttpError> {
    let builder = Client::builder()
        .tls_backend_preconfigured(config.clone())
        .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .timeout(limit)
        .connect_timeout(connect_limit)
        // A connection that waits may die at the moment it is used, and then nobody knows what arrived.
        .pool_max_idle_per_host(0)
        .http1_only()
        // What the environment says is in the settings already.
        .no_proxy();
    let builder = match proxy {
        Some(proxy) => builder.proxy(proxy),
        None => builder,
    };
    let builder = match addresses {
        Some((host, addresses)) => {
            // The port is that of the URL.
            let addresses = addresses.iter().map(|ip| SocketAddr::new(*ip, 0));
            builder.resolve_to_addrs(host, &addresses.collect::<Vec<_>>())
        }
        None => builder,
    };
    builder
        .build()
        .map_err(|error| refused("outgoing HTTP", &error.without_url().to_string()))
}

fn headers(list: &[(&'static str, &str)]) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    for &(name, value) in list {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| refused(&format!("the header {name}"), "it has control characters"))?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

fn failed(host: &str, error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let host = host.to_owned();
    if error.is_connect() || error.is_builder() {
        let cause = Box::new(error);
        HttpError::NotSent { host, cause }
    } else {
        let cause = Box::new(error);
        HttpError::Unknown { host, cause }
    }
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), HttpError> {
    let what = file.display().to_string();
    let read =
        CertificateDer::pem_file_iter(file).map_err(|why| refused(&what, &why.to_string()))?;
    let mut count = 0;
    for certificate in read {
        let certificate = certificate.map_err(|why| refused(&what, &why.to_string()))?;
        roots
            .add(certificate)
            .map_err(|why| refused(&what, &why.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(refused(&what, "it has no certificate"));
    }
    Ok(())
}

fn refused(what: &str, why: &str) -> HttpError {
    HttpError::Settings {
        what: what.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_proxy_variable_says_nothing() {
        let environment = Environment::of(&[("HTTPS_PROXY", ""), ("https_proxy", "http://p:1")]);
        let settings = HttpSettings::from_environment(&environment, None);
        assert_eq!(settings.https_proxy.unwrap().expose(), "http://p:1");
        assert_eq!(settings.no_proxy, None);
    }

    #[test]
    fn what_is_wrong_with_a_proxy_is_said_without_its_password() {
        let settings = HttpSettings {
            https_proxy: Some(Secret::new("http://u:canary@[::".to_owned())),
            ..HttpSettings::default()
        };
        let error = Http::new(settings.clone()).unwrap_err();
        assert!(!format!("{error} {error:?} {settings:?}").contains("canary"));
        assert!(error.to_string().starts_with("HTTPS_PROXY"), "{error}");
    }

    #[tokio::test]
    async fn no_error_has_the_query() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mute = std::thread::spawn(move || drop(listener.accept()));
        let http = Http::new(HttpSettings::default()).unwrap();
        for is_there in [true, false] {
            let call = Call {
                url: &address,
                query: &[("secret", "canary")],
                headers: &[],
                verb: Verb::Get,
            };
            let error = http.call(call).await.err().unwrap();
            assert_eq!(matches!(error, HttpError::Unknown { .. }), is_there);
            let told = format!("{error:?} {}", process::Chain(&error));
            assert!(!told.contains("canary"), "{told}");
        }
        mute.join().unwrap();
    }
}
