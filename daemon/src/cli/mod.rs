//! The command line. Apart from `run`, `check`, `doctor`, `init` and `renew-cert` it is a client of the operator
//! socket and does nothing that the socket cannot.
//!
//! Each command prints either text for a person or, with `--json`, one documented object; an error
//! says what failed, the likely cause and the next thing to do. Both are in `docs/cli.md`.

mod check;
mod completions;
mod connector;
mod doctor;
mod init;
mod issue_client;
mod output;
mod renew_cert;
mod rotate;
mod status;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueHint};
use process::{Exit, Failure, Tasks};

use crate::config::{Config, DEFAULT_OPERATOR_SOCKET};
use crate::operator::Client;
use output::Ended;

/// Where the configuration lies unless told otherwise.
const DEFAULT_CONFIG: &str = "/etc/keyward/keyward.yaml";
/// Names the operator socket, for those who cannot read the configuration.
const SOCKET_VARIABLE: &str = "KEYWARD_OPERATOR_SOCKET";

/// Keeps the credentials of MCP tunnels alive, short-lived and revocable.
#[derive(Debug, Parser)]
#[command(name = "keyward", version = process::BUILD, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run {
        /// The configuration
        #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Accept subscribers that run as the daemon's own user, who could read its memory and its
        /// keys. For a demo or a first try
        #[arg(long)]
        single_user: bool,
    },
    /// Print the effective configuration and what deserves a thought
    Check(check::Arguments),
    /// Find out why something does not work, and what to do about it
    Doctor(doctor::Doctor),
    /// Show what is in force, until when, and what needs a person
    Status(status::Arguments),
    /// Rotate WHAT now and follow it to its end
    Rotate(rotate::Arguments),
    /// Fill a store from a tunnel's id: CA, server certificate and token, and register the CA
    Init(init::Arguments),
    /// Renew the server certificate of a store directory, without a daemon
    RenewCert(renew_cert::Arguments),
    /// Keep cloudflared running on the tunnel token in force, and replace it without a gap when that rotates
    Connector(connector::Arguments),
    /// Make a key here and have it certified by the client CA
    IssueClient(issue_client::Arguments),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How to reach the daemon.
#[derive(Debug, clap::Args)]
struct Target {
    #[arg(
        long,
        value_name = "PATH",
        value_hint = ValueHint::FilePath,
        help = "The operator socket [default: KEYWARD_OPERATOR_SOCKET, else operator.socket of the configuration]"
    )]
    socket: Option<PathBuf>,
}

/// Runs the command line `arguments`, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&arguments) {
        Ok(arguments) => arguments,
        Err(error) => return unusable(&error, &arguments),
    };
    match arguments.command {
        Command::Completions { shell } => completions::print(shell),
        command => process::start(|tasks| async move {
            let outcome = command.run(&tasks).await;
            // Connections to the daemon end with the command.
            tasks.stop();
            outcome
        }),
    }
}

/// Says what is wrong with the words, to a script as well if that is who asks.
fn unusable(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    // To standard error, which may be closed.
    let _ = error.print();
    if !error.use_stderr() {
        // Help and version are no errors.
        return ExitCode::SUCCESS;
    }
    let words = arguments.iter().take_while(|word| *word != "--");
    if words.into_iter().any(|word| word == "--json") {
        // Nothing is left to be done if this cannot be written either.
        let _ = output::failure(&usage(error).into());
    }
    ExitCode::from(Exit::Usage as u8)
}

/// The first paragraph is what failed; behind it are hints and the usage.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let paragraph = text.lines().take_while(|line| !line.is_empty());
    let what: Vec<&str> = paragraph.map(str::trim).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    Failure::new(Exit::Usage, what).next("keyward help, or --help behind the command")
}

