//! How far a change has come among the edges. *Ours.*

use serde::{Deserialize, Serialize};

/// Part of the answer to every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Edges that act on the change already.
    pub instances: u32,
    /// Edges there are.
    pub of: u32,
}
