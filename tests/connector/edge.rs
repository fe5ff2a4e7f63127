//! The far side of the double: takes registrations, opens calls on what is registered, newest first, and notes those
//! that fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use process::Tasks;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::cli::stage::LIMIT;

/// What an edge does with who wants to register.
#[derive(Clone, Debug)]
struct Rules {
    secret: String,
    silent: bool,
}

/// One connection of a connector.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) pid: u32,
    pub(crate) registered: bool,
    send: mpsc::UnboundedSender<Value>,
    waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>,
}

#[derive(Default)]
struct Inside {
    connections: BTreeMap<u64, Connection>,
    /// Registrations that were asked for: when, and whether they were granted.
    asked: Vec<(Instant, bool)>,
    calls: u64,
    failed: u64,
}

/// Dropped, it is gone.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    rules: Arc<Mutex<Rules>>,
    inside: Arc<Mutex<Inside>>,
    tasks: Tasks,
}

impl Edge {
    pub(crate) async fn start(secret: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Arc::new(Mutex::new(Rules {
            secret: secret.to_owned(),
            silent: false,
        }));
        let inside = Arc::<Mutex<Inside>>::default();
        let tasks = Tasks::new();
        let (each, read, kept) = (tasks.clone(), Arc::clone(&rules), Arc::clone(&inside));
        tasks.spawn(async move {
            for number in 0.. {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = each.stopping() => return,
                };
                let (rules, inside, stop) = (Arc::clone(&read), Arc::clone(&kept), each.clone());
                each.spawn(async move {
                    tokio::select! {
                        () = serve(number, stream, &rules, &inside) => {}
                        () = stop.stopping() => {}
                    }
                    // Calls that are open on it fail.
                    inside.lock().unwrap().connections.remove(&number);
                });
            }
        });
        Self {
            address,
            rules,
            inside,
            tasks,
        }
    }

    /// A token with this secret, in the documented form.
    pub(crate) fn token(&self, secret: &str) -> String {
        dress(secret, &self.address.to_string())
    }

    /// Gives tokens of another remote the documented form, and takes the last one for what is in force.
    pub(crate) fn dresses(&self) -> impl Fn(&str) -> String + Send + Sync + 'static {
        let (address, rules) = (self.address.to_string(), Arc::clone(&self.rules));
        move |secret| {
            secret.clone_into(&mut rules.lock().unwrap().secret);
            dress(secret, &address)
        }
    }

    /// From now on this secret is in force; what is connected stays.
    pub(crate) fn rotate(&self, secret: &str) {
        secret.clone_into(&mut self.rules.lock().unwrap().secret);
    }

    /// Whether registrations are answered.
    pub(crate) fn is_silent(&self, silent: bool) {
        self.rules.lock().unwrap().silent = silent;
    }

    /// Registrations so far that were granted, and that were refused.
    pub(crate) fn registrations(&self) -> (usize, usize) {
        let inside = self.inside.lock().unwrap();
        let granted = inside.asked.iter().filter(|(_, granted)| *granted).count();
        (granted, inside.asked.len() - granted)
    }

    /// When registrations were refused.
    pub(super) fn refusals(&self) -> Vec<Instant> {
        let inside = self.inside.lock().unwrap();
        let refused = inside.asked.iter().filter(|(_, granted)| !granted);
        refused.map(|(at, _)| *at).collect()
    }

    /// The connection that new calls go to.
    pub(crate) fn newest(&self) -> Option<Connection> {
        let inside = self.inside.lock().unwrap();
        let mut registered = inside.connections.values().rev();
        registered.find(|one| one.registered).cloned()
    }

    /// Calls so far, and those that failed.
    pub(crate) fn calls(&self) -> (u64, u64) {
        let inside = self.inside.lock().unwrap();
        (inside.calls, inside.failed)
    }

    /// Calls without a pause until the edge is dropped.
    pub(crate) fn call_all_along(&self) {
        let (inside, tasks) = (Arc::clone(&self.inside), self.tasks.clone());
        self.tasks.spawn(async move {
            while !tasks.is_stopping() {
                let chosen = {
                    let inside = inside.lock().unwrap();
                    let mut all = inside.connections.values().rev();
                    all.find(|one| one.registered).cloned()
                };
                let good = match chosen {
                    Some(connection) => connection.call().await,
                    None => false,
                };
                {
                    let mut inside = inside.lock().unwrap();
                    inside.calls += 1;
                    inside.failed += u64::from(!good);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Connection {
    /// Refuses its token, and goes on serving it.
    pub(super) fn refuse(&self) {
        let _ = self.send.send(refusal());
    }

    /// One call; whether it was answered.
    pub(crate) async fn call(&self) -> bool {
        let (done, answered) = oneshot::channel();
        let number = {
            let mut waiting = self.waiting.lock().unwrap();
            let number = waiting.last_key_value().map_or(0, |(last, _)| last + 1);
            waiting.insert(number, done);
            number
        };
        if self.send.send(json!({"call": number})).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(LIMIT, answered).await, Ok(Ok(())))
    }
}

fn dress(secret: &str, address: &str) -> String {
    let form = json!({"a": "account", "t": "8f2c", "s": secret, "e": address});
    let mut text = String::new();
    process::base64::encode(form.to_string().as_bytes(), &mut text);
    text
}

fn refusal() -> Value {
    json!({"error": "Unauthorized: Invalid tunnel secret"})
}

async fn serve(number: u64, stream: TcpStream, rules: &Mutex<Rules>, inside: &Mutex<Inside>) {
    let (read, mut write) = stream.into_split();
    let (send, mut outgoing) = mpsc::unbounded_channel::<Value>();
    let waiting = Arc::<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>::default();
    let mut lines = BufReader::new(read).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { break };
                let message: Value = serde_json::from_str(&line).unwrap();
                if let Some(secret) = message.get("register") {
                    let rules = rules.lock().unwrap().clone();
                    let granted = *secret == rules.secret.as_str();
                    let mut inside = inside.lock().unwrap();
                    inside.asked.push((Instant::now(), granted));
                    let pid = message["pid"].as_u64().unwrap().try_into().unwrap();
                    let one = Connection {
                        pid,
                        registered: granted && !rules.silent,
                        send: send.clone(),
                        waiting: Arc::clone(&waiting),
                    };
                    inside.connections.insert(number, one);
                    if !granted {
                        let _ = send.send(refusal());
                    } else if !rules.silent {
                        let _ = send.send(json!({"registered": true}));
                    }
                } else if message.get("unregister").is_some() {
                    if let Some(one) = inside.lock().unwrap().connections.get_mut(&number) {
                        one.registered = false;
                    }
                } else if let Some(answered) = message["answer"].as_u64() {
                    let done = waiting.lock().unwrap().remove(&answered);
                    let _ = done.map(|done| done.send(()));
                }
            }
            Some(message) = outgoing.recv() => {
                let line = format!("{message}\n");
                if write.write_all(line.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }
    waiting.lock().unwrap().clear();
}
