//! Whether a proxy's connection may go on: looked at beside everything that the connection does, so that
//! nothing that waits for the peer puts the end off.
//!
//! It ends nothing itself: whoever waits for it drops the connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::session::Ended;
use crate::directory::{Bound, Directory, Standing, TunnelEntry};

/// The wall clock is compared with the time of a cut at least this often.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Resolves once a connection that is bound to what `bound` has may not go on. Dropping it loses nothing.
pub(super) async fn verdict(
    directory: Directory,
    mut entry: watch::Receiver<Arc<TunnelEntry>>,
    mut bound: watch::Receiver<Bound>,
) -> Ended {
    loop {
        let judged = {
            let (entry, bound) = (entry.borrow_and_update(), bound.borrow_and_update());
            judge(&entry, &bound.credential, directory.now())
        };
        let ends = match judged {
            Ok(cut_at) => cut_at.is_some(),
            Err(ended) => return ended,
        };
        tokio::select! {
            changed = entry.changed() => {
                if changed.is_err() {
                    return Ended::Standing;
                }
            }
            Ok(()) = bound.changed() => {}
            () = tokio::time::sleep(LOOK), if ends => {}
        }
    }
}

/// Until when a connection that is bound to `credential` may live; `None`: no end is known.
pub(super) fn judge(
    entry: &TunnelEntry,
    credential: &str,
    now: SystemTime,
) -> Result<Option<SystemTime>, Ended> {
    if entry.standing != Standing::Active {
        return Err(Ended::Standing);
    }
    let listed = entry
        .credentials
        .iter()
        .find(|known| known.id == credential);
    match listed.ok_or(Ended::Cut)?.cut_at {
        Some(at) if at <= now => Err(Ended::Cut),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use process::SystemClock;

    use super::*;
    use crate::access::Access;
    use crate::directory::CredentialEntry;

    fn entry(standing: Standing, cut_at: Option<SystemTime>) -> TunnelEntry {
        TunnelEntry {
            id: "tnl_a".to_owned(),
            domain: "t.example".to_owned(),
            standing,
            credentials: vec![CredentialEntry {
                id: "one".to_owned(),
                sha256: [0; 32],
                accepts: true,
                cut_at,
            }],
            access: Access::default(),
        }
    }

    fn bound(credential: &str) -> Bound {
        Bound {
            tunnel: "tnl_a".to_owned(),
            credential: credential.to_owned(),
        }
    }

    #[test]
    fn a_connection_ends_with_its_credential_and_when_its_tunnel_is_not_active() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let active = |cut_at| entry(Standing::Active, cut_at);
        assert_eq!(judge(&active(None), "one", at(5)).unwrap(), None);
        let end = Some(at(9));
        assert_eq!(judge(&active(end), "one", at(8)).unwrap(), end);
        let cut = |result| matches!(result, Err(Ended::Cut));
        assert!(cut(judge(&active(end), "one", at(9))));
        assert!(cut(judge(&active(None), "two", at(5))));
        for standing in [Standing::Suspended, Standing::Archived] {
            let ended = judge(&entry(standing, None), "one", at(5));
            assert!(matches!(ended, Err(Ended::Standing)), "{standing:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_verdict_comes_at_once_for_what_was_cut_before_and_follows_the_binding() {
        let directory = Directory::new(String::new(), Arc::new(SystemClock), None);
        directory.put(entry(Standing::Active, None));
        let watched = || directory.watch("tnl_a").unwrap();
        let (one, two) = (
            watch::Sender::new(bound("one")),
            watch::Sender::new(bound("two")),
        );
        let cut = verdict(directory.clone(), watched(), two.subscribe()).await;
        assert!(matches!(cut, Ended::Cut), "{cut:?}");
        let mut rebound = std::pin::pin!(verdict(directory.clone(), watched(), one.subscribe()));
        let long = tokio::time::timeout(LOOK * 100, &mut rebound).await;
        assert!(long.is_err(), "it stands");
        one.send_replace(bound("two"));
        assert!(matches!(rebound.await, Ended::Cut));
        let gone = verdict(
            directory.clone(),
            watched(),
            watch::Sender::new(bound("one")).subscribe(),
        );
        directory.remove("tnl_a");
        assert!(matches!(gone.await, Ended::Standing));
    }
}
