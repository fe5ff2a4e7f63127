//! The contract of the state, on both databases.

mod backup;
mod changes;
mod credentials;
mod federation;
mod rules;
mod schema;
mod several;
mod transport;
