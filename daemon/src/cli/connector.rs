//! `keyward connector`: the words for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;
use process::{Exit, Failure, Tasks};

use crate::config::{DEFAULT_CONTROL_SOCKET, parse_duration, write_duration};
use crate::connector::{LONGEST_GRACE, Settings, run};

/// Options of cloudflared that are ours to set.
const OURS: [&str; 10] = [
    "--token",
    "--token-file",
    "--metrics",
    "--management-diagnostics",
    "--grace-period",
    "--url",
    "--output",
    "--autoupdate-freq",
    "--loglevel",
    "--config",
];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, default_value = DEFAULT_CONTROL_SOCKET)]
    socket: PathBuf,
    /// The daemon's uid [default: root, or our own]
    #[arg(long, value_name = "UID", value_hint = ValueHint::Other)]
    daemon_uid: Option<u32>,
    /// Of which tunnel; may be left out where there is only one
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    tunnel: Option<String>,
    /// Name of this connector, stable over restarts [default: the host's name]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    replica: Option<String>,
    /// The program [default: cloudflared in PATH]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    cloudflared: Option<PathBuf>,
    #[arg(
        long,
        value_name = "URL",
        value_hint = ValueHint::Url,
        default_value = "http://127.0.0.1:8080",
        help = "Where what comes in is brought: the proxy's listen_addr"
    )]
    url: String,
    /// How long a process that is replaced lets its streams finish, at most 3m
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other, default_value = "3m", value_parser = grace)]
    grace: Duration,
    /// A process that has not registered after this long is given up, and another one is started
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other, default_value = "60s", value_parser = parse_duration)]
    register_within: Duration,
    /// A variable that cloudflared is given; it gets no other. May be repeated
    #[arg(long = "environment", value_name = "NAME", value_hint = ValueHint::Other)]
    environment: Vec<String>,
    /// Where /readyz and /metrics are [default: nowhere]
    #[arg(long, value_name = "ADDRESS", value_hint = ValueHint::Other)]
    health: Option<SocketAddr>,
    /// debug, info, warn or error
    #[arg(long, value_name = "LEVEL", value_hint = ValueHint::Other, default_value = "info")]
    log_level: String,
    /// More options for cloudflared tunnel
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

pub(super) async fn connector(arguments: Arguments, tasks: &Tasks) -> Result<(), Failure> {
    process::log::init(&arguments.log_level)?;
    for option in &arguments.options {
        let name = option.split('=').next().unwrap_or(option);
        if OURS.contains(&name) {
            return Err(Failure::new(
                Exit::Usage,
                format!("{name} of cloudflared cannot be set"),
            )
            .cause("the connector sets it, or else a token could be seen or a rotation cut streams")
            .next("leave it out; keyward connector --help has what can be set"));
        }
    }
    let program = match arguments.cloudflared {
        Some(program) => program,
        None => found("cloudflared")?,
    };
    let name = rustix::system::uname();
    let replica = arguments
        .replica
        .unwrap_or_else(|| name.nodename().to_string_lossy().into_owned());
    run(
        Settings {
            socket: arguments.socket,
            daemon_uid: arguments.daemon_uid,
            tunnel: arguments.tunnel,
            replica,
            program,
            url: arguments.url,
            grace: arguments.grace,
            register_within: arguments.register_within,
            environment: arguments.environment,
            options: arguments.options,
            health: arguments.health,
        },
        tasks,
    )
    .await
}

/// The first program of this name in `PATH`.
fn found(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let program = folders.find_map(|folder| {
        let program = folder.join(name);
        is_program(&program).then_some(program)
    });
    program.ok_or_else(|| {
        Failure::config(format!("there is no {name} in PATH"))
            .next("install it, or say with --cloudflared where it is")
    })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn grace(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=LONGEST_GRACE).contains(&duration) {
        return Ok(duration);
    }
    Err(format!(
        "write something from 1s to {}",
        write_duration(LONGEST_GRACE)
    ))
}
