//! `PostgreSQL` for more than one edge: a cluster of the benchmark's own in a temporary directory, on a loopback port that was
//! free, by an unprivileged user, on the load's core, with Debian's server programs.

use std::os::unix::fs::chown;
use std::path::PathBuf;

use process::Failure;

use crate::machine::{LOAD, Program, free_port, output};
use crate::peers::text;
use crate::tunnel::until;

/// `nobody`, whom nothing of anybody's belongs to: `PostgreSQL` does not run as root.
const NOBODY: u32 = 65_534;
const AS_NOBODY: [&str; 5] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--",
];

/// A server with one empty database. Dropped, it ends.
pub(crate) struct Postgres {
    /// Where edges find it.
    pub url: String,
    _server: Program,
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// Makes the cluster and waits until it answers.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::internal("no folder for PostgreSQL").caused_by(&error);
        let folder = tempfile::tempdir().map_err(failed)?;
        let mut user: &[&str] = &[];
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).map_err(failed)?;
            user = &AS_NOBODY;
        }
        let (data, programs) = (folder.path().join("data"), programs()?);
        let program = |name: &str| programs.join(name);
        let (initdb, postgres, ready) = (
            program("initdb"),
            program("postgres"),
            program("pg_isready"),
        );
        let words =
            "--no-sync --auth=trust --username=edge --encoding=UTF8 --locale=C -D".split(' ');
        let command: Vec<&str> = [text(&initdb)]
            .into_iter()
            .chain(words)
            .chain([text(&data)])
            .collect();
        output(&[user, &command].concat()).await?;
        let address = free_port().await?;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let command = [
            text(&postgres),
            "-D",
            text(&data),
            "-h",
            &ip,
            "-p",
            &port,
            "-k",
            text(folder.path()),
            "-F",
        ];
        // Nobody else may read the folder, and the log is opened before the user changes.
        let log = folder.path().join("log");
        let server = Program::start(LOAD, &[user, &command].concat(), &log)?;
        let asking = [
            text(&ready),
            "-q",
            "-h",
            &ip,
            "-p",
            &port,
            "-U",
            "edge",
            "-d",
            "postgres",
        ];
        until("PostgreSQL answers", async || output(&asking).await.is_ok()).await?;
        Ok(Self {
            url: format!("postgres://edge@{address}/postgres"),
            _server: server,
            _folder: folder,
        })
    }
}

/// The folder of the newest that Debian installed.
fn programs() -> Result<PathBuf, Failure> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    let missing = || Failure::internal("PostgreSQL is not there").next("run tests/install.sh");
    found.pop().ok_or_else(missing)
}
