//! The SPIFFE Workload API: `FetchJWTSVID` on the agent's Unix socket.
//!
//! The agent knows who asks by the process at the other end of the socket; there is no other credential. By hand over
//! `h2`, because the published crate brings 20 packages for one call, among them one that is banned here
//! (`docs/decisions/0006`).

mod grpc;
mod message;

use std::path::{Path, PathBuf};

use super::{SourceError, variable};
use crate::{Assertion, AssertionError, Environment, HttpError};

/// SPIFFE Workload Endpoint §4.
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Whose token, for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spiffe {
    /// The agent's; otherwise the one that `SPIFFE_ENDPOINT_SOCKET` names.
    pub socket: Option<PathBuf>,
    /// `aud`.
    pub audience: String,
    /// `spiffe://…`, where a workload has several; otherwise the first that the agent gives.
    pub spiffe_id: Option<String>,
}

impl Spiffe {
    pub(super) async fn fetch(&self, environment: &Environment) -> Result<Assertion, SourceError> {
        let socket = if let Some(path) = &self.socket {
            path.clone()
        } else {
            let text = variable(environment, VARIABLE)?;
            workload_socket(text.expose().trim()).map_err(|why| HttpError::Settings {
                what: VARIABLE.to_owned(),
                why: why.to_owned(),
            })?
        };
        let request = message::request(&self.audience, self.spiffe_id.as_deref());
        let answer = grpc::call(&socket, &request).await?;
        let token = message::first_token(&answer);
        let token = token.ok_or(AssertionError::Malformed("the answer has none"))?;
        Ok(Assertion::read(token)?)
    }
}

/// The path in `text`: an absolute one, or `unix:` and one (SPIFFE Workload Endpoint §4).
///
/// # Errors
///
/// What to write instead.
pub fn workload_socket(text: &str) -> Result<PathBuf, &'static str> {
    let path = match text.split_once(':') {
        Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        Some((scheme, _)) if !scheme.starts_with('/') => {
            return Err("write unix:///PATH: by another way the agent would not know who asks");
        }
        _ => text,
    };
    let path = Path::new(path);
    if path.is_absolute() && path.components().count() > 1 {
        return Ok(path.to_owned());
    }
    Err("write an absolute path, or unix:// and one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_a_uri_of_one() {
        for text in ["/run/a.sock", "unix:///run/a.sock", "unix:/run/a.sock"] {
            assert_eq!(workload_socket(text).unwrap(), Path::new("/run/a.sock"));
        }
        for text in ["run/a.sock", "unix://run/a.sock", "", "/", "unix:"] {
            assert!(
                workload_socket(text).unwrap_err().contains("absolute"),
                "{text}"
            );
        }
        for text in ["tcp://127.0.0.1:8081", "https://a"] {
            assert!(
                workload_socket(text).unwrap_err().contains("unix:///"),
                "{text}"
            );
        }
    }
}
