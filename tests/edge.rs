//! The edge between agents and proxies: real programs, real sockets, a tunnel whose credential and access
//! change while traffic flows, and whoever means harm.

mod access;
mod credential;
mod harm;
mod path;
mod several;
mod stand;
mod state;

pub(crate) use access::hello;
