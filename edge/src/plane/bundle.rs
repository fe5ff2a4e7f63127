//! `/v1/tunnels/{id}/bundles`: the daemon puts, anybody gets. What is in a bundle is public and signed.

use bytes::Bytes;
use http::HeaderMap;
use process::base64;
use serde_json::{Map, Value};

use super::answer::{Failed, Good};
use super::{Call, body, list};
use crate::assertion::{Algorithm, Key, object};
use crate::state::CheckedBundle;

/// Longest bundle, bytes.
const LONGEST: usize = 192 * 1024;
/// `typ` of a bundle.
const TYPE: &str = "keyward-bundle+jwt";

impl Call<'_> {
    pub(super) async fn put_bundle(
        &self,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Good, Failed> {
        let sequence = self.route.part.parse().ok();
        let sequence = sequence.filter(|sequence| (1..1 << 53).contains(sequence));
        let sequence =
            sequence.ok_or_else(|| Failed::invalid("sequence: must be a number from 1"))?;
        let asked: api::PutBundle = body::json(body, headers)?;
        let bundle = check(&asked.bundle, &self.route.tunnel, sequence).map_err(Failed::invalid)?;
        let state = self.state();
        state
            .put_bundle(&self.by, &self.route.tunnel, &bundle)
            .await?;
        Ok(Good::json(&api::Bundle {
            r#type: "tunnel_bundle".to_owned(),
            sequence,
            bundle: bundle.jws,
        }))
    }

    pub(super) async fn bundles(&self) -> Result<Good, Failed> {
        let after: u64 = match self.route.query("after") {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| Failed::invalid("after: must be a number"))?,
        };
        let after = after.max(list::cursor(&self.route)?.unwrap_or_default());
        let found = self.state().bundles(&self.route.tunnel, after).await?;
        // Anybody may ask, and read as slowly as he likes.
        Ok(list::answer(found).shared(&self.plane.shared))
    }
}

/// Signed by the key in its header, for this tunnel and sequence. Which key that must be, the state
/// knows.
fn check(jws: &str, tunnel: &str, sequence: u64) -> Result<CheckedBundle, String> {
    if jws.len() > LONGEST {
        return Err(format!("bundle: may have {LONGEST} bytes"));
    }
    let parts: Vec<&str> = jws.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err("bundle: is no compact JWS".to_owned());
    };
    let signed = format!("{header}.{payload}");
    let (header, payload) = (part("header", header)?, part("payload", payload)?);
    let signature =
        base64::decode_url(signature).ok_or("bundle: the signature is not base64url")?;
    let plain = header
        .keys()
        .all(|name| ["alg", "typ", "jwk"].contains(&name.as_str()));
    if header.get("alg") != Some(&"ES256".into())
        || header.get("typ") != Some(&TYPE.into())
        || !plain
    {
        return Err(format!(
            "bundle: the header must be alg ES256, typ {TYPE} and jwk alone"
        ));
    }
    let key = header.get("jwk").and_then(Key::read);
    let key = key.ok_or("bundle: the header's jwk is no P-256 key")?;
    if !key.fits(Algorithm::Es256) || !key.verifies(Algorithm::Es256, signed.as_bytes(), &signature)
    {
        return Err("bundle: the signature does not hold".to_owned());
    }
    if payload.get("tunnel") != Some(&tunnel.into())
        || payload.get("sequence") != Some(&sequence.into())
    {
        return Err("bundle: tunnel and sequence must be those of the path".to_owned());
    }
    let next = payload.get("next_key_thumbprint").map(|next| {
        let digest = next.as_str().and_then(base64::decode_url);
        let text = digest
            .is_some_and(|digest| digest.len() == 32)
            .then(|| next.as_str());
        text.flatten()
            .ok_or("bundle: next_key_thumbprint is no SHA-256")
    });
    let next = next.transpose()?;
    Ok(CheckedBundle {
        jws: jws.to_owned(),
        sequence,
        signer: key.thumbprint(),
        next_signer: next.map(str::to_owned),
    })
}

fn part(name: &str, text: &str) -> Result<Map<String, Value>, String> {
    let octets = base64::decode_url(text);
    let octets = octets.ok_or_else(|| format!("bundle: the {name} is not base64url"))?;
    object(&octets).map_err(|why| format!("bundle: the {name} is not one JSON object: {why}"))
}
