//! `keyward status`: what is in force, until when, and what needs a person.

mod screen;
mod text;

use std::time::{Duration, UNIX_EPOCH};

use process::{Clock, Exit, Failure, SystemClock, Tasks};

use super::{Target, output};
use crate::operator::Event;
use crate::status::Status;
use screen::Screen;
use text::render;

/// It is drawn anew at least this often: what is left grows less without anything happening.
const EVERY: Duration = Duration::from_secs(2);

/// How to tell it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep showing it: at every change, and every two seconds
    #[arg(long)]
    watch: bool,
    /// Print one JSON object; with --watch one a line, at every change
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn status(arguments: &Arguments, tasks: &Tasks) -> Result<(), Failure> {
    let client = arguments.target.client(tasks);
    if !arguments.watch {
        let status = client.status().await?;
        return if arguments.json {
            output::json(&status)
        } else {
            output::text(&render(&status, now()))
        };
    }
    let mut screen = Screen::new();
    let mut events = client.events().await?;
    let mut last: Option<Box<Status>> = None;
    loop {
        let event = tokio::select! {
            event = events.next() => Some(event?),
            () = tokio::time::sleep(EVERY), if !arguments.json => None,
            () = tasks.stopping() => return Ok(()),
        };
        match event {
            Some(Some(Event::Status(status))) if arguments.json => output::json(&status)?,
            Some(Some(Event::Status(status))) => last = Some(status),
            Some(Some(Event::Operation(_))) | None => {}
            Some(None) => {
                return Err(Failure::new(Exit::Unavailable, "the daemon went away")
                    .next("look at its log; start keyward run"));
            }
        }
        if let Some(status) = &last {
            screen.draw(&render(status, now()))?;
        }
    }
}

/// Unix seconds.
fn now() -> u64 {
    let now = SystemClock.wall().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
