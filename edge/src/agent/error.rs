//! Why a call was not carried: which layer of the path it was, and what to do next, in one sentence.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use http::StatusCode;
use rustls::AlertDescription;
use thiserror::Error;
use tokio_rustls::rustls;

use crate::causes::causes;

/// Why a call was not carried. Variants are the layers, from the outside to the inside. Texts and no
/// sources, because everybody who waited for a connection is told why there is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum CarryError {
    /// The edge's name has no addresses.
    #[error("{host} cannot be resolved: {cause}")]
    Resolve { host: String, cause: String },
    /// No connection, or it ended before anything was decided.
    #[error("the edge at {address} cannot be reached: {cause}")]
    Unreachable { address: SocketAddr, cause: String },
    /// Somebody else answered, or with a certificate of another CA.
    #[error("the certificate of the edge at {address} is not trusted: {cause}")]
    EdgeUntrusted { address: SocketAddr, cause: String },
    /// The edge says why.
    #[error("the edge refuses {name}: {text} ({word})")]
    Refused {
        name: String,
        status: StatusCode,
        word: String,
        text: String,
    },
    /// The inner server certificate.
    #[error("the certificate of {name} is not trusted: {cause}")]
    ProxyUntrusted { name: String, cause: String },
    /// The proxy's alert.
    #[error("the proxy of {name} refuses the client certificate: {cause}")]
    ProxyRefused { name: String, cause: String },
    /// Inner TLS or what runs in it ended before there was an answer.
    #[error("the connection to the proxy of {name} broke before there was an answer: {cause}")]
    Broken { name: String, cause: String },
    /// Nothing is wrong with the path, there is only too much on it.
    #[error("too many routes are in use")]
    TooMany,
    /// The caller's side.
    #[error("the request broke off before its end")]
    Caller,
}

impl CarryError {
    /// The layer, as a word of a closed list.
    pub(super) fn layer(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "name",
            Self::Unreachable { .. } => "edge",
            Self::EdgeUntrusted { .. } => "edge certificate",
            Self::Refused { .. } => "edge policy",
            Self::ProxyUntrusted { .. } => "tunnel certificate",
            Self::ProxyRefused { .. } => "client certificate",
            Self::Broken { .. } => "tunnel",
            Self::TooMany | Self::Caller => "agent",
        }
    }

    /// What to do about it.
    pub(super) fn next(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "check --edge, or give --edge-address",
            Self::Unreachable { .. } => "check --edge and that its port is open from here",
            Self::EdgeUntrusted { .. } => "check --edge, or give the edge's own CA with --edge-ca",
            Self::Refused { word, .. } => refused(word),
            Self::ProxyUntrusted { .. } => "give the tunnel's CA certificate with --ca",
            Self::ProxyRefused { .. } => "ask for a certificate of the tunnel's client CA",
            Self::Broken { .. } => "try again; if it stays, look at the proxy's log",
            Self::TooMany => "close some, or try again in a minute",
            Self::Caller => "send it again",
        }
    }

    /// Whether another address of the edge may do better.
    pub(super) fn is_for_one_edge(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::EdgeUntrusted { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            _ => false,
        }
    }

    /// 503 where trying again may help, 502 where somebody has to do something. Never one that an MCP
    /// client understands as its server's: 401, 403 and 404 make it sign in or begin a new session.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::EdgeUntrusted { .. }
            | Self::ProxyUntrusted { .. }
            | Self::ProxyRefused { .. }
            | Self::Resolve { .. } => StatusCode::BAD_GATEWAY,
            Self::Refused { status, .. } => match *status {
                StatusCode::TOO_MANY_REQUESTS => StatusCode::TOO_MANY_REQUESTS,
                status if status.is_server_error() => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::Unreachable { .. } | Self::Broken { .. } | Self::TooMany => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Caller => StatusCode::BAD_REQUEST,
        }
    }

    /// How far along the path it happened: of several, the one that came farthest says most.
    pub(super) fn depth(&self) -> u8 {
        match self {
            Self::Caller | Self::TooMany | Self::Resolve { .. } => 0,
            Self::Unreachable { .. } => 1,
            Self::EdgeUntrusted { .. } => 2,
            Self::Broken { .. } => 3,
            Self::Refused { .. } => 4,
            Self::ProxyUntrusted { .. } | Self::ProxyRefused { .. } => 5,
        }
    }

    /// The whole sentence.
    pub(super) fn sentence(&self) -> String {
        format!("{self}; {}", self.next())
    }
}

/// The reasons of the edge, `docs/edge.md`.
fn refused(word: &str) -> &'static str {
    match word {
        "unknown_tunnel" | "archived" => "check --tunnel-domain and the name of the route",
        "suspended" => "ask who runs the edge to resume the tunnel",
        "certificate_required" | "unknown_ca" | "bad_certificate" => {
            "ask for a certificate of a client CA that the tunnel accepts"
        }
        "certificate_expired" | "certificate_not_yet_valid" => {
            "renew the certificate, and check the clock"
        }
        "certificate_denied" | "client_not_listed" => "ask who runs the tunnel for access",
        "address" | "network" | "closed" => {
            "ask who runs the tunnel to accept calls from this network"
        }
        "too_many" => "close some connections, or try again in a minute",
        "no_proxy" | "stale" => "try again in a moment; if it stays, start the tunnel's proxy",
        _ => "look at the edge's log",
    }
}

/// What ended TLS.
pub(super) enum TlsEnd {
    /// The peer's certificate was not taken.
    Untrusted(String),
    /// The peer said no.
    Alert(AlertDescription),
    /// Anything else.
    Broke(String),
}

impl TlsEnd {
    /// Out of an error with rustls somewhere behind it.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        match tls(error) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Untrusted(why.to_string()),
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            _ => Self::Broke(causes(error)),
        }
    }
}

fn tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an io::Error wraps is not its source, but its source's parent.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(found) = wrapped {
            let found: &(dyn Error + 'static) = found;
            next = Some(found);
        } else {
            next = error.source();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_the_reason_and_the_next_step() {
        let refused = CarryError::Refused {
            name: "docs.t.example".to_owned(),
            status: StatusCode::FORBIDDEN,
            word: "certificate_denied".to_owned(),
            text: "the certificate is denied".to_owned(),
        };
        assert_eq!(
            refused.sentence(),
            "the edge refuses docs.t.example: the certificate is denied (certificate_denied); \
             ask who runs the tunnel for access"
        );
        assert_eq!(refused.status(), StatusCode::BAD_GATEWAY);
        assert!(!refused.is_for_one_edge());
    }

    #[test]
    fn the_alert_is_found_behind_every_wrapping() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert));
        assert!(matches!(
            TlsEnd::of(&wrapped),
            TlsEnd::Alert(AlertDescription::CertificateRequired)
        ));
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(matches!(TlsEnd::of(&broken), TlsEnd::Broke(_)));
    }
}
