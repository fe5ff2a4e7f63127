//! After an answer 101: bytes both ways between caller and upstream, whatever protocol they speak.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use process::Chain;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};

use super::Caller;
use crate::upstream::Parts;

/// Each direction; the size at which larger ones stop paying.
const BUFFER: usize = 32 << 10;

/// Copies until both sides have ended, one of them breaks, or time is up for the caller.
pub(super) async fn splice(upgrade: OnUpgrade, parts: Parts, caller: Arc<Caller>) {
    let Parts { mut stream, early } = parts;
    let copy = async {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "caller left before the upgrade");
                return;
            }
        };
        let mut near = TokioIo::new(upgraded);
        let copied = async {
            near.write_all(&early).await?;
            copy_bidirectional_with_sizes(&mut near, &mut stream, BUFFER, BUFFER).await
        };
        if let Err(error) = copied.await {
            tracing::debug!(%error, "upgraded connection broke");
        }
    };
    tokio::select! {
        () = copy => {}
        () = caller.cut.cancelled() => {}
    }
}
