//! Who the daemon is to the edge: an issuer of the demo's own, whose key set the edge is given, and an identity token in a
//! file, as a platform projects one.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use process::{Clock, SystemClock, base64};
use serde_json::{Value, json};

use super::StackError;
use super::files::write;

/// `iss`; nobody fetches it.
pub(super) const ISSUER: &str = "https://identity.demo.example";
/// `aud`.
pub(super) const AUDIENCE: &str = "keyward-edge";
/// `sub`.
pub(super) const SUBJECT: &str = "keyward";
/// Longer than any demo; an edge takes at most 49 hours.
pub(super) const LIFE: Duration = Duration::from_secs(48 * 3600);
/// Of the key set, in the folder.
pub(super) const KEY_SET: &str = "identity.jwks";
/// Of the token, in the folder.
pub(super) const TOKEN: &str = "identity-token";

/// Writes the key set and the token into `folder`; the key is forgotten.
pub(super) fn make(folder: &Path) -> Result<(), StackError> {
    let failed = |_| StackError::Io {
        what: "make an identity".into(),
        error: std::io::Error::other("no key or signature could be made"),
    };
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
    // SEC 1, 2.3.3: 0x04, then both coordinates.
    let point = key.public_key().as_ref();
    let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": "demo",
                     "x": base64::encode_url(x), "y": base64::encode_url(y)});
    write(&folder.join(KEY_SET), &json!({"keys": [jwk]}).to_string())?;
    let now = SystemClock.wall().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": "demo"});
    let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "iat": now, "exp": now + LIFE.as_secs()});
    let part = |value: &Value| base64::encode_url(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = key
        .sign(&SystemRandom::new(), signed.as_bytes())
        .map_err(failed)?;
    write(
        &folder.join(TOKEN),
        &format!("{signed}.{}", base64::encode_url(signature.as_ref())),
    )
}
