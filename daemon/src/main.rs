//! The daemon, and the command line that talks to it.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::cli::main(std::env::args_os())
}
