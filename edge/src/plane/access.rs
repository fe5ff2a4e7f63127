//! `/v1/tunnels/{id}/access`.

use bytes::Bytes;
use http::HeaderMap;
use http::header::IF_MATCH;

use super::answer::{Failed, Good};
use super::{Call, body};

impl Call<'_> {
    pub(super) async fn access(&self) -> Result<Good, Failed> {
        let tunnel = self.existing_tunnel().await?;
        let found = self.state().access(&tunnel.id).await?;
        Ok(Good::json(&found.access).version(found.version))
    }

    pub(super) async fn put_access(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let expected = if_match(headers)?;
        let asked: api::Access = body::json(body, headers)?;
        let tunnel = &self.route.tunnel;
        let (mut now, number) = self
            .state()
            .put_access(&self.by, tunnel, &asked, expected)
            .await?;
        now.access.enforced = self.plane.enforced(number).await;
        Ok(Good::json(&now.access).version(now.version))
    }
}

/// One strong entity tag, or `*` for whatever is there (RFC 9110 §13.1.1). Without it one operator would
/// undo what another did a moment ago.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Failed> {
    let wanted = "if-match: required, the etag of GET, or * for whatever is there";
    let text = headers.get(IF_MATCH).and_then(|value| value.to_str().ok());
    match text.map(str::trim) {
        Some("*") => Ok(None),
        Some(tag) => tag
            .strip_prefix('"')
            .and_then(|tag| tag.strip_suffix('"'))
            .and_then(|tag| tag.parse().ok())
            .map(Some)
            .ok_or_else(|| Failed::invalid(wanted)),
        None => Err(Failed::invalid(wanted)),
    }
}
