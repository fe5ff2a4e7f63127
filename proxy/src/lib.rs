//! The data plane of an MCP tunnel.

pub mod config;
pub mod forward;
