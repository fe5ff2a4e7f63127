//! Where an event stream may be interrupted, and by what. Pure, but for the clock in [`Silence`].
//!
//! The format is WHATWG HTML §9.2.5: lines end with LF, CR or CRLF, an empty line ends an event, a
//! line that begins with a colon is a comment and means nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::time::{Instant, Sleep, sleep};

/// A comment: the least that can be said on an event stream.
pub(super) const COMMENT: Bytes = Bytes::from_static(b":\n");

/// Whether a body with these headers is an event stream that a comment may be put into: not coded,
/// and of no length agreed before.
pub(super) fn may_take_comments(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    let media = b"text/event-stream";
    let is_stream = kind
        .get(..media.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(media))
        && kind
            .get(media.len())
            .is_none_or(|next| matches!(next, b';' | b' ' | b'\t'));
    let identity = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    is_stream && identity && !headers.contains_key(header::CONTENT_LENGTH)
}

/// How far an event stream has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Nothing of the current line yet.
    line_start: bool,
    /// The last byte was CR, to which an LF would still belong.
    after_cr: bool,
    /// The last line was empty: no event is open.
    between_events: bool,
}

impl Position {
    /// The beginning of a stream.
    pub(super) const START: Self = Self {
        line_start: true,
        after_cr: false,
        between_events: true,
    };

    /// A line may be put in here: at the beginning, or after an LF.
    pub(super) fn takes_comment(self) -> bool {
        self.line_start && !self.after_cr
    }

    /// The stream may end here without cutting an event.
    pub(super) fn is_between_events(self) -> bool {
        self.between_events
    }

    /// The position after `chunk`. Only its last bytes matter.
    pub(super) fn after(self, chunk: &[u8]) -> Self {
        // CRLFCRLF is the longest end of an event; the byte before says whether an LF stands alone.
        let skipped = chunk.len().saturating_sub(4);
        let mut position = match skipped.checked_sub(1).and_then(|index| chunk.get(index)) {
            None => self,
            Some(before) => Self {
                line_start: false,
                after_cr: *before == b'\r',
                between_events: false,
            },
        };
        for byte in chunk.get(skipped..).unwrap_or_default() {
            position = position.step(*byte);
        }
        position
    }

    /// How much of `chunk` belongs to the event that is open now, its end included; `None`: all of it
    /// and more.
    pub(super) fn rest_of_event(self, chunk: &[u8]) -> Option<usize> {
        let mut position = self;
        for (index, byte) in chunk.iter().enumerate() {
            if position.between_events && !(position.after_cr && *byte == b'\n') {
                return Some(index);
            }
            position = position.step(*byte);
        }
        position.between_events.then_some(chunk.len())
    }

    fn step(self, byte: u8) -> Self {
        match byte {
            b'\n' if self.after_cr => Self {
                after_cr: false,
                ..self
            },
            b'\n' | b'\r' => Self {
                line_start: true,
                after_cr: byte == b'\r',
                between_events: self.line_start,
            },
            _ => Self {
                line_start: false,
                after_cr: false,
                between_events: false,
            },
        }
    }
}

/// How long nothing was said, and so when the next comment is due.
#[derive(Debug)]
pub(super) struct Silence {
    interval: Duration,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Silence {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: Instant::now(),
            sleep: Box::pin(sleep(interval)),
        }
    }

    /// Something was said. The timer is left alone: it is set anew when it fires.
    pub(super) fn spoke(&mut self) {
        self.last = Instant::now();
    }

    /// Ready when nothing was said for the interval; then counts anew.
    pub(super) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let due = self.last + self.interval;
            let now = Instant::now();
            if due > now {
                self.sleep.as_mut().reset(due);
            } else {
                self.last = now;
                self.sleep.as_mut().reset(now + self.interval);
                // Polled once more by the caller's next poll; the timer is armed there.
                let _ = self.sleep.as_mut().poll(cx);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        Position::START.after(text.as_bytes())
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_lines_end() {
        for text in [
            "",
            "\n",
            "data: x\n\n",
            "data: x\r\r",
            "data: x\r\n\r\n",
            "data: x\n\r\n",
            "data: x\r\n\n",
            "a\n\n\n",
        ] {
            assert!(at(text).is_between_events(), "{text:?}");
        }
        for text in [
            "data",
            "data: x\n",
            "data: x\r\n",
            "data: x\r",
            "data: x\n\nid",
            "x\n\n:\n",
            "\n\n\u{feff}",
        ] {
            assert!(!at(text).is_between_events(), "{text:?}");
        }
    }

    #[test]
    fn a_comment_goes_to_the_beginning_of_a_line_and_never_after_a_bare_cr() {
        for text in ["", "data: x\n", "data: x\n\n", "data: x\r\n", "\r\n"] {
            assert!(at(text).takes_comment(), "{text:?}");
        }
        for text in [
            "d",
            "data: x\n\nd",
            "data: x\r",
            "data: x\r\r",
            "data: x\r\n\r",
        ] {
            assert!(!at(text).takes_comment(), "{text:?}");
        }
    }

    #[test]
    fn a_position_does_not_depend_on_how_the_stream_is_cut_into_chunks() {
        let alphabet = [b'a', b'\n', b'\r'];
        // Every text of nine letters over the alphabet, cut at every place.
        for number in 0..alphabet.len().pow(9) {
            let text: Vec<u8> = (0..9)
                .map(|digit| alphabet[number / 3usize.pow(digit) % 3])
                .collect();
            let mut bytewise = Position::START;
            for byte in &text {
                bytewise = bytewise.step(*byte);
            }
            for cut in 0..=text.len() {
                let (head, tail) = text.split_at(cut);
                assert_eq!(
                    Position::START.after(head).after(tail),
                    bytewise,
                    "{text:?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn the_rest_of_an_event_ends_at_its_empty_line() {
        for (before, chunk, rest) in [
            ("data: x", " y\n\ndata: z\n\n", Some(4)),
            ("data: x\n", "\n", Some(1)),
            ("data: x\r\n\r", "\ndata", Some(1)),
            ("data: x\n\n", "data", Some(0)),
            ("", "data", Some(0)),
            ("data: x", " y\n", None),
            ("data: x", "\r\n\r\nid", Some(4)),
        ] {
            assert_eq!(
                at(before).rest_of_event(chunk.as_bytes()),
                rest,
                "{before:?} {chunk:?}"
            );
        }
    }

    #[test]
    fn only_a_plain_event_stream_of_unknown_length_takes_comments() {
        let headers = |list: &[(&'static str, &'static str)]| {
            list.iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect()
        };
        let kind = ("content-type", "Text/Event-Stream; charset=utf-8");
        assert!(may_take_comments(&headers(&[kind])));
        assert!(may_take_comments(&headers(&[
            kind,
            ("content-encoding", "identity")
        ])));
        assert!(!may_take_comments(&headers(&[
            kind,
            ("content-encoding", "gzip")
        ])));
        assert!(!may_take_comments(&headers(&[
            kind,
            ("content-length", "5")
        ])));
        assert!(!may_take_comments(&headers(&[(
            "content-type",
            "text/event-streams"
        )])));
        assert!(!may_take_comments(&headers(&[(
            "content-type",
            "application/json"
        )])));
        assert!(!may_take_comments(&headers(&[])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_comment_is_due_only_after_a_whole_interval_of_silence() {
        let mut pace = Silence::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(8)).await;
        pace.spoke();
        let begun = Instant::now();
        std::future::poll_fn(|cx| pace.poll_silent(cx)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
        std::future::poll_fn(|cx| pace.poll_silent(cx)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(20));
    }
}
