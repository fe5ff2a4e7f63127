//! The edge between agents and proxies: real programs, real sockets, a tunnel whose credential and access
//! change while traffic flows, and whoever means harm.

mod access;
mod agent;
mod agent_stdio;
mod credential;
mod database;
mod documents;
mod federation;
mod harm;
mod openapi;
mod path;
#[path = "../edge/src/tests/postgres.rs"]
mod postgres;
mod several;
mod stand;
mod state;
mod world;

pub(crate) use access::hello;
pub(crate) use agent::{Agent, command, mutual};
pub(crate) use stand::{OPEN, Stand};
