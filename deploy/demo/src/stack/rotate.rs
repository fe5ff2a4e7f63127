//! Rotations as an operator makes them, with everybody who verifies told of a CA before it signs.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{OperatorError, Rotation, Stack, StackError, tunnel};

/// How long one rotation may take.
const ROTATION: Duration = Duration::from_secs(30);
/// Between two looks at the daemon's status.
const PACE: Duration = Duration::from_millis(10);

impl Stack {
    /// Rotates as an operator does, and waits until it is done. Before the CA is switched, the
    /// clients' trust gets the standby, and an agent holds it; when it is done, the retired one leaves. A shared secret is
    /// rotated when the one before is gone.
    ///
    /// # Errors
    ///
    /// The daemon refused, or it did not end.
    pub async fn rotate(&self, what: Rotation) -> Result<(), StackError> {
        match what {
            Rotation::ServerCertificate | Rotation::TunnelToken => {
                Ok(self.operator.rotate(what, ROTATION).await?)
            }
            Rotation::SharedSecret => self.rotate_secret().await,
            Rotation::Ca => self.rotate_ca().await,
        }
    }

    /// Has the clients' trust hold the next CA before its rotation is asked for, so that whoever reads
    /// a file has read it by then.
    ///
    /// # Errors
    ///
    /// The daemon does not answer, or makes no standby CA.
    pub async fn prepare(&self) -> Result<(), StackError> {
        let _one_at_a_time = self.rotating_ca.lock().await;
        self.follow(&self.standby().await?)
    }

    async fn rotate_ca(&self) -> Result<(), StackError> {
        let _one_at_a_time = self.rotating_ca.lock().await;
        let before = self.standby().await?;
        self.follow(&before)?;
        if let Some(agent) = &self.agent {
            agent.holds(&self.trust.pem(), ROTATION).await?;
        }
        self.operator.rotate(Rotation::Ca, ROTATION).await?;
        self.follow(&self.operator.status().await?)
    }

    /// The order ends when every proxy has the new one; the old one is archived after that.
    async fn rotate_secret(&self) -> Result<(), StackError> {
        let done = async || -> Result<u64, StackError> {
            let status = self.operator.status().await?;
            let done = tunnel(&status, "rotations/shared_secret").and_then(Value::as_u64);
            Ok(done.unwrap_or_default())
        };
        let before = done().await?;
        self.operator
            .rotate(Rotation::SharedSecret, ROTATION)
            .await?;
        let over = Instant::now() + ROTATION;
        while done().await? == before {
            if Instant::now() > over {
                return Err(late("archiving the shared secret before"));
            }
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Status with a standby CA in it.
    async fn standby(&self) -> Result<Value, StackError> {
        let over = Instant::now() + ROTATION;
        loop {
            let status = self.operator.status().await?;
            if tunnel(&status, "standby_ca/pem").is_some() {
                return Ok(status);
            }
            if Instant::now() > over {
                return Err(late("making a standby CA"));
            }
            sleep(PACE).await;
        }
    }
}

fn late(what: &str) -> StackError {
    StackError::Operator(OperatorError::Late {
        what: what.to_owned(),
        limit: ROTATION,
    })
}
