//! The command line of `keyward-edge`.
//!
//! Apart from `serve`, `agent`, `check`, `explain` and `login` every command works on the state directly, as the operator who may
//! read it: edges that run act on a change within a second, as on one that came through the API. What
//! is printed is one JSON object, the API's own where there is one.

mod access;
mod agent;
mod certificate;
mod check;
mod copy;
mod explain;
mod federation;
pub(crate) mod login;
mod open;
mod output;
mod secret;
#[cfg(test)]
mod tests;
mod token;
mod tunnel;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use process::{Exit, Failure, Tasks};

#[cfg(test)]
pub(crate) use explain::explained;
pub use open::StateOptions;

/// Below the help of the program.
const AFTER: &str = "Exit codes: 0 done, 64 refused or misspelt, 69 what is asked does not answer, 70 a fault of \
                     this program, 77 not permitted, 78 the configuration or the state cannot be used";

/// The tunnel edge that anyone can host: relays what it cannot read.
#[derive(Debug, Parser)]
#[command(name = "keyward-edge", version = process::BUILD, arg_required_else_help = true, after_help = AFTER)]
struct Arguments {
    #[command(flatten)]
    state: StateOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve proxies, agents and the Tunnels API
    Serve {
        /// The configuration, a YAML file
        #[arg(long, value_name = "PATH")]
        config: PathBuf,
    },
    /// Read a configuration as serve does, and say what it means
    Check(check::Arguments),
    /// Serve MCP clients of this machine: a local address for each route behind an edge
    Agent(Box<agent::Arguments>),
    /// Make the state of a new edge
    Init {
        /// The edge's name: `api.` and `agents.` stand before it, and tunnels get domains under it
        #[arg(long)]
        name: String,
    },
    /// Tunnels
    #[command(subcommand)]
    Tunnel(tunnel::Command),
    /// The token of a tunnel
    #[command(subcommand)]
    Token(token::Command),
    /// Shared secrets of a tunnel, by their digests
    #[command(subcommand)]
    Secret(secret::Command),
    /// CA certificates of a tunnel
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Who may call a tunnel
    #[command(subcommand)]
    Access(access::Command),
    /// Whose identity tokens are believed
    #[command(subcommand)]
    Issuer(federation::IssuerCommand),
    /// Which identity tokens buy access
    #[command(subcommand)]
    Rule(federation::RuleCommand),
    /// Who did what, newest first
    Audit(copy::AuditArguments),
    /// Say why a token would be refused, without sending it anywhere
    Explain(explain::Arguments),
    /// Sign in at an identity provider, for an access token of an edge anywhere
    Login(Box<login::Arguments>),
    /// Write everything that the state holds to a file, also while edges run
    Backup {
        /// The file, which must not exist; `-`: standard output
        file: PathBuf,
    },
    /// Put back what a backup holds, also while edges run; makes the state if there is none
    Restore {
        /// The file; `-`: standard input
        file: PathBuf,
    },
}

impl Arguments {
    fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = command_line().try_get_matches_from(words)?;
        Self::from_arg_matches(&matches)
    }
}

/// The help of commands that have no use for the state says nothing of it. It may be said all the same.
fn command_line() -> clap::Command {
    let line = Arguments::command();
    let everywhere = line.get_arguments().filter(|word| word.is_global_set());
    let everywhere: Vec<clap::Arg> = everywhere.cloned().map(|word| word.hide(true)).collect();
    let hidden = ["agent", "login"].into_iter();
    let line = hidden.fold(line, |line, name| {
        line.mut_subcommand(name, |command| command.args(everywhere.clone()))
    });
    let reveal = everywhere
        .into_iter()
        .filter(|word| word.get_id() == "no_reveal");
    line.mut_subcommand("explain", |command| command.args(reveal))
}

/// What `serve` was told.
#[derive(Clone, Debug)]
pub struct ServeArguments {
    /// The configuration file.
    pub config: PathBuf,
    /// Where the state is.
    pub state: StateOptions,
}

/// Runs the command line `arguments`, the program's name first. `serve` is what serves.
pub fn run<S, F>(arguments: impl IntoIterator<Item = OsString>, serve: S) -> ExitCode
where
    S: FnOnce(ServeArguments, Tasks) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let arguments = match Arguments::read(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody reads the help that goes into a closed pipe.
            let _ = error.print();
            let help = !error.use_stderr();
            return ExitCode::from(if help { 0 } else { Exit::Usage as u8 });
        }
    };
    let state = arguments.state;
    match arguments.command {
        Command::Serve { config } => {
            let arguments = ServeArguments { config, state };
            process::start(|tasks| serve(arguments, tasks))
        }
        Command::Agent(arguments) => process::start(|tasks| agent::run(*arguments, tasks)),
        command => process::start(|tasks| async move {
            tokio::select! {
                ended = operate(command, state) => ended,
                () = tasks.stopping() => Err(Failure::internal("stopped before it was done")),
            }
        }),
    }
}

async fn operate(command: Command, options: StateOptions) -> Result<(), Failure> {
    if let Command::Explain(arguments) = command {
        return explain::run(arguments, &options).await;
    }
    if let Command::Check(arguments) = command {
        return check::run(&arguments, &options);
    }
    if let Command::Login(arguments) = command {
        return login::run(*arguments).await;
    }
    if let Command::Init { name } = command {
        return open::initialise(&options, &name).await;
    }
    if let Command::Restore { file } = command {
        return copy::restore(&file, &options).await;
    }
    let session = open::open(&options).await?;
    let printed = match command {
        Command::Tunnel(command) => tunnel::run(command, &session).await,
        Command::Token(command) => token::run(command, &session).await,
        Command::Secret(command) => secret::run(command, &session).await,
        Command::Certificate(command) => certificate::run(command, &session).await,
        Command::Access(command) => access::run(command, &session).await,
        Command::Issuer(command) => federation::issuer(command, &session).await,
        Command::Rule(command) => federation::rule(command, &session).await,
        Command::Audit(arguments) => copy::audit(arguments, &session).await,
        Command::Backup { file } => copy::backup(&file, &session).await,
        // Handled above.
        Command::Serve { .. }
        | Command::Agent(_)
        | Command::Check(_)
        | Command::Init { .. }
        | Command::Login(_)
        | Command::Restore { .. }
        | Command::Explain(_) => Ok(()),
    };
    session.state.close().await;
    printed
}
