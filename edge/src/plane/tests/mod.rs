//! The control plane over real HTTP on loopback, on both databases.

mod exchange;
mod http_client;
mod objects;
mod real;
mod refusals;
