//! What commands print, and how they fail.

use std::io::Write;
use std::path::Path;

use process::{Exit, Failure};
use serde::Serialize;

use crate::state::ChangeError;

/// One JSON object to standard output.
pub(super) fn print(object: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(object).expect("plain data has a JSON form");
    text.push('\n');
    write(text.as_bytes())
}

/// To standard output.
pub(super) fn write(octets: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(octets)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::internal("cannot write to standard output").caused_by(&error))
}

/// The text of a file; `-`: of standard input.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read {}", file.display())).caused_by(&error)
    })
}

/// Why a change was not made.
pub(super) fn failed(error: &ChangeError) -> Failure {
    let exit = match error {
        ChangeError::Database(_) => Exit::Unavailable,
        _ => Exit::Usage,
    };
    let next = match error {
        ChangeError::NotFound(_) => {
            "look for its id in the list: keyward-edge tunnel list, … secret list, … rule list"
        }
        ChangeError::Invalid(_) => "mend what stands before the colon, and say the command again",
        ChangeError::Conflict(_) => "look at what is there with list or show before you decide",
        ChangeError::Stale { .. } => {
            "take keyward-edge access show TUNNEL, change that, and set it with its version"
        }
        ChangeError::Unrevealable(_) => "keyward-edge token rotate TUNNEL",
        ChangeError::Database(_) => {
            "see whether the database runs, and whether this user may use it"
        }
    };
    Failure::new(exit, "it was not done")
        .caused_by(error)
        .next(next)
}
