//! One run of the demo, from an empty folder to the verdict.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use process::{Exit, Failure, Tasks};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::bridge::{Bridge, BridgeOptions};
use crate::client::{CallError, Http, HttpVersion, Revision, Session, Target, Transport, chain};
use crate::ledger::Ledger;
use crate::load::{Lane, Load, Plan, Rest, Server};
use crate::report::{Counts, Screen};
use crate::sample;
use crate::stack::{Ended, Programs, Rotation, Stack, StackError, StackOptions};
use crate::upstream::Upstream;

/// In each of it the server certificate is rotated twice, and everything else once.
const CYCLE: Duration = Duration::from_secs(2);
/// Between the last rotation of a cycle and the next one, at least.
const REST: Duration = Duration::from_millis(250);

/// What the demo is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long at least, and how many rotations of the server certificate; of all else half as many.
    pub seconds: u32,
    /// Somebody's own MCP server.
    pub upstream: Option<String>,
    /// End with one JSON object.
    pub json: bool,
    /// Leave everything where it is.
    pub keep: bool,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    ledger: Arc<Ledger>,
}

impl Outcome {
    /// Not a single call failed and no stream broke.
    pub fn is_clean(&self) -> bool {
        self.ledger.is_clean()
    }
}

/// Why the middle of a run ended.
enum End {
    /// All rotations are done.
    Done,
    /// Somebody pressed Control-C.
    Stopped,
    /// A program of the stack is gone.
    Ended(Ended),
    /// The stack did not rotate.
    Stuck(StackError),
}

/// Rotations done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) server_certificate: AtomicU64,
    pub(crate) ca: AtomicU64,
    pub(crate) tunnel_token: AtomicU64,
    pub(crate) shared_secret: AtomicU64,
}

/// Runs the demo and reports it. Ends early when `tasks` stop.
///
/// # Errors
///
/// The stack could not be started, or did not rotate although nothing was lost.
pub async fn run(options: Options, tasks: &Tasks) -> Result<Outcome, Failure> {
    let mut screen = Screen::new(options.json);
    let own = match &options.upstream {
        Some(url) => Some(
            Upstream::check(url)
                .await
                .map_err(|error| error.failure())?,
        ),
        None => None,
    };
    // Not the program's own tasks: Control-C must not cut the calls that are to be finished.
    let traffic = Tasks::new();
    let (stack, bridge) = start(own.as_ref(), &traffic).await?;
    screen.say(&format!(
        "everything runs in {}",
        stack.paths.root.display()
    ));
    let ledger = Ledger::open();
    let plan = plan(&stack, bridge, own.as_ref(), &ledger, &traffic).await?;
    let load = Load::start(&plan, stack.trust(), &ledger, &traffic).await;
    let load = load.map_err(|(lane, error)| unusable(&lane.name(), &error, &stack))?;
    screen.say(&announcement(&plan));

    let done = Done::default();
    let counts = Counts {
        ledger: &ledger,
        done: &done,
    };
    let began = Instant::now();
    let end = tokio::select! {
        end = rotate(&stack, &ledger, &done, options.seconds) => end,
        end = watch(&stack, tasks) => end,
        () = screen.follow(&counts, began, options.seconds) => End::Stopped,
    };
    if let End::Ended(ended) = &end {
        let news = format!("{} ended with {}", ended.program, ended.status);
        screen.say(&news);
        // What the loss of a program costs is part of the answer.
        sleep(Duration::from_secs(1)).await;
    }
    let (connections, seen) = (load.connections(), stack.trust().seen());
    let keep = options.keep || !matches!(end, End::Done | End::Stopped);
    let kept = stop(load, &traffic, stack, keep, &ledger, &mut screen).await;
    screen.finish(&counts, began.elapsed(), connections, seen);
    if let Some(logs) = kept {
        screen.say(&format!("logs are kept in {}", logs.display()));
    }
    screen.result(&counts);
    verdict(end, &ledger)?;
    Ok(Outcome { ledger })
}

fn announcement(plan: &Plan) -> String {
    let streams = match plan.server {
        Server::Sample => plan.streams,
        Server::Foreign => 0,
    };
    format!(
        "{} ways through the stack, {} calls and {streams} streams in flight on each",
        plan.lanes.len(),
        plan.callers
    )
}

/// Lets calls come to their end, then the programs. Where the logs are, if they are kept: because somebody wants
/// that, or because something was lost.
async fn stop(
    load: Load,
    traffic: &Tasks,
    stack: Stack,
    keep: bool,
    ledger: &Ledger,
    screen: &mut Screen,
) -> Option<PathBuf> {
    if timeout(Duration::from_secs(60), load.stop()).await.is_err() {
        screen.say("some calls did not come to an end within 60 s");
    }
    traffic.stop();
    let logs = stack.paths.logs.clone();
    let keep = keep || !ledger.is_clean();
    for complaint in stack.stop(keep).await {
        screen.say(&complaint);
    }
    keep.then_some(logs)
}

fn verdict(end: End, ledger: &Ledger) -> Result<(), Failure> {
    match end {
        End::Done | End::Stopped => Ok(()),
        // Calls were lost: that is the verdict, and why is in the report.
        _ if !ledger.is_clean() => Ok(()),
        End::Ended(ended) => Err(StackError::Ended(ended).failure()),
        End::Stuck(error) => Err(error.failure()),
    }
}

