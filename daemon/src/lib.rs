//! The daemon: owns the keys, the time and the journal of a tunnel's credentials.

pub mod board;
pub mod cli;
pub mod config;
pub mod operator;
pub mod publisher;
pub mod socket;
pub mod status;
