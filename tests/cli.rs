//! `keyward` as a person or a script meets it: the real program, its words and its exit codes.

mod client;
mod commands;
mod daemon;
mod documents;
pub(crate) mod process;
mod proxy;
pub(crate) mod stage;

pub(crate) use documents::undocumented;
