//! Client of the Tunnels API: the product's, or the one that `keyward-edge` serves.
//!
//! | [`Class`] | Calls | When nobody knows what became of one |
//! |---|---|---|
//! | `Read` | `tunnel`, `certificates`, `secrets`, `reveal_token` | ask again |
//! | `Idempotent` | `add_secret` | say it again |
//! | `Once` | `add_certificate`, `archive_certificate`, `archive_secret`, `rotate_token` | read what is there; never say it again |
//!
//! No layer below repeats a call: not the HTTP library, not a connection that went stale. This one repeats exactly once,
//! and only what is not `Once`: after a 401, with another access token. Whether to try again later is for the caller to
//! decide, who gets one of three outcomes ([`CallError`]) and finds the client closed for as long as the other side asked
//! for.

mod answer;
mod pace;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::identity::{Answer, Call, Http, HttpError, Minted, Tokens, Verb};
use process::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use answer::{CallError, NotSent, Refusal, TunnelToken, Unknown};
use answer::{outcome, read};
use pace::Pace;

/// Objects that are asked for at once, the most that there may be.
const PAGE: &str = "1000";
/// More pages than any tunnel has; a server that goes on for ever is not believed.
const PAGES: usize = 100;
/// With every bearer token that was bought with an assertion.
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// Whether a call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It changes nothing.
    Read,
    /// Twice is as good as once.
    Idempotent,
    /// Twice is worse than once: it spends a slot, or kills the value that the first one made.
    Once,
}

/// Generation of the API. Objects and errors are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// `/v1/tunnels`, scope `workspace:manage_tunnels`; `keyward-edge` serves it, too.
    Workspace,
    /// `/v1/organizations/tunnels`, scope `org:manage_tunnels`; deprecated, still served.
    Organization,
}

/// Where and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://HOST`, without a path; `http` to this machine only.
    pub url: String,
    /// `None`: as the scope of the access token says, and [`Edition::Workspace`] where it says nothing.
    pub edition: Option<Edition>,
    /// Calls of any kind in a minute, at least 1; more are not sent.
    pub calls_per_minute: u32,
}

/// What a rotation of the token says besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// For the other side's audit log.
    pub reason: String,
    /// What only `keyward-edge` understands.
    pub edge: Option<EdgeRotation>,
}

/// The part of a [`Rotation`] that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeRotation {
    /// The same key has the same answer for ten minutes.
    pub idempotency_key: String,
    /// Until everything bound to the old token is cut, whole seconds; until then it opens connections. `None`: it opens
    /// nothing new from now on, and what is connected stays.
    pub cut_old_after: Option<Duration>,
}

/// The client. One for each remote, since it keeps to the remote's pace.
pub struct Tunnels {
    http: Http,
    tokens: Tokens,
    settings: Settings,
    clock: Arc<dyn Clock>,
    pace: Mutex<Pace>,
}

/// One request, before anybody is authorized.
struct Request<'a> {
    class: Class,
    /// Behind that of the tunnels.
    path: String,
    query: Vec<(&'a str, &'a str)>,
    idempotency_key: Option<&'a str>,
    body: Option<Vec<u8>>,
}

impl Edition {
    /// What the holder of a token with this scope may call.
    fn of(scope: &str) -> Self {
        let has = |wanted: &str| scope.split(' ').any(|one| one == wanted);
        if has("org:manage_tunnels") && !has("workspace:manage_tunnels") {
            Self::Organization
        } else {
            Self::Workspace
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Workspace => "/v1/tunnels",
            Self::Organization => "/v1/organizations/tunnels",
        }
    }

    fn beta(self) -> &'static str {
        match self {
            Self::Workspace => "mcp-tunnels-2026-06-22",
            Self::Organization => "mcp-tunnels-2026-05-19",
        }
    }
}

impl Tunnels {
    /// Calls nobody yet.
    pub fn new(http: Http, tokens: Tokens, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self {
            http,
            tokens,
            pace: Mutex::new(Pace::new(settings.calls_per_minute)),
            settings,
            clock,
        }
    }

