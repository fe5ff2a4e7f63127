//! The variables that this process was started with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use crate::Secret;

/// Gives the value of a variable by its name.
type Reader = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// Where variables are read. Not a copy of them: among them are secrets.
#[derive(Clone)]
pub struct Environment(Arc<Reader>);

impl Environment {
    /// This process's own.
    pub fn process() -> Self {
        Self(Arc::new(|name| std::env::var_os(name)))
    }

    /// These and no others.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let owned = variables
            .iter()
            .map(|&(name, value)| (name.to_owned(), OsString::from(value)));
        let map: BTreeMap<String, OsString> = owned.collect();
        Self(Arc::new(move |name| map.get(name).cloned()))
    }

    /// The value of `name`; what is not UTF-8 counts as an empty one, which nobody accepts.
    pub fn text(&self, name: &str) -> Option<Secret> {
        self.0(name).map(|value| Secret::new(value.into_string().unwrap_or_default()))
    }

    /// As it is, for a child that is to have it.
    pub(crate) fn raw(&self, name: &str) -> Option<OsString> {
        self.0(name)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(..)")
    }
}
