//! Identity tokens of Vault or `OpenBao`: a login, `GET /v1/identity/oidc/token/ROLE`, and the end of the login.
//!
//! Each token begins with a login of its own, so that no lease has to be renewed, and ends with `revoke-self`, so that
//! leases do not pile up there. By plain calls of ours: the published crate has no such call, no time limit, and prints
//! its token in `Debug` (`docs/decisions/0006`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::said::refusal;
use super::{SourceError, read};
use crate::http::{Answer, Call, Verb};
use crate::{Assertion, AssertionError, Http, HttpError, Secret};

/// Where a pod finds the token of its own account.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Which role's token, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// `https://HOST:PORT`, or `http` to this machine.
    pub address: String,
    /// Who vouches for the server, alone; otherwise whoever vouches for all others.
    pub ca_file: Option<PathBuf>,
    /// `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// Of `identity/oidc/role/`: its key, audience and life.
    pub role: String,
    /// The login. Its token needs an entity, which a root token has not.
    pub auth: VaultAuth,
}

/// A way to log in. What is in files is read at each login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// With a `ServiceAccount` token: auth method `kubernetes`, or `jwt`, which takes the same.
    Kubernetes {
        /// Of the auth method.
        role: String,
        /// Where the method is mounted.
        mount: String,
        /// Otherwise the pod's own token.
        token_file: Option<PathBuf>,
    },
    /// With a role's id and a secret.
    AppRole {
        /// Not a secret.
        role_id: String,
        /// The secret's file.
        secret_id_file: PathBuf,
        /// Where the method is mounted.
        mount: String,
    },
    /// Somebody else logs in, such as an agent, and leaves a token here.
    TokenFile(PathBuf),
}

/// Of both forms of login.
#[derive(Serialize)]
#[serde(untagged)]
enum Login<'a> {
    Kubernetes {
        role: &'a str,
        jwt: &'a str,
    },
    AppRole {
        role_id: &'a str,
        secret_id: &'a str,
    },
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: LoginToken,
}

#[derive(Deserialize)]
struct LoginToken {
    client_token: String,
}

#[derive(Deserialize)]
struct Reply {
    data: IdentityToken,
}

#[derive(Deserialize)]
struct IdentityToken {
    token: String,
}

impl Vault {
    pub(super) async fn fetch(&self, http: &Http) -> Result<Assertion, SourceError> {
        let own = self.ca_file.as_ref().map(|file| http.trusting_only(file));
        let own = own.transpose()?;
        let http = own.as_ref().unwrap_or(http);
        let login = match &self.auth {
            VaultAuth::TokenFile(path) => {
                let token = Secret::new(read(path)?.trim().to_owned());
                return self.identity(http, &token).await;
            }
            VaultAuth::Kubernetes {
                role,
                mount,
                token_file,
            } => {
                let jwt = match token_file {
                    Some(path) => read(path)?,
                    None => read(&PathBuf::from(POD_TOKEN))?,
                };
                let jwt = jwt.trim();
                self.login(http, mount, &Login::Kubernetes { role, jwt }, jwt)
                    .await?
            }
            VaultAuth::AppRole {
                role_id,
                secret_id_file,
                mount,
            } => {
                let secret = read(secret_id_file)?;
                let secret_id = secret.trim();
                self.login(
                    http,
                    mount,
                    &Login::AppRole { role_id, secret_id },
                    secret_id,
                )
                .await?
            }
        };
        let assertion = self.identity(http, &login).await;
        let ended = self.call(
            http,
            "auth/token/revoke-self",
            Some(&login),
            Verb::Json(b"{}"),
        );
        match ended.await {
            Ok(answer) if matches!(answer.status, 200 | 204) => {}
            // It ends by itself, later.
            _ => tracing::warn!("login of the identity source not ended"),
        }
        assertion
    }

    async fn login(
        &self,
        http: &Http,
        mount: &str,
        login: &Login<'_>,
        secret: &str,
    ) -> Result<Secret, SourceError> {
        let body = serde_json::to_vec(login).expect("strings have a JSON form");
        let body = Zeroizing::new(body);
        let path = format!("auth/{mount}/login");
        let answer = self.call(http, &path, None, Verb::Json(&body)).await?;
        if answer.status != 200 {
            return Err(refusal(&answer, secret));
        }
        let reply: Result<LoggedIn, _> = serde_json::from_slice(&answer.body);
        match reply {
            Ok(LoggedIn { auth }) if !auth.client_token.is_empty() => {
                Ok(Secret::new(auth.client_token))
            }
            // A login that waits for a second factor has an empty one.
            _ => Err(AssertionError::Malformed("the login gave none").into()),
        }
    }

    async fn identity(&self, http: &Http, token: &Secret) -> Result<Assertion, SourceError> {
        let path = format!("identity/oidc/token/{}", self.role);
        let answer = self.call(http, &path, Some(token), Verb::Get).await?;
        if answer.status != 200 {
            return Err(refusal(&answer, token.expose()));
        }
        let reply: Result<Reply, _> = serde_json::from_slice(&answer.body);
        let mut reply = reply.map_err(|_| AssertionError::Malformed("the answer has none"))?;
        let assertion = Assertion::read(&reply.data.token);
        reply.data.token.zeroize();
        Ok(assertion?)
    }

    async fn call(
        &self,
        http: &Http,
        path: &str,
        token: Option<&Secret>,
        verb: Verb<'_>,
    ) -> Result<Answer, HttpError> {
        let url = format!("{}/v1/{path}", self.address.trim_end_matches('/'));
        // Agents may demand it, against requests that a browser was tricked into.
        let mut headers = vec![("x-vault-request", "true")];
        headers.extend(token.map(|token| ("x-vault-token", token.expose())));
        let namespace = self.namespace.as_deref();
        headers.extend(namespace.map(|namespace| ("x-vault-namespace", namespace)));
        http.call(Call {
            url: &url,
            query: &[],
            headers: &headers,
            verb,
        })
        .await
    }
}
