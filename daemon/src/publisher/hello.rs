//! The first line of a subscription, and whether it stands.

use std::collections::BTreeSet;
use std::time::Duration;

use control::{
    FrameError, FromDaemon, FromSubscriber, Hello, Reader, Refusal, Refused, Role, Serving,
    Version, Writer,
};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::roster::{Scope, Seat, Taken};
use super::{Desk, bounded};

/// The longest name of a replica and of a build that is taken, in bytes.
const LONGEST_NAME: usize = 128;
/// A refused peer gets this long to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Who may subscribe, and to what.
pub(super) struct Admitted {
    pub(super) seat: Seat,
    pub(super) role: Role,
    /// Whole resources of these tunnels are sent.
    pub(super) tunnels: BTreeSet<String>,
    /// A proxy dials the edge of these.
    pub(super) dials: BTreeSet<String>,
    /// What the subscriber says that it serves already.
    pub(super) serving: Vec<Serving>,
}

/// Why somebody may not.
pub(super) struct Denied {
    /// For the log.
    pub(super) complaint: &'static str,
    /// For the peer, if one is listening.
    pub(super) answer: Option<Refused>,
}

/// Reads `hello` and judges it.
pub(super) async fn admit(
    desk: &Desk,
    reader: &mut Reader<OwnedReadHalf>,
    uid: u32,
) -> Result<Admitted, Denied> {
    if !desk.settings.subscribers.contains(&uid) {
        let detail = format!(
            "uid {uid} may not subscribe; add it to control.subscribers in keyward.yaml if it should"
        );
        return Err(Denied {
            complaint: "uid is not in control.subscribers",
            answer: Some(refusal(Refusal::Permission, detail)),
        });
    }
    let first = timeout(desk.limits.hello, reader.next::<FromSubscriber>()).await;
    let hello = match first {
        Ok(Ok(Some(FromSubscriber::Hello(hello)))) if named(&hello) => hello,
        // It connected and left, as a probe does: nobody is there to be told why.
        Ok(Ok(None) | Err(FrameError::Io(_))) => {
            return Err(Denied {
                complaint: "closed before hello",
                answer: None,
            });
        }
        Ok(Ok(Some(_)) | Err(_)) => return Err(malformed("the first line is no hello")),
        Err(_) => return Err(malformed("no hello in time")),
    };
    if !Version::CURRENT.accepts(hello.protocol) {
        let detail = format!(
            "this daemon speaks {}, the subscriber {}; run both from the same release",
            Version::CURRENT,
            hello.protocol
        );
        return Err(Denied {
            complaint: "protocol",
            answer: Some(refusal(Refusal::Protocol, detail)),
        });
    }
    let tunnels = named_of(&hello.tunnels, &desk.settings.tunnels)?;
    let tunnels = tunnels.unwrap_or_else(|| desk.settings.tunnels.clone());
    let dials = match hello.role {
        Role::Proxy => named_of(&hello.dials, &tunnels)?.unwrap_or_default(),
        Role::Connector => BTreeSet::new(),
    };
    let scope = Scope {
        tunnels: tunnels.iter().cloned().collect(),
        dials: dials.iter().cloned().collect(),
    };
    let seat = desk
        .roster
        .enter(&hello, uid, scope)
        .map_err(|taken| no_seat(taken, &hello))?;
    Ok(Admitted {
        seat,
        role: hello.role,
        dials,
        serving: bounded::serving(hello.serving, &tunnels),
        tunnels,
    })
}

fn named(hello: &Hello) -> bool {
    let printable = |text: &str| text.len() <= LONGEST_NAME && !text.contains(char::is_control);
    !hello.replica.is_empty() && printable(&hello.replica) && printable(&hello.build)
}

fn malformed(complaint: &'static str) -> Denied {
    Denied {
        complaint,
        answer: Some(refusal(
            Refusal::Malformed,
            format!("{complaint}; see docs/control.md"),
        )),
    }
}

fn no_seat(taken: Taken, hello: &Hello) -> Denied {
    let (complaint, detail) = match taken {
        Taken::ByAnother => (
            "replica name is in use by another uid or role",
            format!(
                "replica {:?} is connected already as another uid or role; give each its own name",
                hello.replica
            ),
        ),
        Taken::Full => (
            "too many replicas",
            "the daemon has as many replicas as it takes; end some first".to_owned(),
        ),
    };
    Denied {
        complaint,
        answer: Some(refusal(Refusal::Permission, detail)),
    }
}

/// What a list in `hello` names, each one of `known`; `None`: nothing.
fn named_of(
    names: &[String],
    known: &BTreeSet<String>,
) -> Result<Option<BTreeSet<String>>, Denied> {
    let Some(unknown) = names.iter().find(|name| !known.contains(*name)) else {
        return Ok((!names.is_empty()).then(|| names.iter().cloned().collect()));
    };
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let detail = format!("no tunnel {unknown:?} here; there is {}", known.join(", "));
    Err(Denied {
        complaint: "unknown tunnel",
        answer: Some(refusal(Refusal::UnknownTunnel, detail)),
    })
}

/// Says why, then reads on for a moment: a socket closed over unread bytes may lose the answer.
pub(super) async fn refuse(
    desk: &Desk,
    mut reader: Reader<OwnedReadHalf>,
    mut writer: Writer<OwnedWriteHalf>,
    answer: Refused,
) {
    if !matches!(
        timeout(desk.limits.write, writer.send(&FromDaemon::Refused(answer))).await,
        Ok(Ok(()))
    ) {
        return;
    }
    drop(writer);
    let rest = async {
        loop {
            match reader.next::<FromSubscriber>().await {
                Ok(Some(_)) | Err(FrameError::Malformed { .. }) => {}
                Ok(None) | Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, rest).await;
}

fn refusal(reason: Refusal, detail: String) -> Refused {
    Refused { reason, detail }
}
