//! A tunnel's own name: bytes go to its proxy untouched, and nothing of TLS is ended here.
//!
//! Unknown, archived, suspended and closed look the same from outside, `unrecognized_name`; the log has the
//! reason.

use std::sync::Arc;

use rustls::AlertDescription;
use tokio::net::TcpStream;
use tokio_rustls::rustls;

use super::Shared;
use super::caller::Agent;
use super::hello::{self, ClientHello};
use super::link::Ask;

/// A client may take this long to read why it was refused.
const REFUSAL_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Relays one connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut socket: TcpStream,
    hello: ClientHello,
    agent: Agent,
) {
    let name = hello.server_name.as_deref().unwrap_or_default();
    let admitted = match agent.admit(&shared, name) {
        Ok(admitted) => admitted,
        Err(refused) => {
            say(&shared, &agent, name, refused.word());
            return refuse(socket, AlertDescription::UnrecognisedName).await;
        }
    };
    let ask = Ask {
        name,
        peer: agent.peer,
        certificate: None,
        replica: None,
        first: hello.bytes.clone().into(),
    };
    let opened = tokio::select! {
        opened = shared.links.open(&admitted.tunnel, &ask) => opened,
        () = shared.cut.cancelled() => return,
    };
    match opened {
        Ok(stream) => {
            drop(ask);
            drop(hello);
            let (read, write) = socket.split();
            admitted.relay(&shared, (read, write), stream).await;
        }
        Err(error) => {
            shared.telemetry.refuse("no_proxy");
            if let Some(count) = shared.paces.due("no_proxy") {
                let tunnel = &*admitted.tunnel;
                tracing::warn!(tunnel, name, %error, count, "agent not connected");
            }
            refuse(socket, AlertDescription::InternalError).await;
        }
    }
}

/// Counts a refusal, and logs each kind now and then.
pub(super) fn say(shared: &Shared, agent: &Agent, name: &str, reason: &'static str) {
    shared.telemetry.refuse(reason);
    if let Some(count) = shared.paces.due(reason) {
        tracing::warn!(name, peer = %agent.peer, reason, count, "agent refused");
    }
}

/// Sends an alert and closes, within a second.
pub(super) async fn refuse(socket: TcpStream, alert: AlertDescription) {
    let _ = tokio::time::timeout(REFUSAL_LIMIT, hello::refuse(socket, alert)).await;
}