    /// How long it makes no call.
    pub fn closed_for(&self) -> Duration {
        self.pace().closed_for(self.clock.boot())
    }

    /// A tunnel.
    ///
    /// # Errors
    ///
    /// [`CallError`], like every call here.
    pub async fn tunnel(&self, id: &str) -> Result<api::Tunnel, CallError> {
        self.get(&[id], Vec::new()).await
    }

    /// The CA certificates that are registered and not archived, newest first.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn certificates(&self, id: &str) -> Result<Vec<api::Certificate>, CallError> {
        let all = self.list(&[id, "certificates"]).await?;
        let active = |certificate: &api::Certificate| certificate.archived_at.is_none();
        Ok(all.into_iter().filter(active).collect())
    }

    /// Registers a CA certificate; the same one again may take a second slot.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn add_certificate(
        &self,
        id: &str,
        pem: &str,
    ) -> Result<api::Certificate, CallError> {
        let body = api::CreateCertificate {
            ca_certificate_pem: pem.to_owned(),
        };
        self.post(Class::Once, &[id, "certificates"], &body, None)
            .await
    }

    /// Takes a CA certificate out of force, for good.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn archive_certificate(
        &self,
        id: &str,
        certificate: &str,
        reason: &str,
    ) -> Result<api::Certificate, CallError> {
        let path = [id, "certificates", certificate, "archive"];
        self.post(Class::Once, &path, &because(reason), None).await
    }

    /// The shared secrets that are not archived, newest first. Of `keyward-edge` only.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn secrets(&self, id: &str) -> Result<Vec<api::Secret>, CallError> {
        let all = self.list(&[id, "secrets"]).await?;
        let active = |secret: &api::Secret| secret.archived_at.is_none();
        Ok(all.into_iter().filter(active).collect())
    }

    /// Adds the shared secret with this digest, in lower-case hexadecimal. Of `keyward-edge` only.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn add_secret(&self, id: &str, sha256: &str) -> Result<api::Secret, CallError> {
        let body = api::CreateSecret {
            sha256: sha256.to_owned(),
        };
        self.post(Class::Idempotent, &[id, "secrets"], &body, None)
            .await
    }

    /// Takes a shared secret out of force, and cuts what is bound to it. Of `keyward-edge` only.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn archive_secret(
        &self,
        id: &str,
        secret: &str,
        reason: &str,
    ) -> Result<api::Secret, CallError> {
        let path = [id, "secrets", secret, "archive"];
        self.post(Class::Once, &path, &because(reason), None).await
    }

    /// The token in force. It changes nothing, and the other side writes it into its audit log.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn reveal_token(&self, id: &str, reason: &str) -> Result<TunnelToken, CallError> {
        let path = [id, "reveal_token"];
        let token: api::Token = self
            .post(Class::Read, &path, &because(reason), None)
            .await?;
        Ok(token.into())
    }

    /// Makes another token; the one before opens nothing new from then on.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn rotate_token(
        &self,
        id: &str,
        rotation: &Rotation,
    ) -> Result<TunnelToken, CallError> {
        let edge = rotation.edge.as_ref();
        let body = api::RotateToken {
            reason: Some(rotation.reason.clone()),
            cut_old_after_seconds: edge
                .and_then(|edge| edge.cut_old_after)
                .map(|after| after.as_secs()),
        };
        let key = edge.map(|edge| edge.idempotency_key.as_str());
        let path = [id, "rotate_token"];
        let token: api::Token = self.post(Class::Once, &path, &body, key).await?;
        Ok(token.into())
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: Vec<(&str, &str)>,
    ) -> Result<T, CallError> {
        self.make(Request {
            class: Class::Read,
            path: join(path)?,
            query,
            idempotency_key: None,
            body: None,
        })
        .await
    }

    /// Every page.
    async fn list<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Vec<T>, CallError> {
        let mut all = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..PAGES {
            let mut query = vec![("limit", PAGE)];
            query.extend(page.as_deref().map(|page| ("page", page)));
            let list: api::List<T> = self.get(path, query).await?;
            all.extend(list.data);
            match list.next_page {
                None => return Ok(all),
                Some(next) => page = Some(next),
            }
        }
        Err(CallError::Unknown(Unknown::Unreadable {
            why: "it has more pages than a tunnel can have objects",
            request_id: None,
        }))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        class: Class,
        path: &[&str],
        body: &impl Serialize,
        idempotency_key: Option<&str>,
    ) -> Result<T, CallError> {
        self.make(Request {
            class,
            path: join(path)?,
            query: Vec::new(),
            idempotency_key,
            body: Some(serde_json::to_vec(body).expect("our own types have string keys")),
        })
        .await
    }

    async fn make<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, CallError> {
        let mut again = request.class != Class::Once;
        loop {
            let (minted, answer) = self.send(&request).await?;
            if answer.status == 401 {
                self.tokens.invalidate(&minted);
                if std::mem::take(&mut again) {
                    continue;
                }
            }
            return read(&answer, minted.token.expose());
        }
    }

    async fn send(&self, request: &Request<'_>) -> Result<(Arc<Minted>, Answer), CallError> {
        // Before the token, so that a remote that asked for quiet is not asked for tokens either.
        let admitted = self.pace().admit(self.clock.boot());
        admitted.map_err(|left| CallError::NotSent(NotSent::Paced(left)))?;
        let minted = self.tokens.token().await;
        let minted = minted.map_err(|error| CallError::NotSent(NotSent::Token(error)))?;
        let edition = self.settings.edition;
        let edition = edition.unwrap_or_else(|| Edition::of(&minted.scope));
        let base = self.settings.url.trim_end_matches('/');
        let url = format!("{base}{}{}", edition.path(), request.path);
        let beta = format!("{},{OAUTH_BETA}", edition.beta());
        let authorization = ::identity::Secret::new(format!("Bearer {}", minted.token.expose()));
        let mut headers = vec![
            ("authorization", authorization.expose()),
            ("accept", "application/json"),
            (api::VERSION_HEADER, api::VERSION),
            ("anthropic-beta", beta.as_str()),
        ];
        headers.extend(
            request
                .idempotency_key
                .map(|key| (api::IDEMPOTENCY_HEADER, key)),
        );
        let answer = self
            .http
            .call(Call {
                url: &url,
                query: &request.query,
                headers: &headers,
                verb: request.body.as_deref().map_or(Verb::Get, Verb::Json),
            })
            .await;
        self.note(answer.as_ref());
        match answer {
            Ok(answer) => Ok((minted, answer)),
            Err(error) => Err(outcome(error)),
        }
    }

    /// What the call says about the next one.
    fn note(&self, answer: Result<&Answer, &HttpError>) {
        let now = self.clock.boot();
        let mut pace = self.pace();
        match answer {
            Ok(answer) if answer.status == 429 || answer.status >= 500 => {
                pace.hold(answer.retry_after.map(Duration::from_secs), now);
            }
            Ok(_) => pace.well(),
            Err(HttpError::Settings { .. }) => {}
            Err(_) => pace.hold(None, now),
        }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Ids come from files and from the other side: one with a slash would mean another endpoint.
fn join(path: &[&str]) -> Result<String, CallError> {
    let mut joined = String::new();
    for segment in path {
        let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"_-".contains(&letter);
        if segment.is_empty() || segment.len() > 128 || !segment.bytes().all(plain) {
            let id = segment.chars().take(128).collect();
            return Err(CallError::NotSent(NotSent::Identifier(id)));
        }
        joined.push('/');
        joined.push_str(segment);
    }
    Ok(joined)
}

fn because(reason: &str) -> api::Reason {
    api::Reason {
        reason: Some(reason.to_owned()),
    }
}
