//! From a TLS connection to a stream on which the edge opens streams: the Upgrade.

use std::sync::Arc;
use std::time::Duration;

use control::Secret;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use process::Tasks;
use thiserror::Error;

use super::reach::{self, ReachError};
use super::turns::Turns;
use crate::config::EdgeCarrier;

/// What an edge says about a refusal.
const LONGEST_REFUSAL: usize = 8 << 10;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum AttachError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error("the edge broke off")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    #[error("the edge refused with status {status}: {text}")]
    Refused {
        status: u16,
        text: String,
        retry_after: Option<Duration>,
    },
}

/// A connection that the edge has taken.
pub(super) struct Attached {
    pub(super) stream: Upgraded,
    /// What it was taken with.
    pub(super) secret: Arc<Secret>,
    /// Which instance of the edge it is.
    pub(super) instance: String,
    /// How many there are.
    pub(super) instances: u32,
}

/// Dials and presents `secret`. Dropping the future gives it up.
pub(super) async fn attach(
    edge: &EdgeCarrier,
    turns: &Turns,
    secret: Arc<Secret>,
    tasks: &Tasks,
) -> Result<Attached, AttachError> {
    let request = request(edge, &secret)?;
    let stream = reach::reach(edge, turns).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn(async move {
        // Why it broke is told to whoever waits for the answer.
        let _ = connection.with_upgrades().await;
    });
    let mut answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(answer).await);
    }
    let instance = text(answer.headers(), wire::EDGE_INSTANCE)
        .unwrap_or("unnamed")
        .to_owned();
    let instances = text(answer.headers(), wire::EDGE_INSTANCES);
    let instances = instances.and_then(|count| count.parse().ok()).unwrap_or(1);
    Ok(Attached {
        stream: hyper::upgrade::on(&mut answer).await?,
        secret,
        instance,
        instances,
    })
}

fn request(edge: &EdgeCarrier, secret: &Secret) -> Result<Request<Empty<Bytes>>, http::Error> {
    let bearer = Secret::new(format!("Bearer {}", secret.expose()));
    let mut bearer = HeaderValue::from_str(bearer.expose())?;
    bearer.set_sensitive(true);
    let host = match edge.port {
        443 => edge.host.clone(),
        port => format!("{}:{port}", edge.host),
    };
    Request::get(wire::CONNECT_PATH)
        .header(header::HOST, host)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, wire::PROTOCOL)
        .header(header::AUTHORIZATION, bearer)
        .header(wire::TUNNEL, &edge.tunnel)
        .header(wire::REPLICA, &edge.replica)
        .body(Empty::new())
}

async fn refused(answer: http::Response<Incoming>) -> AttachError {
    let status = answer.status().as_u16();
    let seconds = text(answer.headers(), header::RETRY_AFTER.as_str());
    let retry_after = seconds
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    let body = Limited::new(answer.into_body(), LONGEST_REFUSAL);
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let body: serde_json::Value =
        serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    let said = body.pointer("/error/message");
    let said = said.and_then(serde_json::Value::as_str).unwrap_or_default();
    AttachError::Refused {
        status,
        text: said
            .chars()
            .filter(|letter| !letter.is_control())
            .take(200)
            .collect(),
        retry_after,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
