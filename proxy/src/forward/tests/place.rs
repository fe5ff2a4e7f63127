//! Answers in the upstream's place, and the end of time for a connection.

use serde_json::{Value, json};

use super::streams::{EVENTS, chunk, streaming};
use super::{GET, OK, Proxy, Upstream, call, values, within};

/// The head and the JSON body of an answer.
async fn answer(proxy: &Proxy, request: &str) -> (String, Value) {
    let request = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    split(&proxy.say(&request).await)
}

fn split(answer: &str) -> (String, Value) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    (
        head.to_owned(),
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")),
    )
}

fn in_place(got: &(String, Value), id: &Value, reason: &str) {
    assert!(
        got.0.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{got:?}"
    );
    assert_eq!(values(&got.0, "retry-after"), ["1"]);
    assert_eq!(values(&got.0, "content-type"), ["application/json"]);
    assert_eq!(values(&got.0, "x-request-id").len(), 1);
    assert_eq!((&got.1["jsonrpc"], &got.1["id"]), (&json!("2.0"), id));
    assert_eq!(got.1["error"]["data"]["reason"], reason);
    assert!(got.1["error"]["code"].is_i64() && got.1["error"]["message"].is_string());
}

#[tokio::test]
async fn a_call_that_reaches_no_upstream_is_answered_by_its_id() {
    let gone = Upstream::bind().await.addr();
    let proxy = Proxy::to(gone, "").await;
    in_place(
        &answer(&proxy, &call()).await,
        &json!(7),
        "upstream_unreachable",
    );
    in_place(
        &answer(&proxy, GET).await,
        &Value::Null,
        "upstream_unreachable",
    );
    let named = "POST / HTTP/1.1\r\nHost: docs\r\nX-Request-Id: abc\r\nContent-Length: 2\r\n\r\n{}";
    let got = answer(&proxy, named).await;
    in_place(&got, &Value::Null, "upstream_unreachable");
    assert_eq!(values(&got.0, "x-request-id"), ["abc"]);
    assert!(
        !got.1.to_string().contains(&gone.to_string()),
        "the inside stays inside: {}",
        got.1
    );
}

#[tokio::test]
async fn a_call_whose_upstream_breaks_off_is_answered_by_its_id_and_sent_once() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let call = call();
    for begun in ["", "HTTP/1.1 200 O", "HTTP/1.1 nonsense\r\n\r\n"] {
        let (got, ()) = tokio::join!(answer(&proxy, &call), async {
            let mut peer = upstream.accept().await;
            peer.head().await;
            peer.until("}").await;
            peer.write(begun).await;
        });
        in_place(&got, &json!(7), "upstream_broke");
        assert!(upstream.is_untouched().await);
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_the_first_byte_of_a_body_is_answered_for() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let (got, ()) = tokio::join!(answer(&proxy, GET), async {
        let mut peer = upstream.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n")
            .await;
    });
    // Either it was seen in time to say so, or the body is broken off: never a whole answer.
    assert!(got.0.starts_with("HTTP/1.1 503 "), "{got:?}");
}

