//! Calls that a turn wants made: at most one for each of a tunnel's affairs is under way.

use std::collections::BTreeSet;

use super::tunnel::Tunnel;
use crate::remote::{Ask, Call, Lane};

/// Calls that are to be made, and those of which nothing has been heard.
#[derive(Debug, Default)]
pub(super) struct Calls {
    wanted: Vec<Ask>,
    under_way: BTreeSet<(String, Lane)>,
}

impl Calls {
    /// Wants `call` made, unless `tunnel` has none to ask, or one of this lane is under way.
    pub(super) fn ask(&mut self, tunnel: &Tunnel, lane: Lane, call: Call) {
        let Some(id) = tunnel.config.remote() else {
            return;
        };
        if self.under_way.insert((tunnel.name.clone(), lane)) {
            self.wanted.push(Ask {
                tunnel: tunnel.name.clone(),
                tunnel_id: id.to_owned(),
                lane,
                call,
            });
        }
    }

    /// Whether nothing has been heard of a call yet.
    pub(super) fn is_under_way(&self, tunnel: &str, lane: Lane) -> bool {
        self.under_way.contains(&(tunnel.to_owned(), lane))
    }

    /// Something has.
    pub(super) fn over(&mut self, ask: &Ask) {
        self.under_way.remove(&(ask.tunnel.clone(), ask.lane));
    }

    /// What is to be made now.
    pub(super) fn take(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.wanted)
    }
}
