//! Every program of Keyward on loopback, real MCP calls through the whole path, every credential
//! rotating meanwhile; and the parts of it for tests and benchmarks.
//!
//! [`stack::Stack`] starts daemon, proxy, [`sample`] server and [`connector`] double as separate
//! processes. [`bridge::Bridge`] is the provider's side of the carrier `websocket`;
//! [`client::Session`] calls MCP through either carrier and trusts what [`trust::Trust`] holds;
//! [`load::Load`] keeps calls of all shapes in flight and writes what happens into a
//! [`ledger::Ledger`]. Nothing here is linked by the daemon or the proxy.

pub mod bridge;
pub mod client;
pub mod command;
pub mod connector;
pub mod ledger;
pub mod load;
mod report;
pub mod run;
pub mod sample;
pub mod stack;
pub mod trust;
pub mod upstream;
