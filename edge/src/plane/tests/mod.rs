//! The control plane over real HTTP on loopback, on both databases.

mod bundles;
mod certificates;
mod exchange;
mod http_client;
mod login;
mod mutations;
mod objects;
mod real;
mod reasons;
mod refusals;
