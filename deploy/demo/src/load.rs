//! Calls of all shapes, kept in flight: the traffic of the demo, of tests and of benchmarks.
//!
//! A [`Lane`] is one way through the stack: a carrier, an HTTP version, a revision of MCP. Each lane
//! has one session with several callers and counting streams on it; half of the requests take a new
//! connection. Every answer is checked. What happens is written into a [`Ledger`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use process::Tasks;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::client::{CallError, Http, HttpVersion, Revision, Session, Target, Transport};
use crate::connector::random;
use crate::ledger::Ledger;
use crate::sample::TOOLS;
use crate::trust::Trust;

/// One way through the stack.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Of the carrier, for messages: `websocket`, `tls`, `edge`.
    pub carrier: &'static str,
    /// Where it begins.
    pub target: Target,
    /// Inside inner TLS.
    pub version: HttpVersion,
    /// Of MCP.
    pub revision: Revision,
}

impl Lane {
    /// All ways over these carriers.
    pub fn all(carriers: &[(&'static str, Target)], revisions: &[Revision]) -> Vec<Self> {
        let mut lanes = Vec::new();
        for (carrier, target) in carriers {
            for version in [HttpVersion::One, HttpVersion::Two] {
                lanes.extend(Self::over(carrier, target, version, revisions));
            }
        }
        lanes
    }

    /// A way for each of `revisions`.
    pub fn over(
        carrier: &'static str,
        target: &Target,
        version: HttpVersion,
        revisions: &[Revision],
    ) -> Vec<Self> {
        let lane = |revision: &Revision| Self {
            carrier,
            target: target.clone(),
            version,
            revision: *revision,
        };
        revisions.iter().map(lane).collect()
    }

    /// As it is written in messages.
    pub fn name(&self) -> String {
        let version = match self.version {
            HttpVersion::One => "http/1.1",
            HttpVersion::Two => "h2",
            HttpVersion::Plain => "http/1.1 to the agent",
        };
        format!("{}, {version}, {}", self.carrier, self.revision.name())
    }
}

/// What may be asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Ours: every tool, every answer known.
    Sample,
    /// Somebody's own: nothing but what lists or does nothing.
    Foreign,
}

/// What a caller does between two short calls, for a time on average: half of it to one and a half, lest callers march
/// in step.
#[derive(Clone, Copy, Debug)]
pub enum Rest {
    /// Nothing.
    Asleep(Duration),
    /// It waits for an answer that the sample server makes late, so that it always has a call in flight. Of that call's
    /// latency counts what is more than it asked for.
    InFlight(Duration),
}

/// How much of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The ways through the stack.
    pub lanes: Vec<Lane>,
    /// Path of the MCP server.
    pub path: String,
    /// What may be asked of it.
    pub server: Server,
    /// Callers a lane, each with one short call in flight.
    pub callers: usize,
    /// Between two short calls of a caller.
    pub rest: Rest,
    /// Counting streams in flight a lane.
    pub streams: usize,
    /// Steps of a counting stream.
    pub steps: u32,
    /// Time between two steps.
    pub interval: Duration,
}

/// Load that runs.
pub struct Load {
    stop: Arc<AtomicBool>,
    callers: TaskTracker,
    sessions: Vec<Arc<Session>>,
    clients: Vec<Http>,
}

/// What every caller has.
struct Context {
    lane: Lane,
    http: Http,
    path: String,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    turn: AtomicU64,
}

impl Load {
    /// Begins a session on every lane, then keeps calls in flight.
    ///
    /// # Errors
    ///
    /// A session cannot be begun: the lane's name and why.
    pub async fn start(
        plan: &Plan,
        trust: &Arc<Trust>,
        ledger: &Arc<Ledger>,
        tasks: &Tasks,
    ) -> Result<Self, (Lane, CallError)> {
        let mut this = Self {
            stop: Arc::default(),
            callers: TaskTracker::new(),
            sessions: Vec::new(),
            clients: Vec::new(),
        };
        for lane in &plan.lanes {
            let failed = |error| (lane.clone(), error);
            let http = Http::new(lane.target.clone(), lane.version, trust, tasks);
            let http = http.map_err(failed)?;
            let context = Arc::new(Context {
                lane: lane.clone(),
                http: http.clone(),
                path: plan.path.clone(),
                ledger: Arc::clone(ledger),
                stop: Arc::clone(&this.stop),
                turn: AtomicU64::new(0),
            });
            let session = Arc::new(context.begin().await.map_err(failed)?);
            this.clients.push(http);
            this.sessions.push(Arc::clone(&session));
            this.callers_of(plan, &context, &session, tasks);
        }
        this.callers.close();
        Ok(this)
    }

