//! The front half as a whole: real handshakes, real sockets, a real forwarder. Nothing here measures
//! time; what needs a timer runs on tokio's paused clock.

mod ask;
mod control;
mod denied;
mod ending;
mod fallback;
mod files;
mod limits;
mod refusals;
mod swap;
mod websocket;
mod world;
