//! Trust bundles: kept in the order of their numbers, signed by the keys that were named.

use http::Method;
use process::base64;
use serde_json::{Value, json};

use super::http_client::Served;
use super::objects::tunnel;
use crate::tests::issuer::Signer;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    bundles_are_kept_in_order_and_by_their_keys,
    bundles_that_each_name_another_key_are_bounded_and_come_in_pages,
);

pub(super) fn bundle(signer: &Signer, payload: &Value) -> String {
    let mut jwk = signer.jwk("x");
    for name in ["kid", "use"] {
        jwk.as_object_mut().unwrap().remove(name);
    }
    let header = json!({"alg": "ES256", "typ": "keyward-bundle+jwt", "jwk": jwk});
    signer.sign_text(&header.to_string(), &payload.to_string())
}

async fn bundles_that_each_name_another_key_are_bounded_and_come_in_pages(stage: Stage) {
    let served = Served::new(stage).await;
    let id = tunnel(&served).await;
    let path = format!("/v1/tunnels/{id}/bundles");
    let signer = Signer::p256();
    for sequence in 1..=20_u8 {
        let next = base64::encode_url(&[sequence; 32]);
        let payload = json!({"tunnel": id, "sequence": sequence, "next_key_thumbprint": next,
                             "ca_certificates": ["x".repeat(60 << 10)]});
        let body = json!({"bundle": bundle(&signer, &payload)}).to_string();
        let path = format!("{path}/{sequence}");
        let answer = served.call(Method::PUT, &path, &[], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut query = "?after=3".to_owned();
    loop {
        let asked = format!("{path}{query}");
        let answer = served.send(Method::GET, &asked, &[], "").await;
        let page = answer.body["data"].as_array().unwrap();
        assert!(answer.body.to_string().len() < 200 << 10);
        let sequences = page.iter().map(|one| one["sequence"].as_u64().unwrap());
        found.extend(sequences);
        pages += 1;
        let Some(cursor) = answer.body["next_page"].as_str() else {
            break;
        };
        query = format!("?after=3&page={cursor}");
    }
    assert_eq!(found, (5..=20).collect::<Vec<u64>>());
    assert_eq!(pages, 8, "two in each");
    let bad = format!("{path}?page=x");
    assert_eq!(served.send(Method::GET, &bad, &[], "").await.status, 400);
}

#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn bundles_are_kept_in_order_and_by_their_keys(stage: Stage) {
    let served = Served::new(stage).await;
    let id = tunnel(&served).await;
    let path = format!("/v1/tunnels/{id}/bundles");
    let (old, new) = (Signer::p256(), Signer::p256());
    let thumbprint = crate::assertion::Key::read(&new.jwk("x"))
        .unwrap()
        .thumbprint();
    let plain = |sequence: u64| json!({"tunnel": id, "sequence": sequence});
    let naming = |sequence: u64| json!({"tunnel": id, "sequence": sequence, "next_key_thumbprint": thumbprint});
    let put = async |sequence: u64, jws: &str| {
        let body = json!({"bundle": jws}).to_string();
        let answer = served
            .call(Method::PUT, &format!("{path}/{sequence}"), &[], &body)
            .await;
        answer.status.as_u16()
    };
    let kept = async |after: u64| -> Vec<u64> {
        // Anybody may ask.
        let answer = served
            .send(Method::GET, &format!("{path}?after={after}"), &[], "")
            .await;
        answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b["sequence"].as_u64().unwrap())
            .collect()
    };
    let first = bundle(&old, &plain(1));
    assert_eq!(put(1, &first).await, 200);
    assert_eq!(put(1, &first).await, 200, "the same again");
    assert_eq!(
        put(1, &bundle(&old, &plain(1))).await,
        409,
        "another under the same number"
    );
    assert_eq!(
        put(2, &bundle(&new, &plain(2))).await,
        409,
        "a key that nobody named"
    );
    assert_eq!(put(3, &bundle(&old, &naming(3))).await, 200);
    assert_eq!(put(4, &bundle(&old, &naming(4))).await, 200);
    assert_eq!(put(2, &bundle(&old, &plain(2))).await, 409, "rolled back");
    assert_eq!(put(5, &bundle(&new, &plain(5))).await, 200);
    assert_eq!(
        put(6, &bundle(&old, &plain(6))).await,
        409,
        "the old key is over"
    );
    assert_eq!(
        kept(0).await,
        [3, 5],
        "the latest, and the first that named its next key"
    );
    assert_eq!(kept(3).await, [5]);
    for bad in [
        "a.b.c".to_owned(),
        bundle(&new, &plain(8)),
        bundle(&new, &json!({"tunnel": "tnl_0", "sequence": 7})),
        new.sign_text(
            &json!({"alg": "ES256", "typ": "JWT"}).to_string(),
            &plain(7).to_string(),
        ),
        bundle(&Signer::p384(), &plain(7)),
        bundle(
            &new,
            &json!({"tunnel": id, "sequence": 7, "next_key_thumbprint": "\0"}),
        ),
        bundle(&new, &plain(7)).replacen('.', &format!("{}.", base64::encode_url(b" ")), 1),
    ] {
        assert_eq!(put(7, &bad).await, 400, "{bad}");
    }
}
