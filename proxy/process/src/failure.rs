//! Why a program ends, in a form that a person can act on.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::Chain;

/// Exit codes after BSD `sysexits.h`; 0 is done. 1 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Wrong words on the command line.
    Usage = 64,
    /// Something that this program needs does not answer.
    Unavailable = 69,
    /// A fault of ours, or an essential task that ended.
    Internal = 70,
    /// The caller may not do that.
    Permission = 77,
    /// The configuration cannot be used.
    Config = 78,
}

/// What failed, the likely cause, the next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    what: String,
    cause: Option<String>,
    next: Option<String>,
}

impl Failure {
    /// `what` is one line, lower case, no full stop.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            cause: None,
            next: None,
        }
    }

    /// A fault of ours.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Exit::Internal, what)
    }

    /// A configuration that cannot be used.
    pub fn config(what: impl Into<String>) -> Self {
        Self::new(Exit::Config, what)
    }

    /// Adds the error behind it, with its whole chain.
    #[must_use]
    pub fn caused_by(self, error: &dyn Error) -> Self {
        self.cause(Chain(error).to_string())
    }

    /// Adds the likely cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds the next thing to do.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What failed, the likely cause, the next thing to do, for a form other than text.
    pub fn parts(&self) -> (&str, Option<&str>, Option<&str>) {
        (&self.what, self.cause.as_deref(), self.next.as_deref())
    }

    /// Prints it to standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        #[allow(
            clippy::print_stderr,
            reason = "the one place where a program says why it ends"
        )]
        {
            eprintln!("error: {self}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\n  cause: {cause}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}
