//! The operator channel over real sockets, with a rotator that only takes notes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use process::{Exit, Failure, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::board::{Board, Fault, Order, Refusal, Request};
use crate::status::{Operation, OperationState, Status};

struct Stage {
    board: Board,
    orders: watch::Receiver<Vec<(Order, String)>>,
    socket: PathBuf,
    tasks: Tasks,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(tunnels: &[&str]) -> Self {
        Self::with(tunnels, Duration::from_secs(60))
    }

    fn with(tunnels: &[&str], limit: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("operator/operator.sock");
        let (requests, received) = mpsc::channel(4);
        let board = Board {
            publications: watch::Sender::default(),
            replicas: watch::Sender::default(),
            status: watch::Sender::new(Arc::new(Status {
                at: 1,
                ..Status::default()
            })),
            requests,
        };
        let settings = Settings {
            socket: socket.clone(),
            group: None,
            operators: BTreeSet::new(),
            tunnels: tunnels.iter().map(|name| (*name).to_owned()).collect(),
        };
        let tasks = Tasks::new();
        let operator = Operator::bind_within(settings, board.clone(), limit, limit).unwrap();
        assert_eq!(operator.path(), socket);
        tasks.essential("operator", operator.run(tasks.clone()));
        let notes = watch::Sender::new(Vec::new());
        let orders = notes.subscribe();
        let status = board.status.clone();
        let stopping = tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = take_notes(received, notes, status) => {}
                () = stopping.stopping() => {}
            }
        });
        Self {
            board,
            orders,
            socket,
            tasks,
            _directory: directory,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket, &self.tasks)
    }

    /// Sends `request` as it stands and returns all that comes until the connection closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), reading)
            .await
            .expect("the server closes in time")
            .unwrap();
        answer
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    fn set(&self, change: impl FnOnce(&mut Status)) {
        self.board
            .status
            .send_modify(|status| change(Arc::make_mut(status)));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Accepts every order but the switch of a CA that nobody asserted.
async fn take_notes(
    mut received: mpsc::Receiver<Request>,
    notes: watch::Sender<Vec<(Order, String)>>,
    status: watch::Sender<Arc<Status>>,
) {
    while let Some(request) = received.recv().await {
        let answer = if matches!(request.order, Order::RotateCa { trusted: false, .. }) {
            Err(Refusal {
                fault: Fault::State,
                what: "verifiers may not hold the standby CA yet".to_owned(),
                next: "carry it there".to_owned(),
            })
        } else {
            let operation = operation("op-1", OperationState::Running);
            status.send_modify(|status| {
                Arc::make_mut(status).operations.push(operation.clone());
            });
            Ok(operation)
        };
        notes.send_modify(|notes| notes.push((request.order, request.actor)));
        let _ = request.answer.send(answer);
    }
}

fn operation(id: &str, state: OperationState) -> Operation {
    Operation {
        id: id.to_owned(),
        what: "rotate server-certificate".to_owned(),
        tunnel: "main".to_owned(),
        actor: "uid:0".to_owned(),
        state,
        detail: String::new(),
        began: 1,
        ended: None,
        certificate: None,
    }
}

fn rotation(what: &str) -> RotationOrder {
    RotationOrder {
        what: what.to_owned(),
        tunnel: None,
        trusted: false,
        standby: None,
        accept_unproven: false,
    }
}

fn own_uid() -> String {
    format!("uid:{}", rustix::process::geteuid().as_raw())
}

#[tokio::test]
async fn the_status_is_what_the_board_says() {
    let stage = Stage::new(&["main"]);
    stage.set(|status| status.build = "b".to_owned());
    assert_eq!(stage.client().status().await.unwrap().build, "b");
}

/// Every number in it would be wrong.
#[tokio::test]
async fn nothing_is_said_before_the_state_is_recovered() {
    let stage = Stage::new(&["main"]);
    stage.set(|status| status.at = 0);
    let (client, recovered) = (stage.client(), stage.board.status.clone());
    let mut events = client.events().await.unwrap();
    let known = async {
        // As late as can be: each of the three waits for the state.
        while recovered.receiver_count() < 3 {
            tokio::task::yield_now().await;
        }
        recovered.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.at = 7;
            status.operations = vec![operation("resumed", OperationState::Running)];
        });
    };
    let (status, first, one, ()) = tokio::join!(
        client.status(),
        events.next(),
        client.operation("resumed"),
        known
    );
    assert_eq!(status.unwrap().at, 7);
    let Some(Event::Status(first)) = first.unwrap() else {
        panic!("the status comes first");
    };
    assert_eq!(first.at, 7);
    assert_eq!(one.unwrap().id, "resumed");
}

