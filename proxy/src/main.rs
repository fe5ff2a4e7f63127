//! `keyward-proxy`: reads its command line and hands over.

mod arguments;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(failure) => return failure.report(),
    };
    match command {
        Command::Run(options) => process::start(|tasks| proxy::run(options, tasks)),
        Command::Health(options) => process::start(|_| arguments::health(options)),
        Command::Firewall(options) => arguments::say(arguments::firewall(&options)),
        Command::Check(options) => arguments::say(arguments::check(&options)),
        Command::Version => arguments::say(Ok(format!("keyward-proxy {}\n", process::BUILD))),
        Command::Help => arguments::say(Ok(arguments::HELP.to_owned())),
    }
}
