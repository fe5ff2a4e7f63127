//! An issuer that signs whatever it is told to.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use process::base64;
use serde_json::{Value, json};

use super::clock::START;
use crate::state::{Issuer, KeySource, Matcher, Rule, Scope, WithoutJti};

pub(crate) const URL: &str = "https://issuer.test";
pub(crate) const AUDIENCE: &str = "https://api.edge.test";

pub(crate) enum Signer {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(crate) fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::P256(key) => elliptic(key, kid, "P-256"),
            Self::P384(key) => elliptic(key, kid, "P-384"),
            Self::Rsa(key) => {
                let (n, e) = self.modulus_and_exponent(key);
                json!({"kty": "RSA", "kid": kid, "use": "sig",
                       "n": base64::encode_url(&n), "e": base64::encode_url(&e)})
            }
        }
    }

    /// `RSAPublicKey ::= SEQUENCE { INTEGER, INTEGER }` of 2048 bits (RFC 8017 A.1.1).
    #[allow(clippy::unused_self, reason = "reads as a part of the signer")]
    fn modulus_and_exponent(&self, key: &RsaKeyPair) -> (Vec<u8>, Vec<u8>) {
        let der = key.public_key().as_ref();
        assert_eq!(der[..4], [0x30, 0x82, 0x01, 0x0a]);
        assert_eq!(der[4..9], [0x02, 0x82, 0x01, 0x01, 0x00]);
        assert_eq!(der[265..267], [0x02, 0x03]);
        (der[9..265].to_vec(), der[267..].to_vec())
    }

    /// The PEM text of the public key, which algorithm confusion takes for an HMAC key.
    pub(crate) fn public_pem(&self) -> Vec<u8> {
        match self {
            Self::P256(key) | Self::P384(key) => {
                key.public_key().as_der().unwrap().as_ref().to_vec()
            }
            Self::Rsa(key) => {
                AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key())
                    .unwrap()
                    .as_ref()
                    .to_vec()
            }
        }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn signature(&self, signed: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(key) | Self::P384(key) => key
                .sign(&SystemRandom::new(), signed)
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    signed,
                    &mut signature,
                )
                .unwrap();
                signature
            }
        }
    }

    pub(crate) fn pss(&self, signed: &[u8]) -> Vec<u8> {
        let Self::Rsa(key) = self else {
            panic!("no RSA key")
        };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(
            &RSA_PSS_SHA256,
            &SystemRandom::new(),
            signed,
            &mut signature,
        )
        .unwrap();
        signature
    }

    /// A token with `header` and `claims` as they stand, also when they make no sense.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            base64::encode_url(header.as_bytes()),
            base64::encode_url(claims.as_bytes())
        );
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", base64::encode_url(&signature))
    }

    pub(crate) fn sign(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "kid": kid, "typ": "JWT"});
        self.sign_text(&header.to_string(), &claims.to_string())
    }
}

fn elliptic(key: &EcdsaKeyPair, kid: &str, curve: &str) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "kid": kid, "use": "sig",
           "x": base64::encode_url(x), "y": base64::encode_url(y)})
}

/// Claims that the rule of [`rule`] takes at [`START`].
pub(crate) fn claims() -> Value {
    claims_at(START)
}

pub(crate) fn claims_at(now: u64) -> Value {
    json!({"iss": URL, "aud": AUDIENCE, "sub": "system:serviceaccount:mcp:setup",
           "iat": now - 10, "nbf": now - 10, "exp": now + 600})
}

pub(crate) fn issuer(keys: Vec<Value>) -> Issuer {
    Issuer {
        id: String::new(),
        name: "cluster".to_owned(),
        issuer_url: URL.to_owned(),
        keys: KeySource::Inline { keys },
        check_jti: true,
        max_jwt_lifetime_seconds: 3600,
        accepted_types: vec!["JWT".to_owned()],
        allowed_networks: Vec::new(),
        ca_cert_pem: None,
        without_jti: WithoutJti::Allow,
        accepted_algorithms: Vec::new(),
        keys_number: 0,
    }
}

pub(crate) fn rule(issuer: &str) -> Rule {
    Rule {
        id: String::new(),
        name: "setup".to_owned(),
        issuer_id: issuer.to_owned(),
        r#match: Matcher {
            audience: AUDIENCE.to_owned(),
            subject_prefix: Some("system:serviceaccount:mcp:*".to_owned()),
            ..Matcher::default()
        },
        scope: Scope::Manage,
        tunnel_id: None,
        token_lifetime_seconds: 3600,
    }
}
