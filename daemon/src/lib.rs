//! The daemon: owns the keys, the time and the journal of a tunnel's credentials.

pub mod board;
pub mod cli;
pub mod config;
mod custody;
mod disk;
pub mod journal;
pub mod operator;
pub mod publisher;
pub mod renew;
pub mod rotation;
pub mod rotator;
mod served;
pub mod socket;
pub mod status;
mod store;
mod swapped;
mod time;
