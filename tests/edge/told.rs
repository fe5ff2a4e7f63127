//! What a proxy is told about a caller with the CONNECT of each stream: by the edge alone, whatever the caller says.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::{Tasks, base64};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::clients::door;
use super::fakes::attach;
use super::hello::hello;
use super::stand::{OPEN, Stand};
use crate::rig::{HOST, within};

const CLIENTS: &str = "client_ca_files: [FOLDER/client-ca.pem]";
/// Everything that a proxy could take for the word of the edge.
const LIES: &str = "Client-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\nForwarded: for=\"192.0.2.1:1\"\r\n\
                    X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Client-Cert: Hash=00\r\n";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A proxy that takes no stream, and hands over the header fields of each CONNECT.
async fn listening(stand: &Stand, tasks: &Tasks) -> mpsc::UnboundedReceiver<HeaderMap> {
    let (sender, told) = mpsc::unbounded_channel();
    let stream = attach(stand, "secret-a").await.ok().unwrap();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request, &sender);
        async move { Ok::<_, Infallible>(answer) }
    });
    let stop = tasks.clone();
    tasks.spawn(async move {
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = serving => {}
            () = stop.stopping() => {}
        }
    });
    stand.links(1).await;
    told
}

fn answer(request: Request<Incoming>, told: &mpsc::UnboundedSender<HeaderMap>) -> Response<Body> {
    if request.method() == Method::CONNECT {
        told.send(request.headers().clone()).unwrap();
        let mut refused = Response::new(Empty::new().boxed_unsync());
        *refused.status_mut() = StatusCode::FORBIDDEN;
        return refused;
    }
    // The control stream: open on both sides until the connection ends.
    let silent = futures_util::stream::once(async move {
        let mut body = request.into_body();
        while body.frame().await.is_some() {}
        Ok::<_, Infallible>(Frame::data(Bytes::new()))
    });
    Response::new(StreamBody::new(silent).boxed_unsync())
}

async fn heard(told: &mut mpsc::UnboundedReceiver<HeaderMap>) -> HeaderMap {
    within("a CONNECT", told.recv()).await.unwrap()
}

/// Exactly these fields.
fn assert_told(headers: &HeaderMap, wanted: &[(&str, String)]) {
    let said: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap().to_owned()))
        .collect();
    let mut sorted = said.clone();
    sorted.sort();
    assert_eq!(sorted, wanted, "{said:?}");
}

/// Shown in a CONNECT to the proxy as RFC 9440 section 2.2 says.
fn written(pem: &str) -> String {
    let certificate = pki::Certificate::from_pem(pem).unwrap();
    let mut text = ":".to_owned();
    base64::encode(certificate.der(), &mut text);
    text + ":"
}

#[tokio::test]
async fn a_proxy_is_told_the_certificate_that_outer_tls_proved_and_none_that_a_caller_names() {
    let (stand, tasks) = (Stand::start(0, CLIENTS).await, Tasks::new());
    let mut told = listening(&stand, &tasks).await;
    for (name, lies) in [("one.example", ""), ("other.example", LIES)] {
        let client = stand.issuer.client(name);
        let (status, mut tls) = door(&stand, &client, lies).await;
        assert_eq!(status, 200);
        let own = tls.get_ref().0.local_addr().unwrap();
        tls.write_all(&hello(HOST)).await.unwrap();
        assert_told(
            &heard(&mut told).await,
            &[
                ("client-cert", written(&client.0)),
                ("forwarded", format!("for=\"{own}\"")),
            ],
        );
    }
    // The replica that a probe means is the one thing that a caller may say.
    let client = stand.issuer.client("probe.example");
    let (status, mut tls) = door(&stand, &client, "Keyward-Replica: fake\r\n").await;
    assert_eq!(status, 200);
    tls.write_all(&hello(HOST)).await.unwrap();
    let headers = heard(&mut told).await;
    assert_eq!(headers["keyward-replica"], "fake");
    assert_eq!(headers["client-cert"], written(&client.0));
    tasks.stop();
}

#[tokio::test]
async fn a_proxy_is_told_of_no_certificate_where_outer_tls_was_not_ended() {
    let (stand, tasks) = (Stand::start(0, OPEN).await, Tasks::new());
    let mut told = listening(&stand, &tasks).await;
    let mut tcp = TcpStream::connect(stand.address).await.unwrap();
    let own = tcp.local_addr().unwrap();
    tcp.write_all(&hello(HOST)).await.unwrap();
    assert_told(
        &heard(&mut told).await,
        &[("forwarded", format!("for=\"{own}\""))],
    );
    tasks.stop();
}

#[tokio::test]
async fn a_certificate_that_is_refused_reaches_no_proxy() {
    let (stand, tasks) = (Stand::start(0, CLIENTS).await, Tasks::new());
    let mut told = listening(&stand, &tasks).await;
    let stranger = crate::rig::Issuer::new().client("agent.example");
    let (status, _) = door(&stand, &stranger, &format!("{LIES}Client-Cert: :AAAA:\r\n")).await;
    assert_eq!(status, 403);
    let client = stand
        .issuer
        .client_for("agent.example", Duration::from_secs(600));
    let (_, mut tls) = door(&stand, &client, "").await;
    tls.write_all(&hello(HOST)).await.unwrap();
    let headers = heard(&mut told).await;
    assert_eq!(
        headers["client-cert"],
        written(&client.0),
        "the first that comes"
    );
    tasks.stop();
}
