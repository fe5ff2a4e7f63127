//! `kubernetes`: the `TokenRequest` API of a cluster.

use std::path::PathBuf;
use std::time::Duration;

use ::identity::{BoundObject, Kubernetes};
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::identity::value::{absolute, duration, url};
use crate::config::write_duration;

/// Life of a token that a cluster is asked for unless told otherwise: the least that it gives.
const DEFAULT_EXPIRATION: Duration = Duration::from_secs(600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKubernetes {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    namespace: Option<String>,
    service_account: Option<String>,
    audiences: Vec<String>,
    expiration: Option<String>,
    bound_object: Option<RawBoundObject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoundObject {
    kind: String,
    name: String,
    uid: Option<String>,
}

pub(super) fn convert(raw: RawKubernetes) -> Result<Kubernetes, Failure> {
    let key = |name: &str| format!("identity.source.kubernetes.{name}");
    if let Some(text) = &raw.url {
        url(&key("url"), text)?;
    }
    let account = raw.service_account.unwrap_or_default();
    for (name, value) in [
        ("service_account", Some(&account)),
        ("namespace", raw.namespace.as_ref()),
    ] {
        // They become part of a path.
        let good = |value: &String| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            value.starts_with(|c: char| c.is_ascii_alphanumeric()) && value.chars().all(fits)
        };
        if let Some(value) = value
            && !good(value)
        {
            return Err(Failure::config(format!("{} is {value:?}", key(name))).next(
                "write the name as the cluster has it: lower-case letters, digits, - and .",
            ));
        }
    }
    Ok(Kubernetes {
        url: raw.url,
        ca_file: absolute(&key("ca_file"), raw.ca_file)?,
        token_file: absolute(&key("token_file"), raw.token_file)?,
        namespace: raw.namespace,
        service_account: account,
        audiences: raw.audiences,
        expiration: duration(
            &key("expiration"),
            raw.expiration,
            DEFAULT_EXPIRATION,
            DEFAULT_EXPIRATION,
        )?,
        bound_object: raw.bound_object.map(|raw| BoundObject {
            kind: raw.kind,
            name: raw.name,
            uid: raw.uid,
        }),
    })
}

pub(super) fn json(kubernetes: &Kubernetes) -> Value {
    let bound = kubernetes.bound_object.as_ref();
    json!({
        "url": kubernetes.url, "ca_file": kubernetes.ca_file, "token_file": kubernetes.token_file,
        "namespace": kubernetes.namespace, "service_account": kubernetes.service_account,
        "audiences": kubernetes.audiences, "expiration": write_duration(kubernetes.expiration),
        "bound_object": bound.map(|bound| json!({"kind": bound.kind, "name": bound.name, "uid": bound.uid})),
    })
}
