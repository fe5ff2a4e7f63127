//! A sample MCP server on the official SDK: what the demo calls through the whole path.
//!
//! It speaks the revision 2025-11-25 with sessions and the stateless 2026-07-28, keeps nothing but
//! a count, and reaches for nothing. Its tools are chosen for what a path can do wrong: small and
//! large answers, an answer that takes seconds and says how far it is, a call that is cancelled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::serve::ListenerExt;
use process::{Failure, Tasks};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities,
    ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where the server answers.
pub const PATH: &str = "/mcp";

/// The tools, in the order of `tools/list`.
pub const TOOLS: [&str; 5] = ["echo", "add", "count", "wait", "cancelled"];

/// How long `count` and `wait` may take at most.
const LONGEST: Duration = Duration::from_secs(600);

/// A server that runs. It ends with the tasks it was started on.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Sample {
    /// Listens on `listen` (port 0: any) and serves until `tasks` stop.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub async fn start(listen: SocketAddr, tasks: &Tasks) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        tasks.essential("sample", serve(listener, tasks.clone()));
        Ok(Self { address })
    }
}

async fn serve(listener: TcpListener, tasks: Tasks) -> Result<(), Failure> {
    let over = CancellationToken::new();
    let config = StreamableHttpServerConfig::default().with_cancellation_token(over.clone());
    let tools = Tools::default();
    let service = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Arc::new(LocalSessionManager::default()),
        config,
    );
    let router = axum::Router::new().route_service(PATH, service);
    // Without it the last part of an answer waits for an acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let stop = async move {
        tasks.stopping().await;
        over.cancel();
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
        .map_err(|error| Failure::internal("the sample server ended").caused_by(&error))
}

/// One for all sessions, so that any of them can read the count.
#[derive(Clone, Default)]
struct Tools {
    cancelled: Arc<AtomicU64>,
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("keyward-sample", "1"))
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(described()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Arguments(Value::Object(request.arguments.unwrap_or_default()));
        let text = match request.name.as_ref() {
            "echo" => arguments.text("text")?.to_owned(),
            "add" => arguments.add()?.to_string(),
            "count" => count(&arguments, &context).await?,
            "wait" => self.wait(&arguments, &context).await?,
            "cancelled" => self.cancelled.load(Ordering::Relaxed).to_string(),
            other => {
                let what = format!("no tool {other:?}; there are {}", TOOLS.join(", "));
                return Err(ErrorData::invalid_params(what, None));
            }
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

impl Tools {
    async fn wait(
        &self,
        arguments: &Arguments,
        context: &RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        let time = Duration::from_millis(arguments.number("milliseconds")?).min(LONGEST);
        tokio::select! {
            () = tokio::time::sleep(time) => Ok("waited".to_owned()),
            () = context.ct.cancelled() => {
                self.cancelled.fetch_add(1, Ordering::Relaxed);
                Ok("cancelled".to_owned())
            }
        }
    }
}

/// Says `1` … `steps` as progress, one each interval, and then how many it said.
async fn count(
    arguments: &Arguments,
    context: &RequestContext<RoleServer>,
) -> Result<String, ErrorData> {
    let token = context.meta.get_progress_token().ok_or_else(|| {
        ErrorData::invalid_params("count tells its progress: send a progressToken", None)
    })?;
    let steps = u32::try_from(arguments.number("steps")?)
        .map_err(|_| ErrorData::invalid_params("steps is too large", None))?;
    let interval = Duration::from_millis(arguments.number("milliseconds")?).min(LONGEST);
    for step in 1..=steps {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = context.ct.cancelled() => return Ok(format!("cancelled at {step}")),
        }
        let progress = ProgressNotificationParam::new(token.clone(), f64::from(step))
            .with_total(f64::from(steps));
        let told = context.peer.notify_progress(progress).await;
        told.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    }
    Ok(steps.to_string())
}

struct Arguments(Value);

impl Arguments {
    fn text(&self, name: &str) -> Result<&str, ErrorData> {
        let text = self.0.get(name).and_then(Value::as_str);
        text.ok_or_else(|| ErrorData::invalid_params(format!("{name} must be a text"), None))
    }

    fn number(&self, name: &str) -> Result<u64, ErrorData> {
        let number = self.0.get(name).and_then(Value::as_u64);
        number.ok_or_else(|| {
            ErrorData::invalid_params(format!("{name} must be a number, 0 or more"), None)
        })
    }

    fn add(&self) -> Result<u64, ErrorData> {
        let sum = self.number("a")?.checked_add(self.number("b")?);
        sum.ok_or_else(|| ErrorData::invalid_params("the sum is too large", None))
    }
}

fn described() -> Vec<Tool> {
    let tool = |name: &'static str, what: &'static str, kind: &str, names: &[&str]| {
        let properties: serde_json::Map<String, Value> = names
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "type": kind })))
            .collect();
        let schema = rmcp::model::object(json!({
            "type": "object",
            "properties": properties,
            "required": names,
        }));
        Tool::new(name, what, schema)
    };
    let [echo, add, count, wait, cancelled] = TOOLS;
    vec![
        tool(echo, "Gives the text back", "string", &["text"]),
        tool(add, "Adds two numbers", "integer", &["a", "b"]),
        tool(
            count,
            "Says how far it is, one step each interval",
            "integer",
            &["steps", "milliseconds"],
        ),
        tool(
            wait,
            "Answers late, or counts that it was cancelled",
            "integer",
            &["milliseconds"],
        ),
        tool(cancelled, "How many waits were cancelled", "integer", &[]),
    ]
}
