//! Lists, a page at a time, newest first.

use serde::{Deserialize, Serialize};

/// Objects on a page, unless `limit` says otherwise.
pub const DEFAULT_LIMIT: u32 = 20;
/// The largest `limit`.
pub const MAX_LIMIT: u32 = 1000;

/// One page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// The objects.
    pub data: Vec<T>,
    /// To be sent as `page` for the next one; null on the last.
    pub next_page: Option<String>,
}
