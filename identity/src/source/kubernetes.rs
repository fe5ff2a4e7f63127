//! The `TokenRequest` API: `POST /api/v1/namespaces/NS/serviceaccounts/SA/token`, authentication.k8s.io/v1.
//!
//! Needs `create` on `serviceaccounts/token`. What a pod has of its cluster – address, CA, its own token – is read anew
//! at each request, because the kubelet replaces it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroize;

use super::said::refusal;
use super::{SourceError, read, variable};
use crate::http::{Call, Verb};
use crate::{Assertion, AssertionError, Environment, Http};

/// Where a pod finds what its cluster gave it.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Which account's token, for whom and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `https://HOST:PORT`; otherwise the cluster that this pod is in.
    pub url: Option<String>,
    /// Who vouches for the API server, alone; otherwise the pod's `ca.crt`.
    pub ca_file: Option<PathBuf>,
    /// With what the request is authorized; otherwise the pod's `token`.
    pub token_file: Option<PathBuf>,
    /// Otherwise the pod's own.
    pub namespace: Option<String>,
    /// Whose token it shall be.
    pub service_account: String,
    /// `aud`; empty: the API server's own.
    pub audiences: Vec<String>,
    /// At least ten minutes, whole seconds; a server may give more or less.
    pub expiration: Duration,
    /// The token ends with this object.
    pub bound_object: Option<BoundObject>,
}

/// `boundObjectRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundObject {
    /// `Pod`, `Secret` or `Node`; of `v1`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid, if it has to be that one.
    pub uid: Option<String>,
}

#[derive(Deserialize)]
struct Reply {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    token: String,
}

impl Kubernetes {
    pub(super) async fn fetch(
        &self,
        http: &Http,
        environment: &Environment,
    ) -> Result<Assertion, SourceError> {
        let mounted = |given: Option<&PathBuf>, name: &str| {
            let mounted = || PathBuf::from(format!("{MOUNT}/{name}"));
            given.cloned().unwrap_or_else(mounted)
        };
        let server = self.server(environment)?;
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => read(&mounted(None, "namespace"))?.trim().to_owned(),
        };
        let token = read(&mounted(self.token_file.as_ref(), "token"))?;
        let http = http.trusting_only(&mounted(self.ca_file.as_ref(), "ca.crt"))?;
        let authorization = crate::Secret::new(format!("Bearer {}", token.trim()));
        let url = format!(
            "{server}/api/v1/namespaces/{namespace}/serviceaccounts/{}/token",
            self.service_account
        );
        let answer = http
            .call(Call {
                url: &url,
                query: &[],
                headers: &[
                    ("authorization", authorization.expose()),
                    ("accept", "application/json"),
                ],
                verb: Verb::Json(self.request().to_string().as_bytes()),
            })
            .await?;
        if answer.status != 201 {
            return Err(refusal(&answer, authorization.expose()));
        }
        let reply: Result<Reply, _> = serde_json::from_slice(&answer.body);
        let mut reply = reply.map_err(|_| AssertionError::Malformed("the answer has none"))?;
        let assertion = Assertion::read(&reply.status.token);
        reply.status.token.zeroize();
        Ok(assertion?)
    }

    fn request(&self) -> serde_json::Value {
        let mut spec = json!({
            "audiences": self.audiences,
            "expirationSeconds": self.expiration.as_secs(),
        });
        if let (Some(object), Some(spec)) = (&self.bound_object, spec.as_object_mut()) {
            let mut reference =
                json!({"apiVersion": "v1", "kind": object.kind, "name": object.name});
            if let (Some(uid), Some(reference)) = (&object.uid, reference.as_object_mut()) {
                reference.insert("uid".to_owned(), uid.as_str().into());
            }
            spec.insert("boundObjectRef".to_owned(), reference);
        }
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
    }

    pub(super) fn server(&self, environment: &Environment) -> Result<String, SourceError> {
        if let Some(url) = &self.url {
            return Ok(url.trim_end_matches('/').to_owned());
        }
        let host = variable(environment, "KUBERNETES_SERVICE_HOST")?;
        let port = variable(environment, "KUBERNETES_SERVICE_PORT")?;
        let (host, port) = (host.expose(), port.expose());
        Ok(if host.contains(':') {
            format!("https://[{host}]:{port}")
        } else {
            format!("https://{host}:{port}")
        })
    }
}
