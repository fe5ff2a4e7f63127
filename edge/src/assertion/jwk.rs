//! Keys of issuers (RFC 7517, RFC 7518), and signatures under them.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use process::base64;
use serde_json::Value;

/// Most keys that are looked at in one set.
const MOST: usize = 64;

/// Algorithms that are taken (RFC 7518 §3.1). No symmetric one: the key of a verifier must not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 7518")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Rs256, "RS256"),
        (Self::Rs384, "RS384"),
        (Self::Rs512, "RS512"),
        (Self::Ps256, "PS256"),
        (Self::Ps384, "PS384"),
        (Self::Ps512, "PS512"),
        (Self::Es256, "ES256"),
        (Self::Es384, "ES384"),
        (Self::Es512, "ES512"),
    ];

    /// As `alg` has it, exactly.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(algorithm, _)| *algorithm)
    }

    /// As `alg` has it.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(algorithm, _)| *algorithm == self)
            .map_or("", |(_, name)| name)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::Es512 => return None,
        })
    }
}

/// A curve and what goes with it (RFC 7518 §3.4, §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "P-256" => Self::P256,
            "P-384" => Self::P384,
            "P-521" => Self::P521,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    fn octets(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn algorithm(self) -> (Algorithm, &'static dyn VerificationAlgorithm) {
        match self {
            Self::P256 => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
            Self::P384 => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
            Self::P521 => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Elliptic {
        curve: Curve,
        x: Vec<u8>,
        y: Vec<u8>,
    },
}

/// A public key that may check signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    kid: Option<String>,
    /// `alg` of the JWK: then it is for that one alone.
    only: Option<Algorithm>,
    material: Material,
}

/// The keys of an issuer that can be used; others are left out, so that a new kind of key does not end
/// the old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads the array of a JWKS.
    pub fn read(keys: &[Value]) -> Self {
        let usable = |key: &Value| Key::read(key).filter(|key| key.kid.is_some());
        Self(keys.iter().take(MOST).filter_map(usable).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that have this `kid`.
    pub fn named<'a>(&'a self, kid: &'a str) -> impl Iterator<Item = &'a Key> {
        self.0
            .iter()
            .filter(move |key| key.kid.as_deref() == Some(kid))
    }

    /// Every `kid`.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|key| key.kid.as_deref())
    }
}

impl Key {
    /// Reads a JWK; `None` if it cannot be used to check signatures, or is too weak or too large.
    pub fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let octets = |name: &str| text(name).and_then(base64::decode_url);
        let used = jwk.get("use").is_none_or(|used| used == "sig");
        let operations = jwk.get("key_ops").is_none_or(|operations| {
            let list = operations.as_array();
            list.is_some_and(|list| list.iter().any(|operation| operation == "verify"))
        });
        if !used || !operations {
            return None;
        }
        let material = match text("kty")? {
            "RSA" => rsa(octets("n")?, octets("e")?)?,
            "EC" => {
                let curve = Curve::parse(text("crv")?)?;
                let (x, y) = (octets("x")?, octets("y")?);
                let sized = x.len() == curve.octets() && y.len() == curve.octets();
                sized.then_some(Material::Elliptic { curve, x, y })?
            }
            _ => return None,
        };
        let only = match jwk.get("alg") {
            None => None,
            Some(named) => Some(Algorithm::parse(named.as_str()?)?),
        };
        let kid = text("kid").filter(|kid| !kid.is_empty());
        Some(Self {
            kid: kid.map(str::to_owned),
            only,
            material,
        })
    }

    /// Whether the key may be used with `algorithm`: its kind, its curve, and its own `alg`.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match &self.material {
            Material::Rsa { .. } => algorithm.rsa().is_some(),
            Material::Elliptic { curve, .. } => curve.algorithm().0 == algorithm,
        };
        kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether the key made `signature` over `signed`.
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => algorithm.rsa().is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, signed, signature).is_ok()
            }),
            Material::Elliptic { curve, x, y } => {
                let point = [&[4], x.as_slice(), y].concat();
                let (only, verification) = curve.algorithm();
                only == algorithm
                    && UnparsedPublicKey::new(verification, point)
                        .verify(signed, signature)
                        .is_ok()
            }
        }
    }

    /// What it is good for, for a person.
    pub fn purpose(&self) -> String {
        let kind = match &self.material {
            Material::Rsa { n, .. } => format!("RSA {}", n.len() * 8),
            Material::Elliptic { curve, .. } => format!("EC {}", curve.name()),
        };
        match self.only {
            Some(only) => format!("{kind}, {} only", only.as_str()),
            None => kind,
        }
    }

    /// RFC 7638 §3: base64url of the SHA-256 of the required members in order.
    pub fn thumbprint(&self) -> String {
        let text = match &self.material {
            Material::Rsa { n, e } => format!(
                r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                base64::encode_url(e),
                base64::encode_url(n)
            ),
            Material::Elliptic { curve, x, y } => format!(
                r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
                curve.name(),
                base64::encode_url(x),
                base64::encode_url(y)
            ),
        };
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        base64::encode_url(digest.as_ref())
    }
}

/// 2048 to 8192 bits, an odd exponent from 65537 to 33 bits: larger ones only cost time.
fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Material> {
    let bits = |octets: &[u8]| {
        let leading = octets
            .first()
            .map_or(8, |octet| octet.leading_zeros() as usize);
        octets.len() * 8 - leading
    };
    // RFC 7518 §6.3.1.1: no leading zero octet.
    let minimal = n.first() != Some(&0) && e.first() != Some(&0);
    let exponent = e.iter().try_fold(0_u64, |value, octet| {
        value
            .checked_mul(256)
            .map(|value| value | u64::from(*octet))
    })?;
    let sane = (65_537..1 << 33).contains(&exponent) && exponent % 2 == 1;
    let sized = (2048..=8192).contains(&bits(&n));
    (minimal && sane && sized).then_some(Material::Rsa { n, e })
}
