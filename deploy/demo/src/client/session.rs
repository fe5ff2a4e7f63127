//! One MCP session: what is asked, and whether the answer is the right one.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rmcp::model::{
    CallToolRequestParams, ClientRequest, PingRequest, ProgressNotificationParam, ProgressToken,
    ProtocolVersion, Request, ServerResult,
};
use rmcp::service::{
    ClientInitializeError, NotificationContext, PeerRequestOptions, RunningService, ServiceError,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::NeverRetry;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransportConfig, StreamableHttpError,
};
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::Value;
use tokio::sync::Notify;

use super::{CallError, Transport};

/// An answer that takes longer than this on top of its own time is a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// Revisions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// 2025-11-25: `initialize`, `Mcp-Session-Id`, a standing event stream.
    Sessions,
    /// 2026-07-28: no state; each request says who asks.
    Stateless,
}

impl Revision {
    /// As the protocol writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "2025-11-25",
            Self::Stateless => "2026-07-28",
        }
    }
}

/// A session with an MCP server. Calls may run at the same time.
pub struct Session {
    service: RunningService<RoleClient, Client>,
    transport: Transport,
    revision: Revision,
}

impl Session {
    /// Begins a session in `revision`, and in no other.
    ///
    /// # Errors
    ///
    /// A layer of the path failed, or the server does not speak the revision.
    pub async fn begin(transport: Transport, revision: Revision) -> Result<Self, CallError> {
        let mut config = StreamableHttpClientTransportConfig::with_uri("https://path.invalid/");
        config.retry_config = Arc::new(NeverRetry::default());
        config.reinit_on_expired_session = false;
        let worker = StreamableHttpClientTransport::with_client(transport.clone(), config);
        let lifecycle = match revision {
            Revision::Sessions => ClientLifecycleMode::Initialize,
            Revision::Stateless => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
        };
        let begun = Client::default().serve_with_lifecycle(worker, lifecycle);
        let service = tokio::time::timeout(LIMIT, begun)
            .await
            .map_err(|_| late())?
            .map_err(from_begin)?;
        Ok(Self {
            service,
            transport,
            revision,
        })
    }

    /// Names of the server's tools.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn tools(&self) -> Result<Vec<String>, CallError> {
        let asked = self.service.peer().list_all_tools();
        let tools = tokio::time::timeout(LIMIT, asked).await;
        let tools = tools.map_err(|_| late())?.map_err(from_service)?;
        Ok(tools.into_iter().map(|tool| tool.name.into()).collect())
    }

    /// `ping`, which the stateless revision does not have: there it lists the tools.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn ping(&self) -> Result<(), CallError> {
        if self.revision == Revision::Stateless {
            return self.tools().await.map(drop);
        }
        let ping = ClientRequest::PingRequest(PingRequest::default());
        let sent = self
            .service
            .send_request_with_option(ping, PeerRequestOptions::with_timeout(LIMIT));
        let answer = sent.await.map_err(from_service)?.await_response().await;
        answer.map(drop).map_err(from_service)
    }

    /// Calls a tool and gives the text of its answer.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; an answer that is no text is one too.
    pub async fn call(&self, tool: &'static str, arguments: Value) -> Result<String, CallError> {
        let request = call(tool, arguments);
        let options = PeerRequestOptions::with_timeout(LIMIT);
        let sent = self.service.send_cancellable_request(request, options);
        let answer = sent.await.map_err(from_service)?.await_response().await;
        text(answer.map_err(from_service)?)
    }

    /// Has the sample server count to `steps`, one each `interval`, and checks that every step was
    /// told, none twice, and not all of them at the end.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn count(&self, steps: u32, interval: Duration) -> Result<(), CallError> {
        let arguments = serde_json::json!({
            "steps": steps,
            "milliseconds": u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        });
        let whole = interval * steps;
        let options = PeerRequestOptions::with_timeout(LIMIT + whole);
        let sent = self
            .service
            .send_cancellable_request(call("count", arguments), options);
        let handle = sent.await.map_err(from_service)?;
        let told = Told {
            client: self.service.service(),
            token: handle.progress_token.clone(),
        };
        let answer = handle.await_response().await.map_err(from_service)?;
        let answered = Instant::now();
        let last = text(answer)?;
        if last != steps.to_string() {
            return Err(CallError::Content(format!("counted {last} of {steps}")));
        }
        let first = told.all(steps).await?;
        if answered.duration_since(first) < whole / 20 {
            return Err(CallError::Content(
                "all progress came at the end: something holds events back".into(),
            ));
        }
        Ok(())
    }

    /// Ends the session; with sessions the server is told.
    pub async fn end(mut self) {
        self.transport.closing.store(true, Ordering::Relaxed);
        // The outcome is the server's word on a session that is of no more use.
        let _ = self
            .service
            .close_with_timeout(Duration::from_secs(5))
            .await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.transport.closing.store(true, Ordering::Relaxed);
    }
}

