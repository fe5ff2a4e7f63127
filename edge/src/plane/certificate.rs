//! `/v1/tunnels/{id}/certificates`.

use bytes::Bytes;
use http::HeaderMap;

use super::answer::{Failed, Good};
use super::{Call, body, list};
use crate::state::RegisteredCa;

impl Call<'_> {
    pub(super) async fn create_certificate(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let asked: api::CreateCertificate = body::json(body, headers)?;
        let ca = RegisteredCa::read(&asked.ca_certificate_pem, self.by.now)?;
        let tunnel = &self.route.tunnel;
        let (mut certificate, number) = self
            .state()
            .create_certificate(&self.by, tunnel, &ca)
            .await?;
        certificate.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&certificate))
    }

    pub(super) async fn list_certificates(&self) -> Result<Good, Failed> {
        let page = list::page(&self.route)?;
        let tunnel = self.existing_tunnel().await?;
        let listed = self.state().certificates(&tunnel.id, page).await?;
        Ok(list::answer(listed))
    }

    pub(super) async fn certificate(&self) -> Result<Good, Failed> {
        let (tunnel, id) = (&self.route.tunnel, &self.route.part);
        let found = self.state().certificate(tunnel, id).await?;
        let certificate = found.ok_or_else(|| Failed::no_such("certificate"))?;
        Ok(Good::json(&certificate))
    }

    pub(super) async fn archive_certificate(&self) -> Result<Good, Failed> {
        let (tunnel, id) = (&self.route.tunnel, &self.route.part);
        let (mut certificate, number) = self
            .state()
            .archive_certificate(&self.by, tunnel, id)
            .await?;
        certificate.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&certificate))
    }
}
