//! The tunnel edge that anyone can host.

pub mod assertion;
mod base64url;
pub mod command;
pub mod pinned;
pub mod plane;
pub mod state;
#[cfg(test)]
pub(crate) mod tests;
