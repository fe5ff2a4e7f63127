//! The contract of the state, on both databases.

mod backup;
mod changes;
mod rules;
mod schema;
mod several;
mod transport;
