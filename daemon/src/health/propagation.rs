//! How long the other side took to make a CA known: from the list that shows it to the first handshake under it.
//!
//! It is an upper bound, since the CA does not sign before `ca.settle` is over and callers come when they come. Measured by
//! looking on; a rotation that another process began is not measured.

use std::collections::BTreeMap;

use process::metrics::Exposition;

use crate::rotation::slots::Grade;
use crate::status::{Status, TunnelStatus};

/// By tunnel.
#[derive(Debug, Default)]
pub(super) struct Propagation {
    /// When a CA was listed that nobody has used yet, in Unix seconds.
    listed: BTreeMap<String, u64>,
    /// The last that was measured, in seconds.
    measured: BTreeMap<String, u64>,
}

impl Propagation {
    pub(super) fn see(&mut self, status: &Status) {
        for (name, tunnel) in &status.tunnels {
            let Some(slots) = &tunnel.ca_slots else {
                continue;
            };
            match slots.phase.as_str() {
                "settling" => {
                    let since = slots.since.unwrap_or(status.at);
                    self.listed.insert(name.clone(), since);
                }
                "switched" | "archiving" | "archived" if is_used(tunnel) => {
                    if let Some(listed) = self.listed.remove(name) {
                        let took = status.at.saturating_sub(listed);
                        self.measured.insert(name.clone(), took);
                    }
                }
                "switched" | "archiving" | "archived" => {}
                // At rest, or rolled back: nobody will use it.
                _ => drop(self.listed.remove(name)),
            }
        }
    }

    pub(super) fn write(&self, page: &mut Exposition) {
        let name = "keyward_remote_ca_propagation_seconds";
        page.family(
            name,
            "gauge",
            "From the list that showed the last CA to the first handshake under it.",
        );
        for (tunnel, took) in &self.measured {
            page.sample(name, &[("tunnel", tunnel.as_str())], took);
        }
    }
}

/// Whether somebody completed a handshake under the new CA.
fn is_used(tunnel: &TunnelStatus) -> bool {
    let ca = tunnel.credentials.iter().find(|one| one.kind == "ca");
    let mut says = ca.into_iter().flat_map(|ca| ca.replicas.values());
    says.any(|says| says.proof >= Some(Grade::Observed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{CredentialStatus, ReplicaSays, SlotsStatus};

    fn status(at: u64, phase: &str, since: u64, proof: Option<Grade>) -> Status {
        let says = ReplicaSays {
            proof,
            ..ReplicaSays::default()
        };
        let ca = CredentialStatus {
            kind: "ca".to_owned(),
            replicas: [("p".to_owned(), says)].into(),
            ..CredentialStatus::default()
        };
        let tunnel = TunnelStatus {
            ca_slots: Some(SlotsStatus {
                phase: phase.to_owned(),
                since: Some(since),
                ..SlotsStatus::default()
            }),
            credentials: vec![ca],
            ..TunnelStatus::default()
        };
        Status {
            at,
            tunnels: [("main".to_owned(), tunnel)].into(),
            ..Status::default()
        }
    }

    fn page(propagation: &Propagation) -> String {
        let mut page = Exposition::default();
        propagation.write(&mut page);
        page.finish()
    }

    #[test]
    fn it_lasts_from_the_list_to_the_first_handshake_and_not_to_the_second() {
        let mut propagation = Propagation::default();
        propagation.see(&status(100, "settling", 90, None));
        propagation.see(&status(200, "switched", 190, Some(Grade::Settled)));
        assert!(!page(&propagation).contains("tunnel="));
        propagation.see(&status(250, "switched", 190, Some(Grade::Observed)));
        propagation.see(&status(300, "archiving", 290, Some(Grade::Observed)));
        propagation.see(&status(310, "stable", 310, None));
        let expected = "keyward_remote_ca_propagation_seconds{tunnel=\"main\"} 160\n";
        assert!(page(&propagation).contains(expected));
    }

    #[test]
    fn what_was_rolled_back_or_begun_before_is_not_measured() {
        let mut propagation = Propagation::default();
        propagation.see(&status(100, "settling", 90, None));
        propagation.see(&status(110, "rolling_back", 110, None));
        propagation.see(&status(500, "switched", 490, Some(Grade::Observed)));
        assert!(!page(&propagation).contains("tunnel="));
    }
}
