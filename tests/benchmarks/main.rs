//! The benchmarks that `tests/bench` runs. The script builds and pins; here is what is measured, and how.

mod agents;
mod caller;
mod command;
mod crash;
mod cut;
mod failover;
mod far;
mod figure;
mod footprint;
mod idle;
mod issue;
mod kept;
mod list;
mod load;
mod machine;
mod operator;
mod others;
mod ours;
mod peers;
mod postgres;
mod proxy;
mod relay;
mod rivals;
mod rotate;
mod simulate;
mod slow;
mod swap;
mod tunnel;
mod websocket;

fn main() -> std::process::ExitCode {
    process::start(command::run)
}
