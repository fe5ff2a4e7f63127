//! Files that are followed: what they say is taken up when it has changed, and kept until then.
//!
//! Content decides, and no date: whatever replaces a file, and however, is seen (F13, F19, F26, F27). What
//! is new has to read the same twice in a row, so that no half-written file is taken up. What cannot be
//! used is said once, and so is that it is over; what was in force before stays. What content means, and
//! where it is put in force, is decided elsewhere.

use std::fmt::Display;
use std::time::Duration;

use aws_lc_rs::digest::Digest;
use process::{Failure, Tasks};

/// How often files are read; with a settling time on either side well within the second that is promised.
const INTERVAL: Duration = Duration::from_millis(250);

/// Files that belong together, and what becomes of them.
pub(crate) trait Watched: Send {
    /// All that they say at one moment.
    type Read: Send;
    /// Why that is not taken up.
    type Error: Display + Send;
    /// Between the two readings that have to agree.
    const SETTLE: Duration;

    /// Reads them once. The digest is of all of it.
    fn read(&self) -> impl Future<Output = Result<(Digest, Self::Read), Self::Error>> + Send;

    /// Puts it in force, all or nothing.
    fn take(&mut self, read: Self::Read) -> Result<(), Self::Error>;

    /// Says that what was in force stays, why, and what to do.
    fn tell(&self, error: &Self::Error);

    /// Says that the files can be used again.
    fn recovered(&self);

    /// Whether the same content may do at another time.
    fn is_dated(_: &Self::Error) -> bool {
        false
    }

    /// Whether the files are not looked at any more.
    fn is_over(&self) -> bool {
        false
    }
}

/// Files, and what was made of them last.
pub(crate) struct Watch<W> {
    watched: W,
    /// The digest of what needs no second look, and why it was refused if it was.
    decided: Option<(Digest, Option<String>)>,
    /// What was said last; `None`: that all is well, or nothing yet.
    said: Option<String>,
}

impl<W: Watched> Watch<W> {
    pub(crate) fn new(watched: W) -> Self {
        Self {
            watched,
            decided: None,
            said: None,
        }
    }

    /// What is followed.
    #[cfg(test)]
    pub(crate) fn watched(&mut self) -> &mut W {
        &mut self.watched
    }

    /// Looks again and again until the stop.
    pub(crate) async fn run(mut self, tasks: Tasks) -> Result<(), Failure> {
        while !self.watched.is_over() {
            self.look().await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => return Ok(()),
            }
        }
        tasks.stopping().await;
        Ok(())
    }

    /// Reads everything once, and again if something is new.
    pub(crate) async fn look(&mut self) {
        let Some(result) = self.judge().await else {
            return;
        };
        let refusal = result.as_ref().err().map(ToString::to_string);
        match &result {
            Err(error) if refusal != self.said => self.watched.tell(error),
            Ok(()) if self.said.is_some() => self.watched.recovered(),
            _ => {}
        }
        self.said = refusal;
    }

    /// `None`: it was refused and nothing is new, or somebody is writing.
    async fn judge(&mut self) -> Option<Result<(), W::Error>> {
        let first = match self.watched.read().await {
            Ok((first, _)) => first,
            Err(error) => return Some(Err(error)),
        };
        match &self.decided {
            Some((known, refusal)) if known.as_ref() == first.as_ref() => match refusal {
                None => return Some(Ok(())),
                Some(_) if *refusal == self.said => return None,
                // Something else was said meanwhile: it is judged anew, to be said again.
                Some(_) => {}
            },
            _ => {}
        }
        tokio::time::sleep(W::SETTLE).await;
        let (second, read) = self.watched.read().await.ok()?;
        if second.as_ref() != first.as_ref() {
            return None;
        }
        let result = self.watched.take(read);
        let refusal = result.as_ref().err();
        let dated = refusal.is_some_and(W::is_dated);
        self.decided = (!dated).then(|| (second, refusal.map(ToString::to_string)));
        Some(result)
    }
}
