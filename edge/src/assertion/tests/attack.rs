//! What must buy nothing, and why it does not.

use std::sync::Arc;

use aws_lc_rs::hmac;
use process::{Tasks, base64};
use serde_json::{Value, json};

use crate::assertion::{KeyStore, Refusal, Verified, system_resolver, verify};
use crate::state::{Issuer, KeySource};
use crate::tests::clock::{START, StandingClock};
use crate::tests::issuer::{Signer, claims, issuer, rule};

async fn check(text: &str, issuer: &Issuer, now: u64) -> Result<Verified, Refusal> {
    let keys = KeyStore::new(
        system_resolver(),
        Arc::new(StandingClock::new()),
        Tasks::new(),
    );
    verify(text, &rule("fdis_1"), issuer, &keys, now).await
}

/// With one claim replaced; `Null` takes it away.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

#[tokio::test]
async fn a_token_as_it_should_be_is_taken_under_each_algorithm() {
    let (p256, p384, rsa) = (Signer::p256(), Signer::p384(), Signer::rsa());
    let issuer = issuer(vec![p256.jwk("a"), p384.jwk("b"), rsa.jwk("c")]);
    for (signer, kid) in [(&p256, "a"), (&p384, "b"), (&rsa, "c")] {
        let verified = check(&signer.sign(kid, &claims()), &issuer, START)
            .await
            .unwrap();
        assert_eq!(verified.subject, "system:serviceaccount:mcp:setup");
        assert_eq!(verified.expires_at, START + 600);
    }
    let signed = format!(
        "{}.{}",
        base64::encode_url(br#"{"alg":"PS256","kid":"c"}"#),
        base64::encode_url(claims().to_string().as_bytes())
    );
    let pss = format!(
        "{signed}.{}",
        base64::encode_url(&rsa.pss(signed.as_bytes()))
    );
    check(&pss, &issuer, START).await.unwrap();
}

#[tokio::test]
async fn an_algorithm_that_the_issuer_does_not_use_is_refused_though_its_key_would_fit() {
    let (p256, rsa) = (Signer::p256(), Signer::rsa());
    let mut issuer = issuer(vec![p256.jwk("a"), rsa.jwk("c")]);
    issuer.accepted_algorithms = vec!["ES256".to_owned()];
    check(&p256.sign("a", &claims()), &issuer, START)
        .await
        .unwrap();
    let refused = check(&rsa.sign("c", &claims()), &issuer, START).await;
    let refused = refused.unwrap_err().to_string();
    assert_eq!(refused, "alg is RS256, this issuer's may be ES256");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn no_header_makes_a_token_easier_to_sign() {
    let (p256, rsa, other) = (Signer::p256(), Signer::rsa(), Signer::p256());
    let mut only_rs512 = rsa.jwk("rs512");
    only_rs512["alg"] = "RS512".into();
    let issuer = issuer(vec![
        p256.jwk("a"),
        rsa.jwk("c"),
        p256.jwk("twice"),
        rsa.jwk("twice"),
        only_rs512,
    ]);
    let jwk = other.jwk("a");
    let cases: Vec<(Value, &str)> = vec![
        (json!({"alg": "none", "kid": "a"}), "alg is"),
        (json!({"alg": "None", "kid": "a"}), "alg is"),
        (json!({"alg": "", "kid": "a"}), "alg is"),
        (json!({"kid": "a"}), "alg is \"absent\""),
        (json!({"alg": ["ES256"], "kid": "a"}), "alg is"),
        (json!({"alg": "HS256", "kid": "a"}), "alg is"),
        (json!({"alg": "es256", "kid": "a"}), "alg is"),
        (json!({"alg": "EdDSA", "kid": "a"}), "alg is"),
        (json!({"alg": "ES256K", "kid": "a"}), "alg is"),
        (json!({"alg": "ES256"}), "kid is missing"),
        (json!({"alg": "ES256", "kid": ""}), "kid is missing"),
        (json!({"alg": "ES256", "kid": 1}), "kid is missing"),
        (json!({"alg": "ES256", "kid": "b"}), "kid \"b\" is none"),
        (json!({"alg": "ES256", "kid": "twice"}), "names several"),
        (
            json!({"alg": "RS256", "kid": "a"}),
            "alg is RS256, key \"a\" is for EC P-256",
        ),
        (
            json!({"alg": "ES256", "kid": "c"}),
            "alg is ES256, key \"c\" is for RSA 2048",
        ),
        (json!({"alg": "ES384", "kid": "a"}), "alg is ES384"),
        (json!({"alg": "RS256", "kid": "rs512"}), "RS512 only"),
        (
            json!({"alg": "ES256", "kid": "a", "crit": ["exp"], "exp": 1}),
            "crit",
        ),
        (json!({"alg": "ES256", "kid": "a", "crit": []}), "crit"),
        (json!({"alg": "ES256", "kid": "a", "cty": "JWT"}), "cty"),
        (json!({"alg": "ES256", "kid": "a", "b64": false}), "b64"),
        (json!({"alg": "ES256", "kid": "a", "zip": "DEF"}), "zip"),
        (
            json!({"alg": "ES256", "kid": "a", "typ": "at+jwt"}),
            "typ is",
        ),
        (
            json!({"alg": "ES256", "kid": "a", "typ": "logout+jwt"}),
            "typ is",
        ),
        (json!({"alg": "ES256", "kid": "a", "typ": 1}), "typ is"),
        // A key that the token brings along is not looked at.
        (json!({"alg": "ES256", "kid": "a", "jwk": jwk}), "signature"),
        (
            json!({"alg": "ES256", "kid": "a", "jku": "https://evil.test/"}),
            "signature",
        ),
    ];
    for (header, reason) in cases {
        let text = other.sign_text(&header.to_string(), &claims().to_string());
        let refusal = check(&text, &issuer, START).await.unwrap_err().to_string();
        assert!(refusal.contains(reason), "{header}: {refusal}");
    }
}

#[tokio::test]
async fn the_public_key_is_no_hmac_key_and_no_signature_is_none() {
    let rsa = Signer::rsa();
    let issuer = issuer(vec![rsa.jwk("a")]);
    let payload = base64::encode_url(claims().to_string().as_bytes());
    let header = base64::encode_url(br#"{"alg":"HS256","kid":"a"}"#);
    let signed = format!("{header}.{payload}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &rsa.public_pem());
    let tag = base64::encode_url(hmac::sign(&key, signed.as_bytes()).as_ref());
    let header = base64::encode_url(br#"{"alg":"RS256","kid":"a"}"#);
    for text in [
        format!("{signed}.{tag}"),
        format!("{header}.{payload}.{tag}"),
        format!("{header}.{payload}."),
        format!(
            "{}.{payload}.",
            base64::encode_url(br#"{"alg":"none","kid":"a"}"#)
        ),
    ] {
        assert!(check(&text, &issuer, START).await.is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_changed_token_is_refused_wherever_it_is_changed() {
    let signer = Signer::p256();
    let issuer = issuer(vec![signer.jwk("a")]);
    let good = signer.sign("a", &claims());
    check(&good, &issuer, START).await.unwrap();
    for place in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(check(&changed, &issuer, START).await.is_err(), "at {place}");
    }
    // ECDSA: r = s = 0 verifies under a broken verifier (CVE-2022-21449).
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    let zeros = format!("{unsigned}.{}", base64::encode_url(&[0; 64]));
    assert!(check(&zeros, &issuer, START).await.is_err());
}

#[tokio::test]
async fn a_form_that_two_readers_could_read_differently_is_refused() {
    let signer = Signer::p256();
    let issuer = issuer(vec![signer.jwk("a")]);
    let good = signer.sign("a", &claims());
    let header = r#"{"alg":"ES256","kid":"a"}"#;
    let body = claims().to_string();
    let twice = format!(r#"{{"sub":"system:serviceaccount:mcp:x",{}"#, &body[1..]);
    for text in [
        String::new(),
        "a.b".to_owned(),
        format!("{good}.x"),
        format!("{good}.x.y"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        good.replace('.', ".."),
        signer.sign_text(header, &twice),
        signer.sign_text(r#"{"alg":"ES256","kid":"a","kid":"a"}"#, &body),
        signer.sign_text(header, "[]"),
        signer.sign_text(header, "null"),
        signer.sign_text(header, &format!("{body}{body}")),
        signer.sign_text("", &body),
    ] {
        assert!(check(&text, &issuer, START).await.is_err(), "{text}");
    }
}

#[tokio::test]
async fn more_than_sixteen_kib_is_not_read() {
    let signer = Signer::p256();
    let issuer = issuer(vec![signer.jwk("a")]);
    let padded = |length: usize| signer.sign("a", &with("padding", "x".repeat(length).into()));
    let long = padded(12_200);
    assert!(long.len() > 16_384);
    let refusal = check(&long, &issuer, START).await.unwrap_err();
    assert!(matches!(refusal, Refusal::TooLong(_)), "{refusal}");
    let fits = padded(11_800);
    assert!(fits.len() < 16_384);
    check(&fits, &issuer, START).await.unwrap();
}

#[tokio::test]
async fn every_claim_must_be_there_of_its_type_and_true() {
    let signer = Signer::p256();
    let issuer = issuer(vec![signer.jwk("a")]);
    let cases: Vec<(&str, Value, &str)> = vec![
        ("iss", Value::Null, "iss is missing"),
        ("iss", json!("https://issuer.test/"), "byte for byte"),
        ("iss", json!("http://issuer.test"), "byte for byte"),
        ("iss", json!(["https://issuer.test"]), "iss is missing"),
        ("aud", Value::Null, "aud is missing"),
        ("aud", json!("https://api.edge.test/"), "the rule wants"),
        ("aud", json!([]), "the rule wants"),
        ("aud", json!(["https://api.edge.test", 1]), "aud is missing"),
        ("aud", json!({"https://api.edge.test": 1}), "aud is missing"),
        ("sub", Value::Null, "sub is missing"),
        ("sub", json!(""), "sub is missing"),
        ("sub", json!("x".repeat(1025)), "sub is missing"),
        (
            "sub",
            json!("system:serviceaccount:mcp:\0"),
            "sub is missing",
        ),
        (
            "sub",
            json!("system:serviceaccount:other:setup"),
            "match_subject_prefix",
        ),
        (
            "sub",
            json!("System:serviceaccount:mcp:setup"),
            "match_subject_prefix",
        ),
        ("exp", Value::Null, "exp is missing"),
        ("exp", json!((START + 600).to_string()), "exp is missing"),
        ("exp", json!(START - 30), "expired 30 seconds ago"),
        ("exp", json!(START + 3600), "lives for 3610"),
        ("exp", json!((START + 600) * 1000), "exp is missing"),
        ("exp", json!(1e300), "exp is missing"),
        ("exp", json!(-1), "exp is missing"),
        ("iat", Value::Null, "iat is missing"),
        ("iat", json!(true), "iat is missing"),
        ("iat", json!(START + 31), "issued 31 seconds in the future"),
        ("nbf", json!(START + 31), "not valid for another 31"),
        ("nbf", json!("0"), "nbf is missing"),
        ("jti", json!(""), "jti is missing"),
        ("jti", json!(7), "jti is missing"),
    ];
    for (name, value, reason) in cases {
        let text = signer.sign("a", &with(name, value.clone()));
        let refusal = check(&text, &issuer, START).await.unwrap_err().to_string();
        assert!(refusal.contains(reason), "{name} {value}: {refusal}");
    }
    let backwards = json!({"iss": "https://issuer.test", "aud": "https://api.edge.test",
        "sub": "system:serviceaccount:mcp:setup", "iat": START + 20, "exp": START + 20});
    let refusal = check(&signer.sign("a", &backwards), &issuer, START)
        .await
        .unwrap_err();
    assert!(matches!(refusal, Refusal::EndsBeforeItBegins), "{refusal}");
}

#[tokio::test]
async fn thirty_seconds_of_difference_are_borne_and_no_more() {
    let signer = Signer::p256();
    let issuer = issuer(vec![signer.jwk("a")]);
    let good = signer.sign("a", &claims());
    for (now, taken) in [
        (START - 40, true),
        (START - 41, false),
        (START + 629, true),
        (START + 630, false),
    ] {
        assert_eq!(check(&good, &issuer, now).await.is_ok(), taken, "{now}");
    }
    let without = signer.sign("a", &with("nbf", Value::Null));
    check(&without, &issuer, START).await.unwrap();
    let fraction = signer.sign("a", &with("exp", json!(1_800_000_600.75)));
    assert_eq!(
        check(&fraction, &issuer, START).await.unwrap().expires_at,
        START + 600
    );
}

#[tokio::test]
async fn keys_that_cannot_be_trusted_are_no_keys() {
    let signer = Signer::p256();
    let token = signer.sign("a", &claims());
    let good = signer.jwk("a");
    let rsa = Signer::rsa().jwk("a");
    let changed = |of: &Value, name: &str, value: Value| {
        let mut key = of.clone();
        key[name] = value;
        key
    };
    let short = base64::encode_url(&[0xff; 128]);
    for bad in [
        changed(&good, "use", "enc".into()),
        changed(&good, "key_ops", json!(["sign"])),
        changed(&good, "key_ops", json!("verify")),
        changed(&good, "kty", "oct".into()),
        changed(&good, "kty", "OKP".into()),
        changed(&good, "crv", "secp256k1".into()),
        changed(&good, "crv", "P-384".into()),
        changed(&good, "alg", "HS256".into()),
        changed(&good, "x", "AA".into()),
        changed(&good, "kid", Value::Null),
        changed(&rsa, "n", short.clone().into()),
        changed(&rsa, "e", "AQ".into()),
        changed(&rsa, "e", "Aw".into()),
        changed(&rsa, "e", "AQAA".into()),
        changed(&rsa, "e", base64::encode_url(&[0xff; 9]).into()),
        changed(&rsa, "n", base64::encode_url(&[0xff; 1025]).into()),
        json!("x"),
    ] {
        // It does not end the good ones beside it either.
        let refusal = check(&token, &issuer(vec![bad.clone()]), START)
            .await
            .unwrap_err();
        assert!(
            matches!(refusal, Refusal::UnknownKid { .. }),
            "{bad}: {refusal}"
        );
        let mut other = good.clone();
        other["kid"] = "a".into();
        assert!(
            check(&token, &issuer(vec![bad.clone(), other]), START)
                .await
                .is_ok(),
            "{bad}"
        );
    }
    let point = changed(&good, "y", base64::encode_url(&[1; 32]).into());
    let refusal = check(&token, &issuer(vec![point]), START)
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, Refusal::Signature(_)),
        "off the curve: {refusal}"
    );
}

#[test]
fn a_thumbprint_agrees_with_rfc_7638() {
    let jwk = json!({"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"});
    let key = crate::assertion::Key::read(&jwk).unwrap();
    assert_eq!(
        key.thumbprint(),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
}

#[test]
fn an_issuer_without_usable_keys_or_with_a_url_that_is_not_dialled_is_not_added() {
    let signer = Signer::p256();
    let with = |keys: KeySource| {
        let mut issuer = issuer(Vec::new());
        issuer.keys = keys;
        crate::assertion::check_key_source(&issuer)
    };
    assert_eq!(
        with(KeySource::Inline {
            keys: vec![signer.jwk("a")]
        }),
        Ok(())
    );
    assert!(
        with(KeySource::Inline {
            keys: vec![json!({"kty": "oct"})]
        })
        .is_err()
    );
    for url in [
        "ftp://a/",
        "https://u@a/",
        "https://u:p@a/",
        "/path",
        "https://a/#f",
        "",
    ] {
        assert!(
            with(KeySource::ExplicitUrl {
                url: url.to_owned()
            })
            .is_err(),
            "{url}"
        );
    }
}
