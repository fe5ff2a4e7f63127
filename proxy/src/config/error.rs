//! Every reason to refuse a configuration, each with the next thing to do.

use std::io;
use std::path::PathBuf;

use process::Failure;
use thiserror::Error;

use crate::route::RouteError;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum ConfigError {
    /// A file that is named cannot be read; worded as the stock proxy does.
    #[error("open {}: {}", path.display(), reason(error))]
    Open { path: PathBuf, error: io::Error },
    #[error("the configuration is not valid YAML: {detail}")]
    Syntax { detail: String },
    #[error("unknown key {key:?} in line {line}")]
    UnknownKey {
        key: String,
        line: u64,
        nearest: &'static str,
    },
    #[error("key {key:?} is given twice, again in line {line}")]
    TwiceTheKey { key: String, line: u64 },
    #[error("routes: line {line}: {detail}")]
    RoutesShape { detail: String, line: u64 },
    #[error("{key} is not set")]
    Missing {
        key: &'static str,
        next: &'static str,
    },
    #[error("{key}: {value:?} {reason}")]
    Value {
        key: &'static str,
        value: String,
        reason: &'static str,
        next: &'static str,
    },
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("route {route:?} is a bare subdomain and tunnel_domain is not set")]
    BareRoute { route: String },
    #[error("upstream.allowed_ips and upstream.disable_ip_validation exclude each other")]
    BothAddressRules,
    #[error("upstream.allowed_ips is an empty list, with which nothing could be dialled")]
    NothingAllowed,
    #[error("no carrier is configured")]
    NoCarrier,
    #[error(
        "carriers.edge is configured and tls.client_ca is not: whoever runs the edge could call"
    )]
    EdgeWithoutClientCa,
    #[error(
        "carriers.edge.secret_file is not set, and neither is control.socket, from where the secret could come"
    )]
    NoSecretSource,
    #[error("no source of a server certificate is configured")]
    NoCredentialSource,
    #[error("routes is \"daemon\" and control is not configured")]
    DaemonRoutesWithoutControl,
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key", path.display())]
    NoKey { path: PathBuf },
    #[error("{} holds no secret: one line of visible ASCII", path.display())]
    NoSecret { path: PathBuf },
    #[error("{} is no usable private key", path.display())]
    BadKey { path: PathBuf },
    #[error("{} is no certificate that TLS can serve: {detail}", path.display())]
    BadCertificate { path: PathBuf, detail: String },
    #[error("{} holds no certificate", path.display())]
    NoAuthority { path: PathBuf },
    #[error("{} holds no certificate authority that can be used: {detail}", path.display())]
    BadAuthority { path: PathBuf, detail: String },
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate in {} has expired", path.display())]
    Expired { path: PathBuf },
    #[error("the certificate in {} is not yet valid", path.display())]
    NotYetValid { path: PathBuf },
    #[error("the system has no certificate authorities")]
    NoSystemAuthorities,
}

impl ConfigError {
    /// The next thing to do.
    pub fn next(&self) -> String {
        match self {
            Self::Open { path, error } => open_next(path, error),
            Self::Syntax { .. } => "indent with spaces and quote texts that begin with * & ! | > % @".to_owned(),
            Self::UnknownKey { nearest, .. } => format!("the nearest known key is {nearest:?}"),
            Self::TwiceTheKey { .. } => "remove one of the two".to_owned(),
            Self::RoutesShape { .. } => {
                "write routes as a map with one line for each, name: scheme://host:port".to_owned()
            }
            Self::Missing { next, .. } | Self::Value { next, .. } => (*next).to_owned(),
            Self::Route(error) => error.next(),
            Self::BareRoute { route } => {
                format!("set tunnel_domain, or write the whole host name in place of {route:?}")
            }
            Self::BothAddressRules => {
                "remove upstream.disable_ip_validation and keep the list".to_owned()
            }
            Self::NothingAllowed => {
                "remove the key for the private ranges, or list the networks of your upstreams".to_owned()
            }
            Self::NoCarrier => {
                "set listen_addr, for instance \":8080\", carriers.tls.listen_addr, or carriers.edge".to_owned()
            }
            Self::EdgeWithoutClientCa => {
                "set tls.client_ca, or carriers.edge.allow_without_client_certificate: true".to_owned()
            }
            Self::NoSecretSource => {
                "write the path of the file that holds the shared secret, or set control.socket and control.tunnels".to_owned()
            }
            Self::NoCredentialSource => {
                "set tls.cert_file and tls.key_file, or control.socket".to_owned()
            }
            Self::DaemonRoutesWithoutControl => {
                "set control.socket, or write the routes here".to_owned()
            }
            Self::NoCertificate { .. } | Self::BadCertificate { .. } => {
                "write the PEM certificate chain there, the server certificate first".to_owned()
            }
            Self::NoAuthority { .. } | Self::BadAuthority { .. } => {
                "write the certificates of the authorities to trust there, as PEM".to_owned()
            }
            Self::NoKey { .. } | Self::BadKey { .. } => {
                "write the private key there as unencrypted PEM".to_owned()
            }
            Self::NoSecret { .. } => "write the shared secret there, and nothing else".to_owned(),
            Self::KeyMismatch { .. } => {
                "put certificate and key of the same issuance there, or let keyward renew-cert write both".to_owned()
            }
            Self::Expired { .. } => "renew it: keyward renew-cert".to_owned(),
            Self::NotYetValid { .. } => "compare the clocks of this machine and of the issuer".to_owned(),
            Self::NoSystemAuthorities => {
                "install ca-certificates, or set upstream.tls.ca_file".to_owned()
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::config(error.to_string()).next(error.next())
    }
}

fn open_next(path: &std::path::Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("create {}, or correct the path", path.display()),
        io::ErrorKind::PermissionDenied => {
            format!("let the user of this process read {}", path.display())
        }
        _ => format!("make {} a readable file", path.display()),
    }
}

/// The system's word for an error as the stock proxy, a Go program, prints it, without Rust's `(os error N)`.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
