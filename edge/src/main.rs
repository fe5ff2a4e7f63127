//! `keyward-edge`: reads its command line and hands over.

use std::process::ExitCode;

use edge::ServeOptions;
use process::{Exit, Failure};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let options = match words.as_slice() {
        [command, flag, path] if command == "serve" && flag == "--config" => ServeOptions {
            config: path.into(),
        },
        _ => {
            return Failure::new(Exit::Usage, "the command line cannot be read")
                .cause("a word that keyward-edge does not know, or one too few")
                .next("keyward-edge serve --config PATH")
                .report();
        }
    };
    process::start(|tasks| edge::serve(options, tasks))
}
