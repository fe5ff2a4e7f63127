//! `keyward` as a person or a script meets it: the real program, its words and its exit codes.

mod check;
mod client;
mod closed;
mod commands;
mod daemon;
mod documents;
mod faults;
mod interrupted;
mod places;
pub(crate) mod process;
mod proxy;
mod signals;
pub(crate) mod stage;
mod watch;

pub(crate) use documents::undocumented;
