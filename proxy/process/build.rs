//! Puts commit and target into the build, so that a binary can say what it is.

use std::process::Command;

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=KEYWARD_TARGET={target}");
    println!("cargo:rerun-if-env-changed=KEYWARD_COMMIT");
    let given = std::env::var("KEYWARD_COMMIT").ok();
    let commit = given.or_else(|| if release() { head() } else { None });
    println!(
        "cargo:rustc-env=KEYWARD_COMMIT={}",
        commit.as_deref().unwrap_or("dev")
    );
}

/// Only what is shipped names its commit: a test build would be made anew after each one.
fn release() -> bool {
    std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

fn head() -> Option<String> {
    println!("cargo:rerun-if-changed=../../.git/logs/HEAD");
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
