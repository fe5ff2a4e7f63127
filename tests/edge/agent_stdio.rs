//! `--stdio`: lines of a client against a server that says what the test has it say.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use process::Tasks;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::agent::{command, mutual};
use crate::rig::{until, within};

/// What was asked: method, header fields that matter, body.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    session: Option<String>,
    revision: Option<String>,
    last_event: Option<String>,
    body: Value,
}

type Script = dyn Fn(&Asked) -> Response<Full<Bytes>> + Send + Sync;

/// A server that does as its script says.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: Tasks,
}

impl Server {
    async fn start(
        script: impl Fn(&Asked) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, tasks) = (Arc::<Mutex<Vec<Asked>>>::default(), Tasks::new());
        let script: Arc<Script> = Arc::new(script);
        let (seen, serving) = (Arc::clone(&asked), tasks.clone());
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                let service = service_fn(move |request| {
                    let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                    async move {
                        let asked = read(request).await;
                        seen.lock().unwrap().push(asked.clone());
                        Ok::<_, Infallible>(script(&asked))
                    }
                });
                serving.spawn(async move {
                    let serving =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    let _ = serving.await;
                });
            }
        });
        Self {
            address,
            asked,
            tasks,
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn read(request: Request<Incoming>) -> Asked {
    let field = |name: &str| {
        let value = request.headers().get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let (session, revision) = (field("mcp-session-id"), field("mcp-protocol-version"));
    let last_event = field("last-event-id");
    let method = request.method().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Asked {
        method,
        session,
        revision,
        last_event,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

fn said(status: u16, kind: &str, session: Option<&str>, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::builder()
        .status(status)
        .header("content-type", kind);
    if let Some(session) = session {
        response = response.header("mcp-session-id", session);
    }
    response.body(Full::from(text.to_owned())).unwrap()
}

fn answer(asked: &Asked, result: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": asked.body["id"], "result": result}).to_string()
}

/// The client's side.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    stand: super::Stand,
}

impl Client {
    async fn start(server: &Server) -> Self {
        let stand = mutual(&format!("  mcp: http://{}\n", server.address)).await;
        let address = stand.address.to_string();
        let mut child = command(&stand, &["--edge-address", &address, "--stdio", "mcp/path"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            input: child.stdin.take(),
            child,
            output,
            stand,
        }
    }

    async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn hears(&mut self) -> Value {
        let line = within("a line", self.output.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("a line")).unwrap()
    }

    async fn initialize(&mut self) {
        self.say(r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#)
            .await;
        assert_eq!(
            self.hears().await["result"]["protocolVersion"],
            "2025-11-25"
        );
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
            .await;
    }

    async fn end(mut self) {
        drop(self.input.take());
        let status = within("its end", self.child.wait()).await.unwrap();
        assert!(status.success());
        drop(self.stand);
    }
}

/// The usual beginning; `None`: something else was asked.
fn begin(asked: &Asked, session: &str) -> Option<Response<Full<Bytes>>> {
    let result = json!({"protocolVersion": "2025-11-25"});
    Some(
        match (asked.method.as_str(), asked.body["method"].as_str()) {
            ("POST", Some("initialize")) => {
                let text = format!(
                    "id: 0\ndata:\n\nevent: message\ndata: {}\n\n",
                    answer(asked, &result)
                );
                said(200, "text/event-stream", Some(session), &text)
            }
            ("POST", Some("notifications/initialized")) => said(202, "application/json", None, ""),
            ("GET", _) if asked.last_event.is_none() => said(405, "application/json", None, ""),
            ("DELETE", _) => said(200, "application/json", None, ""),
            _ => return None,
        },
    )
}

#[tokio::test]
async fn a_session_is_kept_marked_and_ended() {
    let server = Server::start(|asked| {
        begin(asked, "s-1").unwrap_or_else(|| {
            let text = format!(
                "{{\n \"jsonrpc\": \"2.0\",\r\n \"id\": {}, \"result\": {{}}}}",
                asked.body["id"]
            );
            said(200, "application/json", None, &text)
        })
    })
    .await;
    let mut client = Client::start(&server).await;
    client.say("no message").await;
    assert_eq!(client.hears().await["error"]["code"], -32700);
    client.initialize().await;
    for id in 0..3 {
        client
            .say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#))
            .await;
        assert_eq!(client.hears().await["id"], id);
    }
    client.end().await;
    let asked = server.asked();
    assert_eq!(asked[0].session, None);
    for one in asked.iter().skip(1) {
        assert_eq!(one.session.as_deref(), Some("s-1"), "{one:?}");
        assert_eq!(one.revision.as_deref(), Some("2025-11-25"), "{one:?}");
    }
    assert_eq!(asked.last().unwrap().method, "DELETE");
    server.tasks.stop();
}

#[tokio::test]
async fn a_session_that_the_server_lost_is_begun_anew_and_the_call_is_answered() {
    let old = Arc::new(Mutex::new(true));
    let first = Arc::clone(&old);
    let server = Server::start(move |asked| {
        let session = if *old.lock().unwrap() { "s-1" } else { "s-2" };
        if let Some(answer) = begin(asked, session) {
            return answer;
        }
        if asked.session.as_deref() == Some("s-1") {
            *old.lock().unwrap() = false;
            return said(404, "application/json", None, "");
        }
        said(
            200,
            "application/json",
            None,
            &answer(asked, &json!({"lived": true})),
        )
    })
    .await;
    let mut client = Client::start(&server).await;
    client.initialize().await;
    client
        .say(r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#)
        .await;
    assert_eq!(
        client.hears().await,
        json!({"jsonrpc": "2.0", "id": 7, "result": {"lived": true}})
    );
    assert!(!*first.lock().unwrap());
    client.end().await;
    let asked = server.asked();
    let sessions: Vec<_> = asked
        .iter()
        .filter(|asked| asked.body["method"] == "tools/list")
        .collect();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[1].session.as_deref(), Some("s-2"));
    server.tasks.stop();
}

#[tokio::test]
async fn a_stream_that_ends_before_the_answer_is_continued_from_its_last_event() {
    let server = Server::start(|asked| {
        if let Some(answer) = begin(asked, "s-1") {
            return answer;
        }
        if asked.method == "GET" {
            assert_eq!(asked.last_event.as_deref(), Some("e-1"));
            let text = "id: e-2\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";
            return said(200, "text/event-stream", None, text);
        }
        let progress = "id: e-1\nretry: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
        said(200, "text/event-stream", None, progress)
    })
    .await;
    let mut client = Client::start(&server).await;
    client.initialize().await;
    client
        .say(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#)
        .await;
    assert_eq!(client.hears().await["method"], "notifications/progress");
    assert_eq!(client.hears().await["id"], 7);
    client.end().await;
    server.tasks.stop();
}

#[tokio::test]
async fn what_the_server_refuses_is_an_error_that_says_why() {
    let server = Server::start(|asked| {
        if let Some(answer) = begin(asked, "s-1") {
            return answer;
        }
        match asked.body["id"].as_u64() {
            Some(1) => said(401, "application/json", None, "{}"),
            Some(2) => said(
                400,
                "application/json",
                None,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"no header"}}"#,
            ),
            Some(3) => said(500, "text/plain", None, "out of order"),
            Some(4) => said(200, "application/json", None, r#"{"path":"/path"}"#),
            Some(5) => {
                let text = "data: {\"path\":1}\n\n";
                said(200, "text/event-stream", None, text)
            }
            _ => said(200, "text/html", None, "<html>"),
        }
    })
    .await;
    let mut client = Client::start(&server).await;
    client.initialize().await;
    for (id, part) in [
        (1, "sign in"),
        (2, "no header"),
        (3, "out of order"),
        (4, "no answer of JSON-RPC"),
        (5, "ended before the answer"),
        (6, "neither JSON"),
    ] {
        client
            .say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#))
            .await;
        let heard = client.hears().await;
        let message = heard["error"]["message"].as_str().unwrap();
        assert!(heard["id"] == id && message.contains(part), "{heard}");
    }
    // The layers below have their own words.
    client.stand.proxies.clear();
    until("no proxy", async || {
        (client.stand.edge.metric("keyward_edge_links").await == 0).then_some(())
    })
    .await;
    client
        .say(r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#)
        .await;
    let heard = client.hears().await;
    assert_eq!(heard["error"]["data"]["layer"], "edge policy", "{heard}");
    server.tasks.stop();
}
