//! What a process that holds keys does before anything else.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// Core dumps off, `/proc/PID/mem` closed to the same uid, as many descriptors as the hard limit
/// allows. A refusal is told to [`log`](crate::log), which has not begun yet, and appears when it
/// does: none of these may keep a credential from being served.
pub(crate) fn apply() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    warn(
        "core limit",
        rustix::process::setrlimit(Resource::Core, none),
    );
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    warn("not dumpable", dumpable);
    let files = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    warn(
        "descriptor limit",
        rustix::process::setrlimit(Resource::Nofile, raised),
    );
}

fn warn(setting: &'static str, result: rustix::io::Result<()>) {
    if let Err(error) = result {
        let error = error.to_string();
        crate::log::later(move || tracing::warn!(setting, error, "hardening refused"));
    }
}
