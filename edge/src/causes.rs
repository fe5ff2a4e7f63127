//! Errors of libraries that repeat in their own text what is behind them, told once.
//!
//! Our own say one level each: those are [`process::Chain`]'s.

use std::error::Error;

/// An error with what is behind it, on one line, each part once.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}
