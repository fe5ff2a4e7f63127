//! What can go wrong with a question or a change.

use thiserror::Error;

/// The database did not do what it should.
#[derive(Debug, Error)]
#[error("the database failed")]
pub struct DatabaseError(#[from] sqlx::Error);

/// Why a change was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// There is no such thing, or its tunnel is archived where that matters.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// What was asked for cannot be, as the text says.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit what there is, as the text says.
    #[error("{0}")]
    Conflict(String),
    /// `If-Match` names another version.
    #[error("it was changed meanwhile, its version is {current}")]
    Stale {
        /// The version now.
        current: u64,
    },
    /// A token cannot be revealed, as the text says.
    #[error("{0}")]
    Unrevealable(&'static str),
    /// The database did not do what it should.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(DatabaseError(error))
    }
}