impl Command {
    async fn run(self, tasks: &Tasks) -> Result<(), Failure> {
        let json = self.wants_json();
        let stopped = self.stopped();
        let outcome = match self {
            Self::Run {
                config,
                single_user,
            } => crate::run(&config, single_user, tasks)
                .await
                .map_err(Ended::from),
            Self::Connector(arguments) => connector::connector(arguments, tasks)
                .await
                .map_err(Ended::from),
            command => tokio::select! {
                // First: what is followed to its end says better how far it came.
                biased;
                outcome = command.once(tasks) => outcome,
                () = tasks.stopping() => Err(stopped.into()),
            },
        };
        match outcome {
            Err(ended) if json => {
                output::failure(&ended)?;
                Err(ended.failure)
            }
            Err(ended) => Err(ended.failure),
            Ok(()) => Ok(()),
        }
    }

    /// Asks, prints and is done. Dropped, it waits for nobody any more; what it has ordered goes on.
    async fn once(self, tasks: &Tasks) -> Result<(), Ended> {
        match self {
            Self::Check(arguments) => check::check(&arguments).map_err(Ended::from),
            Self::Doctor(what) => doctor::doctor(&what, tasks).await,
            Self::Status(arguments) => status::status(&arguments, tasks).await.map_err(Ended::from),
            Self::Rotate(arguments) => rotate::rotate(&arguments, tasks).await,
            Self::Init(arguments) => init::init(&arguments).await.map_err(Ended::from),
            Self::RenewCert(arguments) => renew_cert::renew_cert(&arguments).map_err(Ended::from),
            Self::IssueClient(arguments) => issue_client::issue_client(&arguments, tasks)
                .await
                .map_err(Ended::from),
            Self::Run { .. } | Self::Connector(_) | Self::Completions { .. } => Ok(()),
        }
    }

    /// What a signal leaves open when whoever was asked has not answered yet.
    fn stopped(&self) -> Failure {
        let failure = Failure::new(Exit::Unavailable, "stopped waiting");
        match self {
            Self::Rotate(_) | Self::IssueClient(_) => failure
                .cause("this command was interrupted before the daemon had answered")
                .next("keyward status shows whether it took the order"),
            Self::Init(_) => failure
                .cause("this command was interrupted before its end")
                .next("run it again: it goes on from where it was"),
            Self::Doctor(_) => failure
                .cause("this command was interrupted before everybody whom it asked had answered"),
            _ => failure
                .cause("this command was interrupted before the daemon had answered")
                .next("look at the daemon's log"),
        }
    }

    fn wants_json(&self) -> bool {
        match self {
            Self::Run { .. } | Self::Connector(_) | Self::Completions { .. } => false,
            Self::Check(arguments) => arguments.json,
            Self::Doctor(doctor) => doctor.wants_json(),
            Self::Status(arguments) => arguments.json,
            Self::Rotate(arguments) => arguments.json,
            Self::Init(arguments) => arguments.json,
            Self::RenewCert(arguments) => arguments.json,
            Self::IssueClient(arguments) => arguments.json,
        }
    }
}

impl Target {
    fn client(&self, tasks: &Tasks) -> Client {
        let socket = self
            .socket
            .clone()
            .or_else(|| std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from))
            .or_else(|| {
                let config = Config::load(DEFAULT_CONFIG.as_ref()).ok()?;
                Some(config.operator.socket)
            })
            .unwrap_or_else(|| PathBuf::from(DEFAULT_OPERATOR_SOCKET));
        Client::new(&socket, tasks)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_flags_of_renew_cert_are_understood() {
        for flags in [
            &[
                "--output",
                "dir:/data",
                "--cert-duration",
                "2160h",
                "--renew-before",
                "720h",
            ][..],
            &["--output=dir:/data"],
            &["--output=dir:/data", "--renew-before=0"],
        ] {
            let arguments = ["keyward", "renew-cert"].iter().chain(flags);
            Arguments::try_parse_from(arguments).expect("the stock setup takes these");
        }
    }
}
