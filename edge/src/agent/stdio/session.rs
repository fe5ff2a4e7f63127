//! What HTTP has to remember of a client's session, up to 2025-11-25; later revisions have none.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::message::Message;

static SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
static REVISION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The client's side of a session.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Which one of those that there were: counts up with each.
    pub(super) number: u64,
    id: Option<HeaderValue>,
    /// What was agreed on.
    revision: Option<HeaderValue>,
    /// How it was begun, so that it can be begun again.
    pub(super) initialize: Option<Message>,
}

impl Session {
    /// A new one, begun by `message`.
    pub(super) fn begin(&mut self, message: &Message) {
        *self = Self {
            number: self.number + 1,
            initialize: Some(message.clone()),
            ..Self::default()
        };
    }

    /// What the answer to `initialize` says.
    pub(super) fn answered(&mut self, headers: &HeaderMap) {
        if let Some(id) = headers.get(&SESSION) {
            let mut id = id.clone();
            id.set_sensitive(true);
            self.id = Some(id);
        }
    }

    /// The revision in it.
    pub(super) fn agreed(&mut self, revision: &str) {
        self.revision = HeaderValue::try_from(revision).ok();
    }

    pub(super) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// The fields that each message of it has.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(&SESSION, id.clone());
        }
        if let Some(revision) = &self.revision {
            headers.insert(&REVISION, revision.clone());
        }
    }
}
