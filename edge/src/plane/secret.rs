//! `/v1/tunnels/{id}/secrets`.

use bytes::Bytes;
use http::HeaderMap;

use super::answer::{Failed, Good};
use super::{Call, body, list};

impl Call<'_> {
    pub(super) async fn create_secret(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let asked: api::CreateSecret = body::json(body, headers)?;
        let tunnel = &self.route.tunnel;
        let (mut secret, number) = self
            .state()
            .create_secret(&self.by, tunnel, &asked.sha256)
            .await?;
        secret.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&secret))
    }

    pub(super) async fn list_secrets(&self) -> Result<Good, Failed> {
        let page = list::page(&self.route)?;
        let tunnel = self.existing_tunnel().await?;
        Ok(list::answer(self.state().secrets(&tunnel.id, page).await?))
    }

    pub(super) async fn archive_secret(&self) -> Result<Good, Failed> {
        let (tunnel, id) = (&self.route.tunnel, &self.route.part);
        let (mut secret, number) = self.state().archive_secret(&self.by, tunnel, id).await?;
        secret.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&secret))
    }
}
