//! `keyward-edge`: hands its command line over.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge::command::run(std::env::args_os(), edge::serve)
}
