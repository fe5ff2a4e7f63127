//! `vault`: an identity token of Vault or `OpenBao`.

use std::path::PathBuf;

use ::identity::{Vault, VaultAuth};
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::identity::value::{absolute, required, url};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawVault {
    address: Option<String>,
    ca_file: Option<PathBuf>,
    namespace: Option<String>,
    role: Option<String>,
    auth: RawAuth,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAuth {
    kubernetes: Option<RawKubernetes>,
    approle: Option<RawAppRole>,
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawKubernetes {
    role: Option<String>,
    mount: Option<String>,
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAppRole {
    role_id: Option<String>,
    secret_id_file: Option<PathBuf>,
    mount: Option<String>,
}

pub(super) fn convert(raw: RawVault) -> Result<Vault, Failure> {
    let address = required(
        &key("address"),
        raw.address,
        "write where Vault is, such as https://vault.example.com:8200",
    )?;
    url(&key("address"), &address)?;
    Ok(Vault {
        address,
        ca_file: absolute(&key("ca_file"), raw.ca_file)?,
        namespace: raw.namespace,
        role: segments(
            &key("role"),
            required(
                &key("role"),
                raw.role,
                "write the name of a role of identity/oidc/role/",
            )?,
        )?,
        auth: auth(raw.auth)?,
    })
}

fn auth(raw: RawAuth) -> Result<VaultAuth, Failure> {
    let all = [
        raw.kubernetes.map(kubernetes).transpose()?,
        raw.approle.map(approle).transpose()?,
        absolute(&key("auth.token_file"), raw.token_file)?.map(VaultAuth::TokenFile),
    ];
    let mut named = all.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(auth), None) => Ok(auth),
        _ => Err(
            Failure::config(format!("{} names not exactly one login", key("auth")))
                .next("write one of kubernetes, approle, token_file"),
        ),
    }
}

fn kubernetes(raw: RawKubernetes) -> Result<VaultAuth, Failure> {
    Ok(VaultAuth::Kubernetes {
        role: required(
            &key("auth.kubernetes.role"),
            raw.role,
            "write the name of a role of the auth method",
        )?,
        mount: mount(&key("auth.kubernetes.mount"), raw.mount, "kubernetes")?,
        token_file: absolute(&key("auth.kubernetes.token_file"), raw.token_file)?,
    })
}

fn approle(raw: RawAppRole) -> Result<VaultAuth, Failure> {
    let file = absolute(&key("auth.approle.secret_id_file"), raw.secret_id_file)?;
    Ok(VaultAuth::AppRole {
        role_id: required(
            &key("auth.approle.role_id"),
            raw.role_id,
            "write what vault read auth/approle/role/NAME/role-id prints",
        )?,
        secret_id_file: file.ok_or_else(|| {
            Failure::config(format!("{} is missing", key("auth.approle.secret_id_file")))
                .next("write the path of a file with the secret, which is read at each login")
        })?,
        mount: mount(&key("auth.approle.mount"), raw.mount, "approle")?,
    })
}

fn mount(key: &str, text: Option<String>, default: &str) -> Result<String, Failure> {
    segments(key, text.unwrap_or_else(|| default.to_owned()))
}

/// It becomes part of a path.
fn segments(key: &str, text: String) -> Result<String, Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fits);
    if text.split('/').all(good) {
        return Ok(text);
    }
    Err(Failure::config(format!("{key} is {text:?}"))
        .next("write the name as Vault has it, without a slash at either end"))
}

fn key(name: &str) -> String {
    format!("identity.source.vault.{name}")
}

pub(super) fn json(vault: &Vault) -> Value {
    let auth = match &vault.auth {
        VaultAuth::Kubernetes {
            role,
            mount,
            token_file,
        } => json!({"kubernetes": {"role": role, "mount": mount, "token_file": token_file}}),
        VaultAuth::AppRole {
            role_id,
            secret_id_file,
            mount,
        } => json!({"approle": {
            "role_id": role_id, "secret_id_file": secret_id_file, "mount": mount,
        }}),
        VaultAuth::TokenFile(path) => json!({ "token_file": path }),
    };
    json!({
        "address": vault.address, "ca_file": vault.ca_file, "namespace": vault.namespace,
        "role": vault.role, "auth": auth,
    })
}
