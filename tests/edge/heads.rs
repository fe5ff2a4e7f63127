//! Lists of header fields that are longer than whoever reads them allows (RFC 9113 section 6.5.2), over HTTP/2:
//! refused, and the connection goes on.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use process::Tasks;

use super::flood::door;
use super::hostile::{Hostile, speak};
use super::stand::{EDGE, OPEN, Stand};
use crate::rig::{HOST, within};

/// What eight of them come to with everything else is below 32 KiB, nine of them are above.
const FIELD: usize = 4000;

/// The statuses of requests for `uri` with eight long fields, nine and eight; `None`: no answer.
async fn statuses(
    sender: &mut SendRequest<Empty<Bytes>>,
    method: &str,
    uri: &str,
) -> [Option<StatusCode>; 3] {
    let mut statuses = [None; 3];
    for (status, fields) in statuses.iter_mut().zip([8, 9, 8]) {
        let mut request = Request::builder().method(method).uri(uri);
        for number in 0..fields {
            request = request.header(format!("x-{number}"), "y".repeat(FIELD));
        }
        within("room for a request", sender.ready()).await.unwrap();
        let asked = sender.send_request(request.body(Empty::new()).unwrap());
        let answer = within("an answer", asked).await;
        *status = answer.ok().map(|answer| answer.status());
    }
    statuses
}

const TOO_LARGE: Option<StatusCode> = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);

#[tokio::test]
async fn either_door_of_the_edge_refuses_a_head_that_is_too_long_and_goes_on() {
    let tasks = Tasks::new();
    let stand = Stand::start(0, "client_ca_files: [FOLDER/client-ca.pem]").await;
    for name in ["api", "agents"] {
        let name = format!("{name}.{EDGE}");
        let mut sender = speak(door(&stand, &name).await, &tasks).await;
        let uri = format!("https://{name}/v1/edge");
        let [before, beyond, after] = statuses(&mut sender, "GET", &uri).await;
        assert_eq!(beyond, TOO_LARGE, "{name}");
        assert!(
            before.is_some() && before != TOO_LARGE,
            "{name}: {before:?}"
        );
        assert_eq!(after, before, "{name}");
    }
    tasks.stop();
}

#[tokio::test]
async fn a_proxy_refuses_a_head_of_the_edge_that_is_too_long_and_goes_on() {
    let tasks = Tasks::new();
    let stand = Stand::start(0, OPEN).await;
    let read = |name: &str| std::fs::read_to_string(stand.file(name)).unwrap();
    let hostile = Hostile::bind(&read("front.crt"), &read("front.key")).await;
    let address = format!("    addresses: ['{}']\n", hostile.address);
    let _proxy = stand.proxy_at("asked", &address).await;
    let stream = within("the proxy", hostile.accept()).await;
    let mut sender = speak(stream, &tasks).await;
    let taken = Some(StatusCode::OK);
    let statuses = statuses(&mut sender, "CONNECT", &format!("{HOST}:443")).await;
    assert_eq!(statuses, [taken, TOO_LARGE, taken]);
    tasks.stop();
}
