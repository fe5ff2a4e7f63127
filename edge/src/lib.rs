//! The tunnel edge that anyone can host.

pub mod assertion;
mod base64url;
pub mod pinned;
pub mod state;
