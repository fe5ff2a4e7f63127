//! The contract between edge and proxy (`edge.md` section 2): names, bounds and the messages of the
//! control stream.
//!
//! The proxy dials TLS with ALPN `http/1.1`, upgrades `GET /v1/connect` to [`PROTOCOL`], and from the 101
//! on speaks HTTP/2 (RFC 9113) as the *server*. The edge's first stream is `POST /control` with both
//! bodies open, each a sequence of JSON lines; every further one is a CONNECT, one for each agent's
//! connection. Nothing here reads or writes a socket.

mod line;
mod message;

use std::time::Duration;

pub use line::{LineError, Lines, MAX_LINE, line};
pub use message::{FromEdge, FromProxy, Refused, Value};

/// Where a proxy asks to be connected.
pub const CONNECT_PATH: &str = "/v1/connect";
/// Where the edge opens the control stream.
pub const CONTROL_PATH: &str = "/control";
/// What the connection is upgraded to (RFC 9110 section 7.8).
pub const PROTOCOL: &str = "keyward-tunnel/1";

/// Request: the tunnel's id.
pub const TUNNEL: &str = "keyward-tunnel";
/// Request: name of the proxy's replica; on a CONNECT: the replica that is meant.
pub const REPLICA: &str = "keyward-replica";
/// The longest name of a replica.
pub const MAX_REPLICA: usize = 128;
/// 101: name of the edge's instance.
pub const EDGE_INSTANCE: &str = "keyward-edge-instance";
/// 101: how many instances there are.
pub const EDGE_INSTANCES: &str = "keyward-edge-instances";
/// CONNECT: who calls (RFC 7239).
pub const FORWARDED: &str = "forwarded";
/// CONNECT: the certificate that the outer TLS proved (RFC 9440).
pub const CLIENT_CERT: &str = "client-cert";

/// HTTP/2 window of a stream, both sides: what one stopped reader can hold.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// HTTP/2 window of the connection, both sides. The largest there is: were it smaller, streams whose
/// readers have stopped would use it up and block all others for ever.
pub const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Longest DATA frame, both sides.
pub const MAX_FRAME: u32 = 64 << 10;
/// A stream whose write makes no progress for this long is closed, on both sides.
pub const STALL: Duration = Duration::from_secs(30);
/// PING this often, both sides: below the shortest idle limit known of what stands between.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// A peer that answers no PING for this long is gone.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
