//! The data plane of an MCP tunnel.

pub mod config;
pub mod forward;
pub mod reload;
pub mod route;
pub mod upstream;
