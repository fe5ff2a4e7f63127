//! Futures behind a pointer, where a closure must return one.

use std::pin::Pin;

/// A boxed future of `T`.
pub type Pinned<T> = Pin<Box<dyn Future<Output = T> + Send>>;