#[tokio::test]
async fn a_daemon_that_does_not_come_to_know_its_state_says_that_it_is_starting() {
    let stage = Stage::with(&["main"], Duration::from_millis(50));
    stage.set(|status| status.at = 0);
    let failure = Failure::from(stage.client().status().await.unwrap_err());
    assert_eq!(failure.exit(), Exit::Unavailable);
    assert_eq!(
        failure.to_string(),
        "the daemon is starting\n  cause: it has not recovered its state yet\n  next: ask again in a moment, or look at its log"
    );
}

#[tokio::test]
async fn an_order_reaches_the_rotator_with_its_only_tunnel_and_who_gave_it() {
    let stage = Stage::new(&["main"]);
    let client = stage.client();
    let begun = client
        .rotate(&rotation("server-certificate"))
        .await
        .unwrap();
    assert_eq!(begun.state, OperationState::Running);
    let expected = Order::RotateServerCertificate {
        tunnel: "main".to_owned(),
    };
    assert_eq!(*stage.orders.borrow(), [(expected, own_uid())]);
    assert_eq!(client.operation("op-1").await.unwrap(), begun);
}

#[tokio::test]
async fn a_client_certificate_is_ordered_with_a_request_and_never_a_key() {
    let stage = Stage::new(&["main"]);
    let order = ClientOrder {
        tunnel: Some("main".to_owned()),
        name: "caller".to_owned(),
        csr: "PEM".to_owned(),
        lifetime_seconds: 60,
    };
    stage.client().issue_client(&order).await.unwrap();
    let expected = Order::IssueClient {
        tunnel: "main".to_owned(),
        name: "caller".to_owned(),
        csr: "PEM".to_owned(),
        lifetime_seconds: 60,
    };
    assert_eq!(*stage.orders.borrow(), [(expected, own_uid())]);
}

#[tokio::test]
async fn a_refusal_of_the_rotator_reaches_the_operator_whole() {
    let stage = Stage::new(&["main"]);
    let error = stage.client().rotate(&rotation("ca")).await.unwrap_err();
    let failure = Failure::from(error);
    assert_eq!(failure.exit(), Exit::Config);
    assert_eq!(
        failure.to_string(),
        "verifiers may not hold the standby CA yet\n  next: carry it there"
    );
}

#[tokio::test]
async fn a_tunnel_must_be_named_where_there_are_two_and_must_exist() {
    let stage = Stage::new(&["main", "other"]);
    let client = stage.client();
    let unnamed = client.rotate(&rotation("ca")).await.unwrap_err();
    let failure = Failure::from(unnamed);
    assert_eq!(failure.exit(), Exit::Usage);
    assert!(failure.to_string().contains("main, other"));
    let unknown = RotationOrder {
        tunnel: Some("nowhere".to_owned()),
        ..rotation("ca")
    };
    let error = client.rotate(&unknown).await.unwrap_err();
    assert!(matches!(
        error,
        ClientError::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }
    ));
    assert!(stage.orders.borrow().is_empty());
}

