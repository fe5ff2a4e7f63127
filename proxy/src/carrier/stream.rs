//! What inner TLS runs on, as one type for all carriers: so the HTTP stack is compiled once.

use process::Stalling;
use tokio::net::TcpStream;

use super::WebSocket;
use crate::dial::Tunnelled;
use crate::one_of::one_of;

/// Bytes of inner TLS from and to a peer.
pub(crate) enum Stream {
    Tcp(TcpStream),
    WebSocket(Box<WebSocket<TcpStream>>),
    /// A stream that the edge opened.
    Edge(Stalling<Tunnelled>),
}

one_of!(Stream: Tcp, WebSocket, Edge);
