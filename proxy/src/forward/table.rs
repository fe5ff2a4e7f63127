//! The routes in force, and the upstreams behind them.
//!
//! Routes are replaced as a whole. An upstream that is named before and after keeps its connections,
//! and a route that did not change keeps its counters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use http::HeaderValue;
use process::metrics::Counter;

use super::answer::ForwardError;
use crate::config::value::Target;
use crate::route::{self, RouteError, Rule};
use crate::upstream::{Rules, Upstream};

/// One route in force.
#[derive(Debug)]
pub(super) struct Entry {
    rule: Rule,
    pub(super) upstream: Arc<Upstream>,
    /// `Host` for the upstream; `None`: the caller's own.
    pub(super) authority: Option<HeaderValue>,
    pub(super) calls: Counter,
    /// Answered in the upstream's place.
    pub(super) failures: Counter,
}

impl Entry {
    pub(super) fn name(&self) -> &str {
        &self.rule.name
    }
}

type Table = HashMap<Box<str>, Arc<Entry>>;

/// All routes. `None` stands for those that every tunnel shares.
#[derive(Debug)]
pub(super) struct Tables {
    rules: Arc<Rules>,
    current: RwLock<Current>,
    upstreams: Mutex<HashMap<Target, Weak<Upstream>>>,
}

#[derive(Debug, Default)]
struct Current {
    shared: Option<Table>,
    tunnels: HashMap<Box<str>, Table>,
}

impl Tables {
    pub(super) fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            current: RwLock::default(),
            upstreams: Mutex::default(),
        }
    }

    /// Finds the route for `host`, which [`route::normal_host`] made.
    pub(super) fn find(
        &self,
        tunnel: &str,
        host: &str,
        domain: Option<&str>,
    ) -> Result<Arc<Entry>, ForwardError> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let table = match current.tunnels.get(tunnel) {
            Some(own) => own,
            None => current.shared.as_ref().ok_or(ForwardError::PolicyPending)?,
        };
        let entry = route::find(table, host, domain);
        entry.cloned().ok_or(ForwardError::NoRoute)
    }

    /// Whether `tunnel` has no routes yet, not even an empty set of them.
    pub(super) fn is_pending(&self, tunnel: &str) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.shared.is_none() && !current.tunnels.contains_key(tunnel)
    }

    /// Puts new routes in force, all or none.
    pub(super) fn replace(
        &self,
        tunnel: Option<&str>,
        routes: &BTreeMap<String, control::Route>,
    ) -> Result<(), RouteError> {
        let rules = route::compile(routes, self.rules.trust.is_some())?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = match tunnel {
            None => current.shared.take().unwrap_or_default(),
            Some(tunnel) => current.tunnels.remove(tunnel).unwrap_or_default(),
        };
        let table = self.table(rules, old);
        match tunnel {
            None => current.shared = Some(table),
            Some(tunnel) => {
                current.tunnels.insert(tunnel.into(), table);
            }
        }
        Ok(())
    }

    /// Takes the routes of `tunnel` out of force: it waits for others, as at the start.
    pub(super) fn withdraw(&self, tunnel: &str) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = current.tunnels.remove(tunnel) {
            tracing::warn!(tunnel, routes = table.len(), "routes withdrawn");
        }
    }

    fn table(&self, rules: Vec<Rule>, mut old: Table) -> Table {
        let mut table = Table::with_capacity(rules.len());
        for rule in rules {
            let entry = match old.remove(&rule.name) {
                Some(entry) if entry.rule == rule => entry,
                _ => self.entry(rule),
            };
            table.insert(entry.rule.name.clone(), entry);
        }
        for name in old.keys() {
            if !table.contains_key(name) {
                tracing::info!(route = %name, "route removed");
            }
        }
        table
    }

    fn entry(&self, rule: Rule) -> Arc<Entry> {
        tracing::info!(route = %rule.name, upstream = %rule.target, "route configured");
        let authority = rule.target.authority();
        let authority = HeaderValue::try_from(authority).expect("a parsed target is ASCII");
        Arc::new(Entry {
            upstream: self.upstream(&rule.target),
            authority: (!rule.preserve_host).then_some(authority),
            rule,
            calls: Counter::default(),
            failures: Counter::default(),
        })
    }

    fn upstream(&self, target: &Target) -> Arc<Upstream> {
        let mut known = self
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = known.get(target).and_then(Weak::upgrade) {
            return upstream;
        }
        let upstream = Arc::new(Upstream::new(target.clone(), self.rules.clone()));
        known.insert(target.clone(), Arc::downgrade(&upstream));
        upstream
    }

    /// Every upstream that a route or a call still uses.
    pub(super) fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let mut known = self
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, upstream| upstream.strong_count() > 0);
        known.values().filter_map(Weak::upgrade).collect()
    }

    /// Every route in force with its tunnel, sorted; `""`: shared by all.
    pub(super) fn entries(&self) -> Vec<(Box<str>, Arc<Entry>)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let shared = current
            .shared
            .iter()
            .flat_map(|table| table.values().map(|entry| ("".into(), entry.clone())));
        let own = current.tunnels.iter().flat_map(|(tunnel, table)| {
            table.values().map(|entry| (tunnel.clone(), entry.clone()))
        });
        let mut entries: Vec<(Box<str>, Arc<Entry>)> = shared.chain(own).collect();
        entries.sort_by(|(left, a), (right, b)| (left, a.name()).cmp(&(right, b.name())));
        entries
    }
}
