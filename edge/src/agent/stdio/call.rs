//! One message of the client as a POST, and what the server says to it as lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Limited};
use process::Tasks;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::super::answer;
use super::super::body::Upload;
use super::super::error::CarryError;
use super::super::link::Answer;
use super::super::pool::Pool;
use super::StdioTarget;
use super::events::{Events, LONGEST};
use super::message::{Marked, Message, Said};
use super::session::Session;

/// Of an answer that is no message.
const SHOWN: usize = 300;

/// Between the client's lines and one route.
pub(super) struct Bridge {
    pool: Arc<Pool>,
    target: StdioTarget,
    pub(super) lines: mpsc::Sender<Vec<u8>>,
    tasks: Tasks,
    /// Cancelled when the client is gone.
    over: CancellationToken,
    pub(super) session: Mutex<Session>,
    stateless: AtomicBool,
    marked: std::sync::Mutex<Marked>,
}

/// Why a message was not answered.
pub(super) enum Failed {
    Carry(CarryError),
    /// The server's status, and what it says.
    Status(StatusCode, Bytes),
    /// An answer that is none.
    Content(String),
    /// Nobody reads any more.
    Over,
}

impl From<CarryError> for Failed {
    fn from(error: CarryError) -> Self {
        Self::Carry(error)
    }
}

impl Bridge {
    pub(super) fn new(
        pool: Arc<Pool>,
        target: StdioTarget,
        lines: mpsc::Sender<Vec<u8>>,
        tasks: Tasks,
    ) -> Self {
        Self {
            pool,
            target,
            lines,
            tasks,
            over: CancellationToken::new(),
            session: Mutex::default(),
            stateless: AtomicBool::new(false),
            marked: std::sync::Mutex::default(),
        }
    }

    /// Whether the client names its revision in each request, and has no session.
    pub(super) fn is_stateless(&self) -> bool {
        self.stateless.load(Ordering::Relaxed)
    }

    /// One line to the client.
    pub(super) async fn say(&self, line: impl Into<Vec<u8>>) {
        // Whoever writes it says when nobody reads.
        let _ = self.lines.send(line_of(line.into())).await;
    }

    /// Begins a session.
    pub(super) async fn initialize(&self, message: &Message) {
        self.stateless.store(false, Ordering::Relaxed);
        self.session.lock().await.begin(message);
        self.request(message).await;
    }

    /// Sends a request and says what comes of it; an error, if nothing does.
    pub(super) async fn request(&self, message: &Message) {
        if message.revision.is_some() {
            self.stateless.store(true, Ordering::Relaxed);
        }
        if let Err(failed) = self.exchange(message).await {
            self.fail(message, &failed).await;
        }
    }

