//! Trust bundles, which the edge keeps and passes on and cannot make. *Ours.*

use serde::{Deserialize, Serialize};

/// `PUT /v1/tunnels/{id}/bundles/{sequence}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutBundle {
    /// Compact JWS, `typ: keyward-bundle+jwt`, at most 192 KiB.
    pub bundle: String,
}

/// One bundle as it was put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Always `tunnel_bundle`.
    pub r#type: String,
    /// Counts up from 1; a lower one is refused.
    pub sequence: u64,
    /// Compact JWS.
    pub bundle: String,
}