#[tokio::test]
async fn an_upstream_outside_the_allowed_networks_is_not_dialled() {
    let upstream = Upstream::bind().await;
    for host in ["127.0.0.1", "localhost"] {
        let port = upstream.addr().port();
        let routes = format!(
            "routes: {{docs: 'http://{host}:{port}'}}\nupstream:\n  allowed_ips: [10.0.0.0/8]\n"
        );
        let proxy = Proxy::configured(&routes).await;
        in_place(
            &answer(&proxy, &call()).await,
            &json!(7),
            "upstream_not_allowed",
        );
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_name_is_dialled_at_the_address_that_passes() {
    let upstream = Upstream::bind().await;
    let routes = format!(
        "routes: {{docs: 'http://localhost:{}'}}\n",
        upstream.addr().port()
    );
    let proxy = Proxy::configured(&routes).await;
    let mut caller = proxy.caller().await;
    caller.write(GET).await;
    upstream.accept().await.answer(OK).await;
    caller.until("ok").await;
}

#[tokio::test]
async fn routes_that_are_still_to_come_are_answered_for() {
    let proxy = Proxy::configured("routes: daemon\n").await;
    assert!(proxy.forwarder.policy_pending("main"));
    in_place(&answer(&proxy, GET).await, &Value::Null, "policy_pending");
    proxy.forwarder.set_routes(Some("main"), [].into()).unwrap();
    assert!(!proxy.forwarder.policy_pending("main"));
    assert!(proxy.forwarder.policy_pending("other"));
    let got = proxy
        .say("GET / HTTP/1.1\r\nHost: docs\r\nConnection: close\r\n\r\n")
        .await;
    assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
}

#[tokio::test]
async fn a_call_without_an_answer_is_answered_for_when_time_is_up() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(&call()).await;
    let mut peer = upstream.accept().await;
    peer.head().await;
    peer.until("}").await;
    proxy.cut.cancel();
    let head = caller.head().await;
    let length: usize = values(&head, "content-length")[0].parse().unwrap();
    let mut body = String::new();
    while body.len() < length {
        body.push_str(&caller.until("}").await);
    }
    in_place(&split(&format!("{head}{body}")), &json!(7), "cut");
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn an_event_stream_ends_between_events_when_time_is_up() {
    for begun in ["", "data: 1\n\n"] {
        let (proxy, mut caller, mut peer) = streaming("", EVENTS).await;
        if !begun.is_empty() {
            peer.write(&chunk(begun)).await;
            caller.until(&chunk(begun)).await;
        }
        proxy.cut.cancel();
        assert_eq!(caller.until("0\r\n\r\n").await, "0\r\n\r\n");
        assert_eq!(peer.rest().await, "");
    }
}

#[tokio::test]
async fn a_stream_that_ends_with_its_time_ends_upstream_while_the_request_still_comes() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    let head = "POST / HTTP/1.1\r\nHost: docs\r\nTransfer-Encoding: chunked\r\n\r\n";
    caller.write(head).await;
    let mut peer = upstream.accept().await;
    peer.answer(EVENTS).await;
    caller.head().await;
    proxy.cut.cancel();
    assert_eq!(caller.until("0\r\n\r\n").await, "0\r\n\r\n");
    assert_eq!(peer.rest().await, "");
}

/// A request's body that never ends.
struct Endless;

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_stream_that_ends_with_its_time_ends_upstream_while_an_http2_request_is_open() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut sender = proxy.caller_http2().await;
    let request = http::Request::post("https://docs.t.example/");
    let sent = sender.send_request(request.body(Endless).unwrap());
    let (response, mut peer) = tokio::join!(sent, async {
        let mut peer = upstream.accept().await;
        peer.answer(EVENTS).await;
        peer
    });
    proxy.cut.cancel();
    let ended = http_body_util::BodyExt::collect(response.unwrap().into_body());
    assert!(within("the end of the stream", ended).await.is_ok());
    peer.rest().await;
    assert!(!sender.is_closed());
}

#[tokio::test]
async fn an_event_that_is_open_is_finished_when_time_is_up() {
    let (proxy, mut caller, mut peer) = streaming("", EVENTS).await;
    peer.write(&chunk("data: 1\n")).await;
    caller.until("data: 1\n\r\n").await;
    proxy.cut.cancel();
    peer.write(&chunk("data: 2\n\ndata: 3\n\n")).await;
    assert_eq!(
        caller.until("0\r\n\r\n").await,
        chunk("data: 2\n\n") + "0\r\n\r\n"
    );
}

#[tokio::test]
async fn an_event_that_is_never_finished_is_broken_off() {
    let (proxy, mut caller, mut peer) = streaming("", EVENTS).await;
    peer.write(&chunk("data: 1\n")).await;
    caller.until("data: 1\n\r\n").await;
    proxy.cut.cancel();
    assert_eq!(caller.rest().await, "");
}

#[tokio::test]
async fn any_other_body_is_broken_off_when_time_is_up() {
    let head = EVENTS.replace("event-stream", "plain");
    let (proxy, mut caller, mut peer) = streaming("", &head).await;
    peer.write(&chunk("x\n\n")).await;
    caller.until("x\n\n\r\n").await;
    proxy.cut.cancel();
    assert_eq!(caller.rest().await, "");
}

#[tokio::test]
async fn every_request_is_counted_where_it_ended() {
    let gone = Upstream::bind().await.addr();
    let proxy = Proxy::to(gone, "").await;
    answer(&proxy, &call()).await;
    proxy
        .say("GET / HTTP/1.1\r\nHost: wiki\r\nConnection: close\r\n\r\n")
        .await;
    let mut page = process::metrics::Exposition::default();
    proxy.forwarder.metrics(&mut page);
    let page = page.finish();
    for line in [
        "keyward_proxy_requests_total{tunnel=\"\",route=\"docs\"} 1",
        "keyward_proxy_upstream_failures_total{tunnel=\"\",route=\"docs\"} 1",
        "keyward_proxy_refused_total{reason=\"no_route\"} 1",
        "keyward_proxy_refused_total{reason=\"malformed\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
}
