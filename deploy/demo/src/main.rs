//! `keyward-demo`: the whole stack on loopback, and the proof that a rotation loses nothing.

fn main() -> std::process::ExitCode {
    demo::command::main()
}
