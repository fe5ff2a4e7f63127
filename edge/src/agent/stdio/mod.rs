//! MCP over standard input and output, for clients that only start commands: each line is a message, each
//! message a POST to one route (Streamable HTTP), and what the server says a line.
//!
//! Requests run side by side; everything else is sent in its order, and nothing before `initialize` is
//! answered. A client of 2026-07-28 that cancels a request ends its POST, which is how HTTP says it.

mod call;
mod events;
mod message;
mod session;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use process::{Failure, Tasks};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use super::target::Route;
use call::Bridge;
use message::{Kind, Message};

/// A line.
const LONGEST: usize = 16 << 20;
/// Requests that run at once; further lines wait.
const AT_ONCE: usize = 256;
/// Lines that wait to be written.
const WAITING: usize = 64;
/// A message that is not a request is answered within this, or given up.
const DELIVERY: Duration = Duration::from_secs(30);
/// What runs when the client has said everything gets this long, and so does the end of the session.
const LAST: Duration = Duration::from_secs(2);

/// Which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StdioTarget {
    pub(super) route: Route,
    /// Where it speaks MCP.
    pub(super) path: String,
}

impl std::fmt::Display for StdioTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.route.0, self.path)
    }
}

impl std::str::FromStr for StdioTarget {
    type Err = super::BadTarget;

    /// `ROUTE`, whose path is `/mcp`, or `ROUTE/PATH`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (route, path) = text.split_once('/').unwrap_or((text, "mcp"));
        let path = format!("/{path}");
        let uri: Result<http::Uri, _> = path.parse();
        uri.map_err(|_| super::BadTarget::Route)?;
        Ok(Self {
            route: route.parse()?,
            path,
        })
    }
}

/// Carries messages until `input` or `tasks` ends.
///
/// # Errors
///
/// Standard input cannot be read.
pub(super) async fn run(
    pool: Arc<Pool>,
    target: StdioTarget,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    tasks: &Tasks,
) -> Result<(), Failure> {
    let (lines, written) = mpsc::channel(WAITING);
    let writing = Tasks::new();
    writing.spawn(write(written, output, tasks.clone()));
    let desk = Desk {
        bridge: Arc::new(Bridge::new(pool, target, lines, tasks.clone())),
        running: Arc::default(),
        room: Arc::new(Semaphore::new(AT_ONCE)),
        tasks: tasks.clone(),
    };
    let read = tokio::select! {
        read = desk.read(input) => read,
        () = tasks.stopping() => Ok(()),
    };
    desk.end().await;
    drop(desk);
    // The last lines are written when nobody can say another one.
    writing.drain(LAST).await;
    read.map_err(|error| Failure::internal("standard input cannot be read").caused_by(&error))
}

/// What is running for the client.
struct Desk {
    bridge: Arc<Bridge>,
    /// Requests by their id, as JSON.
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    room: Arc<Semaphore>,
    tasks: Tasks,
}

impl Desk {
    async fn read(&self, input: impl AsyncRead + Unpin) -> std::io::Result<()> {
        let mut input = BufReader::new(input);
        loop {
            let mut line = Vec::new();
            let limit = LONGEST as u64 + 1;
            let read = (&mut input)
                .take(limit)
                .read_until(b'\n', &mut line)
                .await?;
            if read == 0 {
                return Ok(());
            }
            if read > LONGEST {
                return Err(std::io::Error::other("a line is longer than 16 MiB"));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(message) = Message::read(Bytes::copy_from_slice(line.trim_ascii())) {
                self.take(message).await;
            } else {
                let error = json!({"code": -32700, "message": "this line is no JSON-RPC message"});
                let answer = json!({"jsonrpc": "2.0", "id": null, "error": error});
                self.bridge.say(answer.to_string()).await;
            }
        }
    }

    async fn take(&self, message: Message) {
        match &message.kind {
            Kind::Notification { .. }
                if self.bridge.is_stateless() && message.cancels().is_some() =>
            {
                self.cancel(&message);
            }
            // All that follows depends on its answer.
            Kind::Request { .. } if message.is("initialize") => {
                self.bridge.initialize(&message).await;
            }
            Kind::Request { id, .. } => self.begin(id.to_string(), message).await,
            Kind::Notification { .. } | Kind::Other => {
                let delivery = tokio::time::timeout(DELIVERY, self.bridge.deliver(&message));
                if delivery.await.is_err() {
                    tracing::warn!("the server did not take a message in time");
                }
                self.cancel(&message);
            }
        }
    }

    async fn begin(&self, id: String, message: Message) {
        let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
            return;
        };
        let stop = CancellationToken::new();
        self.running().insert(id.clone(), stop.clone());
        let bridge = Arc::clone(&self.bridge);
        let running = Arc::clone(&self.running);
        self.tasks.spawn(async move {
            tokio::select! {
                () = bridge.request(&message) => {}
                () = stop.cancelled() => {}
            }
            lock(&running).remove(&id);
            drop(permit);
        });
        // What is said next must not overtake it.
        tokio::task::yield_now().await;
    }

    /// Gives up the request that `message` cancels, if it does.
    fn cancel(&self, message: &Message) {
        let stop = message
            .cancels()
            .and_then(|id| self.running().remove(&id.to_string()));
        if let Some(stop) = stop {
            stop.cancel();
        }
    }

    /// Lets what runs come to its end for a while, then ends it and the session.
    async fn end(&self) {
        if !self.tasks.is_stopping() {
            let all = self
                .room
                .acquire_many(u32::try_from(AT_ONCE).unwrap_or(u32::MAX));
            tokio::select! {
                _ = tokio::time::timeout(LAST, all) => {}
                () = self.tasks.stopping() => {}
            }
        }
        for stop in self.running().values() {
            stop.cancel();
        }
        let _ = tokio::time::timeout(LAST, self.bridge.close()).await;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        lock(&self.running)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes lines until nobody can say another one.
async fn write(
    mut lines: mpsc::Receiver<Vec<u8>>,
    mut output: impl AsyncWrite + Unpin,
    tasks: Tasks,
) {
    while let Some(line) = lines.recv().await {
        let written = async {
            output.write_all(&line).await?;
            output.flush().await
        };
        if written.await.is_err() {
            // Nobody reads any more.
            tasks.stop();
            return;
        }
    }
}
