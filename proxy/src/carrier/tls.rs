//! Carrier `tls`: a TCP connection whose bytes are inner TLS, behind a PROXY protocol header if so
//! configured.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Arrival, Carrier, CarrierError, Leaving, Stream, proxy_protocol};

/// Settings of the carrier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tls {
    /// Each connection begins with a PROXY protocol v2 header.
    pub(crate) proxy_protocol: bool,
}

impl Carrier for Tls {
    const NAME: &'static str = "tls";

    async fn open(&self, mut socket: TcpStream, peer: SocketAddr) -> Result<Arrival, CarrierError> {
        let peer = if self.proxy_protocol {
            // A health check of the load balancer itself says LOCAL and names nobody.
            proxy_protocol::read(&mut socket).await?.unwrap_or(peer)
        } else {
            peer
        };
        Ok(Arrival {
            stream: Stream::Tcp(socket),
            peer: Some(peer),
            leaving: Leaving::default(),
            mutual: false,
            retire: CancellationToken::new(),
        })
    }
}
