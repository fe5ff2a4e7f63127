//! The daemon: owns the keys, the time and the journal of a tunnel's credentials.

pub mod board;
pub mod operator;
pub mod config;
pub mod publisher;
pub mod socket;
pub mod status;
