//! What an edge says of itself. *Ours.*

use serde::{Deserialize, Serialize};

/// `GET /v1/edge`, for whoever may ask; the daemon passes it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Always `edge`.
    pub r#type: String,
    /// The edge's name: `api.` and `agents.` stand before it.
    pub name: String,
    /// Its release.
    pub build: String,
    /// CAs of the edge's front certificate, PEM, at most two; empty: a public one.
    pub edge_ca_certificates: Vec<String>,
    /// How many edges serve together.
    pub instances: u32,
}
