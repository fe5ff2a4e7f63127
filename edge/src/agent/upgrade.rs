//! After an answer 101: bytes both ways between caller and proxy, whatever protocol they speak.

use http::header;
use http::{HeaderValue, Response};
use http_body_util::{Either, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use process::Tasks;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

use super::headers;
use super::link::Answer;
use super::serve::Reply;

/// Answers 101 and copies until both sides have ended, one of them breaks, or time is up.
pub(super) fn begin(
    tasks: &Tasks,
    cut: &CancellationToken,
    caller: OnUpgrade,
    mut answer: Response<Answer>,
) -> Reply {
    let proxy = hyper::upgrade::on(&mut answer);
    let (mut parts, held) = answer.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::strip_answer(&mut parts.headers);
    let protocol = protocol.unwrap_or(HeaderValue::from_static("websocket"));
    headers::upgrade(&mut parts.headers, protocol);
    let (cut, stopping) = (cut.clone(), tasks.clone());
    tasks.spawn(async move {
        let copy = async {
            let (Ok(near), Ok(far)) = tokio::join!(caller, proxy) else {
                return;
            };
            let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
            // A connection that breaks is its two ends' business.
            let _ = copy_bidirectional(&mut near, &mut far).await;
        };
        tokio::select! {
            () = copy => {}
            () = async { stopping.stopping().await; cut.cancelled().await } => {}
        }
        drop(held);
    });
    Response::from_parts(parts, Either::Right(Full::default()))
}
