//! The control channel: how the daemon hands credentials to those who carry traffic.
//!
//! The daemon listens, each subscriber connects and stays. One JSON object a line, at most
//! [`MAX_MESSAGE`] bytes. A subscriber says [`Hello`] first and is answered by [`Welcome`] or
//! [`Refused`]; from then on the daemon sends whole resources, each with its own generation and its
//! tunnel, and the subscriber answers each with [`Ack`] or [`Nack`].
//!
//! **Compatibility.** Unknown fields and unknown kinds are ignored, so a newer minor version may add
//! both; a newer major version is refused by name. See [`Version::accepts`].
//!
//! **Scope.** A subscriber gets what its role needs and nothing else: a proxy gets `credential` and
//! `policy`, a connector gets `tunnel`.
//!
//! This crate knows the messages and their framing. It opens no socket and decides nothing.

mod frame;
mod message;
mod secret;

pub use frame::{FrameError, MAX_MESSAGE, Reader, Writer};
pub use message::{
    Ack, Bye, Credential, FromDaemon, FromSubscriber, Hello, Leaf, Manifest, Nack, Policy, Reason,
    Refusal, Refused, Report, Resource, Role, Route, Serving, Tunnel, TunnelReport, Verdicts,
    Version, Welcome, word,
};
pub use secret::Secret;
