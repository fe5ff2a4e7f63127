//! The contract of the state, on both databases.

mod backup;
mod changes;
mod several;
mod transport;