    /// Sends what has no answer.
    pub(super) async fn deliver(self: &Arc<Self>, message: &Message) {
        if let Err(failed) = self.exchange(message).await {
            let error = describe(&failed);
            tracing::warn!(error, "the server did not take a message");
        }
        if message.is("notifications/initialized") {
            let number = self.session.lock().await.number;
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                tokio::select! {
                    () = this.listen(number) => {}
                    () = this.tasks.stopping() => {}
                    () = this.over.cancelled() => {}
                }
            });
        }
    }

    /// Ends the session.
    pub(super) async fn close(&self) {
        self.over.cancel();
        let session = std::mem::take(&mut *self.session.lock().await);
        if session.has_id() {
            let mut head = self.head(Method::DELETE);
            session.mark(&mut head.headers);
            // It forgets it by itself, too.
            let _ = self.send(head, Bytes::new()).await;
        }
    }

    async fn exchange(&self, message: &Message) -> Result<(), Failed> {
        let (answer, number) = self.post(message).await?;
        let lost = answer.status() == StatusCode::NOT_FOUND
            && !message.is("initialize")
            && self.session.lock().await.has_id();
        let answer = if lost {
            let renewed = tokio::time::timeout(super::DELIVERY, self.renew(number)).await;
            let late = "it lost its session and begins no other".to_owned();
            renewed.unwrap_or(Err(Failed::Content(late)))?;
            self.post(message).await?.0
        } else {
            answer
        };
        self.hear(message, answer).await
    }

    /// The session is gone, as after a restart of the server: it is begun anew as the client began it.
    async fn renew(&self, number: u64) -> Result<(), Failed> {
        let mut session = self.session.lock().await;
        if session.number != number {
            // Somebody else has.
            return Ok(());
        }
        let Some(first) = session.initialize.clone() else {
            return Ok(());
        };
        session.begin(&first);
        let answer = self
            .send(self.head(Method::POST), first.text.clone())
            .await?;
        session.answered(answer.headers());
        let status = answer.status();
        let text = whole(answer).await?;
        if !status.is_success() {
            return Err(Failed::Status(status, text));
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let events = Events::default().take(format!("{text}\n\n").as_bytes());
        let mut events = events.unwrap_or_default().into_iter();
        let said = events.find(|event| !event.data.is_empty());
        agree(
            &mut session,
            said.as_ref().map_or(&text, |event| &event.data),
        );
        let mut head = self.head(Method::POST);
        session.mark(&mut head.headers);
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.send(head, initialized.to_string().into()).await?;
        tracing::info!("the server had lost its session, and has a new one");
        Ok(())
    }

    async fn post(&self, message: &Message) -> Result<(Response<Answer>, u64), Failed> {
        let mut head = self.head(Method::POST);
        let number = {
            let session = self.session.lock().await;
            if message.revision.is_none() && !message.is("initialize") {
                session.mark(&mut head.headers);
            }
            session.number
        };
        if let Some(revision) = &message.revision
            && let Ok(revision) = HeaderValue::try_from(revision)
        {
            head.headers.insert("mcp-protocol-version", revision);
        }
        message.repeat(&super::lock(&self.marked), &mut head.headers);
        Ok((self.send(head, message.text.clone()).await?, number))
    }

    /// Says the server's answer as it comes.
    async fn hear(&self, message: &Message, answer: Response<Answer>) -> Result<(), Failed> {
        let status = answer.status();
        if !status.is_success() {
            return Err(Failed::Status(status, whole(answer).await?));
        }
        if message.is("initialize") {
            self.session.lock().await.answered(answer.headers());
        }
        if is(answer.headers(), "text/event-stream") {
            return self.follow(message, answer).await;
        }
        let text = whole(answer).await?;
        if message.id().is_none() && (text.is_empty() || status == StatusCode::ACCEPTED) {
            return Ok(());
        }
        let said = Said::read(&text)
            .ok_or_else(|| Failed::Content("it is neither JSON nor an event stream".to_owned()))?;
        let fits = match message.id() {
            Some(id) => said.iter().any(|said| said.answers(id)),
            None => said.iter().all(Said::is_message),
        };
        if !fits {
            let what = "it is JSON, and no answer of JSON-RPC to this message: does the path after the route's name lead to an MCP server?";
            return Err(Failed::Content(what.to_owned()));
        }
        self.learn(message, &text).await;
        self.say(text.to_vec()).await;
        Ok(())
    }

    /// What an answer says that later messages need.
    pub(super) async fn learn(&self, message: &Message, text: &[u8]) {
        if message.is("initialize") {
            let text = String::from_utf8_lossy(text);
            agree(&mut *self.session.lock().await, &text);
        } else if message.is("tools/list")
            && message.revision.is_some()
            && let Ok(answer) = serde_json::from_slice(text)
        {
            super::lock(&self.marked).learn(&answer);
        }
    }

    pub(super) fn head(&self, method: Method) -> request::Parts {
        let mut head = Request::new(()).into_parts().0;
        head.method = method;
        if let Ok(path) = self.target.path.parse() {
            head.uri = path;
        }
        let both = HeaderValue::from_static("application/json, text/event-stream");
        head.headers.insert(header::ACCEPT, both);
        head
    }

    pub(super) async fn send(
        &self,
        mut head: request::Parts,
        body: Bytes,
    ) -> Result<Response<Answer>, Failed> {
        if !body.is_empty() {
            let kind = HeaderValue::from_static("application/json");
            head.headers.insert(header::CONTENT_TYPE, kind);
        }
        let sent = self
            .pool
            .send(&self.target.route, head, Upload::whole(body));
        Ok(sent.await?)
    }

    async fn fail(&self, message: &Message, failed: &Failed) {
        let Some(id) = message.id() else { return };
        let answer = match failed {
            Failed::Over => return,
            Failed::Carry(error) => answer::refusal(id, error),
            // The server's own words, if they are an answer.
            Failed::Status(_, text) if is_error(text) => {
                let mut answer: Value = serde_json::from_slice(text).unwrap_or_default();
                if let Some(members) = answer.as_object_mut() {
                    members.insert("id".to_owned(), id.clone());
                }
                answer
            }
            Failed::Status(..) | Failed::Content(_) => {
                let error = json!({"code": -32000, "message": describe(failed)});
                json!({"jsonrpc": "2.0", "id": id, "error": error})
            }
        };
        self.say(answer.to_string()).await;
    }
}

fn describe(failed: &Failed) -> String {
    match failed {
        Failed::Carry(error) => error.sentence(),
        Failed::Status(StatusCode::UNAUTHORIZED, _) => {
            "the server wants you to sign in; use a client that takes a URL, and the agent's address"
                .to_owned()
        }
        Failed::Status(status, text) => {
            let text = String::from_utf8_lossy(text);
            let shown: String = text.chars().filter(|letter| !letter.is_control()).collect();
            let shown: String = shown.chars().take(SHOWN).collect();
            format!("the server answers {status}: {shown}")
        }
        Failed::Content(what) => format!("the server's answer cannot be used: {what}"),
        Failed::Over => "nobody reads any more".to_owned(),
    }
}

/// A JSON text on one line: line breaks stand between its parts only.
pub(super) fn line_of(mut text: Vec<u8>) -> Vec<u8> {
    for byte in &mut text {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    text.push(b'\n');
    text
}

fn is_error(text: &[u8]) -> bool {
    let answer: Option<Value> = serde_json::from_slice(text).ok();
    answer.is_some_and(|answer| answer.pointer("/error/code").is_some_and(Value::is_number))
}

pub(super) fn is(headers: &HeaderMap, kind: &str) -> bool {
    let field = headers.get(header::CONTENT_TYPE);
    field.is_some_and(|field| field.as_bytes().starts_with(kind.as_bytes()))
}

fn agree(session: &mut Session, text: &str) {
    let answer: Option<Value> = serde_json::from_str(text).ok();
    let agreed = answer
        .as_ref()
        .and_then(|answer| answer.pointer("/result/protocolVersion"));
    if let Some(revision) = agreed.and_then(Value::as_str) {
        session.agreed(revision);
    }
}

async fn whole(answer: Response<Answer>) -> Result<Bytes, Failed> {
    let read = Limited::new(answer.into_body(), LONGEST).collect().await;
    let read = read.map_err(|error| Failed::Content(error.to_string()))?;
    Ok(read.to_bytes())
}
