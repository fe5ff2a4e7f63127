//! Token exchange: RFC 7523 and RFC 8693.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Values of `grant_type`.
pub mod grant {
    /// RFC 7523 §2.1.
    pub const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    /// RFC 8693 §2.1.
    pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
}

/// `POST /v1/oauth/token`, as JSON or as a form. Unknown fields are dropped, as by the product.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exchange {
    /// One of [`grant`].
    pub grant_type: String,
    /// RFC 7523: the JWT, at most 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assertion: Option<String>,
    /// RFC 8693: the JWT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token: Option<String>,
    /// RFC 8693 §3: `urn:ietf:params:oauth:token-type:jwt` or `…:id_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token_type: Option<String>,
    /// `fdrl_…`: names the rule, since rules are not searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub federation_rule_id: Option<String>,
    /// UUID of the organization; on an edge there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
    /// `svac_…`; an edge has none and reads only its shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_id: Option<String>,
    /// `wrkspc_…` or `default`; on an edge there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<String>,
}

/// The JWT is as good as a password while it lives.
impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("grant_type", &self.grant_type)
            .field("federation_rule_id", &self.federation_rule_id)
            .finish_non_exhaustive()
    }
}

/// What a good exchange answers.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccessToken {
    /// For `Authorization: Bearer`.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    /// Space separated.
    #[serde(default)]
    pub scope: String,
    /// RFC 8693 §2.2.1, only for that grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_token_type: Option<String>,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("expires_in", &self.expires_in)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// RFC 6749 §5.2, for those who asked with a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuthError {
    /// `invalid_request`, `invalid_grant`, `unsupported_grant_type` …
    pub error: String,
    /// For a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
}
