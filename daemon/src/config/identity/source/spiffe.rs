//! `spiffe`: a JWT-SVID of the Workload API.

use ::identity::{Spiffe, workload_socket};
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::identity::value::required;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSpiffe {
    socket: Option<String>,
    audience: Option<String>,
    spiffe_id: Option<String>,
}

pub(super) fn convert(raw: RawSpiffe) -> Result<Spiffe, Failure> {
    let socket = raw.socket.map(|text| {
        workload_socket(&text).map_err(|next| {
            Failure::config(format!("identity.source.spiffe.socket is {text:?}")).next(next)
        })
    });
    if let Some(id) = &raw.spiffe_id
        && !id.starts_with("spiffe://")
    {
        return Err(
            Failure::config(format!("identity.source.spiffe.spiffe_id is {id:?}"))
                .next("write the whole id, spiffe://TRUST-DOMAIN/PATH"),
        );
    }
    Ok(Spiffe {
        socket: socket.transpose()?,
        audience: required(
            "identity.source.spiffe.audience",
            raw.audience,
            "write what the rule wants as aud, such as https://api.anthropic.com",
        )?,
        spiffe_id: raw.spiffe_id,
    })
}

pub(super) fn json(spiffe: &Spiffe) -> Value {
    json!({"socket": spiffe.socket, "audience": spiffe.audience, "spiffe_id": spiffe.spiffe_id})
}
