//! A stretch of road before an edge's API on which answers get lost: plain HTTP on loopback, TLS to the edge. It hands
//! requests on as they are, unless it was told what shall happen to the next one of a kind.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use process::Tasks;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::stand::EDGE;
use super::world::World;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It never arrives, and nobody says so.
    RequestLost,
    /// It arrives, and what the edge answers does not.
    AnswerLost,
    /// It arrives, and nobody ever says what came of it.
    Unanswered,
    /// It arrives, and somebody in between answers this instead.
    AnsweredBy(&'static str),
    /// It does not arrive, and somebody in between answers this.
    Refused(&'static str),
    /// It does not arrive, and is refused with its whole head in the error's message.
    Echoed,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    pub(super) head: String,
    pub(super) at: Instant,
}

struct Book {
    /// Part of the path of the requests that are meant, and what happens to the first of them.
    fates: Vec<(&'static str, Fate)>,
    passed: Vec<Passed>,
    ways: Ways,
    /// What becomes of tokens on the way.
    dress: Option<Dress>,
}

/// How the edge is to look.
#[derive(Clone, Copy, Default)]
struct Ways {
    /// Like one of the API's older generation.
    older: bool,
    /// Like one that lists one object a page.
    stingy: bool,
}

/// From a token of `keyward-edge` to one of another form.
type Dress = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Dropped, it is gone.
pub(super) struct Toll {
    pub(super) url: String,
    book: Arc<Mutex<Book>>,
    tasks: Tasks,
}

impl Toll {
    pub(super) async fn before(world: &World) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(world.file("front-ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let book = Arc::new(Mutex::new(Book {
            fates: Vec::new(),
            passed: Vec::new(),
            ways: Ways::default(),
            dress: None,
        }));
        let (tasks, edge) = (Tasks::new(), world.address);
        let (each, kept) = (tasks.clone(), Arc::clone(&book));
        tasks.spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = each.stopping() => return,
                };
                let (book, connector, stop) = (Arc::clone(&kept), connector.clone(), each.clone());
                each.spawn(async move {
                    tokio::select! {
                        () = pass(stream, edge, &connector, &book) => {}
                        () = stop.stopping() => {}
                    }
                });
            }
        });
        Self { url, book, tasks }
    }

    /// What shall happen to the next request whose path has this part.
    pub(super) fn next(&self, part: &'static str, fate: Fate) {
        self.book.lock().unwrap().fates.push((part, fate));
    }

    /// From now on tokens are of the older scope and tunnels under the older path.
    pub(super) fn is_older(&self) {
        self.book.lock().unwrap().ways.older = true;
    }

    /// From now on a page of a list has one object.
    pub(super) fn is_stingy(&self) {
        self.book.lock().unwrap().ways.stingy = true;
    }

    /// From now on tokens come in another form.
    pub(super) fn dresses(&self, dress: impl Fn(&str) -> String + Send + Sync + 'static) {
        self.book.lock().unwrap().dress = Some(Arc::new(dress));
    }

    /// The requests so far whose first line has this part.
    pub(super) fn passed(&self, part: &str) -> Vec<Passed> {
        let book = self.book.lock().unwrap();
        let meant = |passed: &&Passed| passed.head.lines().next().unwrap().contains(part);
        book.passed.iter().filter(meant).cloned().collect()
    }
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// One request, and its answer. Clients of ours make a connection for each.
async fn pass(
    mut stream: TcpStream,
    edge: SocketAddr,
    connector: &TlsConnector,
    book: &Mutex<Book>,
) {
    let Some((head, body)) = request(&mut stream).await else {
        return;
    };
    let first = head.lines().next().unwrap().to_owned();
    let (fate, ways, dress) = {
        let mut book = book.lock().unwrap();
        let (head, at) = (head.clone(), Instant::now());
        book.passed.push(Passed { head, at });
        let place = book.fates.iter().position(|(part, _)| first.contains(part));
        let fate = place.map(|place| book.fates.remove(place).1);
        (fate, book.ways, book.dress.clone())
    };
    let instead = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    let answer = match fate {
        Some(Fate::RequestLost) => return,
        Some(Fate::Refused(status)) => instead(status).into_bytes(),
        Some(Fate::Echoed) => {
            let error = json!({"type": "invalid_request_error", "message": head});
            let body = json!({"type": "error", "error": error}).to_string();
            let length = body.len();
            format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {length}\r\n\r\n{body}")
                .into_bytes()
        }
        fate => {
            let answer = ask(edge, connector, &head, &body, ways).await;
            let answer = dress.map_or(answer.clone(), |dress| dressed(&answer, &*dress));
            match fate {
                Some(Fate::AnswerLost) => return,
                Some(Fate::Unanswered) => return std::future::pending().await,
                Some(Fate::AnsweredBy(status)) => instead(status).into_bytes(),
                _ => answer,
            }
        }
    };
    // Whoever asked may be gone.
    let _ = stream.write_all(&answer).await;
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

async fn ask(
    edge: SocketAddr,
    connector: &TlsConnector,
    head: &str,
    body: &[u8],
    ways: Ways,
) -> Vec<u8> {
    let name = format!("api.{EDGE}");
    let mut lines: Vec<String> = head.trim_end().lines().map(str::to_owned).collect();
    lines.retain(|line| !line.to_lowercase().starts_with("host:"));
    lines.push(format!("host: {name}"));
    lines.push("connection: close".to_owned());
    if ways.older {
        assert!(!lines[0].contains(" /v1/tunnels"), "{}", lines[0]);
        lines[0] = lines[0].replace("/v1/organizations/tunnels", "/v1/tunnels");
    }
    if ways.stingy {
        lines[0] = lines[0].replace("limit=1000", "limit=1");
    }
    let tcp = TcpStream::connect(edge).await.unwrap();
    let server = ServerName::try_from(name).unwrap();
    let mut far = connector.connect(server, tcp).await.unwrap();
    let head = format!("{}\r\n\r\n", lines.join("\r\n"));
    far.write_all(head.as_bytes()).await.unwrap();
    far.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    // However it closes: what came is what is handed on.
    let _ = far.read_to_end(&mut answer).await;
    if ways.older {
        let text = String::from_utf8(answer).unwrap();
        // Of the same length, as the head says it.
        let scope = text.replace("workspace:manage_tunnels", "org:manage_tunnels      ");
        answer = scope.into_bytes();
    }
    answer
}

/// The same answer with its token, if it has one, in another form.
fn dressed(answer: &[u8], dress: &dyn Fn(&str) -> String) -> Vec<u8> {
    let text = std::str::from_utf8(answer).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return answer.to_vec();
    };
    let Ok(mut body) = serde_json::from_str::<serde_json::Value>(body) else {
        return answer.to_vec();
    };
    let Some(token) = body["tunnel_token"].as_str() else {
        return answer.to_vec();
    };
    body["tunnel_token"] = dress(token).into();
    let body = body.to_string();
    let kept = |line: &&str| !line.to_lowercase().starts_with("content-length:");
    let head: Vec<&str> = head.lines().filter(kept).collect();
    let head = head.join("\r\n");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