async fn start(own: Option<&Upstream>, traffic: &Tasks) -> Result<(Stack, SocketAddr), Failure> {
    let programs = Programs::beside().map_err(|error| error.failure())?;
    let mut options = StackOptions::new(programs);
    options.edge = true;
    options.extra_names.clear();
    if let Some(own) = own {
        options.upstream = Some(own.origin());
        options.allowed_ips = own.addresses.iter().map(ToString::to_string).collect();
        options.system_cas = own.is_https();
    }
    let stack = Stack::start(options, traffic).await;
    let stack = stack.map_err(|error| error.failure())?;
    let bridge = Bridge::start(
        BridgeOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            connector: stack.connector_address,
            host: stack.host(),
            path: "/".into(),
            ping: Duration::from_secs(1),
            varied: true,
        },
        traffic,
    )
    .await
    .map_err(|error| Failure::internal("cannot start the bridge").caused_by(&error))?;
    Ok((stack, bridge.address))
}

async fn plan(
    stack: &Stack,
    bridge: SocketAddr,
    own: Option<&Upstream>,
    ledger: &Arc<Ledger>,
    traffic: &Tasks,
) -> Result<Plan, Failure> {
    let websocket = Target {
        address: bridge,
        host: stack.host(),
    };
    let carriers = [("websocket", websocket), ("tls", stack.tls())];
    let mut revisions = vec![Revision::Sessions, Revision::Stateless];
    let mut path = sample::PATH.to_owned();
    if let Some(own) = own {
        path.clone_from(&own.path);
        revisions = spoken(stack, &path, ledger, traffic).await?;
    }
    let mut lanes = Vec::new();
    if let Some(agent) = stack.agent() {
        // The way that agents go is the main one.
        for _ in 0..2 {
            lanes.extend(Lane::over("edge", &agent, HttpVersion::Plain, &revisions));
        }
    }
    lanes.extend(Lane::all(&carriers, &revisions));
    Ok(Plan {
        lanes,
        path,
        server: if own.is_some() {
            Server::Foreign
        } else {
            Server::Sample
        },
        callers: 2,
        rest: Rest::Asleep(Duration::from_millis(10)),
        streams: 2,
        steps: 30,
        interval: Duration::from_millis(100),
    })
}

/// The revisions that somebody's own server speaks.
async fn spoken(
    stack: &Stack,
    path: &str,
    ledger: &Arc<Ledger>,
    traffic: &Tasks,
) -> Result<Vec<Revision>, Failure> {
    let mut spoken = Vec::new();
    let mut refused = None;
    for revision in [Revision::Sessions, Revision::Stateless] {
        let begun = async {
            let http = Http::new(stack.tls(), HttpVersion::One, stack.trust(), traffic)?;
            let standing = Arc::clone(&ledger.standing);
            Session::begin(Transport::new(http, path, standing), revision).await
        };
        match begun.await {
            Ok(session) => {
                session.end().await;
                spoken.push(revision);
            }
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if spoken.is_empty() => Err(unusable("the first call", &error, stack)),
        _ => Ok(spoken),
    }
}

fn unusable(who: &str, error: &CallError, stack: &Stack) -> Failure {
    let what = format!("{who} failed in the layer {}", error.layer());
    Failure::new(Exit::Unavailable, what)
        .cause(chain(error))
        .next(format!(
            "compare with a direct call to {}, then read the logs in {} with --keep",
            stack.upstream,
            stack.paths.logs.display()
        ))
}

/// The server certificate `seconds` times, the others half as often, all of one [`CYCLE`] at the same time but the token, whose
/// rotation the daemon refuses while a CA switches: it goes before the CA. Each cycle is followed by a [`REST`], in which
/// callers are alone; so it takes longer than `seconds` if the rotations do.
async fn rotate(stack: &Stack, ledger: &Ledger, done: &Done, seconds: u32) -> End {
    let began = Instant::now();
    let one = async |what: Rotation, counter: &AtomicU64| {
        let rotating = ledger.rotating();
        stack.rotate(what).await?;
        drop(rotating);
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<(), StackError>(())
    };
    let certificates = async |at: Instant, twice: bool| {
        one(Rotation::ServerCertificate, &done.server_certificate).await?;
        if twice {
            // In the middle of whatever the others take longer for.
            sleep_until(at + CYCLE * 3 / 8).await;
            one(Rotation::ServerCertificate, &done.server_certificate).await?;
        }
        Ok(())
    };
    for cycle in 0..seconds.div_ceil(2) {
        let at = began + CYCLE * cycle;
        let at = if cycle == 0 {
            at
        } else {
            at.max(Instant::now() + REST)
        };
        sleep_until(at).await;
        let others = async {
            one(Rotation::TunnelToken, &done.tunnel_token).await?;
            one(Rotation::Ca, &done.ca).await?;
            // The next one is told now, so that everybody holds it when its time comes.
            stack.prepare().await
        };
        let all = tokio::try_join!(
            certificates(at, cycle * 2 + 1 < seconds),
            others,
            one(Rotation::SharedSecret, &done.shared_secret),
        );
        if let Err(error) = all {
            return End::Stuck(error);
        }
    }
    sleep_until(began + Duration::from_secs(seconds.into())).await;
    End::Done
}

async fn watch(stack: &Stack, tasks: &Tasks) -> End {
    loop {
        tokio::select! {
            () = sleep(Duration::from_millis(50)) => {}
            () = tasks.stopping() => return End::Stopped,
        }
        if let Some(ended) = stack.ended() {
            return End::Ended(ended);
        }
    }
}
