//! The benchmarks that `tests/bench` runs. The script builds and pins; here is what is measured, and how.

mod command;
mod figure;
mod footprint;
mod issue;
mod list;
mod load;
mod machine;
mod ours;
mod peers;
mod proxy;
mod swap;
mod websocket;

fn main() -> std::process::ExitCode {
    process::start(command::run)
}
