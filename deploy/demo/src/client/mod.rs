//! MCP clients: the official SDK over our own connections, through either carrier.

mod http;
mod session;
mod transport;

use std::net::SocketAddr;

use thiserror::Error;

pub use self::http::{Answer, Connection, Http, HttpVersion, Target};
pub use self::session::{Revision, Session};
pub use self::transport::{Standing, Transport};

/// Why a call failed. Variants are the layers of the path, from the outside to the inside.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The carrier's address took no connection.
    #[error("no connection to {0}")]
    Tcp(SocketAddr, #[source] std::io::Error),
    /// The handshake of inner TLS failed.
    #[error("inner TLS failed")]
    Tls(#[source] std::io::Error),
    /// HTTP inside inner TLS broke.
    #[error("HTTP broke: {0}")]
    Http(String),
    /// The answer is none of the MCP server's.
    #[error("HTTP status {status}: {text}")]
    Status {
        /// Status code.
        status: u16,
        /// First part of the body.
        text: String,
    },
    /// The MCP session or request failed.
    #[error("MCP failed: {0}")]
    Mcp(String),
    /// An answer came and is not what was asked for.
    #[error("wrong answer: {0}")]
    Content(String),
    /// The request cannot be written.
    #[error("cannot ask: {0}")]
    Request(String),
}

impl CallError {
    /// Where on the path it happened.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Tcp(..) => "tcp",
            Self::Tls(_) => "inner TLS",
            Self::Http(_) | Self::Status { .. } => "http",
            Self::Mcp(_) => "mcp",
            Self::Content(_) => "content",
            Self::Request(_) => "request",
        }
    }

    pub(crate) fn http(error: &hyper::Error) -> Self {
        Self::Http(chain(error))
    }
}

/// An error with what is behind it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let part = inner.to_string();
        // Many libraries repeat their source in their own text.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = inner.source();
    }
    text
}
