//! Reads an event stream as it comes (WHATWG HTML, section 9.2.6), bounded.

use thiserror::Error;

/// The data of one event.
pub(super) const LONGEST: usize = 16 << 20;

/// More than that without an end.
#[derive(Debug, Error)]
#[error("an event is longer than 16 MiB")]
pub(super) struct TooLong;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Empty: none was said, which means `message`.
    pub(super) kind: String,
    pub(super) data: String,
}

/// What has come so far of a stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    /// The line before ended with a carriage return: a line feed now belongs to it.
    after_return: bool,
    next: Event,
    has_data: bool,
    /// What a new stream may be continued from.
    pub(super) last_id: Option<String>,
    /// How long the server wants to be left alone before that, milliseconds.
    pub(super) retry: Option<u64>,
}

impl Events {
    /// Takes some bytes and gives the events that are complete with them.
    ///
    /// # Errors
    ///
    /// A line or an event has no end.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut found = Vec::new();
        for &byte in bytes {
            let joined = std::mem::replace(&mut self.after_return, byte == b'\r') && byte == b'\n';
            match byte {
                _ if joined => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    found.extend(self.line(&String::from_utf8_lossy(&line)));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.next.data.len() > LONGEST {
                return Err(TooLong);
            }
        }
        Ok(found)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.next);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.next.data.push('\n');
                }
                self.next.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.next.kind),
            "id" if !value.contains('\0') => self.last_id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().or(self.retry),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.data.as_str()).collect()
    }

    #[test]
    fn events_are_the_same_however_their_bytes_arrive() {
        let text = ": hello\r\nid: 7\r\ndata: one\r\n\r\nevent: other\rdata: two\rdata:three\r\rretry: 50\n\ndata\n\nid: 8\ndata: open";
        let mut whole = Events::default();
        let all = whole.take(text.as_bytes()).unwrap();
        assert_eq!(data(&all), ["one", "two\nthree", ""]);
        assert_eq!(all[1].kind, "other");
        assert_eq!(
            (whole.last_id.as_deref(), whole.retry),
            (Some("8"), Some(50))
        );
        let mut slow = Events::default();
        let mut one_by_one = Vec::new();
        for byte in text.as_bytes() {
            one_by_one.extend(slow.take(&[*byte]).unwrap());
        }
        assert_eq!(one_by_one, all);
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let mut events = Events::default();
        let piece = vec![b'x'; LONGEST / 2];
        events.take(b"data: ").unwrap();
        events.take(&piece).unwrap();
        assert!(events.take(&piece).is_err());
    }
}
