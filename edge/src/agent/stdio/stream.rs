//! Event streams of the server: those that answer a request, and the one for what it says by itself.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::super::link::Answer;
use super::call::{Bridge, Failed, is, line_of};
use super::events::{Event, Events};
use super::message::{Message, Said};

/// How long a server that said nothing about it is left alone before a stream is continued.
const RETRY: Duration = Duration::from_secs(1);
/// As long as it may ask for.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How often in a row a stream is continued without a word on it.
const TRIES: u32 = 5;

/// How a stream ended.
enum Heard {
    Answer,
    End,
}

impl Bridge {
    /// Says each event, and continues a stream that ends before the answer, where the server lets it.
    pub(super) async fn follow(
        &self,
        message: &Message,
        answer: Response<Answer>,
    ) -> Result<(), Failed> {
        let mut events = Events::default();
        let mut body = answer.into_body();
        let mut tries = 0;
        loop {
            match self
                .drain(Some(message), &mut events, &mut body, &mut tries)
                .await?
            {
                Heard::Answer => return Ok(()),
                Heard::End if message.id().is_none() => return Ok(()),
                Heard::End => {}
            }
            if events.last_id.is_none() || tries >= TRIES {
                let what = "the event stream ended before the answer";
                return Err(Failed::Content(what.to_owned()));
            }
            tries += 1;
            body = self.resume(&events).await?.into_body();
        }
    }

    /// What the server says by itself, as long as the session is this one.
    pub(super) async fn listen(&self, number: u64) {
        let mut events = Events::default();
        let mut tries = 0;
        while self.session.lock().await.number == number && tries < TRIES {
            let Ok(answer) = self.ask(&events).await else {
                tries += 1;
                pause(&events).await;
                continue;
            };
            if answer.status() != StatusCode::OK || !is(answer.headers(), "text/event-stream") {
                // It has nothing to say, which it need not.
                return;
            }
            let mut body = answer.into_body();
            let heard = self.drain(None, &mut events, &mut body, &mut tries).await;
            if matches!(heard, Err(Failed::Over)) {
                return;
            }
            tries += 1;
            pause(&events).await;
        }
    }

    /// Says what comes, until the answer to `message` or the stream's end. A break is an end, too.
    async fn drain(
        &self,
        message: Option<&Message>,
        events: &mut Events,
        body: &mut Answer,
        tries: &mut u32,
    ) -> Result<Heard, Failed> {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            let bytes = data.copy_to_bytes(data.remaining());
            let found = events
                .take(&bytes)
                .map_err(|error| Failed::Content(error.to_string()))?;
            for Event { kind, data } in found {
                if data.is_empty() || !matches!(&*kind, "" | "message") {
                    continue;
                }
                *tries = 0;
                let said = Said::read(data.as_bytes()).unwrap_or_default();
                if said.is_empty() || !said.iter().all(Said::is_message) {
                    tracing::warn!("the server's event stream holds what is no JSON-RPC");
                    continue;
                }
                let id = message.and_then(Message::id);
                let last = id.is_some_and(|id| said.iter().any(|said| said.answers(id)));
                if let Some(message) = message.filter(|_| last) {
                    self.learn(message, data.as_bytes()).await;
                }
                let sent = self.lines.send(line_of(data.into_bytes())).await;
                sent.map_err(|_| Failed::Over)?;
                if last {
                    return Ok(Heard::Answer);
                }
            }
        }
        Ok(Heard::End)
    }

    async fn resume(&self, events: &Events) -> Result<Response<Answer>, Failed> {
        pause(events).await;
        let answer = self.ask(events).await?;
        if answer.status() == StatusCode::OK && is(answer.headers(), "text/event-stream") {
            return Ok(answer);
        }
        let what = "the event stream ended before the answer, and cannot be continued";
        Err(Failed::Content(what.to_owned()))
    }

    async fn ask(&self, events: &Events) -> Result<Response<Answer>, Failed> {
        let mut head = self.head(Method::GET);
        let only = HeaderValue::from_static("text/event-stream");
        head.headers.insert(header::ACCEPT, only);
        self.session.lock().await.mark(&mut head.headers);
        if let Some(Ok(id)) = events.last_id.as_ref().map(HeaderValue::try_from) {
            head.headers.insert("last-event-id", id);
        }
        self.send(head, Bytes::new()).await
    }
}

async fn pause(events: &Events) {
    let wanted = events.retry.map_or(RETRY, Duration::from_millis);
    tokio::time::sleep(wanted.min(LONGEST_RETRY)).await;
}
