//! Issuers on loopback that answer as they are told, or when.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

type Answers = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// A server that answers each path with what it is told, byte for byte.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(
        answers: impl Fn(&str, &str) -> String + Send + Sync + 'static,
    ) -> Self {
        Self::start_on("127.0.0.1:0", answers).await
    }

    pub(super) async fn start_on(
        address: &str,
        answers: impl Fn(&str, &str) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        let base = format!("http://{address}");
        let answers: Answers = Arc::new(move |path| answers(&base, path));
        #[allow(clippy::disallowed_methods, reason = "the test aborts it")]
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = head(&mut stream).await;
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                log.lock().unwrap().push(path.clone());
                let _ = stream.write_all(answers(&path).as_bytes()).await;
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

pub(super) fn ok(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/jwk-set+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An issuer that answers at once with the first of two key sets, and holds every later request until it
/// is let go; then it answers with the second.
pub(super) struct Holding {
    pub(super) url: String,
    held: Arc<AtomicUsize>,
    go: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holding {
    pub(super) async fn start(first: Value, second: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (held, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, gone) = (held.clone(), go.clone());
        #[allow(clippy::disallowed_methods, reason = "the test aborts it")]
        let task = tokio::spawn(async move {
            let mut set = first;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                head(&mut stream).await;
                if set == second {
                    count.fetch_add(1, Ordering::SeqCst);
                    gone.notified().await;
                }
                let _ = stream.write_all(ok(&set).as_bytes()).await;
                set = second.clone();
            }
        });
        Self {
            url,
            held,
            go,
            task,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(super) fn let_go(&self) {
        self.go.notify_one();
    }
}

/// The head of a request, or as much of it as comes.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            break;
        };
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}
