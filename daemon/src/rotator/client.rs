//! Certificates for clients, signed by the client CA on order: a turn is enough, so the operation has
//! ended when it is answered.

use pki::{Certificate, ClientProfile, IssueError, Serial};

use super::orders::refusal;
use super::pending::{Ordered, running};
use super::tunnel::{Desk, StepError, Tunnel, fresh_id};
use crate::board::{Fault, Refusal};
use crate::journal::{Entry, Kind};
use crate::status::{Operation, OperationState};

impl Tunnel {
    pub(super) fn issue_client(
        &mut self,
        desk: &mut Desk<'_>,
        profile: &ClientProfile,
        request: &str,
        actor: &str,
    ) -> Result<Operation, Refusal> {
        if self.config.client_ca.is_none() {
            return Err(refusal(
                format!("tunnel {} has no client CA", self.name),
                format!(
                    "write client_ca: {{}} under tunnels.{} and restart the daemon",
                    self.name
                ),
            ));
        }
        let issued = self.sign_client(desk, profile, request, actor);
        let certificate = issued.map_err(|error| unissued(&error))?;
        let ordered = Ordered::new(desk.moment, actor);
        let mut operation = running(&self.name, "issue-client", &ordered, "taken");
        desk.operations.add(operation.clone());
        let asked = operation.began.saturating_add(profile.lifetime.as_secs());
        let cut = if certificate.validity().not_after_unix() < asked {
            ", and ends sooner than asked for, with the client CA"
        } else {
            ""
        };
        operation.certificate = Some(certificate.to_pem());
        operation.state = OperationState::Done;
        operation.detail = format!("issued for {}{cut}", profile.name);
        operation.ended = Some(operation.began);
        // The certificate goes to whoever asked; the list is for everybody.
        let (state, detail) = (operation.state, operation.detail.clone());
        desk.operations
            .end(&operation.id, state, detail, operation.began);
        Ok(operation)
    }

    fn sign_client(
        &mut self,
        desk: &mut Desk<'_>,
        profile: &ClientProfile,
        request: &str,
        actor: &str,
    ) -> Result<Certificate, StepError> {
        self.load_client_signer(desk.moment)?;
        let Some((_, signer)) = &self.client_signer else {
            return Err(StepError::Lost("the client CA"));
        };
        // A bad request leaves no record: that would be a way to fill the disk.
        let certificate =
            signer.issue_client(profile, request, Serial::random(), desk.moment.wall)?;
        let entry = Entry {
            rotation_id: fresh_id(desk.moment),
            phase: "issued".to_owned(),
            reason: format!("issue-client, serial {}", certificate.serial()),
            actor: actor.to_owned(),
            new_ref: Some(certificate.fingerprint().to_string()),
            attempts: 1,
            state: serde_json::to_value(&self.client_ca).unwrap_or_default(),
            ..Entry::default()
        };
        desk.record(&self.name, Kind::ClientCa, entry)?;
        Ok(certificate)
    }
}

/// Why a client gets no certificate, and whether another wording would help.
fn unissued(error: &StepError) -> Refusal {
    let what = error.chain();
    match error {
        StepError::Issue(IssueError::Name(_) | IssueError::Lifetime | IssueError::Request(_)) => {
            Refusal {
                fault: Fault::Words,
                what,
                next: "correct name, request or lifetime".to_owned(),
            }
        }
        _ => refusal(what, "see the alarms in: keyward status".to_owned()),
    }
}