    fn callers_of(
        &self,
        plan: &Plan,
        context: &Arc<Context>,
        session: &Arc<Session>,
        tasks: &Tasks,
    ) {
        for _ in 0..plan.callers {
            let (context, session) = (Arc::clone(context), Arc::clone(session));
            let (server, rest) = (plan.server, plan.rest);
            tasks.spawn(self.callers.track_future(async move {
                while !context.stopped() {
                    context.short(&session, server).await;
                    context.rest(&session, rest).await;
                }
            }));
        }
        let streams = match plan.server {
            Server::Sample => plan.streams,
            Server::Foreign => 0,
        };
        for _ in 0..streams {
            let (context, session) = (Arc::clone(context), Arc::clone(session));
            let (steps, interval) = (plan.steps, plan.interval);
            tasks.spawn(self.callers.track_future(async move {
                while !context.stopped() {
                    context.ledger.streams.increment();
                    let outcome = session.count(steps, interval).await;
                    let failed = outcome.is_err();
                    let who = format!("{}: tools/call count", context.lane.name());
                    context.ledger.stream(&who, outcome);
                    if failed {
                        // A path that is down must not make this loop a busy one.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }));
        }
    }

    /// Connections opened so far by all lanes.
    pub fn connections(&self) -> u64 {
        self.clients.iter().map(Http::opened).sum()
    }

    /// Begins nothing new, waits for what is in flight, ends the sessions.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.wait().await;
        for session in self.sessions {
            if let Ok(session) = Arc::try_unwrap(session) {
                session.end().await;
            }
        }
    }
}

impl Context {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn begin(&self) -> Result<Session, CallError> {
        let standing = Arc::clone(&self.ledger.standing);
        let transport = Transport::new(self.http.clone(), &self.path, standing);
        Session::begin(transport, self.lane.revision).await
    }

    /// One short call, each of another kind than the one before.
    async fn short(&self, session: &Session, server: Server) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let call = self.ledger.call();
        let (what, outcome) = match (server, turn % 16) {
            (Server::Sample, 0 | 8) => ("tools/list", self.list(session, true).await),
            (Server::Sample, 4) => ("a whole session", self.whole().await),
            (Server::Sample, 2 | 10) => ("a large echo", echo(session, turn, 48 << 10).await),
            (Server::Sample, odd) if odd % 2 == 1 => ("tools/call add", add(session, turn).await),
            (Server::Sample, _) => ("tools/call echo", echo(session, turn, 32).await),
            (Server::Foreign, even) if even % 2 == 0 => {
                ("tools/list", self.list(session, false).await)
            }
            (Server::Foreign, _) => ("ping", session.ping().await),
        };
        call.end(&format!("{}: {what}", self.lane.name()), outcome);
    }

    async fn rest(&self, session: &Session, rest: Rest) {
        match rest {
            Rest::Asleep(time) => tokio::time::sleep(scattered(time)).await,
            Rest::InFlight(time) => {
                let time = scattered(time);
                let call = self.ledger.call().less(time);
                let outcome = wait(session, time).await;
                call.end(&format!("{}: tools/call wait", self.lane.name()), outcome);
            }
        }
    }

    async fn list(&self, session: &Session, known: bool) -> Result<(), CallError> {
        let tools = session.tools().await?;
        if known && tools != TOOLS {
            return Err(CallError::Content(format!("tools/list gave {tools:?}")));
        }
        Ok(())
    }

    /// Begins, asks and ends, as a client does that comes for one question.
    async fn whole(&self) -> Result<(), CallError> {
        let session = self.begin().await?;
        let outcome = add(&session, 41).await;
        session.end().await;
        outcome
    }
}

async fn add(session: &Session, number: u64) -> Result<(), CallError> {
    let sum = session.call("add", json!({ "a": number, "b": 1 })).await?;
    expect(&sum, &(number + 1).to_string())
}

async fn wait(session: &Session, time: Duration) -> Result<(), CallError> {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let answer = session
        .call("wait", json!({ "milliseconds": milliseconds }))
        .await?;
    expect(&answer, "waited")
}

async fn echo(session: &Session, turn: u64, length: usize) -> Result<(), CallError> {
    let mut text = format!("{turn} ");
    while text.len() < length {
        text.push_str("0123456789abcdefghijklmnopqrstuvwxyz");
    }
    let answer = session.call("echo", json!({ "text": text })).await?;
    expect(&answer, &text)
}

fn expect(answer: &str, expected: &str) -> Result<(), CallError> {
    if answer == expected {
        return Ok(());
    }
    let shown: String = answer.chars().take(80).collect();
    Err(CallError::Content(format!(
        "{} bytes instead of {}, beginning with {shown:?}",
        answer.len(),
        expected.len()
    )))
}

/// Half of `time` to one and a half, in whole milliseconds, which is what the sample server waits.
fn scattered(time: Duration) -> Duration {
    let share = u32::try_from(random() % 1024).unwrap_or_default();
    let time = time / 2 + time * share / 1024;
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
