//! The identity provider of a sign-in, through openidconnect: discovery, the page to open, the code's
//! exchange, the ID token's check.
//!
//! The one file that names that crate. What it checks here is for the person at the terminal, who is told
//! what is wrong; whether the token buys anything the edge decides by its own checklist.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use chrono::DateTime;
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreJwsSigningAlgorithm, CoreProviderMetadata,
};
use openidconnect::{
    AuthenticationContextClass, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, IssuerUrl, Nonce, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, Scope, TokenResponse,
};
use process::Clock;
use thiserror::Error;
use zeroize::Zeroizing;

use super::callback::Code;
use super::http::Client;
use crate::causes::causes;

/// Those that the edge takes; the library alone would take RS256 only.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EcdsaP521Sha512,
];

/// With a page to sign in at, and perhaps a token endpoint.
type Relying = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Why nobody is signed in.
#[derive(Debug, Error)]
pub(super) enum ProviderError {
    /// An argument that cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The discovery document or the keys cannot be had or read.
    #[error("{0}")]
    Discovery(String),
    /// It does not take the code.
    #[error("it does not give a token for the code: {0}")]
    Code(String),
    /// No ID token, or one that is not for this sign-in.
    #[error("its ID token is not the answer to this sign-in: {0}")]
    Token(String),
}

/// One that was discovered.
pub(super) struct Provider {
    metadata: CoreProviderMetadata,
    client: Client,
}

/// A sign-in that waits for its code.
pub(super) struct Pending {
    relying: Relying,
    client: Client,
    page: String,
    state: CsrfToken,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
}

/// Who it is.
pub(super) struct SignedIn {
    pub(super) subject: String,
    /// As good as a password while it lives.
    pub(super) id_token: Zeroizing<String>,
}

impl Provider {
    /// Reads the discovery document of `issuer`, which must name itself so, and its keys.
    pub(super) async fn discover(issuer: &str, client: Client) -> Result<Self, ProviderError> {
        let issuer = IssuerUrl::new(issuer.to_owned())
            .map_err(|error| ProviderError::Setting(format!("--issuer: {error}")))?;
        let send = |request| client.send(request);
        let metadata = CoreProviderMetadata::discover_async(issuer, &send).await;
        let metadata = metadata.map_err(|error| ProviderError::Discovery(causes(&error)))?;
        Ok(Self { metadata, client })
    }

    /// Draws state, nonce and PKCE verifier, and says which page to open.
    pub(super) fn begin(
        self,
        id: &str,
        secret: Option<&str>,
        redirect: String,
        (scopes, classes): (&[String], &[String]),
    ) -> Result<Pending, ProviderError> {
        let redirect = RedirectUrl::new(redirect)
            .map_err(|error| ProviderError::Setting(format!("the redirect URL: {error}")))?;
        let secret = secret.map(|secret| ClientSecret::new(secret.to_owned()));
        let relying =
            CoreClient::from_provider_metadata(self.metadata, ClientId::new(id.to_owned()), secret)
                .set_redirect_uri(redirect);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut asked = relying
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .set_pkce_challenge(challenge);
        for scope in scopes {
            asked = asked.add_scope(Scope::new(scope.clone()));
        }
        for class in classes {
            asked = asked.add_auth_context_value(AuthenticationContextClass::new(class.clone()));
        }
        let (page, state, nonce) = asked.url();
        Ok(Pending {
            relying,
            client: self.client,
            page: page.into(),
            state,
            nonce,
            verifier,
        })
    }
}

impl Pending {
    /// The page to open.
    pub(super) fn page(&self) -> &str {
        &self.page
    }

    /// What the answer must repeat.
    pub(super) fn state(&self) -> &str {
        self.state.secret()
    }

    /// Exchanges the code for an ID token, and checks that it answers this sign-in: signature, issuer,
    /// audience, times, nonce. Dropped halfway, the code may be used up.
    pub(super) async fn finish(
        self,
        code: Code,
        clock: Arc<dyn Clock>,
    ) -> Result<SignedIn, ProviderError> {
        let send = |request| self.client.send(request);
        let answer = self
            .relying
            .exchange_code(AuthorizationCode::new(code.to_string()))
            .map_err(|error| ProviderError::Code(causes(&error)))?
            .set_pkce_verifier(self.verifier)
            .request_async(&send)
            .await
            .map_err(|error| ProviderError::Code(causes(&error)))?;
        let token = answer
            .id_token()
            .ok_or_else(|| ProviderError::Token("there is none".to_owned()))?;
        let verifier = self
            .relying
            .id_token_verifier()
            .set_allowed_algs(ALGORITHMS)
            .set_time_fn(move || {
                let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
                let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
                DateTime::from_timestamp(seconds, 0).unwrap_or_default()
            });
        let claims = token
            .claims(&verifier, &self.nonce)
            .map_err(|error| ProviderError::Token(causes(&error)))?;
        Ok(SignedIn {
            subject: claims.subject().to_string(),
            id_token: Zeroizing::new(token.to_string()),
        })
    }
}
