//! `/v1/tunnels` and what is done to one tunnel.

use bytes::Bytes;
use http::HeaderMap;

use super::answer::{Failed, Good};
use super::route::Endpoint;
use super::{Call, body, list};
use crate::state::Rotation;

/// Longest `reason`, characters.
const LONGEST_REASON: usize = 1000;
/// Longest `Idempotency-Key`, bytes.
const LONGEST_KEY: usize = 255;

impl Call<'_> {
    pub(super) async fn create_tunnel(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let asked: api::CreateTunnel = body::json(body, headers)?;
        let name = asked.display_name.as_deref();
        let (mut tunnel, number) = self.state().create_tunnel(&self.by, name).await?;
        tunnel.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&tunnel))
    }

    pub(super) async fn list_tunnels(&self, only: Option<&str>) -> Result<Good, Failed> {
        let page = list::page(&self.route)?;
        Ok(list::answer(self.state().tunnels(page, only).await?))
    }

    pub(super) async fn tunnel(&self) -> Result<Good, Failed> {
        Ok(Good::json(&self.existing_tunnel().await?))
    }

    /// 404 for what hangs under a tunnel that is not there.
    pub(super) async fn existing_tunnel(&self) -> Result<api::Tunnel, Failed> {
        let found = self.state().tunnel(&self.route.tunnel).await?;
        found.ok_or_else(|| Failed::no_such("tunnel"))
    }

    pub(super) async fn change_tunnel(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let asked: api::Reason = body::json(body, headers)?;
        let reason = reason(asked.reason.as_deref())?;
        let (state, id) = (self.state(), &self.route.tunnel);
        let (mut tunnel, number) = match self.route.endpoint {
            Endpoint::SuspendTunnel => state.suspend_tunnel(&self.by, id, reason).await?,
            Endpoint::ResumeTunnel => state.resume_tunnel(&self.by, id, reason).await?,
            _ => state.archive_tunnel(&self.by, id, reason).await?,
        };
        tunnel.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&tunnel))
    }

    pub(super) async fn reveal_token(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let asked: api::Reason = body::json(body, headers)?;
        let reason = reason(asked.reason.as_deref())?;
        let id = &self.route.tunnel;
        let token = self.state().reveal_token(&self.by, id, reason).await?;
        Ok(Good::json(&token))
    }

    pub(super) async fn rotate_token(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let asked: api::RotateToken = body::json(body, headers)?;
        let rotation = Rotation {
            reason: reason(asked.reason.as_deref())?,
            cut_old_after: asked.cut_old_after_seconds,
            idempotency_key: idempotency_key(headers)?,
        };
        let id = &self.route.tunnel;
        let (mut token, number) = self.state().rotate_token(&self.by, id, rotation).await?;
        token.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&token))
    }
}

fn reason(text: Option<&str>) -> Result<Option<&str>, Failed> {
    let fits = |text: &str| {
        let shown = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\t');
        text.chars().count() <= LONGEST_REASON && text.chars().all(shown)
    };
    if text.is_none_or(fits) {
        Ok(text)
    } else {
        Err(Failed::invalid(
            "reason: may have 1000 characters that can be shown",
        ))
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Failed> {
    let Some(value) = headers.get(api::IDEMPOTENCY_HEADER) else {
        return Ok(None);
    };
    let text = value.to_str().ok();
    let text = text.filter(|text| (1..=LONGEST_KEY).contains(&text.len()));
    text.map(Some).ok_or_else(|| {
        Failed::invalid("idempotency-key: must be 1 to 255 printable ASCII characters")
    })
}
