//! Other people's programs against the whole stack: MCP SDKs, conformance suites, TLS clients. What they need is installed
//! by `tests/install.sh`; what is missing is a failure, never a skip.

mod agent;
mod conformance;
mod curl_openssl;
mod h2spec;
mod mcp_sdks;
mod testssl;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use demo::bridge::{Bridge, BridgeOptions};
use demo::stack::{Programs, Stack, StackOptions};
use process::Tasks;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// The longest that one of these programs may take.
const LIMIT: Duration = Duration::from_secs(300);

const SESSIONS: &str = "2025-11-25";
const STATELESS: &str = "2026-07-28";

/// Script and revision of each client of an SDK.
const CLIENTS: [(&str, &str); 5] = [
    ("client-v1.mjs", SESSIONS),
    ("client-v2.mjs", SESSIONS),
    ("client-v2.mjs", STATELESS),
    ("client.py", SESSIONS),
    ("client.py", STATELESS),
];

/// A program that `tests/install.sh` put into its cache.
pub(crate) fn installed(name: &str) -> PathBuf {
    let from = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let cache = || from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    let tools = from("KEYWARD_TOOLS").or_else(|| Some(cache()?.join("keyward-tests")));
    let path = tools.expect("there is a home").join(name);
    assert!(
        path.exists(),
        "{} is not there: run tests/install.sh",
        path.display()
    );
    path
}

/// A folder with our scripts and the npm packages beside them, where Node looks for what they import.
fn scripts() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/tools");
    for entry in fs::read_dir(tools)
        .expect("our scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
    {
        fs::copy(
            &entry,
            folder.path().join(entry.file_name().expect("a name")),
        )
        .expect("a copy");
    }
    symlink(
        installed("npm/node_modules"),
        folder.path().join("node_modules"),
    )
    .expect("a link");
    folder
}

/// A server of somebody else, which prints its port first and ends with its standard input.
struct Server {
    /// `http://127.0.0.1:PORT`.
    url: String,
    /// Closed with this, also when the test fails.
    _input: ChildStdin,
    _child: Child,
}

impl Server {
    async fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        let mut output = BufReader::new(output);
        let read = tokio::time::timeout(LIMIT, output.read_line(&mut line)).await;
        let _ = read.expect("the server says its port").expect("its output");
        let port: u16 = line
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{} printed {line:?}", program.display()));
        let input = child.stdin.take().expect("a pipe");
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _input: input,
            _child: child,
        }
    }

    /// The server on the npm SDK; `set` is `sample` or `fixtures`.
    async fn npm(scripts: &TempDir, set: &str) -> Self {
        let script = scripts.path().join("server.mjs");
        Self::start(&installed("bin/node"), &[text(&script), set]).await
    }

    /// The reference server of the specification's authors, which takes its port from the environment.
    async fn everything() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let script =
            installed("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
        let mut child = Command::new(installed("bin/node"))
            .args([text(&script), "streamableHttp"])
            .env("PORT", address.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        listening(address).await;
        let input = child.stdin.take().expect("a pipe");
        Self {
            url: format!("http://{address}"),
            _input: input,
            _child: child,
        }
    }

    /// The server on the Python SDK.
    async fn python(scripts: &TempDir) -> Self {
        let script = scripts.path().join("server.py");
        Self::start(&installed("python/bin/python"), &[text(&script)]).await
    }
}

/// A stack with a bridge before its connector, so that both carriers are `https://localhost:PORT`.
struct Front {
    stack: Stack,
    bridge: Bridge,
    tasks: Tasks,
}

impl Front {
    /// In front of `upstream`, or of the sample server. `more` changes what the stack is started with.
    async fn start(upstream: Option<String>, more: impl FnOnce(&mut StackOptions)) -> Self {
        let tasks = Tasks::new();
        let mut options = StackOptions::new(
            Programs::beside().expect("the programs are built: cargo build --bins"),
        );
        options.upstream = upstream;
        more(&mut options);
        let stack = Stack::start(options, &tasks)
            .await
            .unwrap_or_else(|error| panic!("{}", error.failure()));
        let options = BridgeOptions {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            connector: stack.connector_address,
            host: stack.host(),
            path: "/".to_owned(),
            ping: Duration::from_millis(200),
            varied: true,
        };
        let bridge = Bridge::start(options, &tasks)
            .await
            .expect("the bridge listens");
        Self {
            stack,
            bridge,
            tasks,
        }
    }

    /// Both carriers by name.
    fn carriers(&self) -> [(&'static str, SocketAddr); 2] {
        [
            ("tls", self.stack.listeners.tls),
            ("websocket", self.bridge.address),
        ]
    }

    /// The file of CA certificates that clients trust.
    fn trust(&self) -> &Path {
        &self.stack.paths.trust
    }

    /// A client that trusts the tunnel's CA and nothing else, in whichever way it is told so.
    fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("NODE_EXTRA_CA_CERTS", self.trust())
            .env("SSL_CERT_FILE", self.trust());
        command
    }

    /// Ends everything; every program must end well.
    async fn stop(self) {
        self.tasks.stop();
        let complaints = self.stack.stop(false).await;
        assert!(complaints.is_empty(), "{complaints:?}");
        self.tasks.drain(LIMIT).await;
    }
}

/// Waits until somebody listens on `address`.
async fn listening(address: SocketAddr) {
    let connect = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, connect)
        .await
        .unwrap_or_else(|_| panic!("nobody listens on {address}"));
}

/// Runs `command` to its end, with nothing to read.
async fn run(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, child).await;
    output
        .unwrap_or_else(|_| panic!("{command:?} took longer than {LIMIT:?}"))
        .expect("it starts")
}

/// Standard output and standard error, for messages.
fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Our paths are UTF-8.
fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