fn call(tool: &'static str, arguments: Value) -> ClientRequest {
    let arguments = rmcp::model::object(arguments);
    let params = CallToolRequestParams::new(tool).with_arguments(arguments);
    ClientRequest::CallToolRequest(Request::new(params))
}

fn text(answer: ServerResult) -> Result<String, CallError> {
    let ServerResult::CallToolResult(result) = answer else {
        return Err(CallError::Content("not the answer of a tool".into()));
    };
    let mut blocks = result.content.iter().filter_map(|block| block.as_text());
    match (result.is_error, blocks.next()) {
        (Some(true), block) => Err(CallError::Mcp(format!(
            "the tool says {:?}",
            block.map_or("nothing", |block| &block.text)
        ))),
        (_, Some(block)) => Ok(block.text.clone()),
        (_, None) => Err(CallError::Content("an answer without text".into())),
    }
}

/// What the server may tell us outside of an answer.
#[derive(Default)]
struct Client {
    told: Mutex<HashMap<ProgressToken, Progress>>,
    news: Notify,
}

struct Progress {
    first: Instant,
    steps: Vec<f64>,
}

impl ClientHandler for Client {
    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let progress = told
                .entry(params.progress_token)
                .or_insert_with(|| Progress {
                    first: Instant::now(),
                    steps: Vec::new(),
                });
            progress.steps.push(params.progress);
        }
        self.news.notify_waiters();
    }
}

/// The progress of one call; forgotten when dropped.
struct Told<'a> {
    client: &'a Client,
    token: ProgressToken,
}

impl Told<'_> {
    /// Waits until `steps` were told, since the SDK hands over progress and answer side by side.
    async fn all(&self, steps: u32) -> Result<Instant, CallError> {
        let complete = async {
            loop {
                let news = self.client.news.notified();
                if let Some(done) = self.complete(steps) {
                    return done;
                }
                news.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(5), complete).await {
            Ok(done) => done,
            Err(_) => Err(CallError::Content("progress events are missing".into())),
        }
    }

    fn complete(&self, steps: u32) -> Option<Result<Instant, CallError>> {
        let told = self.client.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        let progress = told.get_mut(&self.token)?;
        if progress.steps.len() < steps as usize {
            return None;
        }
        progress.steps.sort_by(f64::total_cmp);
        let expected = (1..=steps).map(f64::from);
        if expected.eq(progress.steps.iter().copied()) {
            return Some(Ok(progress.first));
        }
        let what = format!("progress is {:?}", progress.steps);
        Some(Err(CallError::Content(what)))
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let told = self.client.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        told.remove(&self.token);
    }
}

fn late() -> CallError {
    CallError::Mcp(format!("no answer within {} s", LIMIT.as_secs()))
}

fn from_service(error: ServiceError) -> CallError {
    match error {
        ServiceError::TransportSend(error) => from_transport(error.error),
        other => CallError::Mcp(super::chain(&other)),
    }
}

fn from_begin(error: ClientInitializeError) -> CallError {
    match error {
        ClientInitializeError::TransportError { error, .. } => from_transport(error.error),
        other => CallError::Mcp(super::chain(&other)),
    }
}

/// Finds our own error in what the SDK wrapped around it, so that the layer is told.
fn from_transport(error: Box<dyn std::error::Error + Send + Sync>) -> CallError {
    match error.downcast::<StreamableHttpError<CallError>>() {
        Ok(error) => match *error {
            StreamableHttpError::Client(error) => error,
            other => CallError::Mcp(super::chain(&other)),
        },
        Err(other) => CallError::Mcp(super::chain(other.as_ref())),
    }
}