#[tokio::test]
async fn a_noun_that_cannot_be_rotated_yet_is_refused_with_those_that_can() {
    let stage = Stage::new(&["main"]);
    for noun in ["bundle-key", "nonsense"] {
        let error = stage.client().rotate(&rotation(noun)).await.unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(
            failure.to_string().contains("server-certificate, ca"),
            "{failure}"
        );
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn errors_have_one_shape() {
    let stage = Stage::new(&["main"]);
    let none = "GET /v1/operations/none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let unknown = "{\"what\":\"ca\",\"x\":1}";
    let trusted = "{\"what\":\"ca\",\"trusted\":\"yes\"}";
    let lifetime = "{\"name\":\"a\",\"csr\":\"\",\"lifetime_seconds\":0}";
    let cases = [
        (
            stage.post("/v1/revocations", "{}").await,
            "404",
            "no such path \"/v1/revocations\"",
        ),
        (
            stage.post("/v1/status", "{}").await,
            "405",
            "POST is not served for /v1/status",
        ),
        (
            stage.post("/v1/rotations", "{").await,
            "400",
            "the body is no JSON from line 1, column 1 on",
        ),
        (
            stage.post("/v1/rotations", unknown).await,
            "400",
            "unknown key \"x\"",
        ),
        (
            stage.post("/v1/client-certificates", lifetime).await,
            "400",
            "lifetime_seconds takes a whole number from 1 on",
        ),
        (
            stage.post("/v1/rotations", "[]").await,
            "400",
            "the body is no JSON object",
        ),
        (
            stage.post("/v1/rotations", "{}").await,
            "400",
            "what is missing",
        ),
        (
            stage.post("/v1/rotations", "{\"what\":1}").await,
            "400",
            "what takes a text",
        ),
        (
            stage.post("/v1/rotations", trusted).await,
            "400",
            "trusted takes true or false",
        ),
        (
            stage.post("/v1/rotations", &" ".repeat(70_000)).await,
            "413",
            "the body is longer than 65536 bytes",
        ),
        (stage.raw(none).await, "404", "no such operation"),
    ];
    for (answer, status, what) in cases {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: ErrorBody = serde_json::from_str(body).unwrap();
        assert_eq!(body.error.what, what);
    }
}

#[tokio::test]
async fn nothing_of_a_body_that_was_announced_but_never_sent_is_waited_for_without_limit() {
    let stage = Stage::with(&["main"], Duration::from_millis(50));
    let answer = stage
        .raw("POST /v1/rotations HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\nconnection: close\r\n\r\n{")
        .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.contains("\"what\":\"the body did not arrive\""),
        "{answer}"
    );
}

#[tokio::test]
async fn events_begin_with_the_status_and_follow_an_operation_to_its_end() {
    let stage = Stage::new(&["main"]);
    stage.set(|status| {
        status.operations = vec![operation("before", OperationState::Done)];
    });
    let client = stage.client();
    let mut events = client.events().await.unwrap();
    let Some(Event::Status(first)) = events.next().await.unwrap() else {
        panic!("the status comes first");
    };
    assert_eq!(first.operations.len(), 1);
    client
        .rotate(&rotation("server-certificate"))
        .await
        .unwrap();
    let Some(Event::Operation(begun)) = events.next().await.unwrap() else {
        panic!("the operation comes next, the earlier one is no news");
    };
    assert_eq!(begun.id, "op-1");
    assert!(matches!(
        events.next().await.unwrap(),
        Some(Event::Status(_))
    ));
    stage.set(|status| status.operations[1].state = OperationState::Done);
    let Some(Event::Operation(ended)) = events.next().await.unwrap() else {
        panic!("the step is told");
    };
    assert_eq!(ended.state, OperationState::Done);
}

#[tokio::test]
async fn a_storm_of_changes_is_told_as_one() {
    let stage = Stage::new(&["main"]);
    let mut events = stage.client().events().await.unwrap();
    events.next().await.unwrap();
    for at in 1..=1000 {
        stage.set(|status| status.at = at);
    }
    let Some(Event::Status(next)) = events.next().await.unwrap() else {
        panic!("a change is told");
    };
    assert_eq!(next.at, 1000);
}

#[tokio::test]
async fn the_stop_ends_event_streams_too() {
    let stage = Stage::new(&["main"]);
    let mut events = stage.client().events().await.unwrap();
    events.next().await.unwrap();
    stage.tasks.stop();
    assert!(matches!(events.next().await, Ok(None) | Err(_)));
    let drained = stage.tasks.drain(Duration::from_secs(10)).await;
    assert_eq!(drained, process::Drained::Clean);
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unavailable_and_says_how_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(&directory.path().join("none.sock"), &Tasks::new());
    let failure = Failure::from(client.status().await.unwrap_err());
    assert_eq!(failure.exit(), Exit::Unavailable);
    let text = failure.to_string();
    assert!(text.contains("none.sock") && text.contains("cause:") && text.contains("next:"));
}

#[test]
fn only_the_owner_can_open_the_socket_until_operators_are_listed() {
    let settings = |operators: BTreeSet<u32>| Settings {
        socket: PathBuf::new(),
        group: None,
        operators,
        tunnels: BTreeSet::new(),
    };
    assert_eq!(server::mode(&settings(BTreeSet::new())), 0o600);
    assert_eq!(server::mode(&settings([1000].into())), 0o660);
}
