//! A `PostgreSQL` cluster of this test program's own: made in a temporary directory, on a loopback port
//! that was free, by an unprivileged user, and gone when the program ends.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection, Executor};

/// `nobody`, whom nothing of anybody's belongs to.
const NOBODY: u32 = 65_534;

struct Cluster {
    port: u16,
    _watchdog: Child,
    /// The watchdog ends the server and deletes its directory when this closes.
    _leash: ChildStdin,
}

/// The URL of a new, empty database.
pub(crate) async fn database() -> String {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let port = tokio::task::spawn_blocking(|| CLUSTER.get_or_init(start).port)
        .await
        .unwrap();
    let name = format!("edge_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let url = |name: &str| format!("postgres://edge@127.0.0.1:{port}/{name}");
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&url("postgres"))
        .await
        .unwrap();
    connection
        .execute(format!("CREATE DATABASE {name}").as_str())
        .await
        .unwrap();
    connection.close().await.unwrap();
    url(&name)
}

fn start() -> Cluster {
    let directory = tempfile::tempdir().unwrap().keep();
    let data = directory.join("data");
    if rustix::process::geteuid().is_root() {
        chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let made = unprivileged(&program("initdb"))
        .args([
            "--no-sync",
            "--auth=trust",
            "--username=edge",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ])
        .arg(&data)
        .current_dir(&directory)
        .output()
        .expect("setpriv is part of Debian");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    certify(&directory, &data);
    // The port is free a moment before; another program may take it meanwhile.
    for _ in 0..5 {
        if let Some(cluster) = serve(&directory, &data) {
            return cluster;
        }
    }
    panic!(
        "PostgreSQL does not start, see {}",
        directory.join("log").display()
    );
}

/// The server's certificate where it looks for it, and the CA of it as `ca.pem` in `directory`.
fn certify(directory: &Path, data: &Path) {
    let now = process::Clock::wall(&process::SystemClock);
    let profile = pki::AuthorityProfile::server("database CA");
    let authority = pki::Authority::generate(&profile, now).unwrap();
    let key = pki::PrivateKey::generate(pki::Algorithm::default()).unwrap();
    let server = pki::ServerProfile {
        extra_names: vec!["localhost".to_owned()],
        ..pki::ServerProfile::new("database.test")
    };
    let pair = authority
        .issue(&server, key, pki::Serial::random(), now)
        .unwrap();
    let ca = authority.certificate().to_pem();
    std::fs::write(directory.join("ca.pem"), ca).unwrap();
    std::fs::write(data.join("server.crt"), pair.chain_pem()).unwrap();
    let file = data.join("server.key");
    std::fs::write(&file, &*pair.key_pem()).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn serve(directory: &Path, data: &Path) -> Option<Cluster> {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let script = r#"
        "$1" -D "$2" -h 127.0.0.1 -p "$3" -k "$4" -F -c max_connections=300 -c ssl=on >"$4/log" 2>&1 &
        server=$!
        read -r _
        kill -INT "$server"
        wait "$server"
        rm -rf "$4"
    "#;
    let mut watchdog = unprivileged(Path::new("sh"))
        .args(["-c", script, "sh"])
        .arg(program("postgres"))
        .arg(data)
        .arg(port.to_string())
        .arg(directory)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let leash = watchdog.stdin.take().unwrap();
    let ready = (0..600).any(|_| {
        let asked = Command::new(program("pg_isready"))
            .args([
                "-q",
                "-h",
                "127.0.0.1",
                "-U",
                "edge",
                "-d",
                "postgres",
                "-p",
            ])
            .arg(port.to_string())
            .status()
            .unwrap();
        if !asked.success() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        asked.success()
    });
    ready.then_some(Cluster {
        port,
        _watchdog: watchdog,
        _leash: leash,
    })
}

/// `PostgreSQL` does not run as root.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(program);
    command
}

/// The newest that Debian installed; `tests/install.sh` sees to it that there is one.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found
        .pop()
        .unwrap_or_else(|| panic!("{name} is not there: run tests/install.sh"))
}
